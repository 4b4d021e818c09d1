//! `[[vip]]`.

use std::collections::HashMap;
use std::net::IpAddr;

use toml::de::DeTable;

use super::finding::Kind;
use super::health;
use super::keys;
use super::named::Addresses;
use super::nat;
use super::plan::{MAX_PREFIX_VIPS, MAX_RING_SIZE, MAX_VIPS, Plan, Profile, RING_SIZE};
use super::reader::{Place, Reader};
use super::reals;
use super::sections::{ENCAPS, narrow};
use super::service::{GeneveInner, OnRemoval, Protocol, Vip, VipFlags, Weighting};
use super::tables::Table;
use super::values;

pub(super) const FLAGS: &[(&str, VipFlags)] = &[
    ("no-source-port", VipFlags::NO_SOURCE_PORT),
    ("bypass-flow-table", VipFlags::BYPASS_FLOW_TABLE),
    ("quic", VipFlags::QUIC),
    ("hash-dport-only", VipFlags::HASH_DPORT_ONLY),
    ("source-routing", VipFlags::SOURCE_ROUTING),
    ("local", VipFlags::LOCAL),
    ("global-flow-table", VipFlags::GLOBAL_FLOW_TABLE),
    ("hash-src-dst-port", VipFlags::HASH_SRC_DST_PORT),
    ("udp-stable-routing", VipFlags::UDP_STABLE_ROUTING),
    ("udp-flow-migration", VipFlags::UDP_FLOW_MIGRATION),
];

/// The flags that ask for something that only UDP has.
const OF_UDP: VipFlags = VipFlags::QUIC.union(VipFlags::UDP_STABLE_ROUTING).union(VipFlags::UDP_FLOW_MIGRATION);

