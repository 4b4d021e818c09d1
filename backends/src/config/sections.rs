//! The document as a whole, and `[node]`, `[tunnel]`, `[flows]`.

use std::collections::HashSet;
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use super::finding::Kind;
use super::health;
use super::keys::{self, Section};
use super::nat::{self, NatPlan};
use super::plan::{self, Attach, DecapKinds, MAX_INTERFACES, ModeWish, OnControlLoss, Plan, Profile, TooBig};
use super::reader::{Place, Reader};
use super::served::{self, ApiPlan};
use super::service::Encap;
use super::tables::Table;
use super::{named, values, vips};

/// The forwarding methods of now.
pub(super) const ENCAPS: &[(&str, Encap)] = &[
    ("ipip", Encap::Ipip),
    ("gue", Encap::Gue),
    ("gue0", Encap::Gue0),
    ("gre", Encap::Gre),
    ("fou", Encap::Fou),
    ("geneve", Encap::Geneve),
    ("l2", Encap::L2),
    ("nat", Encap::Nat),
];

/// The whole document; what is missing or wrong has its default, and a wrong one its finding.
pub(super) fn read<'t>(reader: &mut Reader<'_>, document: &'t DeTable<'t>) -> Plan {
    reader.check_sections(document);
    let mut plan = defaults();
    let mut once = |section| reader.tables(section, document, "").into_iter().next();
    let (node, tunnel, flows, nat) = (once(&keys::NODE), once(&keys::TUNNEL), once(&keys::FLOWS), once(&keys::NAT));
    if let Some(table) = &node {
        read_node(reader, table, &mut plan);
    }
    if let Some(table) = &tunnel {
        read_tunnel(reader, table, &mut plan);
    }
    if let Some(table) = &flows {
        read_flows(reader, table, &mut plan);
    }
    if let Some(table) = &nat {
        nat::read(reader, table, &mut plan.nat);
    }
    if let Some(table) = reader.tables(&keys::ANNOUNCE, document, "").into_iter().next() {
        plan.announce = Some(health::announce(reader, &table));
    }
    if let Some(table) = reader.tables(&keys::API, document, "").into_iter().next() {
        plan.api = served::api(reader, &table);
    }
    if let Some(table) = reader.tables(&keys::METRICS, document, "").into_iter().next() {
        plan.metrics = Some(served::metrics(reader, &table));
    }
    if plan.profile == Profile::Katran {
        plan.source_prefix_v4.get_or_insert(plan::KATRAN_SOURCES_V4);
        plan.source_prefix_v6.get_or_insert(plan::KATRAN_SOURCES_V6);
    }
    let mut addresses = named::Addresses::default();
    plan.vips = vips::read(reader, document, &plan, &mut addresses);
    named::read(reader, document, &mut plan, &mut addresses);
    warn_of_host_addresses(reader, &plan, (node.as_ref(), tunnel.as_ref()));
    plan
}

/// What a file says that says nothing.
fn defaults() -> Plan {
    Plan {
        interfaces: Vec::new(),
        mode: ModeWish::Auto,
        attach: Attach::Native,
        next_hop_mac: None,
        local_mac: None,
        on_control_loss: OnControlLoss::Keep,
        control_loss_after: plan::CONTROL_LOSS_AFTER,
        profile: Profile::Standard,
        cores: None,
        encap: Encap::Ipip,
        source_v4: None,
        source_v6: None,
        source_prefix_v4: None,
        source_prefix_v6: None,
        gue_port: plan::GUE_PORT,
        fou_ports: plan::FOU_PORTS,
        geneve_port: plan::GENEVE_PORT,
        zero_checksums: false,
        decap: DecapKinds::default(),
        decap_strict: true,
        tcp_server_id: false,
        max_frame: plan::MAX_FRAME,
        path_mtu: None,
        too_big: TooBig::Icmp,
        flow_capacity: plan::FLOW_CAPACITY,
        udp_idle: plan::UDP_IDLE,
        key_file: None,
        new_flows_per_core: plan::NEW_FLOWS_PER_CORE,
        nat: NatPlan::default(),
        server_ids: Vec::new(),
        source_routes: Vec::new(),
        decaps: Vec::new(),
        health_encaps: Vec::new(),
        vips: Vec::new(),
        announce: None,
        api: ApiPlan::default(),
        metrics: None,
    }
}

