//! A lab's life: up, used, down.

use std::{
    io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
};

use procfs::process::Process as Proc;
use serde::Serialize;

use crate::{
    Bpffs, Host, LabError, Link, Process, ProcessId, ProcessRecord, Removed, Spec, Topology, bpffs, construct,
    netlink::Netlink,
    netns,
    ports::Borrowed,
    process::{MARKER, open_log},
    spec::check_prefix,
    state::{Record, State},
    teardown::clear,
};

/// A running lab. Dropping it removes everything it made, unless [`Lab::keep`] was called or it came from [`Lab::open`].
#[derive(Debug)]
pub struct Lab {
    record: Record,
    state: State,
    keep: bool,
}

/// A process and whether it runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProcessStatus {
    /// What was noted when it started.
    #[serde(flatten)]
    pub process: ProcessRecord,
    /// Does it run?
    pub alive: bool,
}

/// What is there of a lab.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    /// Layout, hosts and addresses.
    #[serde(flatten)]
    pub topology: Topology,
    /// Who made it.
    pub owner: ProcessId,
    /// Does its maker run?
    pub owner_alive: bool,
    /// Stays when its maker ends.
    pub kept: bool,
    /// Its namespaces that do not exist (any more).
    pub missing_namespaces: Vec<String>,
    /// Its processes.
    pub processes: Vec<ProcessStatus>,
}

impl Lab {
    /// Builds a lab: namespaces, links, addresses, routes, settings. No server and no XDP program yet.
    ///
    /// # Errors
    /// [`LabError::NotPermitted`], [`LabError::Spec`], [`LabError::Exists`] before anything is touched; whatever the
    /// kernel refuses later, after everything made by then has been removed again.
    pub fn up(spec: Spec) -> Result<Self, LabError> {
        check_permitted()?;
        let topology = Topology::new(spec)?;
        let owner = ProcessId::of(std::process::id())
            .ok_or_else(|| LabError::file("read", "/proc/self/stat")(io::ErrorKind::NotFound.into()))?;
        let record = Record { owner, kept: false, bpffs: None, outside: Vec::new(), borrowed: Vec::new(), topology };
        let state = State::create(&record)?;
        // From here on dropping `lab` removes what there is.
        let mut lab = Self { record, state, keep: false };
        construct::build(&mut lab.record.topology)?;
        lab.state.write(&lab.record)?;
        Ok(lab)
    }

    /// A lab that is up, to look at or to run things in. Dropping it changes nothing.
    ///
    /// # Errors
    /// [`LabError::Missing`]; [`LabError::State`] if its state cannot be read.
    pub fn open(prefix: &str) -> Result<Self, LabError> {
        let state = find(prefix)?;
        Ok(Self { record: state.read()?, state, keep: true })
    }

    /// The prefixes of all labs on this host, whoever made them.
    ///
    /// # Errors
    /// [`LabError::File`] if their directory cannot be listed.
    pub fn all() -> Result<Vec<String>, LabError> {
        State::all()
    }

    /// The prefixes of the labs whose makers were killed and could not remove them, or whose records cannot be read.
    ///
    /// # Errors
    /// [`LabError::File`] if their directory cannot be listed.
    pub fn abandoned() -> Result<Vec<String>, LabError> {
        State::abandoned()
    }

    /// Lets the lab stay when this value is dropped and when this process ends.
    ///
    /// # Errors
    /// [`LabError::File`] if that cannot be noted; then it does not stay.
    pub fn keep(&mut self) -> Result<(), LabError> {
        self.record.kept = true;
        self.state.write(&self.record)?;
        self.keep = true;
        Ok(())
    }

    /// Removes a lab by its prefix: one that was kept, or what a killed process left.
    ///
    /// # Errors
    /// [`LabError::Missing`]; [`LabError::InUse`] if its maker runs and did not keep it; else the first thing that could
    /// not be removed, after all the others were.
    pub fn down(prefix: &str) -> Result<Removed, LabError> {
        let state = find(prefix)?;
        check_permitted()?;
        let record = match state.read() {
            // Killed between making the directory and its first file: there is nothing else yet.
            Err(LabError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return state.remove().map(|()| Removed::default());
            }
            other => other?,
        };
        let owner = record.owner;
        if !record.kept && owner.alive() && owner.pid != std::process::id() {
            return Err(LabError::InUse { prefix: prefix.to_owned(), pid: owner.pid, command: owner.command() });
        }
        clear(&state, &record)
    }

