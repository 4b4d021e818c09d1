//! What a running balancer may do: nothing but what it needs, from its first moment on.

use caps::{CapSet, Capability, CapsHashSet};

/// Attach programs and ask and change what netlink has; sockets of AF_XDP, and their memory; load programs, which the verifier
/// takes only from whoever may see kernel addresses.
const NEEDED: [Capability; 5] =
    [Capability::CAP_NET_ADMIN, Capability::CAP_NET_RAW, Capability::CAP_IPC_LOCK, Capability::CAP_BPF, Capability::CAP_PERFMON];

/// What takes more than [`NEEDED`].
pub struct More {
    /// It looks for programs of others by their ids, as a slot of a root needs, which takes `CAP_SYS_ADMIN`.
    pub by_id: bool,
    /// It gives its sockets to a group (`api.group`), which takes `CAP_CHOWN` if it is no member.
    pub shares: bool,
}

/// Gives up every other capability, for this process and whatever it starts. To be called while it has one thread.
///
/// # Errors
/// The kernel refuses.
pub fn give_up_others(more: &More) -> anyhow::Result<()> {
    let has: CapsHashSet = caps::read(None, CapSet::Permitted)?;
    // Before Linux 5.8 one capability stands for two of ours.
    let is_old = !has.contains(&Capability::CAP_BPF) && has.contains(&Capability::CAP_SYS_ADMIN);
    let by_id = (more.by_id || is_old).then_some(Capability::CAP_SYS_ADMIN);
    let shares = more.shares.then_some(Capability::CAP_CHOWN);
    let kept: CapsHashSet = NEEDED.into_iter().chain(by_id).chain(shares).filter(|capability| has.contains(capability)).collect();
    // Whoever may not change the bounding set has no more to give away by it.
    if has.contains(&Capability::CAP_SETPCAP) {
        for capability in caps::runtime::thread_all_supported().into_iter().filter(|capability| !kept.contains(capability)) {
            caps::drop(None, CapSet::Bounding, capability)?;
        }
    }
    let ambient = caps::read(None, CapSet::Ambient).unwrap_or_default();
    for capability in ambient.into_iter().filter(|capability| !kept.contains(capability)) {
        caps::drop(None, CapSet::Ambient, capability)?;
    }
    caps::set(None, CapSet::Effective, &kept)?;
    caps::set(None, CapSet::Permitted, &kept)?;
    let inheritable: CapsHashSet = caps::read(None, CapSet::Inheritable)?.intersection(&kept).copied().collect();
    Ok(caps::set(None, CapSet::Inheritable, &inheritable)?)
}
