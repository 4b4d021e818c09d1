//! `[[vip]]` and `[[vip.real]]`.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use toml::de::DeTable;

use super::finding::Kind;
use super::keys;
use super::plan::{MAX_REALS, MAX_RING_SIZE, MAX_VIPS, Protocol, RING_SIZE, Real, RealState, Vip, Weighting};
use super::reader::{Place, Reader};
use super::sections::{ENCAPS, narrow};
use super::tables::Table;
use super::values;

/// A flag that works now.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Flag {
    NoSourcePort,
    BypassFlowTable,
}

/// Every VIP of the document that could be understood.
pub(super) fn read<'t>(reader: &mut Reader<'_>, document: &'t DeTable<'t>) -> Vec<Vip> {
    let tables = reader.tables(&keys::VIP, document, "");
    if tables.is_empty() {
        let place = Place { key: "vip".to_owned(), span: 0..0 };
        let problem = "no VIP: every packet is passed to the host".to_owned();
        reader.warn(&place, problem, "add a `[[vip]]`".to_owned());
    }
    if let Some(beyond) = tables.get(MAX_VIPS) {
        reader.mistake(
            Kind::Value,
            &beyond.place,
            format!("too many VIPs (found {})", tables.len()),
            format!("accepted: up to {MAX_VIPS}"),
        );
    }
    let mut seen = Seen::default();
    tables.iter().filter_map(|table| read_vip(reader, table, &mut seen)).collect()
}

/// What tells VIPs apart.
type Key = (IpAddr, u16, Protocol);

/// What the VIPs so far have taken.
#[derive(Default)]
struct Seen {
    vips: HashMap<Key, Place>,
    reals: HashSet<IpAddr>,
    /// Whether the excess of reals has been noted.
    excess: bool,
}

fn read_vip(reader: &mut Reader<'_>, table: &Table<'_>, seen: &mut Seen) -> Option<Vip> {
    let address = reader.text(table, "address", values::vip_address);
    let port: Option<u16> = narrow(reader.number(table, "port", 0..65_536));
    let protocols = [("tcp", Protocol::Tcp), ("udp", Protocol::Udp)];
    let protocol = reader.choice(table, "protocol", &protocols);
    let rings = [("maglev-v1", Weighting::V1), ("maglev-v2", Weighting::V2)];
    let weighting = reader.choice(table, "ring", &rings).unwrap_or(Weighting::V2);
    reader.choice(table, "encap", ENCAPS);
    let flags = flags(reader, table);
    let tables = reader.inner(&keys::REAL, table);
    let ring_size = ring_size(reader, table, tables.len());
    let mut places = HashMap::new();
    let reals: Vec<Option<Real>> = tables.iter().map(|real| read_real(reader, real, address, &mut places, seen)).collect();
    let (address, port, protocol) = (address?, port?, protocol?);
    note_duplicate(reader, table, (address, port, protocol), seen);
    let vip = Vip {
        address,
        port,
        protocol,
        weighting,
        ring_size: ring_size?,
        no_source_port: flags.contains(&Flag::NoSourcePort),
        bypass_flow_table: flags.contains(&Flag::BypassFlowTable),
        // Without those that could not be understood the VIP would be another one.
        reals: reals.into_iter().collect::<Option<_>>()?,
    };
    warn_of_drops(reader, table, &vip);
    Some(vip)
}

fn flags(reader: &mut Reader<'_>, table: &Table<'_>) -> HashSet<Flag> {
    let known = [("no-source-port", Flag::NoSourcePort), ("bypass-flow-table", Flag::BypassFlowTable)];
    let mut flags = HashSet::new();
    let Some(array) = reader.array(table, "flags") else {
        return flags;
    };
    for item in &array.value {
        let flag = reader.choice_of(table, "flags", &known, item);
        if flag.is_some_and(|flag| !flags.insert(flag)) {
            let problem = "the same flag twice".to_owned();
            reader.mistake(Kind::Conflict, &item.place, problem, "remove one of them".to_owned());
        }
    }
    flags
}

