//! `[api]` and `[metrics]`.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use super::finding::Kind;
use super::reader::Reader;
use super::tables::Table;
use super::values::Wrong;

/// Where metrics are served if no address is given.
const METRICS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9469);

/// Who may reach the API, beside root on this host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApiPlan {
    /// The group whose members may use the sockets.
    pub group: Option<String>,
    /// Where the API listens on TCP; only with [`ApiPlan::tls`].
    pub listen: Option<SocketAddr>,
    /// What it shows and asks for there.
    pub tls: Option<TlsPlan>,
    /// Whether Katran's service is served.
    pub katran: bool,
    /// Where it listens on TCP; only with [`ApiPlan::tls`] and [`ApiPlan::katran`].
    pub katran_listen: Option<SocketAddr>,
}

/// Mutual TLS: files in PEM. They are read when the balancer starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsPlan {
    /// The balancer's certificate, with those of its issuers.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Whose certificates clients have to have.
    pub client_ca: PathBuf,
}

pub(super) fn api(reader: &mut Reader<'_>, table: &Table<'_>) -> ApiPlan {
    let group = reader.text(table, "group", group);
    let listen = reader.text(table, "listen", socket_address);
    let [cert, key, client_ca] = ["tls_cert", "tls_key", "client_ca"].map(|name| reader.text(table, name, path));
    let katran = reader.truth(table, "katran").unwrap_or(false);
    let katran_listen = reader.text(table, "katran_listen", socket_address);
    let tls = match (cert, key, client_ca) {
        (Some(cert), Some(key), Some(client_ca)) => Some(TlsPlan { cert, key, client_ca }),
        _ => None,
    };
    for (name, is_asked) in [("listen", listen.is_some()), ("katran_listen", katran_listen.is_some())] {
        let Some(item) = reader.any(table, name).filter(|_| is_asked) else { continue };
        if tls.is_none() {
            let problem = "a TCP port without mutual TLS: everybody who reaches it would control the balancer".to_owned();
            reader.mistake(Kind::Conflict, &item.place, problem, "set tls_cert, tls_key and client_ca, or remove it".to_owned());
        }
    }
    if let (Some(item), Some(_), false) = (reader.any(table, "katran_listen"), katran_listen, katran) {
        let problem = "a port for Katran's service, which is not served".to_owned();
        reader.mistake(Kind::Conflict, &item.place, problem, "set katran = true, or remove it".to_owned());
    }
    if let (Some(one), true) = (listen, listen == katran_listen)
        && let Some(item) = reader.any(table, "katran_listen")
    {
        let problem = format!("the port of the API itself (found \"{one}\")");
        reader.mistake(Kind::Conflict, &item.place, problem, "choose another port".to_owned());
    }
    ApiPlan { group, listen, tls, katran, katran_listen }
}

pub(super) fn metrics(reader: &mut Reader<'_>, table: &Table<'_>) -> SocketAddr {
    reader.text(table, "listen", socket_address).unwrap_or(METRICS)
}

fn socket_address(text: &str) -> Result<SocketAddr, Wrong> {
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() != 0 => Ok(address),
        Ok(_) => Err("port 0 is no port".into()),
        Err(_) => Err("not an address and a port".into()),
    }
}

/// Of a file.
pub(super) fn path(text: &str) -> Result<PathBuf, Wrong> {
    if text.is_empty() { Err("no path".into()) } else { Ok(text.into()) }
}

fn group(text: &str) -> Result<String, Wrong> {
    if text.is_empty() { Err("no name".into()) } else { Ok(text.to_owned()) }
}
