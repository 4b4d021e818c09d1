//! One probe of one real.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use socket2::SockRef;
use tandem_backends::config::Check;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};

use super::tls::handshake;

/// What is read of an answer.
const MOST: usize = 64 << 10;
/// How often is looked whether a program has ended.
const LOOK: Duration = Duration::from_millis(20);

/// What is asked, of whom, and how its packets are told from others.
pub(super) struct Probe {
    pub(super) check: Check,
    /// The VIP and the port.
    pub(super) at: SocketAddr,
    pub(super) real: IpAddr,
    /// The socket mark whose packets go to the real.
    pub(super) mark: u32,
    pub(super) timeout: Duration,
}

impl Probe {
    /// Asks once. The error says what was wrong.
    pub(super) async fn run(&self) -> Result<(), String> {
        match tokio::time::timeout(self.timeout, self.ask()).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("no answer within {:?}", self.timeout)),
        }
    }

    async fn ask(&self) -> Result<(), String> {
        let system = |error: io::Error| error.to_string();
        match &self.check {
            Check::Tcp => self.connect().await.map(drop).map_err(system),
            Check::Http { path, host, status, body, tls } => {
                let host = host.clone().unwrap_or_else(|| self.at.to_string());
                let judge = |answer: &[u8]| good_answer(answer, status, body.as_deref());
                let stream = self.connect().await.map_err(system)?;
                match tls {
                    None => http(stream, path, &host, judge).await,
                    Some(tls) => http(handshake(stream, &host, tls.ca.as_deref()).await?, path, &host, judge).await,
                }
            }
            Check::Dns { name } => {
                let id = self.mark.to_be_bytes();
                let query = query([id[2], id[3]], name);
                let answer = self.datagram(&query).await.map_err(system)?;
                good_dns(&query, &answer)
            }
            Check::Udp { send, expect } => {
                let answer = self.datagram(send.as_bytes()).await.map_err(system)?;
                match expect {
                    Some(expect) if !contains(&answer, expect) => Err("another answer than expected".to_owned()),
                    _ => Ok(()),
                }
            }
            Check::Exec { command } => self.exec(command).await,
        }
    }

    async fn connect(&self) -> io::Result<TcpStream> {
        let socket = if self.at.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        SockRef::from(&socket).set_mark(self.mark)?;
        socket.connect(self.at).await
    }

    async fn datagram(&self, payload: &[u8]) -> io::Result<Vec<u8>> {
        let any: IpAddr = if self.at.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind((any, 0)).await?;
        SockRef::from(&socket).set_mark(self.mark)?;
        // Connected, so that only the VIP can answer, and an ICMP error is heard.
        socket.connect(self.at).await?;
        socket.send(payload).await?;
        let mut answer = vec![0; MOST];
        let length = socket.recv(&mut answer).await?;
        answer.truncate(length);
        Ok(answer)
    }

    async fn exec(&self, command: &[String]) -> Result<(), String> {
        let (program, arguments) = command.split_first().ok_or("no program")?;
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.env("TANDEM_VIP", self.at.ip().to_string()).env("TANDEM_REAL", self.real.to_string());
        command.env("TANDEM_PORT", self.at.port().to_string()).env("TANDEM_MARK", self.mark.to_string());
        let (program, timeout) = (program.clone(), self.timeout);
        let ended = tokio::task::spawn_blocking(move || run(&mut command, timeout)).await;
        ended.map_err(|error| error.to_string()).and_then(|ended| ended.map_err(|why| format!("{program}: {why}")))
    }
}

/// Reads until what has come is good, or nothing more comes: how a server closes after its answer is its own affair.
pub(super) async fn http(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    path: &str,
    host: &str,
    judge: impl Fn(&[u8]) -> Result<(), String>,
) -> Result<(), String> {
    let system = |error: io::Error| error.to_string();
    let version = env!("CARGO_PKG_VERSION");
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: tandem/{version}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(system)?;
    let mut answer = Vec::new();
    loop {
        let more = (&mut stream).take((MOST - answer.len()) as u64).read_buf(&mut answer).await;
        match (judge(&answer), more) {
            (Ok(()), _) => return Ok(()),
            (Err(_), Ok(1..)) => {}
            (Err(_), Err(error)) if answer.is_empty() => return Err(system(error)),
            (Err(why), _) => return Err(why),
        }
    }
}

