//! The control socket's file: whoever may open it may control. One balancer of a name has it, from before its start to its end.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use super::error::RunError;

/// The control socket; its file goes when this is dropped.
pub(super) struct Server {
    path: PathBuf,
    listener: UnixListener,
}

impl Server {
    /// Listens on `path`, for root alone. A socket that a former process left is replaced.
    pub fn listen(path: &Path) -> Result<Self, RunError> {
        let fail = |source| RunError::Socket { path: path.to_owned(), source };
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).map_err(fail)?;
        }
        match fs::remove_file(path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(fail(e)),
            _ => {}
        }
        let listener = UnixListener::bind(path).map_err(fail)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(fail)?;
        Ok(Self { path: path.to_owned(), listener })
    }

    /// The socket, for whoever answers on it.
    pub fn socket(&self) -> Result<UnixListener, RunError> {
        self.listener.try_clone().map_err(|source| RunError::Socket { path: self.path.clone(), source })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
        if let Some(directory) = self.path.parent() {
            // Goes with the last socket.
            let _ = fs::remove_dir(directory);
        }
    }
}
