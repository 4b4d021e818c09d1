//! Checks that no lab can provoke, on facts of hosts that have such hardware: written down as such hosts report them, not read
//! from them. What is found is tried, not what cures it.

use serde_json::json;
use tandem_doctor::checks::{Proof, all};
use tandem_doctor::facts::{Device, HostFacts, Interrupt, Link, Place, Route, Tunnel, Xdp};
use tandem_doctor::{Balancer, Bundle, Role, Setting, Status, judge};

/// A balancer on a server with a card of two queues, and nothing wrong.
fn balancer() -> (HostFacts, Setting) {
    let mut facts = HostFacts::default();
    facts.machine.release = "6.12.48-amd64".into();
    facts.machine.maker = "Supermicro SYS-1029P".into();
    (facts.machine.processors, facts.machine.nodes) = (8, 2);
    facts.machine.node_processors = [(0, "0-3".to_owned()), (1, "4-7".to_owned())].into();
    facts.machine.governors = vec!["performance".into()];
    facts.machine.bpf_file_system = true;
    let xdp = Xdp { mode: "native".into(), program: 9, name: Some("balancer".into()) };
    facts.links = vec![Link {
        index: 2,
        name: "eth0".into(),
        up: true,
        mac: Some("3c:ec:ef:00:00:01".into()),
        mtu: 9000,
        rx_queues: 2,
        xdp: Some(xdp),
        device: Some(("0000:18:00.0".into(), "pci".into())),
        ..Link::default()
    }];
    facts.addresses = serde_json::from_value(json!([
        { "link": 2, "address": "10.0.0.9", "length": 24, "state": null },
        { "link": 2, "address": "fe80::9", "length": 64, "state": null }
    ]))
    .expect("addresses");
    let interrupt =
        |number, processors: &str| Interrupt { number, name: format!("eth0-{number}"), processors: processors.into() };
    let place = Place { driver: "ice".into(), node: 0, interrupts: vec![interrupt(100, "0"), interrupt(101, "1")] };
    facts.places = [("eth0".to_owned(), place)].into();
    let device = Device { ring: Some((512, 4096)), queues: Some((2, 2)), xdp_features: Some(0x6f), ..Device::default() };
    facts.devices = [("eth0".to_owned(), device)].into();
    facts.balancer = Some(json!({ "mode": "xdp", "interface": "eth0", "workers": [] }));
    facts.balancer_counters = Some(json!({ "xdp": { "seat": {} }, "afxdp": { "seat": {} } }));
    let setting = Setting {
        services: vec!["tcp,192.0.2.1:80,ipip,real=10.0.1.1".parse().expect("a service")],
        balancer: Some(Balancer {
            file: "tandem.toml".into(),
            name: "eth0".into(),
            interfaces: vec!["eth0".into()],
            native: true,
            max_frame: 1514,
            tells_too_big: true,
            ..Balancer::default()
        }),
        ..Setting::of(Role::Lb)
    };
    (facts, setting)
}

/// A real server of it, likewise.
fn real() -> (HostFacts, Setting) {
    let (mut facts, setting) = balancer();
    facts.links[0].xdp = None;
    facts.links.push(Link {
        index: 3,
        name: "tunl0".into(),
        kind: "ipip".into(),
        up: true,
        tunnel: Some(Tunnel { inner: 4, ..Tunnel::default() }),
        ..Link::default()
    });
    facts.addresses = serde_json::from_value(json!([
        { "link": 2, "address": "10.0.1.1", "length": 24, "state": null },
        { "link": 1, "address": "192.0.2.1", "length": 32, "state": null }
    ]))
    .expect("addresses");
    facts.links.push(Link { index: 1, name: "lo".into(), up: true, loopback: true, ..Link::default() });
    facts.listeners =
        serde_json::from_value(json!([{ "udp": false, "address": "0.0.0.0", "port": 80, "v6_only": false }])).expect("a socket");
    facts.devices.get_mut("eth0").expect("the card").queues = Some((1, 1));
    let sources = vec!["10.0.0.9".parse().expect("an address")];
    (facts, Setting { role: Role::Real, balancer: None, sources, ..setting })
}

