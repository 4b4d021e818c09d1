//! What a former process left attached: is it on these interfaces, and in the mode that is asked for?

use std::fs;
use std::path::{Path, PathBuf};

use aya::programs::links::{FdLink, LinkInfo, PinnedLink};

use super::error::{XdpError, chain};
use crate::config::{Attach, MAX_INTERFACES};
use crate::facts::Interface;

/// What a pinned attachment turned out to be.
pub(super) enum Left {
    /// It is on the interface at this place, in this mode.
    Here(usize, FdLink, Attach),
    /// Its interface is gone: it holds nothing.
    Dead,
}

/// Where attachments can be pinned: `link`, and those to further interfaces `link1` and so on, in no order.
fn places(directory: &Path) -> impl Iterator<Item = PathBuf> {
    let names = (0..MAX_INTERFACES).map(|n| if n == 0 { "link".to_owned() } else { format!("link{n}") });
    names.map(|name| directory.join(name))
}

/// The attachments that are pinned in a directory.
pub(super) fn pins(directory: &Path) -> Vec<PathBuf> {
    places(directory).filter(|pin| pin.exists()).collect()
}

/// A place for another one.
pub(super) fn free_pin(directory: &Path) -> Option<PathBuf> {
    places(directory).find(|pin| !pin.exists())
}

/// Looks at the attachment that is pinned at `pin`.
///
/// # Errors
/// [`XdpError::Elsewhere`]: it is on another interface, whose traffic it may be forwarding now.
pub(super) fn look(pin: &Path, interfaces: &[Interface]) -> Result<Left, XdpError> {
    let fail = |cause| XdpError::Pin {
        path: pin.to_owned(),
        what: "cannot open the pinned attachment",
        cause,
        cure: "are you root, and is it a link? `bpftool link` lists them",
    };
    let link = FdLink::from(PinnedLink::from_pin(pin).map_err(|e| fail(chain(&e)))?);
    let info = link.info().map_err(|e| fail(chain(&e)))?;
    let index = interface_of(&info);
    // Programs have numbers that are unique on a host, interfaces only in a network namespace.
    let here = interfaces.iter().enumerate().find_map(|(at, interface)| {
        let there = interface.xdp.filter(|there| there.program == info.program_id())?;
        index.is_none_or(|index| index == interface.index).then_some((at, there.attach))
    });
    match here {
        Some((at, attach)) => Ok(Left::Here(at, link, attach)),
        None if index == Some(0) => Ok(Left::Dead),
        None => {
            let name = pin.parent().and_then(Path::file_name).unwrap_or_default();
            let name = name.to_string_lossy().into_owned();
            let asked: Vec<&str> = interfaces.iter().map(|interface| interface.name.as_str()).collect();
            Err(XdpError::Elsewhere { pin: pin.to_owned(), interface: asked.join(", "), name })
        }
    }
}

/// The index of the link's interface, 0 if that is gone (`bpf_xdp_link_show_fdinfo`, v5.9).
fn interface_of(link: &LinkInfo) -> Option<u32> {
    let id = format!("link_id:\t{}\n", link.id());
    let descriptors = fs::read_dir("/proc/self/fdinfo").into_iter().flatten().filter_map(Result::ok);
    let mut texts = descriptors.filter_map(|entry| fs::read_to_string(entry.path()).ok());
    let text = texts.find(|text| text.contains(&id))?;
    text.lines().find_map(|line| line.strip_prefix("ifindex:\t")?.parse().ok())
}