/// Every VIP of the document that could be understood; `plan` has what the sections before say.
pub(super) fn read<'t>(reader: &mut Reader<'_>, document: &'t DeTable<'t>, plan: &Plan, addresses: &mut Addresses) -> Vec<Vip> {
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
    let mut seen = HashMap::new();
    let vips: Vec<(&Table<'_>, Vip)> =
        tables.iter().filter_map(|table| Some((table, read_vip(reader, table, plan, addresses, &mut seen)?))).collect();
    let mut prefixes = vips.iter().filter(|(_, vip)| vip.prefix_len.is_some());
    if let (Profile::Katran, Some((beyond, _))) = (plan.profile, prefixes.nth(MAX_PREFIX_VIPS)) {
        let found = MAX_PREFIX_VIPS + 1 + prefixes.count();
        let problem = format!("too many VIPs that are prefixes (found {found})");
        let cure = format!("accepted in profile katran: up to {MAX_PREFIX_VIPS}");
        reader.mistake(Kind::Value, &beyond.place, problem, cure);
    }
    vips.into_iter().map(|(_, vip)| vip).collect()
}

/// What tells VIPs apart.
type Key = (IpAddr, Option<u8>, u16, Protocol);

fn read_vip(
    reader: &mut Reader<'_>,
    table: &Table<'_>,
    plan: &Plan,
    addresses: &mut Addresses,
    seen: &mut HashMap<Key, Place>,
) -> Option<Vip> {
    let address = reader.text(table, "address", values::vip_address);
    let port: Option<u16> = narrow(reader.number(table, "port", 0..65_536));
    let protocols = [("tcp", Protocol::Tcp), ("udp", Protocol::Udp)];
    let protocol = reader.choice(table, "protocol", &protocols);
    let rings = [Weighting::V1, Weighting::V2].map(|weighting| (weighting.name(), weighting));
    let weighting = reader.choice(table, "ring", &rings).unwrap_or(Weighting::V2);
    let encap = reader.choice(table, "encap", ENCAPS).unwrap_or(plan.encap);
    let vni = match reader.any(table, "vni") {
        Some(item) => narrow(reader.number_of(table, "vni", 0..1 << 24, &item)),
        None => Some(0),
    };
    let inners = [("ip", GeneveInner::Ip), ("ethernet", GeneveInner::Ethernet)];
    let geneve_inner = reader.choice(table, "geneve_inner", &inners).unwrap_or(GeneveInner::Ip);
    let policies = [("reselect", OnRemoval::Reselect), ("keep", OnRemoval::Keep), ("drop", OnRemoval::Drop)];
    let on_removal = reader.choice(table, "on_removal", &policies);
    if let (Some(_), Profile::Katran, Some(item)) = (on_removal, plan.profile, reader.any(table, "on_removal")) {
        let problem = "a removal policy in profile katran, where the flows of a real stay until it is removed".to_owned();
        reader.mistake(Kind::Conflict, &item.place, problem, "remove it, or set profile = \"standard\"".to_owned());
    }
    let on_removal = on_removal.unwrap_or(OnRemoval::Reselect);
    let flags = reader.set(table, "flags", FLAGS).into_iter().fold(VipFlags::empty(), VipFlags::union);
    let tables = reader.inner(&keys::REAL, table);
    let ring_size = ring_size(reader, table, tables.len(), plan.profile);
    let vip = reals::Of { profile: plan.profile, address, encap, geneve_inner, flags };
    let reals = reals::read(reader, &tables, &vip, addresses);
    let health = reader.inner(&keys::HEALTH, table).into_iter().next();
    let health = health.and_then(|health| health::read(reader, &health, port, reals.as_deref().unwrap_or_default()));
    let ((address, prefix_len), port, protocol) = (address?, port?, protocol?);
    let vni = vni?;
    let vip = Vip {
        address,
        prefix_len,
        port,
        protocol,
        weighting,
        ring_size: RING_SIZE,
        encap,
        vni,
        geneve_inner,
        on_removal,
        flags,
        reals: Vec::new(),
        health,
    };
    note_duplicate(reader, table, &vip, seen);
    let vip = Vip { ring_size: ring_size?, reals: reals?, ..vip };
    note_flags(reader, table, &vip, plan.profile);
    nat::note(reader, table, &vip, &plan.nat);
    warn_of_drops(reader, table, &vip, plan);
    Some(vip)
}

/// A prime that has a slot for each real.
fn ring_size(reader: &mut Reader<'_>, table: &Table<'_>, reals: usize, profile: Profile) -> Option<u32> {
    let Some(item) = reader.any(table, "ring_size") else {
        return Some(RING_SIZE);
    };
    let range = 0..u64::from(MAX_RING_SIZE) + 1;
    let size: u32 = narrow(reader.number_of(table, "ring_size", range, &item))?;
    if profile == Profile::Katran {
        let problem = format!("not the ring size of Katran (found {size})");
        let fits = size == RING_SIZE;
        if !fits {
            reader.mistake(Kind::Value, &item.place, problem, format!("accepted in profile katran: {RING_SIZE}, the default"));
        }
        return fits.then_some(size);
    }
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

fn note_duplicate(reader: &mut Reader<'_>, table: &Table<'_>, vip: &Vip, seen: &mut HashMap<Key, Place>) {
    let key = (vip.address, vip.prefix_len, vip.port, vip.protocol);
    match seen.get(&key) {
        Some(first) => {
            let problem = format!("the same VIP as `{}` on line {} (found {vip})", first.key, reader.line(first));
            let cure = "remove one of them, or change its address, port or protocol".to_owned();
            reader.mistake(Kind::Conflict, &table.place, problem, cure);
        }
        None => {
            seen.insert(key, table.place.clone());
        }
    }
}

/// Notes the flags that can do nothing for the VIP.
fn note_flags(reader: &mut Reader<'_>, table: &Table<'_>, vip: &Vip, profile: Profile) {
    let Some(array) = (vip.protocol == Protocol::Tcp).then(|| reader.array(table, "flags")).flatten() else {
        return;
    };
    for (name, _) in FLAGS.iter().filter(|(_, flag)| (vip.flags & OF_UDP).contains(*flag)) {
        let place = array.value.iter().find(|item| item.value.as_str() == Some(name)).map_or(&array.place, |item| &item.place);
        let problem = format!("a flag for UDP at a VIP of TCP (found \"{name}\")");
        reader.unless_katran(profile, place, problem, "remove it, or change the protocol".to_owned());
    }
}

fn warn_of_drops(reader: &mut Reader<'_>, table: &Table<'_>, vip: &Vip, plan: &Plan) {
    if plan.in_ring(vip).next().is_some() {
        return;
    }
    let why = if vip.reals.is_empty() {
        "no reals"
    } else if vip.reals.iter().all(|real| real.weight == 0) {
        "only weights of 0"
    } else if vip.reals.iter().all(|real| real.state != super::RealState::Up) {
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
