//! The control socket's asking side: one request and one answer, a JSON line each. Who may open the socket file may control.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::protocol::Request;

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
