//! `/run/tandem-lab/PREFIX`: what a lab is, who made it, which processes it started.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{Host, LabError, ProcessId, Topology, netns, ports::Borrowed};

/// Where all labs keep their state.
pub(crate) const BASE: &str = "/run/tandem-lab";

/// In [`BASE`]: `/run/netns` was no mount point before the first lab.
const MADE_DIRECTORY: &str = ".made-netns-directory";

/// `lab.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Who made the lab and, unless `kept`, removes it.
    pub owner: ProcessId,
    /// Stays when its maker ends.
    pub kept: bool,
    /// The lab mounted a BPF file system here.
    pub bpffs: Option<PathBuf>,
    /// Files and directories outside of the lab's own that go with it.
    #[serde(default)]
    pub outside: Vec<PathBuf>,
    /// Devices of the host that are in the lab.
    #[serde(default)]
    pub borrowed: Vec<Borrowed>,
    pub topology: Topology,
}

/// `processes/PID.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessRecord {
    /// Its name in the lab, unique there, e.g. `real1-nginx`.
    pub name: String,
    /// The host it runs in.
    pub host: Host,
    /// Which process; with its group.
    pub id: ProcessId,
    /// Its output and errors.
    pub log: PathBuf,
}

/// The directory of one lab.
#[derive(Clone, Debug)]
pub(crate) struct State {
    path: PathBuf,
}

impl State {
    /// Of a lab that may or may not be there; the prefix has been checked.
    pub fn of(prefix: &str) -> Self {
        Self { path: Path::new(BASE).join(prefix) }
    }

    /// The prefixes of all labs, sorted.
    pub fn all() -> Result<Vec<String>, LabError> {
        let entries = match fs::read_dir(BASE) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(LabError::file("list", BASE))?,
        };
        let mut prefixes = Vec::new();
        for entry in entries {
            let name = entry.map_err(LabError::file("list", BASE))?.file_name();
            prefixes.extend(name.to_str().filter(|name| *name != MADE_DIRECTORY).map(str::to_owned));
        }
        prefixes.sort();
        Ok(prefixes)
    }

    /// The prefixes of the labs that nobody will remove, sorted: their makers were killed, some before they noted anything.
    pub fn abandoned() -> Result<Vec<String>, LabError> {
        // Taking the lock would make the directory.
        if Self::all()?.is_empty() {
            return Ok(Vec::new());
        }
        // With it, no lab is half made by somebody who goes on.
        let _lock = lock()?;
        let mut prefixes = Self::all()?;
        prefixes.retain(|prefix| Self::of(prefix).read().map_or(true, |record| !record.kept && !record.owner.alive()));
        Ok(prefixes)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn exists(&self) -> bool {
        self.path.is_dir()
    }

    /// Makes the directory and writes the record; refuses if there is one, or a namespace of the lab's.
    pub fn create(record: &Record) -> Result<Self, LabError> {
        let prefix = &record.topology.spec.prefix;
        let exists = |why: String| LabError::Exists { prefix: prefix.clone(), why };
        let state = Self::of(prefix);
        let _lock = lock()?;
        if state.exists() {
            let by = state.read().map(|found| found.owner.describe());
            return Err(exists(by.unwrap_or_else(|_| format!("half made, in {}", state.path.display()))));
        }
        if let Some(taken) = record.topology.namespaces().find(|name| netns::path(name).exists()) {
            return Err(exists(format!("the namespace {taken} exists")));
        }
        if netns::prepare_directory()? {
            let marker = Path::new(BASE).join(MADE_DIRECTORY);
            File::create(&marker).map_err(LabError::file("make", marker))?;
        }
        let processes = state.path.join("processes");
        fs::create_dir_all(&processes).map_err(LabError::file("make", processes))?;
        state.write(record)?;
        Ok(state)
    }

    pub fn read(&self) -> Result<Record, LabError> {
        read(&self.path.join("lab.json"))
    }

    pub fn write(&self, record: &Record) -> Result<(), LabError> {
        write(&self.path.join("lab.json"), record)
    }

    /// Notes a process; returns the file, which goes when the process has ended.
    pub fn note(&self, process: &ProcessRecord) -> Result<PathBuf, LabError> {
        let path = self.path.join("processes").join(format!("{}.json", process.id.pid));
        write(&path, process)?;
        Ok(path)
    }

    /// All noted processes, those that ended by themselves too.
    pub fn processes(&self) -> Result<Vec<ProcessRecord>, LabError> {
        let directory = self.path.join("processes");
        let entries = match fs::read_dir(&directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(LabError::file("list", &directory))?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let path = entry.map_err(LabError::file("list", &directory))?.path();
            if path.extension().is_some_and(|extension| extension == "json") && path.exists() {
                found.push(read(&path)?);
            }
        }
        found.sort_by(|a: &ProcessRecord, b| a.name.cmp(&b.name));
        Ok(found)
    }

    /// Removes the directory, and after the last lab what all labs share.
    pub fn remove(&self) -> Result<(), LabError> {
        let _lock = lock()?;
        match fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(LabError::file("remove", &self.path)(error));
            }
            _ => {}
        }
        if !Self::all()?.is_empty() {
            return Ok(());
        }
        let marker = Path::new(BASE).join(MADE_DIRECTORY);
        if marker.exists() {
            netns::tidy_directory()?;
            fs::remove_file(&marker).map_err(LabError::file("remove", marker))?;
        }
        fs::remove_dir(BASE).map_err(LabError::file("remove", BASE))
    }
}

/// Two labs must not make or remove the shared directories at the same time. Released with the value.
fn lock() -> Result<File, LabError> {
    loop {
        fs::create_dir_all(BASE).map_err(LabError::file("make", BASE))?;
        let directory = match File::open(BASE) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other.map_err(LabError::file("open", BASE))?,
        };
        directory.lock().map_err(LabError::file("lock", BASE))?;
        // The holder before us may have removed it; then this is the lock of a directory that nobody else finds.
        let ours = directory.metadata().map_err(LabError::file("read", BASE))?.ino();
        if fs::metadata(BASE).is_ok_and(|now| now.ino() == ours) {
            return Ok(directory);
        }
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T, LabError> {
    let text = fs::read(path).map_err(LabError::file("read", path))?;
    serde_json::from_slice(&text).map_err(|source| LabError::State { path: path.to_owned(), source })
}

/// Whole or not at all: a process killed in the middle leaves no half file of the name.
fn write<T: Serialize>(path: &Path, value: &T) -> Result<(), LabError> {
    let text = serde_json::to_vec_pretty(value).map_err(|source| LabError::State { path: path.to_owned(), source })?;
    let new = path.with_extension("new");
    fs::write(&new, text).map_err(LabError::file("write", &new))?;
    fs::rename(&new, path).map_err(LabError::file("write", path))
}
