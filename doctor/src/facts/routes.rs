//! Routes, policy rules and neighbours as the kernel lists them, and what it says about single packets (`RTM_GETROUTE`).

use std::io;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::exchange::{AF_INET, AF_INET6, Attributes, Exchange, address, bytes, family, put};
use super::links::{Link, mac};
use crate::network::Network;

const RTM_GETROUTE: u16 = 26;
const RTM_GETNEIGH: u16 = 30;
const RTM_GETRULE: u16 = 34;
/// Routes that are kept: a router may have a million, and what refuses packets is kept in any case.
const MOST_ROUTES: usize = 2000;

/// A packet that the kernel is asked about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Question {
    /// Its destination.
    pub to: IpAddr,
    /// Its source.
    pub from: Option<IpAddr>,
    /// The device that it comes in by; `None`: this host sends it.
    pub by: Option<String>,
}

/// What becomes of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// It is taken, or sent.
    Way(Way),
    /// The kernel refuses it: the number of the error (`errno.h`).
    Refused(i32),
}

/// The way of a packet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Way {
    /// `unicast`, `local` and so on.
    pub kind: String,
    /// The device it leaves by.
    pub device: Option<String>,
    /// The gateway; `None`: the destination itself is on the link.
    pub gateway: Option<IpAddr>,
    /// The source that the kernel would choose.
    pub source: Option<IpAddr>,
    /// The route's own MTU.
    pub mtu: Option<u32>,
    /// The table that said so.
    pub table: u32,
}

/// An entry of a route table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Where to.
    pub to: Network,
    /// `unicast`, `local`, `blackhole`, `unreachable`, `prohibit` and so on.
    pub kind: String,
    /// The table.
    pub table: u32,
    /// Devices and gateways, one for each next hop.
    pub hops: Vec<(Option<String>, Option<IpAddr>)>,
    /// Lower is preferred.
    pub metric: u32,
    /// The route's own MTU.
    pub mtu: Option<u32>,
}

/// A policy rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// IPv6.
    pub v6: bool,
    /// Its place in the order.
    pub priority: u32,
    /// Sources it is for.
    pub from: Option<Network>,
    /// Destinations it is for.
    pub to: Option<Network>,
    /// Device that packets come in by.
    pub by: Option<String>,
    /// Firewall mark it is for.
    pub mark: Option<u32>,
    /// `lookup`, `goto`, `nop`, `blackhole`, `unreachable` or `prohibit`.
    pub action: String,
    /// The table of `lookup`.
    pub table: u32,
}

/// An entry of the neighbour table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbour {
    /// Its device.
    pub device: String,
    /// Its address.
    pub address: IpAddr,
    /// Its MAC.
    pub mac: Option<String>,
    /// `incomplete`, `reachable`, `stale`, `delay`, `probe`, `failed`, `noarp` or `permanent`.
    pub state: String,
}

fn name_of(links: &[Link], index: u32) -> Option<String> {
    links.iter().find(|link| link.index == index).map(|link| link.name.clone())
}

/// `RTN_*` of `rtnetlink.h`.
fn kind(number: u8) -> String {
    let name = match number {
        1 => "unicast",
        2 => "local",
        3 => "broadcast",
        4 => "anycast",
        5 => "multicast",
        6 => "blackhole",
        7 => "unreachable",
        8 => "prohibit",
        9 => "throw",
        10 => "nat",
        _ => "unknown",
    };
    name.to_owned()
}

/// `RTA_VIA`: a family, and an address of it.
fn gateway(of: Attributes<'_>) -> Option<IpAddr> {
    of.address(5).or_else(|| address(of.get(18)?.get(2..)?))
}

