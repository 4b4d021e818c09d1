//! The control socket: one request and one answer, a JSON line each. Who may open the socket file may control.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Where the pins and sockets of all balancers are.
const PINS: &str = "/sys/fs/bpf/tandem";
const SOCKETS: &str = "/run/tandem";

/// Where one balancer keeps what others may find.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Paths {
    /// Its directory of pins.
    pub pins: PathBuf,
    /// Its control socket.
    pub socket: PathBuf,
}

impl Paths {
    /// The paths of the balancer called `name` (by default its interface).
    pub fn of(name: &str) -> Self {
        Self { pins: Path::new(PINS).join(name), socket: Path::new(SOCKETS).join(format!("{name}.sock")) }
    }

    /// Removes the socket's file, and the directory with the last of them; one that is not there is fine.
    ///
    /// # Errors
    /// What `unlink(2)` says.
    pub fn remove_socket(&self) -> std::io::Result<()> {
        match std::fs::remove_file(&self.socket) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        if let Some(directory) = self.socket.parent() {
            // Not empty, or not there.
            let _ = std::fs::remove_dir(directory);
        }
        Ok(())
    }

    /// Names of the balancers that have a control socket.
    pub fn names() -> Vec<String> {
        let entries = std::fs::read_dir(SOCKETS).into_iter().flatten().filter_map(Result::ok);
        let mut names: Vec<String> =
            entries.filter_map(|e| Some(e.file_name().to_str()?.strip_suffix(".sock")?.to_owned())).collect();
        names.sort_unstable();
        names
    }
}

/// A seat, as people name it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ModeName {
    /// The kernel seat.
    Xdp,
    /// The userspace seat.
    Afxdp,
}

/// What can be asked for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// The mode in force, and why.
    Mode,
    /// The live switch.
    SetMode(ModeName),
    /// All counters.
    Counters,
}

/// The mode in force.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ModeReport {
    /// The seat that forwards.
    pub mode: ModeName,
    /// Who chose it.
    pub why: String,
    /// The interface.
    pub interface: String,
    /// `native` or `generic`.
    pub attach: String,
    /// The workers' sockets, if the userspace seat is up.
    pub workers: Vec<WorkerRow>,
    /// The reals without a next hop.
    #[serde(default)]
    pub unreachable: Vec<UnreachableRow>,
}

/// A real whose frames are dropped as `no-next-hop`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct UnreachableRow {
    /// Its address.
    pub real: String,
    /// What is missing, and the cure.
    pub why: String,
}

/// One worker's socket.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WorkerRow {
    /// Its interface.
    #[serde(default)]
    pub interface: String,
    /// RX queue.
    pub queue: u32,
    /// Its worker's core.
    pub core: usize,
    /// `copy` or `zero-copy`; `ended` if it is gone.
    pub bound: String,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("{}: no balancer answers: {source}; is `tandem run` running? (another one: --name)", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The answer.
    #[error("{}: the answer makes no sense: {what}", path.display())]
    Answer {
        /// The socket.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// It could not be done.
    #[error("{0}")]
    Refused(String),
}

/// An answer: what was asked for, or why not.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Answer {
    Done(serde_json::Value),
    Refused(String),
}

/// Asks the balancer that listens on `socket`.
///
/// # Errors
/// [`ClientError`].
pub fn ask(socket: &Path, request: &Request) -> Result<serde_json::Value, ClientError> {
    let connect = |source| ClientError::Connect { path: socket.to_owned(), source };
    let bad = |what: String| ClientError::Answer { path: socket.to_owned(), what };
    let stream = UnixStream::connect(socket).map_err(connect)?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).map_err(connect)?;
    let line = serde_json::to_string(request).map_err(|e| bad(e.to_string()))?;
    writeln!(&stream, "{line}").map_err(connect)?;
    let mut answer = String::new();
    BufReader::new(&stream).read_line(&mut answer).map_err(connect)?;
    match serde_json::from_str(&answer) {
        Ok(Answer::Done(value)) => Ok(value),
        Ok(Answer::Refused(why)) => Err(ClientError::Refused(why)),
        Err(error) => Err(bad(error.to_string())),
    }
}