/// A router in front of two of them.
fn router() -> (HostFacts, Setting) {
    let (mut facts, setting) = balancer();
    facts.settings =
        [("net/ipv4/ip_forward".to_owned(), "1".to_owned()), ("net/ipv4/fib_multipath_hash_policy".to_owned(), "1".to_owned())]
            .into();
    let hop = |address: &str| (Some("eth0".to_owned()), Some(address.parse().expect("an address")));
    facts.routes = vec![Route {
        to: "192.0.2.1".parse().expect("a VIP"),
        kind: "unicast".into(),
        table: 254,
        hops: vec![hop("10.0.0.9"), hop("10.0.0.10")],
        metric: 0,
        mtu: None,
    }];
    let balancers = vec!["10.0.0.9".parse().expect("an address"), "10.0.0.10".parse().expect("an address")];
    (facts, Setting { role: Role::Router, balancer: None, balancers, ..setting })
}

type Host = fn() -> (HostFacts, Setting);
type Change = fn(&mut HostFacts, &mut Setting);

fn lb(setting: &mut Setting) -> &mut Balancer {
    setting.balancer.as_mut().expect("a balancer")
}

fn card(facts: &mut HostFacts) -> &mut Device {
    facts.devices.get_mut("eth0").expect("the card")
}

fn drive(facts: &mut HostFacts, driver: &str) {
    facts.places.get_mut("eth0").expect("the card").driver = driver.into();
}

const ROWS: &[(&str, Status, Host, Change, &str)] = &[
    (
        "D-13",
        Status::Warn,
        balancer,
        |facts, _| facts.machine.maker = "Amazon EC2 c6in.large".into(),
        "IP protocols 4, 41 and 47",
    ),
    ("D-13", Status::Warn, real, |facts, _| drive(facts, "gve"), "driver gve"),
    (
        "D-36",
        Status::Warn,
        balancer,
        |_, setting| {
            lb(setting).marks = vec![(1, "10.0.0.1".parse().expect("an address"))];
            lb(setting).pools = vec!["172.16.0.0/16".parse().expect("a network")];
        },
        "172.16.0.0/16",
    ),
    (
        "D-37",
        Status::Fail,
        balancer,
        |facts, _| facts.losses = vec![("eth0".into(), "rx_missed_errors".into(), 31)],
        "grew by 31",
    ),
    (
        "D-38",
        Status::Warn,
        balancer,
        |facts, _| facts.places.get_mut("eth0").expect("the card").interrupts[1].processors = "0".into(),
        "go to processor 0",
    ),
    ("D-39", Status::Warn, balancer, |_, setting| lb(setting).cores = vec![4, 5], "cores 4, 5 are not"),
    (
        "D-39",
        Status::Warn,
        balancer,
        |facts, setting| {
            facts.machine.irqbalance = true;
            lb(setting).cores = vec![0, 1];
        },
        "irqbalance",
    ),
    (
        "D-41",
        Status::Fail,
        balancer,
        |facts, _| {
            card(facts).features.insert("rx-lro".into());
        },
        "LRO is on",
    ),
    (
        "D-41",
        Status::Fail,
        balancer,
        |facts, setting| {
            lb(setting).next_hop_mac = Some("3c:ec:ef:00:00:02".into());
            card(facts).features.insert("rx-vlan-hw-parse".into());
            facts.links.push(Link {
                index: 5,
                name: "eth0.20".into(),
                kind: "vlan".into(),
                vlan: Some(20),
                below: Some(2),
                ..Link::default()
            });
        },
        "rxvlan is on",
    ),
    (
        "D-41",
        Status::Warn,
        balancer,
        |facts, _| {
            card(facts).features.insert("rx-gro-hw".into());
        },
        "rx-gro-hw is on",
    ),
    (
        "D-42",
        Status::Warn,
        balancer,
        |facts, _| {
            drive(facts, "vmxnet3");
            facts.machine.release = "6.8.0-45-generic".into();
        },
        "CVE-2025-37799",
    ),
    ("D-46", Status::Warn, real, |facts, _| card(facts).queues = Some((8, 8)), "8 receive queues"),
    (
        "D-47",
        Status::Fail,
        real,
        |facts, setting| {
            setting.zero_checksums = true;
            setting.services = vec!["tcp,192.0.2.1:80,geneve,real=fd00::1".parse().expect("a service")];
            let tunnel = Tunnel { external: true, port: Some(6081), inner_ip: true, ..Tunnel::default() };
            facts.links.push(Link {
                index: 6,
                name: "gnv0".into(),
                kind: "geneve".into(),
                up: true,
                tunnel: Some(tunnel),
                ..Link::default()
            });
        },
        "without a checksum",
    ),
    ("D-48", Status::Fail, balancer, |_, setting| lb(setting).needs_source_v6 = true, "no IPv6 address"),
    (
        "D-50",
        Status::Warn,
        balancer,
        |facts, _| {
            facts.links[0].xdp = None;
            facts.links[0].master = Some(7);
            facts.links.push(Link { index: 7, name: "bond0".into(), kind: "bond".into(), ..Link::default() });
        },
        "bond0",
    ),
    (
        "D-52",
        Status::Warn,
        balancer,
        |facts, _| {
            let row = |queue, bound| json!({ "queue": queue, "core": queue, "bound": bound });
            facts.balancer =
                Some(json!({ "mode": "afxdp", "interface": "eth0", "workers": [row(0, "zero-copy"), row(1, "ended")] }));
        },
        "queue 1",
    ),
    (
        "D-52",
        Status::Warn,
        balancer,
        |facts, _| {
            let counted = |number| Some(json!({ "xdp": { "seat": { "no-socket": number } }, "afxdp": { "seat": {} } }));
            facts.balancer = Some(json!({ "mode": "afxdp", "interface": "eth0", "workers": [] }));
            (facts.balancer_counters_before, facts.balancer_counters) = (counted(40), counted(47));
        },
        "7 frames came in a moment",
    ),
    (
        "D-53",
        Status::Warn,
        balancer,
        |facts, setting| {
            drive(facts, "ixgbe");
            facts.machine.release = "6.14.2".into();
            lb(setting).userspace = true;
        },
        "ixgbe",
    ),
    ("D-54", Status::Warn, balancer, |facts, _| facts.machine.governors = vec!["powersave".into()], "powersave"),
    ("D-54", Status::Fail, balancer, |facts, _| facts.machine.missing_capabilities = vec!["CAP_BPF".into()], "CAP_BPF"),
    ("D-54", Status::Fail, balancer, |facts, _| facts.machine.bpf_file_system = false, "/sys/fs/bpf"),
    (
        "D-57",
        Status::Warn,
        router,
        |facts, _| drop(facts.settings.insert("net/ipv4/fib_multipath_hash_policy".into(), "0".into())),
        "by addresses alone",
    ),
    ("D-57", Status::Warn, router, |_, setting| setting.balancers.push([10, 0, 0, 11].into()), "without 10.0.0.11"),
];

