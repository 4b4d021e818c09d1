//! The BPF file system, where pins live.

use std::{
    fs,
    path::{Path, PathBuf},
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

use crate::LabError;

/// Where the BPF file system belongs.
pub const BPFFS: &str = "/sys/fs/bpf";

/// A mounted BPF file system.
#[derive(Debug)]
pub struct Bpffs {
    path: PathBuf,
    mounted_here: bool,
}

impl Bpffs {
    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Was it mounted by this call, so that [`Bpffs::undo`] would unmount it?
    #[must_use]
    pub fn mounted_here(&self) -> bool {
        self.mounted_here
    }

    /// Unmounts it if it was mounted here and nothing is pinned in it. `true`: unmounted.
    ///
    /// # Errors
    /// [`LabError::File`] if it is in use.
    pub fn undo(self) -> Result<bool, LabError> {
        if self.mounted_here { unmount_empty(&self.path) } else { Ok(false) }
    }
}

/// Mounts a BPF file system unless there is one.
///
/// # Errors
/// [`LabError::File`] if the directory cannot be made or the kernel refuses (CAP_SYS_ADMIN is needed).
pub fn ensure_bpffs(path: &Path) -> Result<Bpffs, LabError> {
    let mounted_here = !is_bpffs(path);
    if mounted_here {
        fs::create_dir_all(path).map_err(LabError::file("make", path))?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("bpf"), path, Some("bpf"), flags, Some("mode=700"))
            .map_err(|error| LabError::file("mount a BPF file system at", path)(error.into()))?;
    }
    Ok(Bpffs { path: path.to_owned(), mounted_here })
}

pub(crate) fn is_bpffs(path: &Path) -> bool {
    statfs(path).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC)
}

/// What the kernel itself puts into each (`kernel/bpf/inode.c`, `populate_bpffs`, with `CONFIG_BPF_PRELOAD`).
const PRELOADED: [&str; 2] = ["maps.debug", "progs.debug"];

/// Unmounts a BPF file system in which nothing is pinned.
pub(crate) fn unmount_empty(path: &Path) -> Result<bool, LabError> {
    if !is_bpffs(path) {
        return Ok(false);
    }
    for entry in fs::read_dir(path).map_err(LabError::file("list", path))? {
        let name = entry.map_err(LabError::file("list", path))?.file_name();
        if !PRELOADED.iter().any(|preloaded| name == *preloaded) {
            return Ok(false);
        }
    }
    umount2(path, MntFlags::empty()).map_err(|error| LabError::file("unmount", path)(error.into()))?;
    Ok(true)
}
