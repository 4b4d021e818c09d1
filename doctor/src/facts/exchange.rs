//! Requests to the kernel over netlink, and its answers as attributes: one reader for routing, generic netlink, nf_tables and
//! socket diagnosis. Messages and attributes are taken apart by `netlink-packet-core`; what their numbers mean stands in the
//! modules beside this one, by the names of the kernel's own headers (`include/uapi/linux`).

use std::io;
use std::net::IpAddr;

use netlink_packet_core::{NetlinkBuffer, NlaBuffer, NlasIterator};
use netlink_sys::{Socket, SocketAddr};

/// Flags of `netlink.h`.
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
/// Message types of `netlink.h`.
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLA_F_NESTED: u16 = 0x8000;
/// Largest message of the kernel's: dumps have at most 32 KiB (`netlink_dump`).
const DATAGRAM: usize = 1 << 16;
/// Length of `struct nlmsghdr`.
const HEADER: usize = 16;

/// A netlink socket in the calling thread's network namespace.
pub(super) struct Exchange {
    socket: Socket,
    sequence: u32,
}

impl Exchange {
    /// Opens one of a protocol (`NETLINK_ROUTE` and so on).
    pub(super) fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Everything that the kernel has of a kind: the bodies of its messages.
    pub(super) fn dump(&mut self, kind: u16, body: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        self.exchange(kind, NLM_F_REQUEST | NLM_F_DUMP, body)
    }

    /// One request; what was refused is an error with the kernel's number.
    pub(super) fn ask(&mut self, kind: u16, body: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        self.exchange(kind, NLM_F_REQUEST | NLM_F_ACK, body)
    }

    fn exchange(&mut self, kind: u16, flags: u16, body: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        self.sequence = self.sequence.wrapping_add(1);
        let len = u32::try_from(HEADER + body.len()).map_err(io::Error::other)?;
        let mut request = Vec::with_capacity(HEADER + body.len());
        request.extend(len.to_ne_bytes());
        request.extend(kind.to_ne_bytes());
        request.extend(flags.to_ne_bytes());
        request.extend(self.sequence.to_ne_bytes());
        request.extend([0; 4]);
        request.extend(body);
        self.socket.send(&request, 0)?;
        let mut answers = Vec::new();
        loop {
            // The kernel cuts its dumps to what the reader took before: one feature list of ethtool needs more than a page.
            let mut datagram = Vec::with_capacity(DATAGRAM);
            self.socket.recv(&mut datagram, 0)?;
            if datagram.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let mut rest = datagram.as_slice();
            while rest.len() >= HEADER {
                let message = NetlinkBuffer::new_checked(rest).map_err(io::Error::other)?;
                let (len, is_ours) = (message.length() as usize, message.sequence_number() == self.sequence);
                let payload = rest.get(HEADER..len).unwrap_or_default();
                match message.message_type() {
                    _ if !is_ours => {}
                    // Both carry a number: a dump may end with an error, too.
                    NLMSG_DONE | NLMSG_ERROR => {
                        let code = payload.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
                        return if code == 0 { Ok(answers) } else { Err(io::Error::from_raw_os_error(-code)) };
                    }
                    _ => answers.push(payload.to_vec()),
                }
                rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
            }
        }
    }
}

/// Appends an attribute.
pub(super) fn put(into: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let len = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    into.extend(len.to_ne_bytes());
    into.extend(kind.to_ne_bytes());
    into.extend(value);
    into.resize(into.len().next_multiple_of(4), 0);
}

/// Appends an attribute that holds others.
pub(super) fn put_nested(into: &mut Vec<u8>, kind: u16, value: &[u8]) {
    put(into, kind | NLA_F_NESTED, value);
}

/// The attributes of a message, or of another attribute. What is cut off or not there is `None`.
#[derive(Clone, Copy)]
pub(super) struct Attributes<'a>(pub(super) &'a [u8]);

impl<'a> Attributes<'a> {
    /// Those behind a header of this length.
    pub(super) fn behind(message: &'a [u8], header: usize) -> Self {
        Self(message.get(header..).unwrap_or_default())
    }

