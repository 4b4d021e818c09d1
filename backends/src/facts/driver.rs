//! What an interface's driver can do, as far as the kernel says (netlink family `netdev`, d3d854fd6a1d, v6.3).

use std::fs;

/// `enum netdev_xdp_act` (include/uapi/linux/netdev.h), bit by bit.
const FEATURES: [&str; 7] = ["basic", "redirect", "ndo-xmit", "xsk-zerocopy", "hw-offload", "rx-sg", "ndo-xmit-sg"];
const XSK_ZEROCOPY: u64 = 1 << 3;

/// An interface's driver.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Driver {
    /// Its name; `None`: a virtual device.
    pub name: Option<String>,
    /// Bits of `enum netdev_xdp_act`; `None`: this kernel does not say.
    features: Option<u64>,
}

impl Driver {
    /// Asks the kernel about an interface of this network namespace.
    pub fn of(interface: &str, index: u32) -> Self {
        let link = fs::read_link(format!("/sys/class/net/{interface}/device/driver")).ok();
        let name = link.and_then(|link| Some(link.file_name()?.to_string_lossy().into_owned()));
        Self { name, features: features(index) }
    }

    /// The features by name, in the kernel's order; `None`: this kernel does not say.
    pub fn features(&self) -> Option<Vec<&'static str>> {
        let bits = self.features?;
        Some(FEATURES.iter().enumerate().filter(|(bit, _)| bits >> bit & 1 != 0).map(|(_, name)| *name).collect())
    }

    /// Whether AF_XDP works on it without copies; `None`: only an attempt can tell.
    pub fn has_zero_copy(&self) -> Option<bool> {
        self.features.map(|bits| bits & XSK_ZEROCOPY != 0)
    }
}

fn features(index: u32) -> Option<u64> {
    let index = i32::try_from(index).ok()?;
    let size = size_of::<libbpf_sys::bpf_xdp_query_opts>();
    let mut answer = libbpf_sys::bpf_xdp_query_opts { sz: size as libbpf_sys::size_t, ..Default::default() };
    // SAFETY: `answer` is a whole structure whose size it says, for the call to fill.
    let failed = unsafe { libbpf_sys::bpf_xdp_query(index, 0, &raw mut answer) };
    // Kernels without the family leave it 0, with which nothing at all would work.
    (failed == 0 && answer.feature_flags != 0).then_some(answer.feature_flags)
}
