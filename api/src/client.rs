//! The client of the API, for programs that wait for each answer.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tandem_backends::control::FlowExport;
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};
use tonic::Code;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
pub use tonic::{Response, Status};

use crate::flows::{NotFlows, PART, from_wire};
use crate::wire::{self, balancer_client::BalancerClient};

/// The calls of the API.
pub type Calls = BalancerClient<Channel>;

/// How long an answer may take: a plan with many VIPs and silent next hops takes seconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens, or not for us.
    #[error("{to}: no balancer answers: {why}; is `tandem run` running? (another one: --name)")]
    Connect {
        /// The socket, or the address.
        to: String,
        /// The system's answer.
        why: String,
    },
    /// The socket is another user's.
    #[error("{}: {why}; the socket is for root, and for the members of `api.group`", path.display())]
    Denied {
        /// The socket.
        path: PathBuf,
        /// The system's answer.
        why: String,
    },
    /// A file of the TLS identity.
    #[error("{}: cannot read it: {source}; --tls-ca, --tls-cert and --tls-key name files in PEM", path.display())]
    Identity {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// No runtime.
    #[error("no thread or descriptor for the client: {0}")]
    Runtime(std::io::Error),
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// It could not be done.
    #[error("{0}")]
    Refused(String),
}

/// The files of a client over TCP, all in PEM.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlsFiles {
    /// Who signed the server's certificate.
    pub ca: PathBuf,
    /// The client's certificate.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// A connection to a running balancer.
pub struct Client {
    runtime: Runtime,
    inner: Calls,
}

impl Client {
    /// To the one that listens on a Unix socket of this host.
    ///
    /// # Errors
    /// [`ClientError::Connect`], [`ClientError::Denied`].
    pub fn unix(path: &Path) -> Result<Self, ClientError> {
        let runtime = runtime()?;
        let socket = path.to_owned();
        let connector = tower::service_fn(move |_: tonic::transport::Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        // The name is nobody's: the connector does not look at it.
        let endpoint = Endpoint::from_static("http://balancer").timeout(PATIENCE);
        let channel = runtime.block_on(endpoint.connect_with_connector(connector)).map_err(|error| {
            let why = root_cause(&error);
            match std::os::unix::net::UnixStream::connect(path) {
                Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => ClientError::Denied { path: path.to_owned(), why },
                _ => ClientError::Connect { to: path.display().to_string(), why },
            }
        })?;
        Ok(Self { runtime, inner: BalancerClient::new(channel) })
    }

    /// To one that listens on TCP, `https://host:port`, with mutual TLS.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn tls(url: &str, files: &TlsFiles) -> Result<Self, ClientError> {
        let read = |path: &PathBuf| std::fs::read(path).map_err(|source| ClientError::Identity { path: path.clone(), source });
        let connect = |error: tonic::transport::Error| ClientError::Connect { to: url.to_owned(), why: root_cause(&error) };
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(read(&files.ca)?))
            .identity(Identity::from_pem(read(&files.cert)?, read(&files.key)?));
        let runtime = runtime()?;
        let endpoint =
            Endpoint::from_shared(url.to_owned()).map_err(connect)?.timeout(PATIENCE).tls_config(tls).map_err(connect)?;
        let channel = runtime.block_on(endpoint.connect()).map_err(connect)?;
        Ok(Self { runtime, inner: BalancerClient::new(channel) })
    }

    /// The mode in force.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub fn mode(&mut self) -> Result<wire::Mode, ClientError> {
        self.ask(async |balancer| balancer.get_mode(wire::GetModeRequest {}).await)
    }

    /// The live switch; gives the mode in force then.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub fn set_mode(&mut self, mode: wire::Seat) -> Result<wire::Mode, ClientError> {
        self.ask(async |balancer| balancer.set_mode(wire::SetModeRequest { mode: mode.into() }).await)
    }

    /// All counters.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub fn counters(&mut self) -> Result<wire::Counters, ClientError> {
        self.ask(async |balancer| balancer.get_counters(wire::GetCountersRequest {}).await)
    }

    /// The flows of the flow table, or only those that depend on state, in parts that can each be imported.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub fn export_flows(&mut self, only_depending: bool) -> Result<Vec<FlowExport>, ClientError> {
        let parts = self.ask(async |balancer| {
            let mut stream = balancer.export_flows(wire::ExportFlowsRequest { only_depending }).await?.into_inner();
            let mut parts = Vec::new();
            while let Some(part) = stream.message().await? {
                parts.push(part);
            }
            Ok(Response::new(parts))
        })?;
        let not_flows = |error: NotFlows| ClientError::Refused(format!("the balancer's answer makes no sense: {error}"));
        parts.into_iter().map(|part| from_wire(part).map_err(not_flows)).collect()
    }

    /// Captures frames: `each` gets every part, and says whether it goes on.
    ///
    /// # Errors
    /// As [`Self::ask`]; [`ClientError::Refused`] if the balancer ends it.
    pub fn capture(
        &mut self,
        request: wire::CaptureRequest,
        mut each: impl FnMut(wire::CapturePart) -> bool,
    ) -> Result<(), ClientError> {
        self.ask(async |balancer| {
            let mut parts = balancer.capture(request).await?.into_inner();
            while let Some(part) = parts.message().await? {
                if !each(part) {
                    return Ok(Response::new(()));
                }
            }
            Err(Status::unavailable("the balancer is stopping: nothing more is captured"))
        })
    }

    /// Enters flows of another balancer.
    ///
    /// # Errors
    /// As [`Self::ask`]; the parts before one that is refused were entered.
    pub fn import_flows(&mut self, parts: Vec<FlowExport>) -> Result<wire::Imported, ClientError> {
        // Whoever wrote the file may have made larger parts than a message takes.
        let parts: Vec<wire::Flows> = parts.into_iter().flat_map(|part| part.parts(PART)).map(|part| (&part).into()).collect();
        self.ask(async |balancer| balancer.import_flows(tokio_stream::iter(parts)).await)
    }

    /// One call, to its answer.
    ///
    /// # Errors
    /// [`ClientError::Invalid`] if the request makes no sense, [`ClientError::Refused`] if it could not be done.
    pub fn ask<T>(&mut self, call: impl AsyncFnOnce(&mut Calls) -> Result<Response<T>, Status>) -> Result<T, ClientError> {
        let Self { runtime, inner } = self;
        runtime.block_on(call(inner)).map(Response::into_inner).map_err(|status| match status.code() {
            Code::InvalidArgument => ClientError::Invalid(status.message().to_owned()),
            _ if status.message().is_empty() => ClientError::Refused(format!("the balancer refused: {}", status.code())),
            _ => ClientError::Refused(status.message().to_owned()),
        })
    }
}

fn runtime() -> Result<Runtime, ClientError> {
    Builder::new_current_thread().enable_all().build().map_err(ClientError::Runtime)
}

/// The last of the causes: the first says only that there was a "transport error".
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}
