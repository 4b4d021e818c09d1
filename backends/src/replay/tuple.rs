//! One packet in words: `tcp 198.51.100.7:41000 > 10.200.1.1:80`.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use etherparse::PacketBuilder;

use crate::config::Protocol;

/// A flow's five-tuple.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Tuple {
    /// Its transport.
    pub protocol: Protocol,
    /// The client.
    pub source: SocketAddr,
    /// The VIP.
    pub destination: SocketAddr,
}

/// Why the words are not a packet.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "{text:?} is not a packet: {why}; expected for example \"tcp 198.51.100.7:41000 > 10.200.1.1:80\" or \"udp [2001:db8::7]:41000 > [fc00:1::1]:53\""
)]
pub struct TupleError {
    text: String,
    why: String,
}

impl FromStr for Tuple {
    type Err = TupleError;

    fn from_str(text: &str) -> Result<Self, TupleError> {
        let fail = |why: String| TupleError { text: text.to_owned(), why };
        let words: Vec<&str> = text.split_whitespace().collect();
        let [protocol, source, ">", destination] = words.as_slice() else {
            return Err(fail(format!("{} words, not `PROTOCOL SOURCE > DESTINATION`", words.len())));
        };
        let protocol = match *protocol {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            other => return Err(fail(format!("protocol {other:?}, not tcp or udp"))),
        };
        let end = |text: &str| text.parse::<SocketAddr>().map_err(|_| fail(format!("{text:?} is not ADDRESS:PORT")));
        let (source, destination) = (end(source)?, end(destination)?);
        if source.is_ipv4() != destination.is_ipv4() {
            return Err(fail("its two addresses are of different families".to_owned()));
        }
        Ok(Self { protocol, source, destination })
    }
}

impl fmt::Display for Tuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} > {}", self.protocol, self.source, self.destination)
    }
}

impl Tuple {
    /// The first frame of the flow: a SYN, or a datagram; with valid checksums.
    pub fn frame(&self) -> Vec<u8> {
        const PAYLOAD: &[u8] = b"tandem";
        let eth = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1]);
        let ip = match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => eth.ipv4(source.octets(), destination.octets(), 64),
            (source, destination) => eth.ipv6(v6(source), v6(destination), 64),
        };
        let (from, to) = (self.source.port(), self.destination.port());
        let mut frame = Vec::with_capacity(128);
        // Only a payload that no length field holds fails; this one fits.
        let written = match self.protocol {
            Protocol::Tcp => ip.tcp(from, to, 1, 64_240).syn().write(&mut frame, &[]),
            Protocol::Udp => ip.udp(from, to).write(&mut frame, PAYLOAD),
        };
        debug_assert!(written.is_ok());
        frame
    }
}

fn v6(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}
