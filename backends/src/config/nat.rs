//! `[nat]`, and what it means for VIPs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use tandem_engine::memory::nats::MAX_SOURCES;

use super::finding::Kind;
use super::reader::Reader;
use super::sections::narrow;
use super::service::{Encap, Real, Vip};
use super::tables::Table;
use super::values;

/// How addresses are translated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatPlan {
    /// What clients' addresses are replaced by towards IPv4 reals; empty: they stay.
    pub sources_v4: Vec<Ipv4Addr>,
    /// The same towards IPv6 reals.
    pub sources_v6: Vec<Ipv6Addr>,
    /// First port towards the reals, not 0.
    pub first_port: u16,
    /// Number of ports; the last one is at most 65,535.
    pub ports: u16,
    /// Connections whose client keeps its address.
    pub capacity: u32,
    /// How long silent connections are kept, by [`tandem_engine::memory::nats::Phase`].
    pub idle: [Duration; 5],
}

impl Default for NatPlan {
    fn default() -> Self {
        let [opening, open, half_closed, closed, udp] = [30, 124 * 60, 240, 30, 120].map(Duration::from_secs);
        Self {
            sources_v4: Vec::new(),
            sources_v6: Vec::new(),
            first_port: 1024,
            ports: 31_744,
            capacity: 65_536,
            idle: [opening, open, half_closed, closed, udp],
        }
    }
}

impl NatPlan {
    /// Whether clients' addresses are replaced towards reals of a family.
    #[must_use]
    pub fn replaces(&self, real: IpAddr) -> bool {
        if real.is_ipv4() { !self.sources_v4.is_empty() } else { !self.sources_v6.is_empty() }
    }

    /// All sources: the IPv4 ones, then the IPv6 ones.
    pub fn sources(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.sources_v4.iter().copied().map(IpAddr::from).chain(self.sources_v6.iter().copied().map(IpAddr::from))
    }
}

pub(super) fn read(reader: &mut Reader<'_>, table: &Table<'_>, nat: &mut NatPlan) {
    nat.sources_v4 = sources(reader, table, "sources_v4", values::address_v4);
    nat.sources_v6 = sources(reader, table, "sources_v6", values::address_v6);
    let found = nat.sources().count();
    if found > MAX_SOURCES {
        let cure = format!("accepted: up to {MAX_SOURCES} of both families together");
        reader.mistake(Kind::Value, &table.place, format!("too many sources (found {found})"), cure);
    }
    if let Some(port) = narrow(reader.number(table, "first_port", 1..65_536)) {
        nat.first_port = port;
    }
    if let Some(ports) = narrow(reader.number(table, "ports", 1..65_536)) {
        nat.ports = ports;
    }
    let most = u16::MAX - nat.first_port;
    if nat.ports > most && nat.ports - most > 1 {
        let place = reader.any(table, "ports").map_or_else(|| table.place.clone(), |item| item.place);
        let problem = format!("{} ports from {} on: they end at 65535", nat.ports, nat.first_port);
        reader.mistake(Kind::Value, &place, problem, format!("accepted here: up to {}", u32::from(most) + 1));
    }
    if let Some(capacity) = narrow(reader.number(table, "capacity", 16..(1 << 26) + 1)) {
        nat.capacity = capacity;
    }
    for (name, idle) in ["tcp_opening", "tcp_established", "tcp_half_closed", "tcp_closed", "udp"].into_iter().zip(&mut nat.idle)
    {
        *idle = reader.text(table, name, values::up_to_a_day).unwrap_or(*idle);
    }
}

fn sources<T: Copy + PartialEq + std::fmt::Display>(
    reader: &mut Reader<'_>,
    table: &Table<'_>,
    name: &str,
    parse: impl Fn(&str) -> Result<T, values::Wrong>,
) -> Vec<T> {
    let Some(_) = reader.any(table, name) else { return Vec::new() };
    let mut sources = Vec::new();
    for item in reader.array(table, name).map(|array| array.value).unwrap_or_default() {
        let Some(source) = reader.text_of(table, name, &item, &parse) else { continue };
        if sources.contains(&source) {
            let problem = format!("the same source twice (found \"{source}\")");
            reader.mistake(Kind::Conflict, &item.place, problem, "remove one of them".to_owned());
        } else {
            sources.push(source);
        }
    }
    sources
}

/// Notes what a VIP asks of NAT that it cannot do.
pub(super) fn note(reader: &mut Reader<'_>, table: &Table<'_>, vip: &Vip, nat: &NatPlan) {
    let other = |real: &&Real| real.encap == Encap::Nat && real.address.is_ipv4() != vip.address.is_ipv4();
    if let Some(real) = vip.reals.iter().filter(other).find(|real| !nat.replaces(real.address)) {
        let (family, key) = if real.address.is_ipv4() { ("IPv4", "sources_v4") } else { ("IPv6", "sources_v6") };
        let problem = format!("{vip} reaches {} by `nat`, and its clients have no {family} address", real.address);
        reader.mistake(Kind::Missing, &table.place, problem, format!("give them one: `nat.{key}`"));
    }
    if nat.sources().any(|source| vip.prefix_len.is_none() && source == vip.address) {
        let problem = format!("its address is a source of NAT, too (found \"{}\")", vip.address);
        reader.mistake(Kind::Conflict, &table.place, problem, "name another address in `[nat]`".to_owned());
    }
}