    /// All of them: number and value.
    pub(super) fn each(self) -> impl Iterator<Item = (u16, &'a [u8])> {
        NlasIterator::new(self.0).map_while(Result::ok).map(|nla: NlaBuffer<&'a [u8]>| {
            let (kind, len) = (nla.kind(), usize::from(nla.length()));
            (kind, nla.into_inner().get(4..len).unwrap_or_default())
        })
    }

    /// The value of one.
    pub(super) fn get(self, kind: u16) -> Option<&'a [u8]> {
        self.each().find_map(|(found, value)| (found == kind).then_some(value))
    }

    /// Those inside one.
    pub(super) fn nested(self, kind: u16) -> Attributes<'a> {
        Attributes(self.get(kind).unwrap_or_default())
    }

    /// Whether it is there.
    pub(super) fn has(self, kind: u16) -> bool {
        self.get(kind).is_some()
    }

    pub(super) fn u8(self, kind: u16) -> Option<u8> {
        self.get(kind)?.first().copied()
    }

    pub(super) fn u16(self, kind: u16) -> Option<u16> {
        Some(u16::from_ne_bytes(*self.get(kind)?.first_chunk()?))
    }

    pub(super) fn u32(self, kind: u16) -> Option<u32> {
        Some(u32::from_ne_bytes(*self.get(kind)?.first_chunk()?))
    }

    pub(super) fn u64(self, kind: u16) -> Option<u64> {
        Some(u64::from_ne_bytes(*self.get(kind)?.first_chunk()?))
    }

    pub(super) fn be16(self, kind: u16) -> Option<u16> {
        Some(u16::from_be_bytes(*self.get(kind)?.first_chunk()?))
    }

    pub(super) fn be32(self, kind: u16) -> Option<u32> {
        Some(u32::from_be_bytes(*self.get(kind)?.first_chunk()?))
    }

    pub(super) fn be64(self, kind: u16) -> Option<u64> {
        Some(u64::from_be_bytes(*self.get(kind)?.first_chunk()?))
    }

    /// Text up to its end, or to the first zero byte.
    pub(super) fn text(self, kind: u16) -> Option<String> {
        let value = self.get(kind)?;
        let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
        Some(String::from_utf8_lossy(value.get(..end)?).into_owned())
    }

    /// An IP address of either family.
    pub(super) fn address(self, kind: u16) -> Option<IpAddr> {
        address(self.get(kind)?)
    }
}

/// An IP address, by its length.
pub(super) fn address(value: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(value) {
        return Some(IpAddr::from(v4));
    }
    <[u8; 16]>::try_from(value).ok().map(IpAddr::from)
}

/// The bytes of an address.
pub(super) fn bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// `AF_INET` or `AF_INET6`.
pub(super) fn family(address: IpAddr) -> u8 {
    if address.is_ipv6() { AF_INET6 } else { AF_INET }
}

/// Of `socket.h`.
pub(super) const AF_INET: u8 = 2;
/// Of `socket.h`.
pub(super) const AF_INET6: u8 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_is_found_again() {
        let (mut body, mut inner) = (vec![9; 4], Vec::new());
        put(&mut inner, 7, b"name\0");
        put_nested(&mut body, 3, &inner);
        put(&mut body, 4, &5_u32.to_ne_bytes());
        let attributes = Attributes::behind(&body, 4);
        assert_eq!(attributes.nested(3).text(7).as_deref(), Some("name"));
        assert_eq!((attributes.u32(4), attributes.u32(5)), (Some(5), None));
        // Whatever is cut off is not there, and nothing panics.
        for len in 0..body.len() {
            let _ = Attributes::behind(&body[..len], 4).each().count();
        }
    }

    #[test]
    fn the_kernel_answers() {
        let mut routes = Exchange::open(0).expect("a routing socket");
        let links = routes.dump(18, &[0; 16]).expect("a dump of links");
        assert!(!links.is_empty());
        let none = routes.ask(18, &[[0; 4], i32::MAX.to_ne_bytes(), [0; 4], [0; 4]].concat());
        assert_eq!(none.expect_err("no such link").raw_os_error(), Some(libc::ENODEV));
    }
}
