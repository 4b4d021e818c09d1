//! Who listens: a Unix socket for those whom its file lets in, TCP only for clients with a certificate.

use std::fs::{self, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::unistd::Group;
use tandem_backends::config::{ApiPlan, Plan, TlsPlan};
use tandem_backends::run::{Handle, Paths};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::service::Routes;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tonic_reflection::server::v1::{ServerReflection, ServerReflectionServer};

use crate::balancer::Balancer;
use crate::katran::Katran;
use crate::katran_wire::{self, katran_service_server::KatranServiceServer};
use crate::provision::Provision;
use crate::wire::{self, balancer_server::BalancerServer};

/// Requests of one connection at a time.
const AT_ONCE: usize = 32;
/// How long a connection over TCP may be silent before it is asked whether it is there.
const SILENCE: Duration = Duration::from_secs(60);

/// Why the API cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The socket.
    #[error("{}: cannot listen for the API: {source}", path.display())]
    Socket {
        /// Its path.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The group.
    #[error("api.group: no group {0:?} on this host; name one of /etc/group")]
    Group(String),
    /// The TCP port.
    #[error("{listen}: cannot listen: {source}; another address or port, or stop who has it")]
    Port {
        /// The address.
        listen: SocketAddr,
        /// The system's answer.
        source: io::Error,
    },
    /// A file of the TLS identity.
    #[error("{}: cannot read it: {source}; api.tls_cert, api.tls_key and api.client_ca name files in PEM", path.display())]
    Identity {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The contents of these files.
    #[error("api.tls_cert, api.tls_key or api.client_ca: {0}; all three are PEM, the key that of the certificate")]
    Tls(String),
    /// No threads, say.
    #[error("no thread for the API: {0}")]
    Runtime(io::Error),
    /// What reflection tells.
    #[error("the API's description does not load: {0}; a defect, please report it")]
    Reflection(String),
}

/// What is served, until it is dropped: then nobody is answered any more.
pub struct Serving {
    /// Sockets of its own; their files go at the end.
    files: Vec<PathBuf>,
    stop: watch::Sender<bool>,
    runtime: Option<Runtime>,
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
        for file in &self.files {
            // Gone already is as good.
            let _ = fs::remove_file(file);
        }
        if let Some(runtime) = self.runtime.take() {
            // A client that holds its connection open does not hold up the end.
            runtime.shutdown_background();
        }
    }
}

/// Serves the API of the balancer behind `handle`, which was started with the file `config`, on its socket, and where else
/// `plan` says. The balancer's loop need not run yet: requests wait for it.
///
/// # Errors
/// [`ServeError`]; nothing is served then.
pub fn serve(handle: Handle, socket: UnixListener, config: &Path, plan: &Plan) -> Result<Serving, ServeError> {
    let path = socket.local_addr().ok().and_then(|address| address.as_pathname().map(Path::to_owned)).unwrap_or_default();
    let provision = Arc::new(Provision::new(handle, config.to_owned()));
    let runtime =
        Builder::new_multi_thread().worker_threads(1).thread_name("api").enable_all().build().map_err(ServeError::Runtime)?;
    let (stop, stopped) = watch::channel(false);
    let mut serving = Serving { files: Vec::new(), stop, runtime: None };
    let own = BalancerServer::new(Balancer(provision.clone()));
    let routes = Routes::new(own).add_service(reflection(wire::balancer_server::SERVICE_NAME)?);
    let listen = Listen { api: &plan.api, tls: plan.api.tls.as_ref().map(identity).transpose()?, stopped };
    {
        let _inside = runtime.enter();
        share(&path, plan.api.group.as_deref())?;
        listen.on_socket(socket, &path, routes.clone())?;
        if let Some(address) = plan.api.listen {
            listen.on_port(address, "API", routes)?;
        }
        runtime.spawn(crate::health::watch(provision.clone(), listen.stopped.clone()));
        if let Some(address) = plan.metrics {
            listen.metrics(address, provision.clone())?;
        }
        if plan.api.katran {
            let katran = KatranServiceServer::new(Katran(provision));
            let routes = Routes::new(katran).add_service(reflection(katran_wire::katran_service_server::SERVICE_NAME)?);
            let path = Paths::katran(&path);
            let socket = bind(&path)?;
            serving.files.push(path.clone());
            share(&path, plan.api.group.as_deref())?;
            listen.on_socket(socket, &path, routes.clone())?;
            log::info!("Katran's service: {}", path.display());
            if let Some(address) = plan.api.katran_listen {
                listen.on_port(address, "Katran's service", routes)?;
            }
        }
    }
    serving.runtime = Some(runtime);
    Ok(serving)
}

/// Where services listen.
struct Listen<'a> {
    api: &'a ApiPlan,
    tls: Option<ServerTlsConfig>,
    stopped: watch::Receiver<bool>,
}