    /// Removes this lab and says what was removed, where dropping it could only log an error.
    ///
    /// # Errors
    /// The first thing that could not be removed, after all the others were.
    pub fn tear_down(mut self) -> Result<Removed, LabError> {
        self.keep = true;
        clear(&self.state, &self.record)
    }

    /// What is there of a lab.
    ///
    /// # Errors
    /// As [`Lab::open`].
    pub fn status(prefix: &str) -> Result<Status, LabError> {
        let state = find(prefix)?;
        let record = state.read()?;
        let missing = |name: &String| netns::inode(name).is_none();
        Ok(Status {
            owner: record.owner,
            owner_alive: record.owner.alive(),
            kept: record.kept,
            missing_namespaces: record.topology.namespaces().filter(missing).collect(),
            processes: state
                .processes()?
                .into_iter()
                .map(|process| ProcessStatus { alive: process.id.alive(), process })
                .collect(),
            topology: record.topology,
        })
    }

    /// Layout, hosts and addresses.
    #[must_use]
    pub fn topology(&self) -> &Topology {
        &self.record.topology
    }

    /// The link of a host: names, indices, addresses at both ends.
    ///
    /// # Errors
    /// [`LabError::NoHost`] for the router, which has one to each, and for reals that the lab does not have.
    pub fn link(&self, host: Host) -> Result<&Link, LabError> {
        self.record.topology.link(host)
    }

    /// The name of a host's namespace under `/run/netns`.
    #[must_use]
    pub fn namespace(&self, host: Host) -> String {
        self.record.topology.spec.namespace(host)
    }