fn read_node(reader: &mut Reader<'_>, table: &Table<'_>, plan: &mut Plan) {
    plan.interfaces = interfaces(reader, table);
    let modes = [("auto", ModeWish::Auto), ("xdp", ModeWish::Xdp), ("afxdp", ModeWish::Afxdp)];
    plan.mode = reader.choice(table, "mode", &modes).unwrap_or(plan.mode);
    let attaches = [("native", Attach::Native), ("generic", Attach::Generic)];
    plan.attach = reader.choice(table, "attach", &attaches).unwrap_or(plan.attach);
    plan.next_hop_mac = reader.text(table, "next_hop_mac", values::station);
    plan.local_mac = reader.text(table, "local_mac", values::station);
    let profiles = [("standard", Profile::Standard), ("katran", Profile::Katran)];
    plan.profile = reader.choice(table, "profile", &profiles).unwrap_or(plan.profile);
    plan.cores = cores(reader, table);
    let losses = [("keep", OnControlLoss::Keep), ("pass", OnControlLoss::Pass), ("drop", OnControlLoss::Drop)];
    plan.on_control_loss = reader.choice(table, "on_control_loss", &losses).unwrap_or(plan.on_control_loss);
    let after: Option<Duration> = reader.text(table, "control_loss_after", values::up_to_a_day);
    plan.control_loss_after = after.unwrap_or(plan.control_loss_after);
}

/// One interface as a text, or several as an array.
fn interfaces(reader: &mut Reader<'_>, table: &Table<'_>) -> Vec<String> {
    const NAME: &str = "interface";
    let Some(item) = reader.any(table, NAME) else { return Vec::new() };
    if !matches!(item.value, DeValue::Array(_)) {
        return reader.text_of(table, NAME, &item, values::interface).into_iter().collect();
    }
    let Some(array) = reader.array(table, NAME) else { return Vec::new() };
    if array.value.is_empty() {
        let _: Option<String> = reader.wrong_type(table, NAME, &item);
    }
    let mut names: Vec<String> = Vec::new();
    for item in &array.value {
        let Some(name) = reader.text_of(table, NAME, item, values::interface) else { continue };
        if names.contains(&name) {
            let problem = format!("the same interface twice (found {name:?})");
            reader.mistake(Kind::Conflict, &item.place, problem, "remove one of them".to_owned());
        }
        names.push(name);
    }
    if names.len() > MAX_INTERFACES {
        let problem = format!("too many interfaces (found {})", names.len());
        reader.mistake(Kind::Value, &array.place, problem, format!("{MAX_INTERFACES} at most"));
    }
    names
}

fn cores(reader: &mut Reader<'_>, table: &Table<'_>) -> Option<Vec<usize>> {
    let array = reader.array(table, "cores")?;
    let mut cores = Vec::new();
    let mut seen = HashSet::new();
    for item in &array.value {
        // `CPU_SETSIZE`: what one affinity mask of the C library holds.
        let core = reader.number_of(table, "cores", 0..1024, item);
        let Some(core) = core.and_then(|core| usize::try_from(core).ok()) else {
            continue;
        };
        if seen.insert(core) {
            cores.push(core);
        } else {
            let problem = format!("the same core twice (found {core})");
            reader.mistake(Kind::Conflict, &item.place, problem, "remove one of them".to_owned());
        }
    }
    if array.value.is_empty() {
        reader.mistake(
            Kind::Value,
            &array.place,
            "no core (found an empty array)".to_owned(),
            "name at least one, or remove the key for one per receive queue".to_owned(),
        );
    }
    Some(cores)
}

/// A kind of `tunnel.decap`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tunnel {
    Ipip,
    Gue,
}

fn read_tunnel(reader: &mut Reader<'_>, table: &Table<'_>, plan: &mut Plan) {
    plan.encap = reader.choice(table, "encap", ENCAPS).unwrap_or(plan.encap);
    plan.source_v4 = reader.text(table, "source_v4", values::address_v4);
    plan.source_v6 = reader.text(table, "source_v6", values::address_v6);
    plan.source_prefix_v4 = reader.text(table, "source_prefix_v4", values::prefix_v4);
    plan.source_prefix_v6 = reader.text(table, "source_prefix_v6", values::prefix_v6);
    read_ports(reader, table, plan);
    let checksums = [("always", false), ("where-cheap", true)];
    plan.zero_checksums = reader.choice(table, "udp_checksum", &checksums).unwrap_or(plan.zero_checksums);
    let kinds = reader.set(table, "decap", &[("ipip", Tunnel::Ipip), ("gue", Tunnel::Gue)]);
    plan.decap = DecapKinds { ipip: kinds.contains(&Tunnel::Ipip), gue: kinds.contains(&Tunnel::Gue) };
    plan.decap_strict = reader.truth(table, "decap_strict").unwrap_or(plan.decap_strict);
    plan.tcp_server_id = reader.truth(table, "tcp_server_id").unwrap_or(plan.tcp_server_id);
    // 60: the smallest Ethernet frame. 3520: a page less XDP's headroom (256) and skb_shared_info (320).
    if let Some(size) = narrow(reader.number(table, "max_frame", 60..3521)) {
        plan.max_frame = size;
    }
    plan.path_mtu = narrow(reader.number(table, "path_mtu", 576..65_536));
    let answers = [("icmp", TooBig::Icmp), ("drop", TooBig::Drop)];
    plan.too_big = reader.choice(table, "too_big", &answers).unwrap_or(plan.too_big);
}

