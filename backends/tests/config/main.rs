//! The configuration file: every key, every kind of mistake with its literal message, any text at all, and the reference.

mod contradictions;
mod keys;
mod limits;
mod mistakes;
mod properties;

use std::time::Duration;

use tandem_backends::config::{
    Attach, Decap, DecapKinds, Encap, Finding, HealthEncap, Kind, Loaded, Mac, ModeWish, Prefix, Profile, Protocol, Real,
    RealState, Then, TooBig, VipFlags, Weighting, parse,
};

/// Every key that works now, each with a value that is not its default; no warnings but those of crafted sources.
const FULL: &str = r#"
[node]
interface = ["eth0"]
mode = "afxdp"
attach = "generic"
next_hop_mac = "00:00:de:ad:be:af"
local_mac = "00:ff:de:ad:be:af"
profile = "standard"
cores = [1, 0]

[tunnel]
encap = "gue"
source_v4 = "10.0.13.37"
source_v6 = "fc00:2307::1337"
source_prefix_v4 = "172.16.0.0/16"
source_prefix_v6 = "100::/64"
gue_port = 9886
decap = ["gue", "ipip"]
decap_strict = false
tcp_server_id = true
max_frame = 0x600
path_mtu = 1450
too_big = "drop"

[flows]
capacity = 10_000
udp_idle = "1500ms"
new_flows_per_core = 1000

[server_ids]
1024 = "fc00::1"
1022 = "10.0.0.1"

[[source_route]]
prefix = "192.168.0.0/17"
real = "fc00::2307:1"

[[source_route]]
prefix = "::/0"
real = "10.0.0.9"

[[decap]]
address = "fc00:1404::1"

[[decap]]
address = "10.0.14.4"
then = "egress"

[[health_encap]]
mark = 0xffff_ffff
real = "10.0.0.1"

[[vip]]
address = "10.200.1.1"
port = 80
protocol = "udp"
ring = "maglev-v1"
ring_size = 1009
encap = "ipip"
flags = ["no-source-port", "bypass-flow-table", "quic", "hash-dport-only", "source-routing", "local", "global-flow-table",
         "hash-src-dst-port", "udp-stable-routing", "udp-flow-migration"]

[[vip.real]]
address = "10.0.0.1"
weight = 3
state = "drain"
local = true
encap = "gue"

[[vip.real]]
address = "fc00::2"

[[vip]]
address = "fc00:1::/96"
port = 0
protocol = "tcp"
real = [{ address = "10.0.0.1", state = "down" }, { address = "10.0.0.3" }]
"#;

/// The smallest file without warnings; mistakes are added to it.
const SMALL: &str = r#"[node]
interface = "eth0"
[tunnel]
source_v4 = "10.0.13.37"
[[vip]]
address = "10.200.1.1"
port = 80
protocol = "tcp"
[[vip.real]]
address = "10.0.0.1"
"#;

fn good(text: &str) -> Loaded {
    parse(text, "t.toml").unwrap_or_else(|error| panic!("{error}"))
}

/// Asserts that `text` has no mistakes; warnings are allowed.
#[track_caller]
fn accepts(text: &str) {
    let Loaded { .. } = good(text);
}

fn findings(text: &str) -> Vec<Finding> {
    match parse(text, "t.toml") {
        Ok(loaded) => panic!("accepted: {loaded:?}"),
        Err(error) => error.findings().to_vec(),
    }
}

/// Asserts the mistakes of `text`, one a line, each without its file.
#[track_caller]
fn refuses(text: &str, expected: &str) {
    let error = parse(text, "t.toml").expect_err("a mistake").to_string();
    let found: Vec<&str> = error.lines().map(|line| line.strip_prefix("t.toml:").unwrap()).collect();
    assert_eq!(found.join("\n"), expected, "in\n{text}");
}

#[track_caller]
fn warns(text: &str, expected: &str) {
    let warnings = good(text).warnings;
    assert!(warnings.iter().all(|warning| warning.kind == Kind::Warning));
    let found: Vec<String> = warnings.iter().map(Finding::to_string).collect();
    assert_eq!(found.join("\n"), expected, "in\n{text}");
}

