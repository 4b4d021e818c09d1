//! Named network namespaces, as `ip netns` keeps them: a bind mount of the namespace's handle at `/run/netns/NAME`.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    panic,
    path::{Path, PathBuf},
    thread,
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
    sys::statfs::{NSFS_MAGIC, statfs},
};

use crate::LabError;

/// Where `ip netns` keeps its namespaces.
pub(crate) const DIRECTORY: &str = "/run/netns";

/// Gives this thread, and what it starts from now on, mounts of their own: nobody else sees what they mount and unmount.
///
/// # Errors
/// What the kernel says, which wants `CAP_SYS_ADMIN`.
pub fn own_mounts() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let nothing = None::<&str>;
    Ok(mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)?)
}

/// The file that names a namespace.
pub(crate) fn path(namespace: &str) -> PathBuf {
    Path::new(DIRECTORY).join(namespace)
}

/// The inode that tells namespaces apart; `None` if there is none of this name.
pub(crate) fn inode(namespace: &str) -> Option<u64> {
    fs::metadata(path(namespace)).ok().map(|file| file.ino())
}

/// Makes `/run/netns` a mount point with shared propagation, as `ip netns add` does.
///
/// Without it a later `ip netns add` would bind the directory over itself and hide the mounts that are in it already:
/// they could not be removed by name any more. `true`: it was not one before.
pub(crate) fn prepare_directory() -> Result<bool, LabError> {
    fs::create_dir_all(DIRECTORY).map_err(LabError::file("make", DIRECTORY))?;
    let share = || mount_flags(None, MsFlags::MS_SHARED | MsFlags::MS_REC);
    match share() {
        Ok(()) => Ok(false),
        // Not a mount point yet.
        Err(nix::Error::EINVAL) => {
            mount_flags(Some(DIRECTORY), MsFlags::MS_BIND | MsFlags::MS_REC)
                .and_then(|()| share())
                .map_err(|e| LabError::file("share the mount", DIRECTORY)(e.into()))?;
            Ok(true)
        }
        Err(other) => Err(LabError::file("share the mount", DIRECTORY)(other.into())),
    }
}

fn mount_flags(source: Option<&str>, flags: MsFlags) -> nix::Result<()> {
    mount(source, DIRECTORY, None::<&str>, flags, None::<&str>)
}

/// Undoes [`prepare_directory`] if no namespace is left in it.
pub(crate) fn tidy_directory() -> Result<(), LabError> {
    let empty = fs::read_dir(DIRECTORY).is_ok_and(|mut entries| entries.next().is_none());
    if !empty {
        return Ok(());
    }
    umount2(DIRECTORY, MntFlags::empty()).map_err(|e| LabError::file("unmount", DIRECTORY)(e.into()))?;
    fs::remove_dir(DIRECTORY).map_err(LabError::file("remove", DIRECTORY))
}

/// Makes a namespace; its name must be free.
pub(crate) fn create(namespace: &str) -> Result<(), LabError> {
    let failed = |doing| move |source: io::Error| LabError::Namespace { namespace: namespace.to_owned(), doing, source };
    let path = path(namespace);
    OpenOptions::new().write(true).create_new(true).mode(0o444).open(&path).map_err(failed("name"))?;
    on_thread(namespace, || {
        unshare(CloneFlags::CLONE_NEWNET).map_err(|e| failed("make")(e.into()))?;
        mount(Some("/proc/thread-self/ns/net"), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .map_err(|e| failed("name")(e.into()))
    })?
}

/// Removes a namespace's name; the kernel removes the namespace when nothing runs in it any more. `false`: no such name.
pub(crate) fn remove(namespace: &str) -> Result<bool, LabError> {
    let failed = |doing| move |source: io::Error| LabError::Namespace { namespace: namespace.to_owned(), doing, source };
    let path = path(namespace);
    match umount2(&path, MntFlags::MNT_DETACH) {
        // EINVAL: not a mount point, so `create` stopped half-way.
        Ok(()) | Err(nix::Error::EINVAL) => {}
        Err(nix::Error::ENOENT) => return Ok(false),
        Err(other) => return Err(failed("unmount")(other.into())),
    }
    fs::remove_file(&path).map_err(failed("remove the name of"))?;
    Ok(true)
}

/// Runs a closure on a fresh thread inside a namespace and returns its value.
///
/// Only the network namespace changes: file system and mounts, `/sys/fs/bpf` among them, stay those of the caller. (So
/// does `/sys/class/net`, which shows the devices of the namespace that mounted it.) Threads and processes that the
/// closure starts are inside as well. A panic of the closure continues in the caller.
pub(crate) fn enter<T: Send>(namespace: &str, work: impl FnOnce() -> T + Send) -> Result<T, LabError> {
    let failed = |doing| move |source: io::Error| LabError::Namespace { namespace: namespace.to_owned(), doing, source };
    let handle = File::open(path(namespace)).map_err(failed("open"))?;
    on_thread(namespace, || {
        setns(&handle, CloneFlags::CLONE_NEWNET).map_err(|e| failed("enter")(e.into()))?;
        Ok(work())
    })?
}

/// A thread of its own, as a thread that changed its namespace must not go back to other work.
fn on_thread<T: Send>(namespace: &str, work: impl FnOnce() -> T + Send) -> Result<T, LabError> {
    thread::scope(|scope| {
        let started = thread::Builder::new().name(namespace.to_owned()).spawn_scoped(scope, work);
        let thread = started.map_err(|source| LabError::Namespace {
            namespace: namespace.to_owned(),
            doing: "start a thread for",
            source,
        })?;
        Ok(thread.join().unwrap_or_else(|payload| panic::resume_unwind(payload)))
    })
}

/// Is the name that of a namespace, or of an ordinary file that was to become one?
pub(crate) fn is_namespace(namespace: &str) -> bool {
    statfs(&path(namespace)).is_ok_and(|found| found.filesystem_type() == NSFS_MAGIC)
}