    /// A directory for the lab's files, removed with it.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.state.path()
    }

    /// Runs a closure on a fresh thread inside a host's network namespace and returns its value.
    ///
    /// Only the network namespace changes: file system and mounts, `/sys/fs/bpf` among them, stay those of the caller.
    /// So does `/sys/class/net`, which shows the devices of the namespace that mounted it: look for devices by
    /// `if_nametoindex` or netlink there. Threads and processes started by the closure are inside as well.
    ///
    /// # Errors
    /// [`LabError::Namespace`] if the namespace is not there (any more).
    ///
    /// # Panics
    /// If the closure panics.
    pub fn enter<T: Send>(&self, host: Host, work: impl FnOnce() -> T + Send) -> Result<T, LabError> {
        netns::enter(&self.namespace(host), work)
    }

    /// Starts a program in a host, without input, with output and errors in [`Process::log`], in a process group of its
    /// own (so that Ctrl-C on the terminal reaches the lab's owner only).
    ///
    /// # Errors
    /// [`LabError::Spawn`] if it cannot be started, [`LabError::File`] for its log or its note.
    pub fn spawn(&self, host: Host, command: Command) -> Result<Process, LabError> {
        let program = Path::new(command.get_program()).file_name().unwrap_or_default();
        let (name, log, file) = open_log(self.directory(), &format!("{host}-{}", program.to_string_lossy()))?;
        let errors = file.try_clone().map_err(LabError::file("open", &log))?;
        let mut command = command;
        command.stdin(Stdio::null()).stdout(file).stderr(errors).process_group(0);
        let child = self.start(host, command)?;
        let process = ProcessRecord { name, host, id: self.identify(host, &child)?, log };
        match self.state.note(&process) {
            Ok(file) => Ok(Process::new(child, process, file, self.namespace(host))),
            Err(error) => {
                drop(Process::new(child, process, PathBuf::new(), self.namespace(host)));
                Err(error)
            }
        }
    }

    /// Runs a program in a host with this process' input and output, and waits for it.
    ///
    /// # Errors
    /// [`LabError::Spawn`] if it cannot be started.
    pub fn exec(&self, host: Host, command: Command) -> Result<ExitStatus, LabError> {
        let mut child = self.start(host, command)?;
        child.wait().map_err(LabError::file("wait for", format!("/proc/{}", child.id())))
    }

    fn start(&self, host: Host, mut command: Command) -> Result<std::process::Child, LabError> {
        let namespace = self.namespace(host);
        command.env(MARKER, &self.record.topology.spec.prefix);
        let program = command.get_program().to_string_lossy().into_owned();
        netns::enter(&namespace, || command.spawn())?.map_err(|source| LabError::Spawn { program, namespace, source })
    }

    fn identify(&self, host: Host, child: &std::process::Child) -> Result<ProcessId, LabError> {
        // It is there, running or waiting to be waited for.
        ProcessId::of(child.id()).ok_or_else(|| LabError::Namespace {
            namespace: self.namespace(host),
            doing: "find the process just started in",
            source: io::ErrorKind::NotFound.into(),
        })
    }

    /// Notes files and directories (of pins, of sockets) that programs of the lab make outside of it, before they do: they
    /// are removed with the lab, after its processes, and with each the directory around it if that is empty then.
    ///
    /// # Errors
    /// [`LabError::File`] if that cannot be noted.
    pub fn remove_with_it(&mut self, paths: impl IntoIterator<Item = PathBuf>) -> Result<(), LabError> {
        self.record.outside.extend(paths);
        self.state.write(&self.record)
    }

    /// Replaces the link between a host and the router by two devices of this process's namespace, `device` in the host and `far`
    /// in the router, which a cable joins. They get no addresses; they go back when the lab goes, or with its namespaces.
    ///
    /// # Errors
    /// [`LabError::Spec`] for devices that are not there or in use, before anything is touched; what the kernel refuses, and a
    /// link that does not come up.
    pub fn borrow_link(&mut self, host: Host, device: &str, far: &str) -> Result<(), LabError> {
        let router = self.namespace(Host::Router);
        let old = self.link(host)?.router.index;
        let ends = [(device, self.namespace(host)), (far, router.clone())];
        let [near, far] = ends.map(|(interface, namespace)| Borrowed { interface: interface.to_owned(), namespace });
        near.check()?;
        far.check()?;
        // Noted before, so that `down` finds them whenever this process is killed.
        self.record.borrowed.extend([near.clone(), far.clone()]);
        self.state.write(&self.record)?;
        netns::enter(&router, || Netlink::open(&router)?.delete(old))??;
        let (here, there) = (near.take()?, far.take()?);
        near.wait()?;
        if let Some(link) = self.record.topology.links.iter_mut().find(|link| link.host == host) {
            (link.interface, link.index, link.mac) = (near.interface, here.index, here.mac);
            let port = &mut link.router;
            (port.interface, port.index, port.mac, port.gateway_mac) = (far.interface, there.index, there.mac, there.mac);
        }
        self.state.write(&self.record)
    }

    /// Mounts a BPF file system at `path` unless there is one. Goes with the lab if nothing is pinned in it by then.
    ///
    /// # Errors
    /// [`LabError::File`] if the kernel refuses.
    pub fn ensure_bpffs(&mut self, path: &Path) -> Result<Bpffs, LabError> {
        if !bpffs::is_bpffs(path) {
            // Noted before, so that `down` finds it whenever this process is killed.
            self.record.bpffs = Some(path.to_owned());
            self.state.write(&self.record)?;
        }
        bpffs::ensure_bpffs(path)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        if let Err(error) = clear(&self.state, &self.record) {
            log::error!("the lab `{}` is not removed whole: {error}", self.record.topology.spec.prefix);
        }
    }
}

/// The state of a lab that is there.
fn find(prefix: &str) -> Result<State, LabError> {
    check_prefix(prefix)?;
    let state = State::of(prefix);
    if state.exists() { Ok(state) } else { Err(LabError::Missing { prefix: prefix.to_owned() }) }
}

/// The capabilities that namespaces, links and mounts need, with their bits (`linux/capability.h`).
const CAPABILITIES: [(&str, u32); 2] = [("CAP_NET_ADMIN", 12), ("CAP_SYS_ADMIN", 21)];

/// May this process make a lab?
///
/// # Errors
/// [`LabError::NotPermitted`] names what is missing.
pub fn check_permitted() -> Result<(), LabError> {
    let status = Proc::myself().and_then(|process| process.status());
    let effective = status.map_err(|error| LabError::file("read", "/proc/self/status")(io::Error::other(error)))?.capeff;
    let missing: Vec<_> = CAPABILITIES.iter().filter(|(_, bit)| effective >> bit & 1 == 0).map(|(name, _)| *name).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(LabError::NotPermitted { needed: "CAP_NET_ADMIN and CAP_SYS_ADMIN", missing: missing.join(" and ") })
}
