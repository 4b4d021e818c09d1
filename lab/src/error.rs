//! What can go wrong in the lab, and what to do about it.

use std::{io, path::PathBuf};

use crate::{Host, prefix_option};

/// Why the lab could not do what it was asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LabError {
    /// The process may not make namespaces and links.
    #[error("a lab needs {needed} and this process lacks {missing}: run it as root")]
    NotPermitted {
        /// All capabilities that the lab needs.
        needed: &'static str,
        /// Those that are not in the effective set.
        missing: String,
    },
    /// A lab of this prefix is up, or what a killed process left of one.
    #[error("there is a lab `{prefix}` already ({why}): remove it with `tandem lab down{}`", prefix_option(prefix))]
    Exists {
        /// The prefix asked for.
        prefix: String,
        /// What was found.
        why: String,
    },
    /// The lab belongs to a process that still runs.
    #[error(
        "the lab `{prefix}` is in use by process {pid} ({command}): stop that with `kill -INT {pid}`, which removes its lab too"
    )]
    InUse {
        /// The lab's prefix.
        prefix: String,
        /// The process that made it.
        pid: u32,
        /// Its name.
        command: String,
    },
    /// No lab of this prefix.
    #[error("there is no lab `{prefix}`: `tandem lab up{}` makes it", prefix_option(prefix))]
    Missing {
        /// The prefix asked for.
        prefix: String,
    },
    /// The lab has no such host, or the host has no link of its own.
    #[error("the lab has no link to `{host}`: expected one of {expected}")]
    NoHost {
        /// The host asked for.
        host: Host,
        /// The hosts that have one.
        expected: String,
    },
    /// The specification asks for something that cannot be built.
    #[error("lab {key} is `{found}`, expected {expected}")]
    Spec {
        /// Which part of the specification.
        key: &'static str,
        /// Its value.
        found: String,
        /// What is accepted.
        expected: String,
    },
    /// A namespace could not be made, entered or removed.
    #[error("namespace {namespace}: cannot {doing}: {source}")]
    Namespace {
        /// The namespace's name under `/run/netns`.
        namespace: String,
        /// What was tried.
        doing: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel refused a netlink request.
    #[error("namespace {namespace}: cannot {doing}: {source}")]
    Netlink {
        /// The namespace of the request.
        namespace: String,
        /// The request in words.
        doing: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A device feature (offload) could not be switched.
    #[error("namespace {namespace}: cannot switch {feature} of {interface} off: {source}")]
    Offload {
        /// The namespace of the device.
        namespace: String,
        /// The device.
        interface: String,
        /// The feature, as `ethtool -K` names it.
        feature: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A file or directory of the lab could not be read, written or removed.
    #[error("cannot {doing} {}: {source}", path.display())]
    File {
        /// What was tried.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A file of the state directory is not what this program wrote.
    #[error("{} is not a lab's state: {source}; remove the file, then `tandem lab down`", path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// Where and why it does not parse.
        source: serde_json::Error,
    },
    /// A program could not be started.
    #[error("cannot start {program} in {namespace}: {source}")]
    Spawn {
        /// The program's name.
        program: String,
        /// The namespace it was to run in.
        namespace: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A program that the lab needs is not installed.
    #[error("{program} is not installed: `apt-get install {package}` brings it")]
    NotInstalled {
        /// The program's name.
        program: String,
        /// Debian's package.
        package: &'static str,
    },
    /// A server ended before it listened, or while it was needed.
    #[error("{name} in {namespace} ended with {status}; its last words: {log}")]
    Ended {
        /// The process' name in the lab.
        name: String,
        /// Its namespace.
        namespace: String,
        /// How it ended.
        status: String,
        /// The end of its log.
        log: String,
    },
    /// A server does not listen where it should.
    #[error("{name} in {namespace} does not listen on {missing} after {seconds} s; its last words: {log}")]
    NotListening {
        /// The process' name in the lab.
        name: String,
        /// Its namespace.
        namespace: String,
        /// The addresses without a listening socket.
        missing: String,
        /// How long it was waited for.
        seconds: u64,
        /// The end of its log.
        log: String,
    },
    /// A program answered something that cannot be read.
    #[error("{program} answered what cannot be read: {source}; it wrote: {found}")]
    Answer {
        /// The program's name.
        program: &'static str,
        /// Where and why it does not parse.
        source: serde_json::Error,
        /// The beginning of its output and errors.
        found: String,
    },
    /// A process of the lab outlived SIGKILL.
    #[error("process {pid} ({name}) does not end: it may be stuck in the kernel, see /proc/{pid}/stack")]
    Immortal {
        /// Its id.
        pid: u32,
        /// Its name in the lab.
        name: String,
    },
    /// Signals cannot be caught.
    #[error("cannot catch {signal}: {source}")]
    Signal {
        /// The signal's name.
        signal: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl LabError {
    /// For `map_err` of file operations.
    pub(crate) fn file(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { doing, path, source }
    }
}
