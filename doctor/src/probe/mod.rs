//! Probes that can be told from all other packets, and where they were seen.
//!
//! A probe is a datagram with a nonce in it: from a client to a VIP, from the balancer to each real by the mark of its probes, or from
//! a VIP on a real to a client; a small one, and one that fills a packet. Whoever listens on a
//! host of the way notes each frame with a nonce; the notes of all hosts together say how far a probe came.
//!
//! Not seen by listening: what an XDP program takes before the stack, on the balancer. There the frame before and the frame
//! after are seen on the router beside it.

mod claims;
mod wire;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use socket2::SockRef;

pub use claims::{Claim, claims};

use crate::checks::by_id;
use crate::network::Network;
use crate::setting::{Role, Setting};

/// The last line of [`trace`] for a probe that came back.
pub const ARRIVED: &str = "it arrived\n";
/// What is before the nonce.
const MAGIC: &[u8] = b"tandem-probe-";
/// Digits of a nonce.
const DIGITS: usize = 16;
/// Lengths of headers.
const ETHERNET: usize = 14;
const IPV4_AND_UDP: usize = 28;
const IPV6_AND_UDP: usize = 48;
/// Packets that are larger are probes of the way's MTU.
const LARGE: usize = 600;
/// What to look at first if one of those vanishes.
const FOR_LARGE: [&str; 2] = ["D-44", "D-45"];
/// Copies of a probe: one may be lost for no reason.
const COPIES: usize = 3;
/// Where a real's probe to a client is sent: a port that `traceroute` uses, which nobody listens on.
const CLIENT_PORT: u16 = 33_434;

/// As what a probe was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// On its way to the VIP.
    Request,
    /// In a tunnel, or translated.
    Tunnel,
    /// From the VIP.
    Answer,
    /// Quoted by an ICMP error.
    Error,
}

/// A probe that was seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sighting {
    /// Of which probe.
    pub nonce: String,
    /// On which host.
    pub role: Role,
    /// On which link.
    pub interface: String,
    /// It came in, else it went out.
    pub incoming: bool,
    /// As what.
    pub stage: Stage,
    /// Outermost addresses.
    pub from: IpAddr,
    /// Outermost addresses.
    pub to: IpAddr,
    /// Length of the outermost IP packet.
    #[serde(default)]
    pub bytes: usize,
}

/// Probes that were sent, all with one nonce.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// The nonce.
    pub nonce: String,
    /// Length of the IP packets.
    pub bytes: usize,
    /// How many different ones.
    pub ways: usize,
    /// Why some of them did not leave this host.
    pub refused: Option<String>,
}

/// From where, to where, with which mark.
type Way = (Option<IpAddr>, SocketAddr, u32);

/// The ways that are probed from here.
fn ways(setting: &Setting) -> BTreeSet<Way> {
    let mut ways = BTreeSet::new();
    for service in &setting.services {
        let vip = crate::checks::sample(&service.vip);
        let port = if service.udp && service.port != 0 { service.port } else { CLIENT_PORT };
        match setting.role {
            Role::Client if service.udp && service.port != 0 => drop(ways.insert((None, SocketAddr::new(vip, port), 0))),
            Role::Real => {
                let clients = setting.clients.iter().filter(|client| client.is_ipv6() == vip.is_ipv6());
                ways.extend(clients.map(|client| (Some(vip), SocketAddr::new(*client, CLIENT_PORT), 0)));
            }
            // A mark leads to its real, whatever the ring says.
            Role::Lb => {
                let marks = setting.balancer.iter().flat_map(|balancer| &balancer.marks);
                let of_it = marks.filter(|(_, real)| service.reals.contains(real));
                ways.extend(of_it.map(|(mark, _)| (None, SocketAddr::new(vip, port), *mark)));
            }
            _ => {}
        }
    }
    ways
}

/// Sends probes of this host: small ones, and some that fill a packet of `largest` bytes, each kind with a nonce of its own.
///
/// # Errors
/// There is nothing to probe from here, or a socket is refused.
pub fn send(setting: &Setting, nonce: u64, largest: usize) -> io::Result<Vec<Sent>> {
    let ways = ways(setting);
    if ways.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "nothing to probe: --role client needs a UDP service with a port, --role real a service and --client ADDRESS, and a balancer \
             marks that lead to its reals ([[health_encap]], or vip.health)",
        ));
    }
    let smallest = MAGIC.len() + DIGITS + IPV6_AND_UDP;
    let sizes = [smallest, largest.max(smallest)];
    (0..).zip(sizes).map(|(at, bytes)| of_size(&ways, &format!("{:016x}", nonce ^ at), bytes)).collect()
}

