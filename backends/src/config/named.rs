//! What names reals and addresses beside VIPs: `[server_ids]`, `[[source_route]]`, `[[decap]]`, `[[health_encap]]`.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::net::IpAddr;

use toml::de::{DeTable, DeValue};

use super::finding::Kind;
use super::health::FIRST_MARK;
use super::keys;
use super::plan::{Decap, HealthEncap, MAX_ALL_REALS, MAX_DECAPS, MAX_REALS, Plan, Then};
use super::prefix::Prefix;
use super::reader::{Place, Reader};
use super::sections::narrow;
use super::service::{Encap, Real, VipFlags};
use super::tables::Table;
use super::values;

/// The distinct addresses of reals so far.
#[derive(Default)]
pub(super) struct Addresses {
    reals: HashSet<IpAddr>,
    /// Those of all VIPs, and those that no VIP names.
    all: usize,
    /// Whether the excess has been noted.
    excess: bool,
}

impl Addresses {
    /// Counts the real at `place`; notes, once, the first that is too many.
    pub(super) fn note(&mut self, reader: &mut Reader<'_>, place: &Place, address: IpAddr) {
        self.all += 1;
        let too_many = self.reals.insert(address) && self.reals.len() > MAX_REALS;
        if self.all > MAX_ALL_REALS && !self.excess {
            self.excess = true;
            let problem = format!("too many reals over all VIPs (found \"{address}\" after {MAX_ALL_REALS} others)");
            reader.mistake(Kind::Value, place, problem, format!("accepted: up to {MAX_ALL_REALS}"));
        }
        if too_many && !self.excess {
            self.excess = true;
            reader.mistake(
                Kind::Value,
                place,
                format!("too many distinct reals over all VIPs (found \"{address}\" after {MAX_REALS} others)"),
                format!("accepted: up to {MAX_REALS}"),
            );
        }
    }
}

/// Reads all four into `plan`, which has the VIPs already.
pub(super) fn read<'t>(reader: &mut Reader<'_>, document: &'t DeTable<'t>, plan: &mut Plan, addresses: &mut Addresses) {
    plan.server_ids = server_ids(reader, document, addresses);
    plan.source_routes = source_routes(reader, document, addresses);
    plan.decaps = decaps(reader, document, plan);
    plan.health_encaps = health_encaps(reader, document, plan, addresses);
    let own = own_probes(reader, document, plan);
    plan.health_encaps.extend(own);
    let routed = plan.vips.iter().position(|vip| vip.flags.contains(VipFlags::SOURCE_ROUTING));
    if let (Some(index), true) = (routed, plan.source_routes.is_empty()) {
        let table = reader.tables(&keys::VIP, document, "").into_iter().nth(index);
        if let Some(item) = table.and_then(|table| reader.any(&table, "flags")) {
            let problem = "the flag `source-routing`, and no `[[source_route]]`: the ring decides".to_owned();
            reader.warn(&item.place, problem, "add a `[[source_route]]`, or remove the flag".to_owned());
        }
    }
}

/// By id, lowest first.
fn server_ids<'t>(reader: &mut Reader<'_>, document: &'t DeTable<'t>, addresses: &mut Addresses) -> Vec<(u32, IpAddr)> {
    let Some(table) = reader.tables(&keys::SERVER_IDS, document, "").into_iter().next() else {
        return Vec::new();
    };
    let mut ids = Vec::new();
    let mut seen = Seen::default();
    let names: Vec<_> = table.names().filter(|(name, _)| keys::SERVER_IDS.key(name).is_some()).collect();
    for (name, span) in names {
        let real = reader.text(&table, name, values::address);
        let place = Place { key: format!("{}.{name}", table.place.key), span };
        let id = values::digits(name).and_then(|id| u32::try_from(id).ok()).filter(|id| *id != 0);
        let Some(id) = id else {
            reader.wrong(&place, "not a server id", name, "numbers from 1 to 4294967295, for example 1022 = \"10.0.0.1\"");
            continue;
        };
        seen.note(reader, id, place.clone(), "server id");
        if let Some(real) = real {
            addresses.note(reader, &place, real);
            ids.push((id, real));
        }
    }
    ids.sort_unstable();
    ids
}

fn source_routes<'t>(reader: &mut Reader<'_>, document: &'t DeTable<'t>, addresses: &mut Addresses) -> Vec<(Prefix, IpAddr)> {
    let mut seen = Seen::default();
    let mut routes = Vec::new();
    for table in &reader.tables(&keys::SOURCE_ROUTE, document, "") {
        let prefixes = prefixes(reader, table, &mut seen);
        if let Some(real) = real(reader, table, addresses) {
            routes.extend(prefixes.into_iter().map(|prefix| (prefix, real)));
        }
    }
    routes
}

/// One prefix as a text, or several as an array of texts.
fn prefixes(reader: &mut Reader<'_>, table: &Table<'_>, seen: &mut Seen<Prefix>) -> Vec<Prefix> {
    const NAME: &str = "prefix";
    let Some(item) = reader.any(table, NAME) else { return Vec::new() };
    let items = match item.value {
        DeValue::Array(_) => reader.array(table, NAME).map(|array| array.value).unwrap_or_default(),
        _ => vec![item],
    };
    let mut prefixes = Vec::new();
    for item in items {
        if let Some(prefix) = reader.text_of(table, NAME, &item, values::network) {
            seen.note(reader, prefix, item.place, NAME);
            prefixes.push(prefix);
        }
    }
    prefixes
}

