//! TLS for checks by HTTPS.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring::default_provider;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Takes any certificate, but wants its key to be there: without `ca`, a check asks whether the service answers, not who it is.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// The client's side, with the certificates of `ca` (PEM) as those that a server's has to come from; without: any will do.
///
/// # Errors
/// What is wrong with the file.
fn config(ca: Option<&Path>) -> Result<ClientConfig, String> {
    let provider = Arc::new(default_provider());
    let verifier: Arc<dyn ServerCertVerifier> = match ca {
        None => Arc::new(Anybody(provider.clone())),
        Some(path) => {
            let wrong = |why: String| format!("vip.health.ca: {}: {why}", path.display());
            let mut roots = RootCertStore::empty();
            for certificate in CertificateDer::pem_file_iter(path).map_err(|error| wrong(error.to_string()))? {
                let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
                roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
            }
            let verifier = WebPkiServerVerifier::builder_with_provider(roots.into(), provider.clone());
            verifier.build().map_err(|error| wrong(error.to_string()))?
        }
    };
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| error.to_string())?;
    Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

/// The name that a server's certificate is asked for: the host without its port.
fn server_name(host: &str) -> Result<ServerName<'static>, String> {
    let bare = match host.rsplit_once(':') {
        // The colons of an IPv6 address without a port are none.
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.ends_with(':') => name,
        _ => host,
    };
    let bare = bare.trim_start_matches('[').trim_end_matches(']');
    match bare.parse::<IpAddr>() {
        Ok(address) => Ok(ServerName::from(address)),
        Err(_) => ServerName::try_from(bare.to_owned()).map_err(|error| format!("vip.health.host: {bare}: {error}")),
    }
}

/// The handshake.
///
/// # Errors
/// What went wrong: a file, the server's certificate, the connection.
pub(super) async fn handshake(stream: TcpStream, host: &str, ca: Option<&Path>) -> Result<TlsStream<TcpStream>, String> {
    let connector = TlsConnector::from(Arc::new(config(ca)?));
    connector.connect(server_name(host)?, stream).await.map_err(|error| format!("TLS: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_servers() {
        for (host, name) in [
            ("www.example.com", "DnsName(\"www.example.com\")"),
            ("www.example.com:8443", "DnsName(\"www.example.com\")"),
            ("10.200.1.1:443", "IpAddress(V4(Ipv4Addr([10, 200, 1, 1])))"),
        ] {
            assert_eq!(format!("{:?}", server_name(host).unwrap()), name);
        }
        for host in ["[fc00::1]:443", "[fc00::1]", "fc00::1"] {
            assert!(format!("{:?}", server_name(host).unwrap()).starts_with("IpAddress(V6"), "{host}");
        }
        assert!(server_name("not a name").is_err());
    }

    /// A server of HTTPS, with a certificate for one name; gives its port and the certificate's file, which goes with what is given.
    async fn server(name: &str) -> (u16, tempfile::NamedTempFile) {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), made.cert.pem()).unwrap();
        let key = rustls::pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let config = rustls::ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key.into())
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                if let Ok(mut stream) = acceptor.accept(stream).await {
                    let _ = stream.read(&mut [0; 1024]).await;
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nOK").await;
                    let _ = stream.shutdown().await;
                }
            }
        });
        (port, file)
    }

    #[tokio::test]
    async fn certificates_are_looked_at_if_there_is_a_ca() {
        let ((port, ca), (_, other)) = (server("www.example.com").await, server("other.example.com").await);
        let ask = async |host: &str, ca: Option<&Path>| {
            let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            let stream = handshake(stream, host, ca).await?;
            let good = |answer: &[u8]| if answer.ends_with(b"OK") { Ok(()) } else { Err("not yet".to_owned()) };
            super::super::probe::http(stream, "/", host, good).await
        };
        assert_eq!(ask("127.0.0.1", None).await, Ok(()));
        assert_eq!(ask("www.example.com:443", Some(ca.path())).await, Ok(()));
        for (host, ca, why) in
            [("www.example.org", &ca, "not valid for name"), ("www.example.com", &other, "invalid peer certificate")]
        {
            let error = ask(host, Some(ca.path())).await.unwrap_err();
            assert!(error.starts_with("TLS: ") && error.contains(why), "{host}: {error}");
        }
    }

    /// Who does not speak TLS fails the check.
    #[tokio::test]
    async fn a_server_without_tls_is_none() {
        use tokio::io::AsyncWriteExt;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        });
        let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let error = handshake(stream, "127.0.0.1", None).await.map(drop).unwrap_err();
        assert!(error.starts_with("TLS: "), "{error}");
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let why = config(Some(Path::new("/nowhere/ca.pem"))).unwrap_err();
        assert!(why.contains("/nowhere/ca.pem") && why.contains("vip.health.ca"), "{why}");
    }
}
