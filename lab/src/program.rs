//! Programs that must be installed, and how to wait for what they start.

use std::{
    env,
    net::SocketAddr,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use procfs::{net::TcpState, process::Process as Proc};

use crate::{LabError, Process};

/// How long a server may take until it listens.
const START: Duration = Duration::from_secs(10);

/// Finds a program as a shell does, and where Debian puts daemons if `PATH` leaves that out.
///
/// # Errors
/// [`LabError::NotInstalled`] names Debian's package.
pub fn find(program: &str, package: &'static str) -> Result<PathBuf, LabError> {
    let path = env::var_os("PATH").unwrap_or_default();
    let directories = env::split_paths(&path).chain(["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from));
    directories
        .map(|directory| directory.join(program))
        .find(|file| file.is_file())
        .ok_or_else(|| LabError::NotInstalled { program: program.to_owned(), package })
}

/// Waits until a process' namespace has listening TCP sockets at all the addresses.
///
/// # Errors
/// [`LabError::Ended`] if it ends before; [`LabError::NotListening`] after ten seconds.
pub fn wait_listening(process: &mut Process, addresses: &[SocketAddr]) -> Result<(), LabError> {
    let until = Instant::now() + START;
    loop {
        let listening = listening(process.pid());
        let missing: Vec<_> = addresses.iter().filter(|address| !listening.contains(address)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let (name, namespace) = (process.name().to_owned(), process.namespace().to_owned());
        if let Some(status) = process.try_wait()? {
            return Err(LabError::Ended { name, namespace, status: status.to_string(), log: process.last_words() });
        }
        if Instant::now() >= until {
            let missing = missing.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            let seconds = START.as_secs();
            return Err(LabError::NotListening { name, namespace, missing, seconds, log: process.last_words() });
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// The listening sockets of the namespace that a process is in; none if it is gone.
fn listening(pid: u32) -> Vec<SocketAddr> {
    let Some(process) = i32::try_from(pid).ok().and_then(|pid| Proc::new(pid).ok()) else {
        return Vec::new();
    };
    let (v4, v6) = (process.tcp().unwrap_or_default(), process.tcp6().unwrap_or_default());
    let sockets = v4.into_iter().chain(v6);
    sockets.filter(|socket| socket.state == TcpState::Listen).map(|socket| socket.local_address).collect()
}

/// A file name for messages and configurations, without what would need quoting there.
///
/// # Errors
/// [`LabError::Spec`] if it is not UTF-8 or has quotes or blanks.
pub(crate) fn plain(path: &Path) -> Result<&str, LabError> {
    let accepted = |text: &&str| !text.contains(|c: char| c.is_whitespace() || "\"';{}\\$".contains(c));
    path.to_str().filter(accepted).ok_or_else(|| LabError::Spec {
        key: "directory",
        found: path.display().to_string(),
        expected: "a path without blanks, quotes, braces and $".to_owned(),
    })
}