/// Asks about one packet.
pub(super) fn look_up(exchange: &mut Exchange, links: &[Link], question: &Question) -> io::Result<Answer> {
    let width = if question.to.is_ipv6() { 128 } else { 32 };
    let from = question.from.filter(|from| from.is_ipv6() == question.to.is_ipv6());
    let mut body = vec![family(question.to), width, if from.is_some() { width } else { 0 }, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    put(&mut body, 1, &bytes(question.to));
    if let Some(from) = from {
        put(&mut body, 2, &bytes(from));
    }
    if let Some(by) = &question.by {
        let Some(link) = links.iter().find(|link| link.name == *by) else { return Ok(Answer::Refused(libc::ENODEV)) };
        put(&mut body, 3, &link.index.to_ne_bytes());
    }
    match exchange.ask(RTM_GETROUTE, &body) {
        Ok(answers) => {
            let way = answers.iter().find_map(|message| way(message, links));
            way.map(Answer::Way).ok_or_else(|| io::ErrorKind::InvalidData.into())
        }
        Err(error) => match error.raw_os_error() {
            Some(number) => Ok(Answer::Refused(number)),
            None => Err(error),
        },
    }
}

/// `struct rtmsg` and `RTA_*` of `rtnetlink.h`.
fn way(message: &[u8], links: &[Link]) -> Option<Way> {
    let attributes = Attributes::behind(message, 12);
    // IPv6 answers an unreachable route with an entry that carries the error (RTA_CACHEINFO's rta_error).
    let error = attributes.get(12).and_then(|info| Some(i32::from_ne_bytes(*info.get(12..)?.first_chunk()?))).unwrap_or(0);
    let number = *message.get(7)?;
    let number = if error != 0 && number == 1 { 7 } else { number };
    Some(Way {
        kind: kind(number),
        device: attributes.u32(4).and_then(|index| name_of(links, index)),
        gateway: gateway(attributes),
        source: attributes.address(7),
        mtu: attributes.nested(8).u32(2),
        table: attributes.u32(15).unwrap_or(u32::from(*message.get(4)?)),
    })
}

/// All tables of both families.
pub(super) fn routes(exchange: &mut Exchange, links: &[Link]) -> io::Result<Vec<Route>> {
    let (mut found, mut left) = (Vec::new(), MOST_ROUTES);
    for family in [AF_INET, AF_INET6] {
        let body = [family, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        for route in exchange.dump(RTM_GETROUTE, &body)?.iter().filter_map(|message| route(message, links)) {
            let refuses = matches!(route.kind.as_str(), "blackhole" | "unreachable" | "prohibit");
            if refuses || left > 0 {
                left = left.saturating_sub(1);
                found.push(route);
            }
        }
    }
    Ok(found)
}

fn route(message: &[u8], links: &[Link]) -> Option<Route> {
    let (family, length) = (*message.first()?, *message.get(1)?);
    let attributes = Attributes::behind(message, 12);
    let nothing: IpAddr = if family == AF_INET6 { [0; 16].into() } else { [0; 4].into() };
    let device = |index: Option<u32>| index.and_then(|index| name_of(links, index));
    let mut hops = Vec::new();
    if attributes.has(4) {
        hops.push((device(attributes.u32(4)), gateway(attributes)));
    }
    // `struct rtnexthop`: length, flags, hops, index of the device; attributes behind.
    let mut rest = attributes.get(9).unwrap_or_default();
    while let Some(len) = rest.first_chunk().map(|len| usize::from(u16::from_ne_bytes(*len))).filter(|len| *len >= 8) {
        let hop = rest.get(..len).unwrap_or_default();
        let index = hop.get(4..).and_then(|bytes| Some(u32::from_ne_bytes(*bytes.first_chunk()?)));
        hops.push((device(index), gateway(Attributes::behind(hop, 8))));
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    Some(Route {
        to: Network { address: attributes.address(1).unwrap_or(nothing), length },
        kind: kind(*message.get(7)?),
        table: attributes.u32(15).unwrap_or(u32::from(*message.get(4)?)),
        hops,
        metric: attributes.u32(6).unwrap_or(0),
        mtu: attributes.nested(8).u32(2),
    })
}

/// All policy rules of both families: `struct fib_rule_hdr` and `FRA_*` of `fib_rules.h`.
pub(super) fn rules(exchange: &mut Exchange) -> io::Result<Vec<Rule>> {
    let mut found = Vec::new();
    for family in [AF_INET, AF_INET6] {
        for message in exchange.dump(RTM_GETRULE, &[family, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])? {
            found.extend(rule(&message));
        }
    }
    Ok(found)
}

fn rule(message: &[u8]) -> Option<Rule> {
    let attributes = Attributes::behind(message, 12);
    let network = |kind, length: u8| attributes.address(kind).map(|address| Network { address, length });
    let action = match *message.get(7)? {
        1 => "lookup",
        2 => "goto",
        3 => "nop",
        6 => "blackhole",
        7 => "unreachable",
        8 => "prohibit",
        _ => "unknown",
    };
    Some(Rule {
        v6: *message.first()? == AF_INET6,
        priority: attributes.u32(6).unwrap_or(0),
        from: network(2, *message.get(2)?),
        to: network(1, *message.get(1)?),
        by: attributes.text(3),
        mark: attributes.u32(10),
        action: action.to_owned(),
        table: attributes.u32(15).unwrap_or(u32::from(*message.get(4)?)),
    })
}

/// The neighbour tables: `struct ndmsg` and `NDA_*` of `neighbour.h`.
pub(super) fn neighbours(exchange: &mut Exchange, links: &[Link]) -> io::Result<Vec<Neighbour>> {
    let neighbour = |message: &Vec<u8>| {
        let index = u32::from_ne_bytes(*message.get(4..)?.first_chunk()?);
        let state = match u16::from_ne_bytes(*message.get(8..)?.first_chunk()?) {
            0x01 => "incomplete",
            0x02 => "reachable",
            0x04 => "stale",
            0x08 => "delay",
            0x10 => "probe",
            0x20 => "failed",
            0x40 => "noarp",
            0x80 => "permanent",
            _ => return None,
        };
        let attributes = Attributes::behind(message, 12);
        Some(Neighbour {
            device: name_of(links, index)?,
            address: attributes.address(1)?,
            mac: attributes.get(2).filter(|bytes| bytes.len() == 6).map(mac),
            state: state.to_owned(),
        })
    };
    let mut found = Vec::new();
    for family in [AF_INET, AF_INET6] {
        let body = [family, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        found.extend(exchange.dump(RTM_GETNEIGH, &body)?.iter().filter_map(neighbour));
    }
    // Multicast and broadcast entries have no ARP and tell nothing.
    found.retain(|neighbour| neighbour.state != "noarp");
    Ok(found)
}
