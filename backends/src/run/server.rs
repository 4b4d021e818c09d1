//! The listening side of the control socket: reads requests and asks the balancer's loop.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::error::RunError;
use super::line::Answer;
use super::protocol::{Handle, Refusal};

/// The control socket; its file goes when this is dropped.
pub(super) struct Server {
    path: PathBuf,
    listener: Option<UnixListener>,
}

/// Longest request line.
const LONGEST: u64 = 64 << 10;

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
        Ok(Self { path: path.to_owned(), listener: Some(listener) })
    }

    /// Answers whoever connects.
    pub fn serve(&mut self, handle: Handle) -> Result<(), RunError> {
        let Some(listener) = self.listener.take() else { return Ok(()) };
        let fail = |source| RunError::Socket { path: self.path.clone(), source };
        // Ends with the process: nothing of it outlives the file.
        std::thread::Builder::new().name("control".into()).spawn(move || accept(&listener, &handle)).map_err(fail)?;
        Ok(())
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

fn accept(listener: &UnixListener, handle: &Handle) {
    for stream in listener.incoming() {
        match stream {
            Ok(stream) => {
                // A client that goes away in the middle has its own loss.
                let _ = serve(&stream, handle);
            }
            // Out of descriptors, say: not a reason to spin.
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

fn serve(stream: &UnixStream, handle: &Handle) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.set_write_timeout(Some(Duration::from_secs(2)))?;
    let mut line = String::new();
    BufReader::new(stream.take(LONGEST)).read_line(&mut line)?;
    let answer = match serde_json::from_str(&line) {
        Err(error) => Answer::Refused(format!("not a request: {error}")),
        Ok(request) => match handle.ask(request).map(serde_json::to_value) {
            Ok(Ok(value)) => Answer::Done(value),
            Ok(Err(error)) => Answer::Refused(Refusal::Failed(error.to_string()).to_string()),
            Err(refusal) => Answer::Refused(refusal.to_string()),
        },
    };
    let mut stream = stream;
    writeln!(stream, "{}", serde_json::to_string(&answer)?)
}
