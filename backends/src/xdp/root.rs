//! The root of several XDP programs on one interface.

use std::path::{Path, PathBuf};

use aya::EbpfLoader;

use super::attach::attach;
use super::balancer::remove;
use super::error::XdpError;
use super::object::{OBJECT, load_object, program};
use super::slots::{Slot, SlotWish};
use crate::config::Attach;

/// Where the array of an interface's root is pinned, as Katran's installer does it.
pub fn root_array(interface: &str) -> PathBuf {
    PathBuf::from(format!("/sys/fs/bpf/jmp_{interface}"))
}

/// The pin of the attachment is beside that of the array.
fn link_pin(array: &Path) -> PathBuf {
    let mut path = array.as_os_str().to_owned();
    path.push("_link");
    path.into()
}

/// Attaches a root to an interface, with an empty array that is pinned at `array`. Until slots are filled it passes everything.
///
/// # Errors
/// [`XdpError`]: something is pinned there already, another program is attached, no privileges.
pub fn attach_root(interface: &str, mode: Attach, array: &Path) -> Result<(), XdpError> {
    if array.exists() {
        return Err(XdpError::Pin {
            path: array.to_owned(),
            what: "cannot pin the root's program array",
            cause: "something is pinned there already".to_owned(),
            cure: "is a root attached already? `tandem root detach` removes it, or name another path",
        });
    }
    let mut loader = EbpfLoader::new();
    loader.map_pin_path("ROOT_SLOTS", array);
    let mut ebpf = load_object(&mut loader, OBJECT)?;
    let link = link_pin(array);
    let attached = program(&mut ebpf, "root").and_then(|root| attach(root, "root", interface, mode, Some(&link)));
    if attached.is_err() {
        remove(Some(array))?;
    }
    attached
}

/// Takes the root away, and the array with whatever is in its slots. `false`: there was none.
///
/// # Errors
/// [`XdpError::Pin`]: a pin cannot be removed.
pub fn detach_root(array: &Path) -> Result<bool, XdpError> {
    let link = link_pin(array);
    let was_there = array.exists() || link.exists();
    remove(Some(&link))?;
    remove(Some(array))?;
    Ok(was_there)
}

/// Puts the program that counts frames and goes on into a slot. It stays there until the slot is given to another one or the
/// root is taken away.
///
/// # Errors
/// [`XdpError::Slot`].
pub fn put_tap(array: &Path, slot: u32) -> Result<(), XdpError> {
    let wish = SlotWish { path: array.to_owned(), slot };
    let slot = Slot::open(&wish)?;
    let mut loader = EbpfLoader::new();
    loader.map_pin_path("ROOT_SLOTS", array);
    let mut ebpf = load_object(&mut loader, OBJECT)?;
    let tap = program(&mut ebpf, "tap")?.fd().map_err(|_| XdpError::Missing { what: "loaded program", name: "tap" })?;
    slot.put(tap)
}
