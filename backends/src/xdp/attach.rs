//! Programs on interfaces.

use std::path::Path;
use std::time::{Duration, Instant};

use aya::programs::links::FdLink;
use aya::programs::xdp::XdpLinkId;
use aya::programs::{ProgramError, Xdp, XdpMode};

use super::error::{XdpError, chain, errno};
use crate::config::Attach;

/// Attaches a loaded program, and pins the link if a path is given.
pub(super) fn attach(
    program: &mut Xdp,
    name: &'static str,
    interface: &str,
    mode: Attach,
    pin: Option<&Path>,
) -> Result<(), XdpError> {
    let (mode, mode_name) = match mode {
        Attach::Native => (XdpMode::Driver, "native"),
        Attach::Generic => (XdpMode::Skb, "generic"),
    };
    let link = attach_patiently(program, interface, mode).map_err(|error| {
        let number = errno(&error);
        let source = number.map_or_else(|| std::io::Error::other(chain(&error)), std::io::Error::from_raw_os_error);
        let interface = interface.to_owned();
        XdpError::Attach { interface, program: name, mode: mode_name, source, cure: attach_cure(number, mode == XdpMode::Driver) }
    })?;
    let Some(pin) = pin else { return Ok(()) };
    let fail = |cause| XdpError::Pin {
        path: pin.to_owned(),
        what: "cannot pin the attachment",
        cause,
        cure: "it takes root and a mounted bpffs (`mount -t bpf bpf /sys/fs/bpf`)",
    };
    let link = program.take_link(link).map_err(|e| fail(chain(&e)))?;
    let link = FdLink::try_from(link).map_err(|e| fail(format!("{}; bpf_link needs Linux 5.9", chain(&e))))?;
    link.pin(pin).map_err(|e| fail(chain(&e)))?;
    Ok(())
}

/// Attaches once what was attached before is gone: the kernel lets go of a link whose pin was removed a moment later, in
/// deferred work (`bpf_link_put`).
fn attach_patiently(program: &mut Xdp, interface: &str, mode: XdpMode) -> Result<XdpLinkId, ProgramError> {
    const PATIENCE: Duration = Duration::from_millis(300);
    let start = Instant::now();
    loop {
        match program.attach(interface, mode) {
            Err(error) if errno(&error) == Some(libc::EBUSY) && start.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(10));
            }
            done => return done,
        }
    }
}

fn attach_cure(errno: Option<i32>, native: bool) -> &'static str {
    match errno {
        Some(libc::EOPNOTSUPP | libc::EINVAL) if native => {
            "the driver has no native XDP, or not at this MTU; set node.attach = \"generic\" (slower), or lower the MTU"
        }
        Some(libc::EBUSY | libc::EEXIST) => {
            "another XDP program is attached; `ip link show` names it, `ip link set dev IF xdp off` removes it, or whoever holds its link (`bpftool link`)"
        }
        Some(libc::EPERM | libc::EACCES) => "it takes CAP_NET_ADMIN and CAP_BPF (run as root)",
        Some(libc::ENODEV) | None => "is there an interface of this name in this network namespace? `ip link` lists them",
        Some(libc::ERANGE) => "the interface's MTU is too large for native XDP; lower it or set node.attach = \"generic\"",
        _ => "`dmesg | tail` may say more",
    }
}