/// The UDP ports of tunnels; a receiver tells the kinds by their ports.
fn read_ports(reader: &mut Reader<'_>, table: &Table<'_>, plan: &mut Plan) {
    let [fou_v4, fou_v6] = &mut plan.fou_ports;
    let mut seen: Vec<(&str, u16)> = Vec::new();
    let ports = [
        ("gue_port", &mut plan.gue_port),
        ("fou_port_v4", fou_v4),
        ("fou_port_v6", fou_v6),
        ("geneve_port", &mut plan.geneve_port),
    ];
    for (name, port) in ports {
        if let Some(number) = narrow(reader.number(table, name, 1..65_536)) {
            *port = number;
        }
        if let Some((first, _)) = seen.iter().find(|(_, other)| other == port) {
            let problem = format!("the port of `{first}`, too (found {port})");
            let place = reader.any(table, name).map_or_else(|| table.place.clone(), |item| item.place);
            reader.mistake(Kind::Conflict, &place, problem, "each kind of tunnel needs a port of its own".to_owned());
        }
        seen.push((name, *port));
    }
}

fn read_flows(reader: &mut Reader<'_>, table: &Table<'_>, plan: &mut Plan) {
    if let Some(capacity) = narrow(reader.number(table, "capacity", 10..(1 << 31) + 1)) {
        plan.flow_capacity = capacity;
    }
    let idle: Option<Duration> = reader.text(table, "udp_idle", values::udp_idle);
    plan.udp_idle = idle.unwrap_or(plan.udp_idle);
    plan.key_file = reader.text(table, "key_file", values::absolute_path);
    if let Some(most) = narrow(reader.number(table, "new_flows_per_core", 1..1 << 32)) {
        plan.new_flows_per_core = most;
    }
}

/// A number whose range was checked to fit.
pub(super) fn narrow<T: TryFrom<u64>>(number: Option<u64>) -> Option<T> {
    number.and_then(|number| T::try_from(number).ok())
}

/// What only the host can supply: fine for `run`, unknown to `check`.
fn warn_of_host_addresses(reader: &mut Reader<'_>, plan: &Plan, (node, tunnel): (Option<&Table<'_>>, Option<&Table<'_>>)) {
    let at = |table: Option<&Table<'_>>, section: &Section, name: &str| Place {
        key: format!("{}.{name}", section.name),
        span: table.map_or(0..0, |table| table.place.span.clone()),
    };
    if plan.interfaces.is_empty() {
        reader.warn(
            &at(node, &keys::NODE, "interface"),
            "no interface: enough for `replay` and `trace`, `run` will refuse".to_owned(),
            "add it, for example `interface = \"eth0\"`".to_owned(),
        );
    }
    if plan.profile == Profile::Standard {
        let prefixes =
            [(plan.source_prefix_v4.is_some(), "source_prefix_v4"), (plan.source_prefix_v6.is_some(), "source_prefix_v6")];
        for (_, name) in prefixes.into_iter().filter(|(is_set, _)| *is_set) {
            reader.warn(
                &at(tunnel, &keys::TUNNEL, name),
                "ICMP errors from the way to the reals go to the sources that are crafted inside it; only if they are routed to \
                 this host can it tell the clients of a small MTU there"
                    .to_owned(),
                "route the prefix here, or see that the way to the reals takes every frame".to_owned(),
            );
        }
    }
    for (needed, name, family) in [(plan.needs_source_v4(), "source_v4", "IPv4"), (plan.needs_source_v6(), "source_v6", "IPv6")] {
        if needed {
            reader.warn(
                &at(tunnel, &keys::TUNNEL, name),
                format!(
                    "there are {family} reals and no source for their outer headers: it will be \
                     taken from the interface's own address"
                ),
                format!("set it if the interface has no {family} address, or several"),
            );
        }
    }
}