#[test]
fn nothing_is_wrong_with_them_as_they_are() {
    for host in [balancer as Host, real, router] {
        let (facts, setting) = host();
        let report = judge(&facts, &setting);
        let wrong: Vec<_> = report.checks.iter().filter(|row| row.status >= Status::Warn).collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
    }
}

#[test]
fn each_is_found() {
    for (id, status, host, change, words) in ROWS {
        let (mut facts, mut setting) = host();
        change(&mut facts, &mut setting);
        // As it is written into a file, and read on another machine.
        let bundle = Bundle { version: "test".into(), setting, facts, report: None };
        let text = serde_json::to_string(&bundle).expect("JSON");
        let bundle: Bundle = serde_json::from_str(&text).expect("a bundle");
        let report = judge(&bundle.facts, &bundle.setting);
        let row = report.row(id).unwrap_or_else(|| panic!("{id} is not of this role"));
        assert_eq!(row.status, *status, "{id} ({words}): {:?}", row.findings);
        assert!(row.findings.iter().any(|finding| finding.observed.contains(words)), "{id}: {:?}", row.findings);
    }
}

#[test]
fn the_documentation_says_what_is_tried_here() {
    let tried: std::collections::BTreeSet<&str> = ROWS.iter().map(|(id, ..)| *id).collect();
    for check in all().filter(|check| check.proof.iter().any(|proof| matches!(proof, Proof::Recorded(_)))) {
        assert!(tried.contains(check.id), "{} is said to be tried on recorded facts", check.id);
    }
}
