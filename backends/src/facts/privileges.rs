//! What this process may do.

use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Capabilities that the balancer needs, with their bits (include/uapi/linux/capability.h).
const NEEDED: [(&str, u32); 3] = [("CAP_NET_ADMIN", 12), ("CAP_NET_RAW", 13), ("CAP_BPF", 39)];
/// Includes CAP_BPF, and makes namespaces.
const CAP_SYS_ADMIN: u32 = 21;

/// Missing capabilities.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("this needs {}, which this process does not have; run it as root, or give it these capabilities (`setcap`, or AmbientCapabilities= of systemd)", .0.join(", "))]
pub struct Missing(pub Vec<&'static str>);

/// Takes AF_XDP alone.
const CAP_NET_RAW: &str = "CAP_NET_RAW";

/// The capabilities of this thread; `None`: the kernel does not say.
fn effective() -> Option<u64> {
    let status = fs::read_to_string("/proc/thread-self/status").ok()?;
    u64::from_str_radix(status.lines().find_map(|line| line.strip_prefix("CapEff:"))?.trim(), 16).ok()
}

/// Whether this process may open sockets of AF_XDP, which takes `CAP_NET_RAW`.
pub fn may_open_sockets() -> bool {
    let bit = NEEDED.iter().find(|(name, _)| *name == CAP_NET_RAW).map_or(0, |(_, bit)| *bit);
    effective().is_none_or(|bits| bits & 1 << bit != 0)
}

/// Whether this thread may make namespaces, which takes `CAP_SYS_ADMIN`.
pub fn may_make_namespaces() -> bool {
    effective().is_none_or(|bits| bits & 1 << CAP_SYS_ADMIN != 0)
}

/// Whether this process may load, attach and, for `workers`, open sockets of AF_XDP.
///
/// # Errors
/// [`Missing`] names what is not there. If the kernel does not say, it is tried anyhow.
pub fn check_privileges(workers: bool) -> Result<(), Missing> {
    let Some(bits) = effective() else { return Ok(()) };
    let has = |bit: u32| bits & 1 << bit != 0;
    let missing: Vec<_> = NEEDED
        .iter()
        .filter(|(name, _)| workers || *name != CAP_NET_RAW)
        .filter(|(name, bit)| !(has(*bit) || *name == "CAP_BPF" && has(CAP_SYS_ADMIN)))
        .map(|(name, _)| *name)
        .collect();
    if missing.is_empty() { Ok(()) } else { Err(Missing(missing)) }
}

/// Whether `path` lies on a BPF file system (`BPF_FS_MAGIC`).
pub fn is_bpffs(path: &Path) -> bool {
    const BPF_FS_MAGIC: i64 = 0xcafe_4a11;
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else { return false };
    let mut facts = std::mem::MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: `path` ends with a zero byte, and the call fills `facts` if it answers 0.
    let answer = unsafe { libc::statfs(path.as_ptr(), facts.as_mut_ptr()) };
    if answer != 0 {
        return false;
    }
    // SAFETY: the call answered 0.
    let facts = unsafe { facts.assume_init() };
    #[allow(clippy::unnecessary_cast, reason = "the field's type differs between targets")]
    let kind = facts.f_type as i64;
    kind == BPF_FS_MAGIC
}
