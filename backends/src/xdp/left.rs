//! What a former process left attached: is it this interface's, and in the mode that is asked for?

use std::fs;
use std::path::Path;

use aya::programs::links::{FdLink, LinkInfo, PinnedLink};

use super::error::{XdpError, chain};
use crate::config::Attach;
use crate::facts::Interface;

/// What a pinned attachment turned out to be.
pub(super) enum Left {
    /// There is none.
    Nothing,
    /// It is on this interface, in this mode.
    Here(FdLink, Attach),
    /// Its interface is gone: it holds nothing.
    Dead,
}

/// Looks at the attachment that is pinned at `pin`.
///
/// # Errors
/// [`XdpError::Elsewhere`]: it is on another interface, whose traffic it may be forwarding now.
pub(super) fn look(pin: &Path, interface: &Interface) -> Result<Left, XdpError> {
    if !pin.exists() {
        return Ok(Left::Nothing);
    }
    let fail = |cause| XdpError::Pin {
        path: pin.to_owned(),
        what: "cannot open the pinned attachment",
        cause,
        cure: "are you root, and is it a link? `bpftool link` lists them",
    };
    let link = FdLink::from(PinnedLink::from_pin(pin).map_err(|e| fail(chain(&e)))?);
    let info = link.info().map_err(|e| fail(chain(&e)))?;
    match interface.xdp {
        // Programs have numbers that are unique on a host, interfaces only in a network namespace.
        Some(there) if there.program == info.program_id() => Ok(Left::Here(link, there.attach)),
        _ if is_dead(&info) => Ok(Left::Dead),
        _ => {
            let name = pin.parent().and_then(Path::file_name).unwrap_or_default();
            let name = name.to_string_lossy().into_owned();
            Err(XdpError::Elsewhere { pin: pin.to_owned(), interface: interface.name.clone(), name })
        }
    }
}

/// Whether the link's interface is gone: its number is 0 then (`bpf_xdp_link_show_fdinfo`, v5.9).
fn is_dead(link: &LinkInfo) -> bool {
    let id = format!("link_id:\t{}\n", link.id());
    let descriptors = fs::read_dir("/proc/self/fdinfo").into_iter().flatten().filter_map(Result::ok);
    let mut texts = descriptors.filter_map(|entry| fs::read_to_string(entry.path()).ok());
    texts.find(|text| text.contains(&id)).is_some_and(|text| text.lines().any(|line| line == "ifindex:\t0"))
}