fn of_size(ways: &BTreeSet<Way>, nonce: &str, bytes: usize) -> io::Result<Sent> {
    let mut refused = None;
    for (from, to, mark) in ways {
        let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let at = SocketAddr::new(from.unwrap_or(any), 0);
        let failed = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", at.ip()));
        let socket = UdpSocket::bind(at).map_err(failed)?;
        wire::go_whole(&socket).map_err(failed)?;
        if *mark != 0 {
            SockRef::from(&socket).set_mark(*mark).map_err(failed)?;
        }
        let mut payload = [MAGIC, nonce.as_bytes()].concat();
        payload.resize(bytes.saturating_sub(if to.is_ipv4() { IPV4_AND_UDP } else { IPV6_AND_UDP }), 0);
        for _ in 0..COPIES {
            // What is refused here is seen nowhere, which is what the notes then say.
            if let Err(error) = socket.send_to(&payload, to) {
                refused = Some(format!("to {to}: {error}"));
            }
        }
    }
    Ok(Sent { nonce: nonce.to_owned(), bytes, ways: ways.len(), refused })
}

/// Notes every probe that this host sees until a time.
///
/// # Errors
/// No packet socket, for lack of CAP_NET_RAW.
pub fn listen(setting: &Setting, until: Instant, mut seen: impl FnMut(&Sighting)) -> io::Result<()> {
    let vips: Vec<Network> = setting.vips().into_iter().collect();
    let mut said: BTreeSet<(String, String, bool, Stage)> = BTreeSet::new();
    wire::Socket::open()?.frames(until, |frame| {
        let Some(nonce) = nonce_in(&frame.bytes) else { return };
        let Some((from, to)) = addresses(&frame.bytes) else { return };
        let is_vip = |address: IpAddr| vips.iter().any(|vip| vip.contains(address));
        let stage = match (is_vip(from), is_vip(to)) {
            _ if is_icmp(&frame.bytes) => Stage::Error,
            (_, true) => Stage::Request,
            (true, _) => Stage::Answer,
            _ => Stage::Tunnel,
        };
        // Once for each way in or out: copies tell nothing more.
        if said.insert((nonce.clone(), frame.interface.clone(), frame.incoming, stage)) {
            let bytes = frame.bytes.len().saturating_sub(ETHERNET);
            let (role, interface, incoming) = (setting.role, frame.interface, frame.incoming);
            seen(&Sighting { nonce, role, interface, incoming, stage, from, to, bytes });
        }
    })
}

fn nonce_in(bytes: &[u8]) -> Option<String> {
    let at = bytes.windows(MAGIC.len()).position(|window| window == MAGIC)?;
    let digits = bytes.get(at + MAGIC.len()..at + MAGIC.len() + DIGITS)?;
    digits.iter().all(u8::is_ascii_hexdigit).then(|| String::from_utf8_lossy(digits).into_owned())
}

/// Whether the outermost packet of an Ethernet frame is ICMP or ICMPv6. No probe is.
fn is_icmp(frame: &[u8]) -> bool {
    matches!(
        (frame.get(12..14), frame.get(23), frame.get(20)),
        (Some([0x08, 0x00]), Some(1), _) | (Some([0x86, 0xdd]), _, Some(58))
    )
}

/// The outermost addresses of an Ethernet frame.
fn addresses(frame: &[u8]) -> Option<(IpAddr, IpAddr)> {
    let v4 = |at: usize| Some(IpAddr::from(*frame.get(at..)?.first_chunk::<4>()?));
    let v6 = |at: usize| Some(IpAddr::from(*frame.get(at..)?.first_chunk::<16>()?));
    match frame.get(12..14)? {
        [0x08, 0x00] => Some((v4(26)?, v4(30)?)),
        [0x86, 0xdd] => Some((v6(22)?, v6(38)?)),
        _ => None,
    }
}

/// A place on the way: who sees the probe there, how, in words, and what to look at if it is not seen there any more.
struct Point {
    roles: &'static [Role],
    incoming: bool,
    stages: &'static [Stage],
    words: &'static str,
    checks: &'static [&'static str],
}

/// The way to a VIP and back.
const WAY: [Point; 10] = {
    use Role::{Client, Lb, Real, Router};
    use Stage::{Answer, Request, Tunnel};
    const fn at(
        roles: &'static [Role],
        incoming: bool,
        stages: &'static [Stage],
        words: &'static str,
        checks: &'static [&'static str],
    ) -> Point {
        Point { roles, incoming, stages, words, checks }
    }
    [
        at(&[Client], false, &[Request], "leaves the client", &["D-58", "D-11"]),
        at(&[Router], true, &[Request], "reaches the router", &["D-58"]),
        at(&[Router], false, &[Request], "leaves the router towards the balancer", &["D-30", "D-11"]),
        at(&[Router], true, &[Tunnel], "leaves the balancer in its tunnel", &["D-40", "D-51", "D-33", "D-49", "D-43", "D-44"]),
        at(&[Router], false, &[Tunnel], "leaves the router towards the real", &["D-11", "D-32"]),
        at(&[Real], true, &[Tunnel, Request], "reaches the real", &["D-13", "D-11"]),
        at(
            &[Real],
            false,
            &[Answer],
            "is answered by the real",
            &["D-05", "D-06", "D-03", "D-07", "D-11", "D-35", "D-10", "D-12"],
        ),
        at(&[Router], true, &[Answer], "reaches the router on its way back", &["D-10", "D-12"]),
        at(&[Router], false, &[Answer], "leaves the router towards who sent it", &["D-32", "D-11"]),
        at(&[Client, Lb], true, &[Answer], "arrives at who sent it", &["D-09", "D-11"]),
    ]
};