#[test]
fn every_key_reaches_the_plan() {
    let Loaded { plan, warnings } = good(FULL);
    assert!(warnings.iter().all(|warning| warning.key.starts_with("tunnel.source_prefix_v")), "{warnings:?}");
    assert_eq!(warnings.len(), 2);
    assert_eq!(plan.interfaces, ["eth0"]);
    assert_eq!(plan.mode, ModeWish::Afxdp);
    assert_eq!(plan.attach, Attach::Generic);
    assert_eq!(plan.next_hop_mac, Some(Mac([0, 0, 0xde, 0xad, 0xbe, 0xaf])));
    assert_eq!(plan.local_mac, Some(Mac([0, 0xff, 0xde, 0xad, 0xbe, 0xaf])));
    assert_eq!(plan.profile, Profile::Standard);
    assert_eq!(plan.cores, Some(vec![1, 0]));
    assert_eq!(plan.source_v4, Some("10.0.13.37".parse().unwrap()));
    assert_eq!(plan.source_v6, Some("fc00:2307::1337".parse().unwrap()));
    let (v4, v6) = ("172.16.0.0".parse().unwrap(), "100::".parse().unwrap());
    assert_eq!(plan.source_prefix_v4, Some((v4, 16)));
    assert_eq!(plan.source_prefix_v6, Some((v6, 64)));
    assert_eq!((plan.max_frame, plan.path_mtu), (1536, Some(1450)));
    assert_eq!(plan.flow_capacity, 10_000);
    assert_eq!(plan.udp_idle, Duration::from_millis(1500));
    let [first, second] = plan.vips.as_slice() else {
        panic!("{:?}", plan.vips);
    };
    assert_eq!(first.to_string(), "10.200.1.1:80/udp");
    assert_eq!(first.protocol, Protocol::Udp);
    assert_eq!(first.weighting, Weighting::V1);
    assert_eq!(first.ring_size, 1009);
    assert_eq!((first.encap, second.encap), (Encap::Ipip, Encap::Gue));
    assert_eq!((first.flags, second.flags), (VipFlags::all(), VipFlags::empty()));
    let real = |address: &str, state, encap| Real {
        address: address.parse().unwrap(),
        weight: 1,
        state,
        local: false,
        encap,
        inner_mac: None,
        port: None,
    };
    let drained = Real { weight: 3, local: true, ..real("10.0.0.1", RealState::Drain, Encap::Gue) };
    assert_eq!(first.reals, [drained, real("fc00::2", RealState::Up, Encap::Ipip)]);
    assert_eq!(second.to_string(), "[fc00:1::/96]:0/tcp");
    assert_eq!(second.prefix(), Prefix::new("fc00:1::".parse().unwrap(), 96));
    assert_eq!(second.weighting, Weighting::V2);
    assert_eq!(second.ring_size, 65_537);
    let down = real("10.0.0.1", RealState::Down, Encap::Gue);
    assert_eq!(second.reals, [down, real("10.0.0.3", RealState::Up, Encap::Gue)]);
}

#[test]
fn every_other_key_reaches_the_plan() {
    let Loaded { plan, .. } = good(FULL);
    assert_eq!((plan.encap, plan.gue_port), (Encap::Gue, 9886));
    assert_eq!(plan.decap, DecapKinds { ipip: true, gue: true });
    assert!(!plan.decap_strict && plan.tcp_server_id);
    assert_eq!((plan.too_big, plan.new_flows_per_core), (TooBig::Drop, 1000));
    let address = |text: &str| text.parse().unwrap();
    assert_eq!(plan.server_ids, [(1022, address("10.0.0.1")), (1024, address("fc00::1"))]);
    let prefix = |text: &str, len| Prefix::new(address(text), len).unwrap();
    let routes = [(prefix("192.168.0.0", 17), address("fc00::2307:1")), (prefix("::", 0), address("10.0.0.9"))];
    assert_eq!(plan.source_routes, routes);
    let decap = |text: &str, then| Decap { address: address(text), then };
    assert_eq!(plan.decaps, [decap("fc00:1404::1", Then::Balance), decap("10.0.14.4", Then::Egress)]);
    assert_eq!(plan.health_encaps, [HealthEncap { mark: u32::MAX, real: address("10.0.0.1") }]);
    let unowned: Vec<_> = plan.unowned_reals().collect();
    assert_eq!(unowned, ["10.0.0.1", "fc00::1", "fc00::2307:1", "10.0.0.9", "10.0.0.1"].map(address));
}

#[test]
fn defaults_are_those_of_the_contract() {
    let Loaded { plan, warnings } = good(SMALL);
    assert_eq!(warnings, []);
    assert_eq!(plan.mode, ModeWish::Auto);
    assert_eq!(plan.attach, Attach::Native);
    assert_eq!((plan.next_hop_mac, plan.local_mac, &plan.cores), (None, None, &None));
    assert_eq!((plan.source_v6, plan.source_prefix_v4, plan.source_prefix_v6), (None, None, None));
    assert_eq!((plan.max_frame, plan.flow_capacity), (1514, 1_000_000));
    assert_eq!((plan.udp_idle, plan.new_flows_per_core), (Duration::from_secs(30), 125_000));
    assert_eq!((plan.profile, plan.encap, plan.gue_port), (Profile::Standard, Encap::Ipip, 6080));
    assert_eq!((plan.decap, plan.decap_strict, plan.tcp_server_id), (DecapKinds::default(), true, false));
    assert_eq!(plan.too_big, TooBig::Icmp);
    assert!(plan.server_ids.is_empty() && plan.source_routes.is_empty());
    assert!(plan.decaps.is_empty() && plan.health_encaps.is_empty());
}