impl Listen<'_> {
    /// Ends when the balancer does.
    fn until_stopped(&self) -> impl Future<Output = ()> + Send + 'static + use<> {
        let mut stopped = self.stopped.clone();
        async move {
            // An error says that who would tell is gone.
            let _ = stopped.wait_for(|stopped| *stopped).await;
        }
    }

    fn on_socket(&self, listener: UnixListener, path: &Path, routes: Routes) -> Result<(), ServeError> {
        let fail = |source| ServeError::Socket { path: path.to_owned(), source };
        listener.set_nonblocking(true).map_err(fail)?;
        let incoming = UnixListenerStream::new(tokio::net::UnixListener::from_std(listener).map_err(fail)?);
        let server = Server::builder().concurrency_limit_per_connection(AT_ONCE).add_routes(routes);
        tokio::spawn(ended(path.display().to_string(), server.serve_with_incoming_shutdown(incoming, self.until_stopped())));
        Ok(())
    }

    /// Never without mutual TLS.
    fn on_port(&self, address: SocketAddr, what: &str, routes: Routes) -> Result<(), ServeError> {
        let Some(tls) = self.tls.clone() else {
            return Err(ServeError::Tls("missing".to_owned()));
        };
        let fail = |source| ServeError::Port { listen: address, source };
        let listener = std::net::TcpListener::bind(address).map_err(fail)?;
        listener.set_nonblocking(true).map_err(fail)?;
        let incoming = TcpIncoming::from(tokio::net::TcpListener::from_std(listener).map_err(fail)?)
            .with_nodelay(Some(true))
            .with_keepalive(Some(SILENCE));
        let server = Server::builder().tls_config(tls).map_err(|error| ServeError::Tls(causes(&error)))?;
        let server = server.concurrency_limit_per_connection(AT_ONCE).add_routes(routes);
        tokio::spawn(ended(address.to_string(), server.serve_with_incoming_shutdown(incoming, self.until_stopped())));
        log::info!("{what}: {address}, for clients with a certificate of {}", self.client_ca().display());
        Ok(())
    }

    /// Everybody may read them: they are numbers.
    fn metrics(&self, address: SocketAddr, provision: Arc<Provision>) -> Result<(), ServeError> {
        let fail = |source| ServeError::Port { listen: address, source };
        let listener = std::net::TcpListener::bind(address).map_err(fail)?;
        listener.set_nonblocking(true).map_err(fail)?;
        let listener = tokio::net::TcpListener::from_std(listener).map_err(fail)?;
        let server = axum::serve(listener, crate::metrics::pages(provision)).with_graceful_shutdown(self.until_stopped());
        tokio::spawn(async move {
            if let Err(error) = server.await {
                log::error!("{address}: no metrics are served any more: {error}");
            }
        });
        log::info!("metrics: http://{address}/metrics");
        Ok(())
    }

    fn client_ca(&self) -> &Path {
        self.api.tls.as_ref().map_or(Path::new(""), |tls| &tls.client_ca)
    }
}

/// Says why nobody is served any more, if that is not the balancer's end.
async fn ended(listen: String, server: impl Future<Output = Result<(), tonic::transport::Error>>) {
    if let Err(error) = server.await {
        log::error!("{listen}: nobody is served here any more: {}", causes(&error));
    }
}

/// Describes both services to whoever asks.
/// Of what is served beside it: the descriptors are those of both services.
fn reflection(service: &str) -> Result<ServerReflectionServer<impl ServerReflection>, ServeError> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(crate::DESCRIPTORS)
        .with_service_name(service)
        .build_v1()
        .map_err(|error| ServeError::Reflection(error.to_string()))
}

fn identity(files: &TlsPlan) -> Result<ServerTlsConfig, ServeError> {
    let read = |path: &PathBuf| fs::read(path).map_err(|source| ServeError::Identity { path: path.clone(), source });
    let identity = Identity::from_pem(read(&files.cert)?, read(&files.key)?);
    Ok(ServerTlsConfig::new().identity(identity).client_ca_root(Certificate::from_pem(read(&files.client_ca)?)))
}

/// A socket for root alone, in the place of one that a process before left.
fn bind(path: &Path) -> Result<UnixListener, ServeError> {
    let fail = |source| ServeError::Socket { path: path.to_owned(), source };
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(fail(e)),
        _ => {}
    }
    let socket = UnixListener::bind(path).map_err(fail)?;
    fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(fail)?;
    Ok(socket)
}

/// Lets the members of a group use a socket, beside root.
fn share(path: &Path, group: Option<&str>) -> Result<(), ServeError> {
    let Some(name) = group else { return Ok(()) };
    let fail = |source| ServeError::Socket { path: path.to_owned(), source };
    let group = Group::from_name(name).map_err(|errno| fail(errno.into()))?.ok_or_else(|| ServeError::Group(name.to_owned()))?;
    chown(path, None, Some(group.gid.as_raw())).map_err(fail)?;
    fs::set_permissions(path, Permissions::from_mode(0o660)).map_err(fail)
}

/// An error with its causes: the first says only that there was a "transport error".
pub(crate) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}