/// How far a probe came, by the notes of all hosts that listened; `None`: no note has this nonce.
#[must_use]
pub fn trace(sightings: &[Sighting], nonce: &str) -> Option<String> {
    let of_it: Vec<&Sighting> = sightings.iter().filter(|sighting| sighting.nonce == nonce).collect();
    let listened: BTreeSet<Role> = sightings.iter().map(|sighting| sighting.role).collect();
    let seen_at = |point: &Point| {
        of_it.iter().find(|s| point.roles.contains(&s.role) && s.incoming == point.incoming && point.stages.contains(&s.stage))
    };
    let last = WAY.iter().rposition(|point| seen_at(point).is_some())?;
    let largest = of_it.iter().map(|sighting| sighting.bytes).max().unwrap_or(0);
    let mut text = format!("probe {nonce}, packets of up to {largest} bytes\n");
    // A String takes everything.
    let first = WAY.iter().position(|point| seen_at(point).is_some()).unwrap_or(0);
    for point in &WAY[first..=last] {
        let _ = match seen_at(point) {
            Some(s) => writeln!(text, "  {}: {} > {} on {} of the {}", point.words, s.from, s.to, s.interface, s.role),
            None if point.roles.iter().any(|role| listened.contains(role)) => writeln!(text, "  {}: not seen", point.words),
            None => continue,
        };
    }
    for who in of_it.iter().filter(|sighting| sighting.stage == Stage::Error).map(|s| s.from).collect::<BTreeSet<_>>() {
        let _ = writeln!(text, "  {who} sent it back with an ICMP error: that hop did not take it");
    }
    match WAY[last + 1..].iter().find(|point| point.roles.iter().any(|role| listened.contains(role))) {
        None if last + 1 == WAY.len() => text.push_str(ARRIVED),
        None => text.push_str("nobody listened behind that\n"),
        Some(next) => {
            let _ = writeln!(text, "it vanished before it {}: look at", next.words);
            let of_large: &[&str] = if largest > LARGE { &FOR_LARGE } else { &[] };
            let first = of_large.iter().filter(|id| !next.checks.contains(id));
            for check in first.chain(next.checks).filter_map(|id| by_id(id)) {
                let roles: Vec<String> = check.roles.iter().map(ToString::to_string).collect();
                let _ = writeln!(text, "  {} {} (role {})", check.id, check.title, roles.join(", "));
            }
        }
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(role: Role, incoming: bool, stage: Stage) -> Sighting {
        let address = "10.0.0.1".parse().unwrap();
        let bytes = if stage == Stage::Tunnel { 1520 } else { 60 };
        Sighting { nonce: "0".repeat(16), role, interface: "eth0".into(), incoming, stage, from: address, to: address, bytes }
    }

    #[test]
    fn the_hop_is_named_where_it_vanished() {
        let mut notes = vec![
            seen(Role::Client, false, Stage::Request),
            seen(Role::Router, true, Stage::Request),
            seen(Role::Router, false, Stage::Request),
        ];
        let nonce = "0".repeat(16);
        let text = trace(&notes, &nonce).unwrap();
        assert!(text.contains("vanished before it leaves the balancer in its tunnel") && text.contains("D-40"), "{text}");
        notes.extend([
            seen(Role::Router, true, Stage::Tunnel),
            seen(Role::Router, false, Stage::Tunnel),
            seen(Role::Real, true, Stage::Request),
        ]);
        assert!(trace(&notes, &nonce).unwrap().contains("vanished before it is answered"), "{:?}", trace(&notes, &nonce));
        notes.push(seen(Role::Client, true, Stage::Answer));
        let text = trace(&notes, &nonce).unwrap();
        assert!(text.ends_with("it arrived\n") && text.contains("not seen"), "{text}");
        assert_eq!(trace(&notes, "1"), None);
    }

    #[test]
    fn nonces_are_found_wherever_they_are() {
        let payload = [&[0xff; 50][..], MAGIC, b"00000000000000ff", b"rest"].concat();
        assert_eq!(nonce_in(&payload).as_deref(), Some("00000000000000ff"));
        for len in 0..payload.len() - 4 {
            assert_eq!(nonce_in(&payload[..len]), None);
        }
    }
}