/// Runs a program to its end, or kills it.
fn run(command: &mut Command, timeout: Duration) -> Result<(), String> {
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    let end = Instant::now() + timeout;
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => return Err(status.to_string()),
            Ok(None) if Instant::now() < end => std::thread::sleep(LOOK),
            other => {
                // It may have ended just now.
                let _ = child.kill();
                let _ = child.wait();
                return Err(other.err().map_or_else(|| format!("not at its end after {timeout:?}"), |error| error.to_string()));
            }
        }
    }
}

fn contains(answer: &[u8], text: &str) -> bool {
    text.is_empty() || answer.windows(text.len()).any(|part| part == text.as_bytes())
}

fn good_answer(answer: &[u8], wanted: &std::ops::RangeInclusive<u16>, body: Option<&str>) -> Result<(), String> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    let head = match response.parse(answer) {
        Ok(httparse::Status::Complete(head)) => head,
        Ok(httparse::Status::Partial) => return Err("the answer ends inside its head".to_owned()),
        Err(error) => return Err(format!("no HTTP answer: {error}")),
    };
    let status = response.code.unwrap_or(0);
    if !wanted.contains(&status) {
        return Err(format!("status {status}"));
    }
    let found = answer.get(head..).unwrap_or_default();
    match body {
        Some(text) if !contains(found, text) => Err("the body does not contain the expected text".to_owned()),
        _ => Ok(()),
    }
}

/// A query for the address of `name` (RFC 1035 section 4.1).
fn query(id: [u8; 2], name: &str) -> Vec<u8> {
    // Recursion desired; one question.
    let mut query = vec![id[0], id[1], 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.').filter(|label| !label.is_empty()) {
        query.push(u8::try_from(label.len()).unwrap_or(u8::MAX));
        query.extend(label.as_bytes());
    }
    // The root; type A, class IN.
    query.extend([0, 0, 1, 0, 1]);
    query
}

fn good_dns(query: &[u8], answer: &[u8]) -> Result<(), String> {
    match (answer.get(..12), answer.first_chunk::<4>()) {
        (Some(_), Some([a, b, flags, code])) if query.starts_with(&[*a, *b]) && flags & 0x80 != 0 => match code & 0xf {
            0 => Ok(()),
            code => Err(format!("DNS error {code}")),
        },
        _ => Err("no answer to the query".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_http() {
        let good = |answer: &str, body| good_answer(answer.as_bytes(), &(200..=299), body);
        assert_eq!(good("HTTP/1.1 204 No Content\r\n\r\n", None), Ok(()));
        assert_eq!(good("HTTP/1.1 200 OK\r\nA: b\r\n\r\nall is well", Some("is well")), Ok(()));
        for (answer, body, why) in [
            ("HTTP/1.1 503 Busy\r\n\r\n", None, "status 503"),
            ("HTTP/1.1 200 OK\r\nX: is well\r\n\r\nno", Some("is well"), "body"),
            ("HTTP/1.1 200 OK\r\n", None, "inside its head"),
            ("SSH-2.0-x\r\n\r\n", None, "no HTTP"),
            ("", None, "inside its head"),
        ] {
            let error = good(answer, body).expect_err(answer);
            assert!(error.contains(why), "{answer:?}: {error}");
        }
    }

    #[test]
    fn answers_of_dns() {
        let query = query([7, 9], "example.com");
        assert_eq!(query.len(), 12 + 1 + 7 + 1 + 3 + 1 + 4);
        let answer = |id: u8, flags: u8, code: u8| [vec![7, id, flags, code], vec![0; 8]].concat();
        assert_eq!(good_dns(&query, &answer(9, 0x81, 0x80)), Ok(()));
        assert_eq!(good_dns(&query, &answer(9, 0x81, 0x83)), Err("DNS error 3".to_owned()));
        for bad in [answer(8, 0x81, 0), answer(9, 0x01, 0), vec![7, 9, 0x80, 0]] {
            assert!(good_dns(&query, &bad).is_err(), "{bad:?}");
        }
    }
}