/// A prime that has a slot for each real.
fn ring_size(reader: &mut Reader<'_>, table: &Table<'_>, reals: usize) -> Option<u32> {
    let Some(item) = reader.any(table, "ring_size") else {
        return Some(RING_SIZE);
    };
    let range = 0..u64::from(MAX_RING_SIZE) + 1;
    let size: u32 = narrow(reader.number_of(table, "ring_size", range, &item))?;
    let enough = usize::try_from(size).is_ok_and(|size| size >= reals);
    if values::is_prime(size) && enough {
        return Some(size);
    }
    let problem = if enough {
        format!("not prime (found {size})")
    } else {
        format!("smaller than the {reals} reals of the VIP (found {size})")
    };
    let least = u32::try_from(reals).unwrap_or(MAX_RING_SIZE).max(size);
    let cure = (least..=MAX_RING_SIZE).find(|&size| values::is_prime(size)).map_or_else(
        || format!("accepted: primes up to {MAX_RING_SIZE}, for example {RING_SIZE}"),
        |prime| format!("accepted: primes from the number of reals to {MAX_RING_SIZE}, for example {prime}"),
    );
    reader.mistake(Kind::Value, &item.place, problem, cure);
    None
}

fn read_real(
    reader: &mut Reader<'_>,
    table: &Table<'_>,
    vip: Option<IpAddr>,
    places: &mut HashMap<IpAddr, Place>,
    seen: &mut Seen,
) -> Option<Real> {
    let address = reader.text(table, "address", values::address);
    let weight = match reader.any(table, "weight") {
        Some(item) => narrow(reader.number_of(table, "weight", 0..65_536, &item)),
        None => Some(1),
    };
    let states = [("up", RealState::Up), ("drain", RealState::Drain), ("down", RealState::Down)];
    let state = reader.choice(table, "state", &states).unwrap_or(RealState::Up);
    reader.choice(table, "encap", ENCAPS);
    let address = address?;
    let place = reader.any(table, "address")?.place;
    if vip == Some(address) {
        reader.mistake(
            Kind::Conflict,
            &place,
            format!("the address of its own VIP (found \"{address}\")"),
            "use the address of the server itself, packets would come back for ever".to_owned(),
        );
    }
    note_excess(reader, &place, address, seen);
    match places.get(&address) {
        Some(first) => {
            let problem = format!("the same real as `{}` on line {} (found \"{address}\")", first.key, reader.line(first));
            let cure = "remove one of them, a larger `weight` gives a larger share".to_owned();
            reader.mistake(Kind::Conflict, &place, problem, cure);
        }
        None => {
            places.insert(address, place);
        }
    }
    Some(Real { address, weight: weight?, state })
}

/// Notes, once, the first real that has no id left.
fn note_excess(reader: &mut Reader<'_>, place: &Place, address: IpAddr, seen: &mut Seen) {
    seen.reals.insert(address);
    if seen.reals.len() > MAX_REALS && !seen.excess {
        seen.excess = true;
        reader.mistake(
            Kind::Value,
            place,
            format!("too many distinct reals over all VIPs (found \"{address}\" after {MAX_REALS} others)"),
            format!("accepted: up to {MAX_REALS}"),
        );
    }
}

fn note_duplicate(reader: &mut Reader<'_>, table: &Table<'_>, key: Key, seen: &mut Seen) {
    match seen.vips.get(&key) {
        Some(first) => {
            let (address, port, protocol) = key;
            let problem = format!(
                "the same VIP as `{}` on line {} (found {}/{protocol})",
                first.key,
                reader.line(first),
                SocketAddr::new(address, port),
            );
            let cure = "remove one of them, or change its address, port or protocol".to_owned();
            reader.mistake(Kind::Conflict, &table.place, problem, cure);
        }
        None => {
            seen.vips.insert(key, table.place.clone());
        }
    }
}

fn warn_of_drops(reader: &mut Reader<'_>, table: &Table<'_>, vip: &Vip) {
    if vip.reals.iter().any(Real::is_in_ring) {
        return;
    }
    let why = if vip.reals.is_empty() {
        "no reals"
    } else if vip.reals.iter().all(|real| real.weight == 0) {
        "only weights of 0"
    } else if vip.reals.iter().all(|real| real.state != RealState::Up) {
        "every real is drained or down"
    } else {
        "no real is both up and of a weight above 0"
    };
    reader.warn(
        &table.place,
        format!("{why}: new flows to {vip} are dropped"),
        "add a `[[vip.real]]` that is up, with a weight above 0".to_owned(),
    );
}
