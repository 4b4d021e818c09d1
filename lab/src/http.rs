//! Many short HTTP requests from the client, each on a connection of its own with a source port that was chosen: for a
//! balancer each is one flow, whose 5-tuple is known beforehand.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use socket2::{Domain, Protocol, Socket, Type};

use crate::{Host, Lab, LabError};

/// Requests to send.
#[derive(Clone, Debug)]
pub struct Load {
    /// The client's address.
    pub source: IpAddr,
    /// The VIP.
    pub target: SocketAddr,
    /// Source port of the first; the others follow.
    pub first_port: u16,
    /// How many.
    pub requests: u16,
    /// How many at a time.
    pub threads: usize,
    /// For each step of a request: connecting, sending, each read of the answer.
    pub timeout: Duration,
}

/// What a real answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The real's name, the same in its header `X-Real` and its body.
    pub real: String,
    /// The source address and port that it saw.
    pub seen: SocketAddr,
}

/// One request and what came of it.
#[derive(Debug)]
pub struct Exchange {
    /// The client's end of the connection.
    pub source: SocketAddr,
    /// The VIP.
    pub target: SocketAddr,
    /// The answer, complete and consistent.
    pub answer: Result<Answer, HttpError>,
    /// From the call of connect to the end of the answer.
    pub latency: Duration,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HttpError {
    /// The source port is taken, or the address is not the client's.
    #[error("cannot take the source address: {0}")]
    Bind(#[source] io::Error),
    /// No connection.
    #[error("cannot connect: {0}")]
    Connect(#[source] io::Error),
    /// The connection broke while the request was sent.
    #[error("cannot send the request: {0}")]
    Send(#[source] io::Error),
    /// The connection broke before the end of the answer.
    #[error("no answer after {got} bytes: {source}")]
    Receive {
        /// Bytes that had come by then.
        got: usize,
        /// What the kernel says.
        source: io::Error,
    },
    /// What came is no answer of a real's.
    #[error("answer with {part} `{found}`, expected {expected}")]
    Wrong {
        /// The part that is wrong.
        part: &'static str,
        /// What it is.
        found: String,
        /// What it should be.
        expected: String,
    },
}

impl HttpError {
    /// Did the other end (or something between) reset the connection?
    #[must_use]
    pub fn is_reset(&self) -> bool {
        let reset = |error: &io::Error| error.kind() == io::ErrorKind::ConnectionReset;
        match self {
            Self::Connect(source) | Self::Send(source) | Self::Receive { source, .. } => reset(source),
            Self::Bind(_) | Self::Wrong { .. } => false,
        }
    }
}

/// Sends all requests from the client and returns what came of them, in the order of the source ports.
///
/// `each` sees every exchange when it is done, on whichever thread; `false` ends the run early, without an error.
///
/// # Errors
/// [`LabError::Namespace`] if the client cannot be entered; [`LabError::Spec`] if there are fewer ports than requests.
pub fn run(lab: &Lab, load: &Load, each: impl Fn(&Exchange) -> bool + Sync) -> Result<Vec<Exchange>, LabError> {
    let end = u32::from(load.first_port) + u32::from(load.requests);
    if load.first_port == 0 || end > 1 << 16 {
        return Err(LabError::Spec {
            key: "source ports",
            found: format!("{} from {}", load.requests, load.first_port),
            expected: "ports within 1 to 65535".to_owned(),
        });
    }
    let (next, stop) = (AtomicU32::new(load.first_port.into()), AtomicBool::new(false));
    let done = Mutex::new(Vec::with_capacity(load.requests.into()));
    let work = || {
        while !stop.load(Ordering::Relaxed) {
            let port = next.fetch_add(1, Ordering::Relaxed);
            let Some(port) = u16::try_from(port).ok().filter(|port| u32::from(*port) < end) else {
                return;
            };
            let exchange = one(load, port);
            if !each(&exchange) {
                stop.store(true, Ordering::Relaxed);
            }
            done.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(exchange);
        }
    };
    lab.enter(Host::Client, || {
        thread::scope(|scope| (0..load.threads.max(1)).for_each(|_| _ = scope.spawn(work)));
    })?;
    let mut exchanges = done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    exchanges.sort_by_key(|exchange| exchange.source.port());
    Ok(exchanges)
}

fn one(load: &Load, port: u16) -> Exchange {
    let source = SocketAddr::new(load.source, port);
    let start = Instant::now();
    let answer = request(load, source);
    Exchange { source, target: load.target, answer, latency: start.elapsed() }
}

fn request(load: &Load, source: SocketAddr) -> Result<Answer, HttpError> {
    let mut socket = connect(load, source)?;
    let host = load.target;
    let question = format!("GET / HTTP/1.1\r\nHost: {host}\r\nUser-Agent: tandem-lab\r\nConnection: close\r\n\r\n");
    socket.write_all(question.as_bytes()).map_err(HttpError::Send)?;
    let mut text = Vec::with_capacity(512);
    socket.read_to_end(&mut text).map_err(|source| HttpError::Receive { got: text.len(), source })?;
    let answer = read(&text)?;
    if answer.seen == source {
        return Ok(answer);
    }
    Err(HttpError::Wrong { part: "source", found: answer.seen.to_string(), expected: source.to_string() })
}

fn connect(load: &Load, source: SocketAddr) -> Result<Socket, HttpError> {
    let socket = Socket::new(Domain::for_address(source), Type::STREAM, Some(Protocol::TCP))
        .and_then(|socket| {
            // A port whose last connection is in TIME_WAIT may be taken again.
            socket.set_reuse_address(true)?;
            socket.set_read_timeout(Some(load.timeout))?;
            socket.set_write_timeout(Some(load.timeout))?;
            socket.bind(&source.into())?;
            Ok(socket)
        })
        .map_err(HttpError::Bind)?;
    socket.connect_timeout(&load.target.into(), load.timeout).map_err(HttpError::Connect)?;
    Ok(socket)
}

/// Reads a whole answer (RFC 9112) and checks that it is consistent.
fn read(text: &[u8]) -> Result<Answer, HttpError> {
    let wrong = |part, found: String, expected: &str| HttpError::Wrong { part, found, expected: expected.to_owned() };
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut parsed = httparse::Response::new(&mut headers);
    let head = match parsed.parse(text) {
        Ok(httparse::Status::Complete(head)) => head,
        Ok(httparse::Status::Partial) => return Err(wrong("head", quote(text), "its end")),
        Err(error) => return Err(wrong("head", quote(text), &format!("HTTP ({error})"))),
    };
    if parsed.code != Some(200) {
        return Err(wrong("status", parsed.code.unwrap_or(0).to_string(), "200"));
    }
    let header = |name: &'static str| {
        let found = parsed.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        let value = found.and_then(|header| std::str::from_utf8(header.value).ok());
        value.ok_or_else(|| wrong(name, String::new(), "a value"))
    };
    let body = &text[head..];
    if header("Content-Length")?.parse() != Ok(body.len()) {
        return Err(wrong("length", body.len().to_string(), header("Content-Length")?));
    }
    let real = header("X-Real")?;
    if body.strip_suffix(b"\n") != Some(real.as_bytes()) {
        return Err(wrong("body", quote(body), real));
    }
    let address = header("X-Address")?.parse::<IpAddr>().ok();
    match (address, header("X-Port")?.parse().ok()) {
        (Some(address), Some(port)) => Ok(Answer { real: real.to_owned(), seen: SocketAddr::new(address, port) }),
        _ => Err(wrong("X-Address and X-Port", format!("{} {}", header("X-Address")?, header("X-Port")?), "numbers")),
    }
}

/// The beginning of what came, for a message.
fn quote(text: &[u8]) -> String {
    text[..text.len().min(80)].escape_ascii().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RIGHT: &str = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\nX-Real: real2\r\nX-Port: 4000\r\n\
                         X-Address: fd90::2\r\n\r\nreal2\n";

    #[test]
    fn a_reals_answer_is_read() {
        let answer = read(RIGHT.as_bytes()).unwrap();
        assert_eq!((answer.real.as_str(), answer.seen.to_string().as_str()), ("real2", "[fd90::2]:4000"));
    }

    #[test]
    fn other_answers_are_named() {
        let cases = [
            ("", "head"),
            ("HTTP/1.1 200 OK\r\n", "head"),
            ("SSH-2.0-OpenSSH_9.2\r\n\r\n", "head"),
            ("HTTP/1.1 502 Bad Gateway\r\n\r\n", "status"),
            (&RIGHT.replace("X-Real", "X-Reel"), "X-Real"),
            (&RIGHT[..RIGHT.len() - 1], "length"),
            (&RIGHT.replace("\r\n\r\nreal2", "\r\n\r\nreal3"), "body"),
            (&RIGHT.replace("4000", "70000"), "X-Address and X-Port"),
        ];
        for (text, expected) in cases {
            let error = read(text.as_bytes()).expect_err(expected);
            assert!(matches!(error, HttpError::Wrong { part, .. } if part == expected), "{text:?}: {error}");
        }
    }
}
