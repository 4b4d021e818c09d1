//! What runs on the reals: nginx and iperf3, as Debian ships them, listening on the VIPs.

mod blob;
mod nginx;

pub use blob::{Blob, Digest, digest_of};
pub use nginx::Nginx;

use std::{net::SocketAddr, process::Command};

use crate::{Host, Lab, LabError, Process, program};

/// The servers of a lab.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Services {
    /// Where nginx listens on every real: addresses of the VIPs, or of `0.0.0.0` and `::`.
    pub web: Vec<SocketAddr>,
    /// Where iperf3 listens on every real, one server an address, as one serves one test at a time. Name the VIP itself:
    /// on an unspecified address it would answer UDP from the real's own.
    pub iperf3: Vec<SocketAddr>,
    /// Size of the file for downloads and uploads, in bytes.
    pub blob: u64,
}

/// Running servers; they end with the value.
#[derive(Debug)]
pub struct Servers {
    /// The file for downloads and uploads, the same on every real.
    pub blob: Blob,
    /// One a real, in the order of the reals; empty if no address for it was named.
    pub nginx: Vec<Nginx>,
    /// One a real and address.
    pub iperf3: Vec<Process>,
}

impl Servers {
    /// Starts all servers on all reals and waits until they listen.
    ///
    /// # Errors
    /// [`LabError::NotInstalled`] before anything is started; [`LabError::Ended`], [`LabError::NotListening`].
    pub fn start(lab: &Lab, services: &Services) -> Result<Self, LabError> {
        let nginx = (!services.web.is_empty()).then(|| program::find("nginx", "nginx")).transpose()?;
        let iperf3 = (!services.iperf3.is_empty()).then(|| program::find("iperf3", "iperf3")).transpose()?;
        let mut servers = Self { blob: Blob::make(lab, services.blob)?, nginx: Vec::new(), iperf3: Vec::new() };
        for real in lab.topology().reals() {
            if let Some(program) = &nginx {
                servers.nginx.push(Nginx::start(lab, real.host, program, &services.web, &servers.blob)?);
            }
            for address in iperf3.as_ref().map_or(&[][..], |_| &services.iperf3) {
                servers.iperf3.push(start_iperf3(lab, real.host, *address)?);
            }
        }
        // Only now: they start side by side.
        for nginx in &mut servers.nginx {
            program::wait_listening(nginx.process_mut(), &services.web)?;
        }
        let addresses = services.iperf3.iter().cycle();
        for (process, address) in servers.iperf3.iter_mut().zip(addresses) {
            program::wait_listening(process, std::slice::from_ref(address))?;
        }
        Ok(servers)
    }

    /// The web server of a real.
    ///
    /// # Errors
    /// [`LabError::NoHost`] if none runs there.
    pub fn nginx_of(&self, real: Host) -> Result<&Nginx, LabError> {
        self.nginx.iter().find(|nginx| nginx.host() == real).ok_or_else(|| LabError::NoHost {
            host: real,
            expected: self.nginx.iter().map(|nginx| nginx.host().to_string()).collect::<Vec<_>>().join(", "),
        })
    }
}

fn start_iperf3(lab: &Lab, real: Host, address: SocketAddr) -> Result<Process, LabError> {
    let mut command = Command::new(program::find("iperf3", "iperf3")?);
    command.args(["--server", "--forceflush", "--bind", &address.ip().to_string()]);
    command.args(["--port", &address.port().to_string()]);
    lab.spawn(real, command)
}
