//! Which balancer a verb talks to, and how.

use std::path::PathBuf;

use anyhow::anyhow;
use clap::Args;
use tandem_api::client::{Calls, Client, ClientError, Response, Status, TlsFiles};
use tandem_backends::run::Paths;

use crate::Failure;

/// Which balancer.
#[derive(Args)]
pub struct Target {
    /// The balancer's name [default: the only one that runs]
    #[arg(long, global = true)]
    name: Option<String>,
    /// As JSON
    #[arg(long, global = true)]
    pub json: bool,
    #[command(flatten)]
    remote: Remote,
}

/// One on another host.
#[derive(Args)]
struct Remote {
    /// A balancer on another host, over mutual TLS: https://HOST:PORT, as its api.listen says
    #[arg(long, global = true, value_name = "URL", conflicts_with = "name", requires_all = ["tls_ca", "tls_cert", "tls_key"])]
    server: Option<String>,
    /// Who signed the balancer's certificate (PEM)
    #[arg(long, global = true, value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// Our certificate (PEM)
    #[arg(long, global = true, value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// Its key (PEM)
    #[arg(long, global = true, value_name = "FILE")]
    tls_key: Option<PathBuf>,
}

/// A connection to it, whose errors have their exit status.
pub struct Connection(Client);

impl Connection {
    /// One call, to its answer.
    pub fn ask<T>(&mut self, call: impl AsyncFnOnce(&mut Calls) -> Result<Response<T>, Status>) -> Result<T, Failure> {
        self.done(|client| client.ask(call))
    }

    /// Whatever else the client does, to its end.
    pub fn done<T>(&mut self, work: impl FnOnce(&mut Client) -> Result<T, ClientError>) -> Result<T, Failure> {
        work(&mut self.0).map_err(failure)
    }
}

fn failure(error: ClientError) -> Failure {
    match error {
        ClientError::Invalid(_) | ClientError::Identity { .. } => Failure::Usage(error.into()),
        _ => Failure::Failed(error.into()),
    }
}

impl Target {
    /// Connects to it.
    pub fn connect(&self) -> Result<Connection, Failure> {
        let Remote { server, tls_ca, tls_cert, tls_key } = &self.remote;
        let Some(url) = server else { return self.here() };
        let (Some(ca), Some(cert), Some(key)) = (tls_ca.clone(), tls_cert.clone(), tls_key.clone()) else {
            return Err(Failure::Usage(anyhow!("--server needs --tls-ca, --tls-cert and --tls-key")));
        };
        Client::tls(url, &TlsFiles { ca, cert, key }).map(Connection).map_err(failure)
    }

    /// The name that was given.
    pub fn given_name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// To one of this host.
    fn here(&self) -> Result<Connection, Failure> {
        Client::unix(&Paths::of(&self.name()?).socket).map(Connection).map_err(failure)
    }

    fn name(&self) -> Result<String, Failure> {
        if let Some(name) = &self.name {
            return Ok(name.clone());
        }
        let mut names = Paths::names();
        match (names.pop(), names.is_empty()) {
            (Some(only), true) => Ok(only),
            (None, _) => Err(anyhow!("no balancer is running on this host (nothing in /run/tandem)").into()),
            (Some(last), false) => {
                let others = names.join(", ");
                Err(Failure::Usage(anyhow!("several balancers run here ({others}, {last}); say which: --name")))
            }
        }
    }
}
