//! The kernel settings of each namespace.

use std::{fs, path::Path};

use crate::{Host, LabError};

/// Of every host. `all` and `default`: the latter is what devices made later begin with.
const EVERY: [(&str, &str); 12] = [
    ("ipv6/conf/all/disable_ipv6", "0"),
    ("ipv6/conf/default/disable_ipv6", "0"),
    // Addresses are usable at once, and there is nobody on the links who could have them too.
    ("ipv6/conf/all/accept_dad", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/all/accept_ra", "0"),
    ("ipv6/conf/default/accept_ra", "0"),
    // Answers take another way than requests (direct return), and the decapsulated request comes in on a link whose
    // subnet has nothing to do with its source. The kernel uses the larger of `all` and the device's value.
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
    ("ipv4/conf/all/send_redirects", "0"),
    ("ipv4/conf/default/send_redirects", "0"),
    ("ipv4/conf/all/accept_redirects", "0"),
    ("ipv4/conf/default/accept_redirects", "0"),
];

/// Of the router. Forwarding comes before [`EVERY`], as switching it resets others.
const ROUTER: [(&str, &str); 2] = [("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")];

/// Of the client: source ports below are free for connections that choose theirs.
const CLIENT: [(&str, &str); 1] = [("ipv4/ip_local_port_range", "61000 65535")];

/// Of a real: as with any direct return, never answer ARP for the VIP on `lo`, and never ask with it as the sender.
const REAL: [(&str, &str); 4] = [
    ("ipv4/conf/all/arp_ignore", "1"),
    ("ipv4/conf/default/arp_ignore", "1"),
    ("ipv4/conf/all/arp_announce", "2"),
    ("ipv4/conf/default/arp_announce", "2"),
];

/// Writes the settings of a host; runs inside its namespace (`/proc/sys/net` is that of the calling thread).
pub(crate) fn apply(host: Host) -> Result<(), LabError> {
    let own: &[_] = match host {
        Host::Router => &ROUTER,
        Host::Client => &CLIENT,
        Host::Real(_) => &REAL,
        Host::Lb => &[],
    };
    for (key, value) in own.iter().chain(&EVERY) {
        let path = Path::new("/proc/sys/net").join(key);
        fs::write(&path, value).map_err(LabError::file("write", path))?;
    }
    Ok(())
}
