//! Removing what a lab made, by its owner or by whoever comes after a killed one.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use serde::Serialize;

use crate::{
    Host, LabError, Topology, bpffs,
    netlink::Netlink,
    netns,
    process::{end_groups, end_stragglers},
    state::{Record, State},
};

/// What a teardown removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Removed {
    /// The namespaces.
    pub namespaces: Vec<String>,
    /// The processes that still ran, by their names in the lab.
    pub processes: Vec<String>,
    /// Processes that were started in the lab but not noted there.
    pub stragglers: usize,
    /// What its programs had left outside of it.
    pub outside: Vec<PathBuf>,
    /// Devices of the host that were in the lab.
    pub given_back: Vec<String>,
    /// The BPF file system that the lab had mounted, if nothing was pinned in it.
    pub bpffs: Option<PathBuf>,
}

/// Removes processes, links, namespaces, mount and directory; goes on after an error and returns the first.
pub(crate) fn clear(state: &State, record: &Record) -> Result<Removed, LabError> {
    let mut first = None;
    let mut note = |error| _ = first.get_or_insert(error);
    let mut removed = Removed::default();
    let spec = &record.topology.spec;
    let processes = state.processes().unwrap_or_else(|error| {
        note(error);
        Vec::new()
    });
    removed.processes = processes.iter().filter(|process| process.id.alive()).map(|process| process.name.clone()).collect();
    end_groups(&processes).unwrap_or_else(&mut note);
    let inodes: Vec<_> = record.topology.namespaces().filter_map(|name| netns::inode(&name)).collect();
    removed.stragglers = end_stragglers(&spec.prefix, &inodes, &processes);
    for path in &record.outside {
        match remove_path(path) {
            Ok(true) => removed.outside.push(path.clone()),
            Ok(false) => {}
            Err(error) => note(error),
        }
    }
    for device in &record.borrowed {
        match device.give_back() {
            Ok(true) => removed.given_back.push(device.interface.clone()),
            Ok(false) => {}
            Err(error) => note(error),
        }
    }
    // Both ends of each link go now, even if a process of the user's keeps a namespace alive.
    delete_links(&record.topology).unwrap_or_else(&mut note);
    for namespace in record.topology.namespaces() {
        match netns::remove(&namespace) {
            Ok(true) => removed.namespaces.push(namespace),
            Ok(false) => {}
            Err(error) => note(error),
        }
    }
    if let Some(path) = &record.bpffs {
        match bpffs::unmount_empty(path) {
            Ok(unmounted) => removed.bpffs = unmounted.then(|| path.clone()),
            Err(error) => note(error),
        }
    }
    // Without it nobody would find what could not be removed.
    match first {
        None => state.remove().map(|()| removed),
        Some(error) => Err(error),
    }
}

/// Removes a file or a directory, and the directory around it if nothing else is in that. `false`: it was not there.
fn remove_path(path: &Path) -> Result<bool, LabError> {
    let found = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        other => other.map_err(LabError::file("look at", path))?,
    };
    let removal = if found.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    removal.map_err(LabError::file("remove", path))?;
    if let Some(around) = path.parent() {
        // Others keep theirs in it.
        let _ = fs::remove_dir(around);
    }
    Ok(true)
}

fn delete_links(topology: &Topology) -> Result<(), LabError> {
    let router = topology.spec.namespace(Host::Router);
    // Not mounted: `netns::create` stopped half-way, the file is an ordinary one.
    if netns::inode(&router).is_none() || !netns::is_namespace(&router) {
        return Ok(());
    }
    netns::enter(&router, || {
        let netlink = Netlink::open(&router)?;
        let ports = topology.links.iter().map(|link| link.router.interface.as_str());
        let bridges = topology.links.iter().filter_map(|link| link.router.bridge.as_deref());
        for index in ports.chain(bridges).filter_map(Netlink::index).collect::<BTreeSet<_>>() {
            netlink.delete(index)?;
        }
        Ok(())
    })?
}