fn decaps<'t>(reader: &mut Reader<'_>, document: &'t DeTable<'t>, plan: &Plan) -> Vec<Decap> {
    let mut seen = Seen::default();
    let tables = reader.tables(&keys::DECAP, document, "");
    if let Some(beyond) = tables.get(MAX_DECAPS) {
        let problem = format!("too many destinations of tunnels (found {})", tables.len());
        reader.mistake(Kind::Value, &beyond.place, problem, format!("accepted: up to {MAX_DECAPS}"));
    }
    if let (Some(first), false) = (tables.first(), plan.decap.any()) {
        let problem = "a destination of tunnels, and no kind of them is opened".to_owned();
        reader.warn(&first.place, problem, "name the kinds in `tunnel.decap`, or remove it".to_owned());
    }
    let decap = |table: &Table<'_>| {
        let address = reader.text(table, "address", values::address);
        let thens = [("balance", Then::Balance), ("egress", Then::Egress)];
        let then = reader.choice(table, "then", &thens).unwrap_or(Then::Balance);
        let (address, place) = (address?, reader.any(table, "address")?.place);
        seen.note(reader, address, place, "destination");
        Some(Decap { address, then })
    };
    tables.iter().filter_map(decap).collect()
}

fn health_encaps<'t>(
    reader: &mut Reader<'_>,
    document: &'t DeTable<'t>,
    plan: &Plan,
    addresses: &mut Addresses,
) -> Vec<HealthEncap> {
    let mut seen = Seen::default();
    let tables = reader.tables(&keys::HEALTH_ENCAP, document, "");
    let probe = |table: &Table<'_>| {
        let mark: Option<u32> = narrow(reader.number(table, "mark", 1..1 << 32));
        let real = real(reader, table, addresses);
        let (mark, place) = (mark?, reader.any(table, "mark")?.place);
        seen.note(reader, mark, place.clone(), "mark");
        let real = real?;
        if (HealthEncap { mark, real }).is_own() {
            let problem = format!("a mark of the balancer's own health checks (found {mark})");
            reader.mistake(Kind::Conflict, &place, problem, format!("choose one below {FIRST_MARK}"));
        }
        if !can_be_probed(plan, real)
            && let Some(item) = reader.any(table, "real")
        {
            let problem = format!("a real behind NAT answers no probe to the VIP's address (found \"{real}\")");
            reader.mistake(Kind::Conflict, &item.place, problem, "probe the real's own address and port".to_owned());
        }
        Some(HealthEncap { mark, real })
    };
    tables.iter().filter_map(probe).collect()
}

/// A mark for each real of the VIPs with health checks.
fn own_probes<'t>(reader: &mut Reader<'_>, document: &'t DeTable<'t>, plan: &Plan) -> Vec<HealthEncap> {
    let by_nat: HashSet<IpAddr> = reals_of(plan).filter(|real| real.encap == Encap::Nat).map(|real| real.address).collect();
    let can_be_probed = |real: IpAddr| plan.encap != Encap::Nat && !by_nat.contains(&real);
    let mut reals: Vec<IpAddr> = Vec::new();
    for (index, vip) in plan.vips.iter().enumerate().filter(|(_, vip)| vip.health.is_some()) {
        if let Some(real) = vip.reals.iter().find(|real| !can_be_probed(real.address))
            && let Some(table) = reader.tables(&keys::VIP, document, "").get(index)
        {
            let problem = format!("its real {} is behind NAT, and answers no health check to the VIP's address", real.address);
            reader.mistake(Kind::Conflict, &table.place, problem, "leave out [vip.health], or choose another encap".to_owned());
        }
        reals.extend(vip.reals.iter().map(|real| real.address));
    }
    let mut seen = HashSet::new();
    reals.retain(|real| seen.insert(*real));
    (FIRST_MARK..).zip(reals).map(|(mark, real)| HealthEncap { mark, real }).collect()
}

/// Whether probes can go to a real as its packets do: not by NAT, whose answers would be those of connections that the table does
/// not have.
fn can_be_probed(plan: &Plan, real: IpAddr) -> bool {
    let of_vips = reals_of(plan).filter(|other| other.address == real).map(|other| other.encap);
    of_vips.chain([plan.encap]).all(|encap| encap != Encap::Nat)
}

fn reals_of(plan: &Plan) -> impl Iterator<Item = &Real> {
    plan.vips.iter().flat_map(|vip| &vip.reals)
}

fn real(reader: &mut Reader<'_>, table: &Table<'_>, addresses: &mut Addresses) -> Option<IpAddr> {
    let item = reader.any(table, "real")?;
    let address = reader.text_of(table, "real", &item, values::address)?;
    addresses.note(reader, &item.place, address);
    Some(address)
}

/// Where each thing stood first.
struct Seen<T>(HashMap<T, Place>);

impl<T> Default for Seen<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T: Eq + Hash + std::fmt::Display> Seen<T> {
    /// Notes a thing that is there already; `what` is what things are called.
    fn note(&mut self, reader: &mut Reader<'_>, thing: T, place: Place, what: &str) {
        match self.0.get(&thing) {
            Some(first) => {
                let problem = format!("the same {what} as `{}` on line {} (found {thing})", first.key, reader.line(first));
                reader.mistake(Kind::Conflict, &place, problem, "remove one of them".to_owned());
            }
            None => {
                self.0.insert(thing, place);
            }
        }
    }
}
