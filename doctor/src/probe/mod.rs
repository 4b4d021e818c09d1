//! Probes that can be told from all other packets, and where they were seen.
//!
//! A probe is a datagram with a nonce in it: from a client to a VIP, or from a VIP on a real to a client. Whoever listens on a
//! host of the way notes each frame with a nonce; the notes of all hosts together say how far a probe came.
//!
//! Not seen by listening: what an XDP program takes before the stack, on the balancer. There the frame before and the frame
//! after are seen on the router beside it.

mod wire;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::checks::by_id;
use crate::network::Network;
use crate::setting::{Role, Setting};

/// The last line of [`trace`] for a probe that came back.
pub const ARRIVED: &str = "it arrived\n";
/// What is before the nonce.
const MAGIC: &[u8] = b"tandem-probe-";
/// Digits of a nonce.
const DIGITS: usize = 16;
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
}

/// Sends probes of this host, all with one nonce; gives the nonce and how many different ones there were.
///
/// # Errors
/// There is nothing to probe from here, or a socket is refused.
pub fn send(setting: &Setting, nonce: u64) -> io::Result<(String, usize)> {
    let nonce = format!("{nonce:016x}");
    let payload = [MAGIC, nonce.as_bytes()].concat();
    let mut ways: BTreeSet<(Option<IpAddr>, SocketAddr)> = BTreeSet::new();
    for service in &setting.services {
        let vip = crate::checks::sample(&service.vip);
        match setting.role {
            Role::Client if service.udp && service.port != 0 => drop(ways.insert((None, SocketAddr::new(vip, service.port)))),
            Role::Real => {
                let clients = setting.clients.iter().filter(|client| client.is_ipv6() == vip.is_ipv6());
                ways.extend(clients.map(|client| (Some(vip), SocketAddr::new(*client, CLIENT_PORT))));
            }
            _ => {}
        }
    }
    if ways.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "nothing to probe: --role client needs a UDP service with a port, --role real a service and --client ADDRESS",
        ));
    }
    for (from, to) in &ways {
        let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let at = SocketAddr::new(from.unwrap_or(any), 0);
        let socket = UdpSocket::bind(at).map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", at.ip())))?;
        for _ in 0..COPIES {
            // What is refused here is seen nowhere, which is what the notes then say.
            let _ = socket.send_to(&payload, to);
        }
    }
    Ok((nonce, ways.len()))
}

/// Notes every probe that this host sees until a time.
///
/// # Errors
/// No packet socket, for lack of CAP_NET_RAW.
pub fn listen(setting: &Setting, until: Instant, mut seen: impl FnMut(&Sighting)) -> io::Result<()> {
    let vips: Vec<Network> = setting.vips().into_iter().collect();
    let mut said: BTreeSet<(String, String, bool, Stage)> = BTreeSet::new();
    wire::frames(until, |frame| {
        let Some(nonce) = nonce_in(&frame.bytes) else { return };
        let Some((from, to)) = addresses(&frame.bytes) else { return };
        let is_vip = |address: IpAddr| vips.iter().any(|vip| vip.contains(address));
        let stage = match (is_vip(from), is_vip(to)) {
            (_, true) => Stage::Request,
            (true, _) => Stage::Answer,
            _ => Stage::Tunnel,
        };
        // Once for each way in or out: copies tell nothing more.
        if said.insert((nonce.clone(), frame.interface.clone(), frame.incoming, stage)) {
            seen(&Sighting { nonce, role: setting.role, interface: frame.interface, incoming: frame.incoming, stage, from, to });
        }
    })
}

fn nonce_in(bytes: &[u8]) -> Option<String> {
    let at = bytes.windows(MAGIC.len()).position(|window| window == MAGIC)?;
    let digits = bytes.get(at + MAGIC.len()..at + MAGIC.len() + DIGITS)?;
    digits.iter().all(u8::is_ascii_hexdigit).then(|| String::from_utf8_lossy(digits).into_owned())
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
    role: Role,
    incoming: bool,
    stages: &'static [Stage],
    words: &'static str,
    checks: &'static [&'static str],
}

/// The way to a VIP and back.
const WAY: [Point; 10] = {
    use Stage::{Answer, Request, Tunnel};
    const fn at(
        role: Role,
        incoming: bool,
        stages: &'static [Stage],
        words: &'static str,
        checks: &'static [&'static str],
    ) -> Point {
        Point { role, incoming, stages, words, checks }
    }
    [
        at(Role::Client, false, &[Request], "leaves the client", &["D-58", "D-11"]),
        at(Role::Router, true, &[Request], "reaches the router", &["D-58"]),
        at(Role::Router, false, &[Request], "leaves the router towards the balancer", &["D-30", "D-11"]),
        at(Role::Router, true, &[Tunnel], "leaves the balancer in its tunnel", &["D-40", "D-51", "D-33", "D-49", "D-43", "D-44"]),
        at(Role::Router, false, &[Tunnel], "leaves the router towards the real", &["D-11", "D-32"]),
        at(Role::Real, true, &[Tunnel, Request], "reaches the real", &["D-13", "D-11"]),
        at(
            Role::Real,
            false,
            &[Answer],
            "is answered by the real",
            &["D-05", "D-06", "D-03", "D-07", "D-11", "D-35", "D-10", "D-12"],
        ),
        at(Role::Router, true, &[Answer], "reaches the router on its way back", &["D-10", "D-12"]),
        at(Role::Router, false, &[Answer], "leaves the router towards the client", &["D-32", "D-11"]),
        at(Role::Client, true, &[Answer], "arrives at the client", &["D-09", "D-11"]),
    ]
};

/// How far a probe came, by the notes of all hosts that listened; `None`: no note has this nonce.
#[must_use]
pub fn trace(sightings: &[Sighting], nonce: &str) -> Option<String> {
    let of_it: Vec<&Sighting> = sightings.iter().filter(|sighting| sighting.nonce == nonce).collect();
    let listened: BTreeSet<Role> = sightings.iter().map(|sighting| sighting.role).collect();
    let seen_at = |point: &Point| {
        of_it.iter().find(|s| s.role == point.role && s.incoming == point.incoming && point.stages.contains(&s.stage))
    };
    let last = WAY.iter().rposition(|point| seen_at(point).is_some())?;
    let mut text = format!("probe {nonce}\n");
    // A String takes everything.
    let first = WAY.iter().position(|point| seen_at(point).is_some()).unwrap_or(0);
    for point in &WAY[first..=last] {
        let _ = match seen_at(point) {
            Some(s) => writeln!(text, "  {}: {} > {} on {} of the {}", point.words, s.from, s.to, s.interface, s.role),
            None if listened.contains(&point.role) => writeln!(text, "  {}: not seen", point.words),
            None => continue,
        };
    }
    match WAY[last + 1..].iter().find(|point| listened.contains(&point.role) || last + 1 == WAY.len()) {
        None if last + 1 == WAY.len() => text.push_str(ARRIVED),
        None => text.push_str("nobody listened behind that\n"),
        Some(next) => {
            let _ = writeln!(text, "it vanished before it {}: look at", next.words);
            for check in next.checks.iter().filter_map(|id| by_id(id)) {
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
        Sighting { nonce: "0".repeat(16), role, interface: "eth0".into(), incoming, stage, from: address, to: address }
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
