//! Being told that the configuration file changed: written, replaced by another one (as editors do), or reached by a symbolic
//! link that leads elsewhere now.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use crossbeam::channel::{Receiver, TrySendError, bounded, never};
use inotify::{EventMask, Inotify, WatchMask};

/// How long changes are gathered: an editor makes several.
const GATHER: Duration = Duration::from_millis(50);

/// What tells one content of a file from another, as far as the file system knows.
type Print = (u64, u64, u64, i64, i64);

/// The configuration file of a running balancer.
pub(super) struct ConfigFile {
    pub path: PathBuf,
    /// Something is said here when the file may have changed.
    pub changes: Receiver<()>,
    read: Option<Print>,
}

impl ConfigFile {
    /// Watches the file, whose contents now are in force.
    pub fn watch(path: &Path) -> Self {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let changes = listen(&path).unwrap_or_else(|error| {
            log::warn!("{}: cannot be watched: {error}; after changes use SIGHUP or `tandem reload`", path.display());
            never()
        });
        let read = print(&path);
        Self { path, changes, read }
    }

    /// Notes that its contents are read now; `false`: they are those of the last time.
    pub fn note(&mut self) -> bool {
        let now = print(&self.path);
        std::mem::replace(&mut self.read, now) != now
    }

    /// The watch is over.
    pub fn forget(&mut self) {
        self.changes = never();
    }
}

fn print(path: &Path) -> Option<Print> {
    fs::metadata(path).ok().map(|facts| (facts.dev(), facts.ino(), facts.size(), facts.mtime(), facts.mtime_nsec()))
}

/// The directories are watched, not the file: a file that is replaced takes its watch with it.
fn listen(path: &Path) -> io::Result<Receiver<()>> {
    let mut inotify = Inotify::init()?;
    // What is written is said when it is closed; what is made is only a symbolic link, or still to be written.
    let mask = WatchMask::CLOSE_WRITE | WatchMask::MOVED_TO | WatchMask::CREATE;
    let real = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    for directory in [path, &real].into_iter().filter_map(Path::parent) {
        inotify.watches().add(directory, mask)?;
    }
    let (tell, told) = bounded(1);
    let path = path.to_owned();
    let listen = move || {
        let mut buffer = [0; 4096];
        while let Ok(events) = inotify.read_events_blocking(&mut buffer) {
            let is_ours = events.into_iter().any(|event| is_whole(&path, event.mask, event.name));
            thread::sleep(GATHER);
            // If it is full, the look that is still to come will see this, too.
            if is_ours && matches!(tell.try_send(()), Err(TrySendError::Disconnected(()))) {
                return;
            }
        }
    };
    thread::Builder::new().name("config".into()).spawn(listen)?;
    Ok(told)
}

/// Whether the contents are there once this is said.
fn is_whole(path: &Path, mask: EventMask, name: Option<&OsStr>) -> bool {
    let made = || path.parent().zip(name).is_some_and(|(directory, name)| directory.join(name).is_symlink());
    !mask.contains(EventMask::CREATE) || made()
}
