//! Long transfers over single connections, by `curl`, checked at both ends.

use std::{fs, net::SocketAddr, path::PathBuf, process::Command, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{Host, Lab, LabError, Process, Servers, digest_of, program};

/// Which way the content goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// From a real to the client, past the balancer; through it go only acknowledgements.
    Download,
    /// From the client to a real, through the balancer.
    Upload,
}

/// A transfer of the servers' blob to start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Which way.
    pub direction: Direction,
    /// The VIP.
    pub target: SocketAddr,
    /// The client's port.
    pub source_port: u16,
    /// Bytes a second.
    pub rate: u64,
    /// After this long it counts as failed.
    pub most: Duration,
}

/// A running transfer; ends with the value.
#[derive(Debug)]
pub struct Transfer {
    plan: Plan,
    process: Process,
    name: String,
    directory: PathBuf,
}

/// How a transfer went.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outcome {
    /// Which way.
    pub direction: Direction,
    /// The VIP.
    pub target: SocketAddr,
    /// The client's address and port.
    pub source: SocketAddr,
    /// Who served it; `None` if no answer came.
    pub real: Option<String>,
    /// Bytes of content transferred.
    pub bytes: u64,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// What is wrong: a broken connection, a wrong status, another content. `None`: it arrived whole and unchanged.
    pub fault: Option<String>,
}

/// What `curl --write-out '%{json}'` says; only what is used.
#[derive(Deserialize)]
struct Written {
    exitcode: i32,
    errormsg: Option<String>,
    response_code: u16,
    size_download: u64,
    size_upload: u64,
    time_total: f64,
}

impl Transfer {
    /// Starts a transfer from the client.
    ///
    /// # Errors
    /// [`LabError::NotInstalled`] without `curl`; [`LabError::Spawn`].
    pub fn start(lab: &Lab, servers: &Servers, plan: Plan) -> Result<Self, LabError> {
        let name = format!("{}-{}", if plan.target.is_ipv4() { "v4" } else { "v6" }, plan.source_port);
        let directory = lab.directory().join("client");
        fs::create_dir_all(&directory).map_err(LabError::file("make", &directory))?;
        let mut command = Command::new(program::find("curl", "curl")?);
        command.args(["--silent", "--noproxy", "*", "--write-out", "\n%{json}\n"]);
        command.args(["--limit-rate", &plan.rate.to_string(), "--local-port", &plan.source_port.to_string()]);
        command.args(["--max-time", &plan.most.as_secs().max(1).to_string(), "--connect-timeout", "10"]);
        command.arg("--dump-header").arg(directory.join(format!("{name}.head")));
        command.arg("--output").arg(directory.join(&name));
        match plan.direction {
            Direction::Download => command.arg(format!("http://{}/blob", plan.target)),
            Direction::Upload => {
                command.arg("--upload-file").arg(&servers.blob.path);
                command.arg(format!("http://{}/upload/{name}", plan.target))
            }
        };
        Ok(Self { plan, process: lab.spawn(Host::Client, command)?, name, directory })
    }

    /// Does it still run?
    #[must_use]
    pub fn running(&self) -> bool {
        self.process.alive()
    }

    /// What was asked for.
    #[must_use]
    pub fn plan(&self) -> Plan {
        self.plan
    }

    /// Waits for the end and compares the content at both ends.
    ///
    /// # Errors
    /// [`LabError::Answer`] if curl's report cannot be read; [`LabError::File`].
    pub fn finish(mut self, lab: &Lab, servers: &Servers) -> Result<Outcome, LabError> {
        self.process.wait()?;
        let log = self.process.log();
        let text = fs::read_to_string(log).map_err(LabError::file("read", log))?;
        let json = text.lines().rfind(|line| line.starts_with('{')).unwrap_or_default();
        let written: Written =
            serde_json::from_str(json).map_err(|source| LabError::Answer { program: "curl", source, found: text })?;
        let real = self.real();
        let (bytes, accepted) = match self.plan.direction {
            Direction::Download => (written.size_download, 200),
            Direction::Upload => (written.size_upload, 201),
        };
        let fault = if written.exitcode != 0 {
            Some(format!("curl: ({}) {}", written.exitcode, written.errormsg.unwrap_or_default()))
        } else if written.response_code != accepted {
            Some(format!("status {}, expected {accepted}", written.response_code))
        } else {
            self.compare(servers, real.as_deref())?
        };
        let source = lab.link(Host::Client)?.address_like(self.plan.target.ip());
        Ok(Outcome {
            direction: self.plan.direction,
            target: self.plan.target,
            source: SocketAddr::new(source, self.plan.source_port),
            real,
            bytes,
            seconds: written.time_total,
            fault,
        })
    }

    /// The real's name of the last answer's head; before it may come one with status 100.
    fn real(&self) -> Option<String> {
        let head = fs::read_to_string(self.directory.join(format!("{}.head", self.name))).ok()?;
        let value = |line: &str| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("x-real").then(|| value.trim().to_owned())
        };
        head.lines().rev().find_map(value)
    }

    /// Is the content at the receiving end the sender's? Returns the difference.
    fn compare(&self, servers: &Servers, real: Option<&str>) -> Result<Option<String>, LabError> {
        let path = match self.plan.direction {
            Direction::Download => self.directory.join(&self.name),
            Direction::Upload => match real.and_then(|real| real.parse().ok()) {
                Some(host) => servers.nginx_of(host)?.uploads().join(&self.name),
                None => return Ok(Some("an answer without the name of a real".to_owned())),
            },
        };
        let (found, bytes) = digest_of(&path)?;
        // Whoever transfers again under the same name must not find the old content.
        fs::remove_file(&path).map_err(LabError::file("remove", &path))?;
        let sent = &servers.blob;
        let differs = || format!("{bytes} bytes with SHA-256 {found} arrived, of {} with {}", sent.bytes, sent.digest);
        Ok((found != sent.digest).then(differs))
    }
}
