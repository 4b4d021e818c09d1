//! What a plan leaves in the tables, and what a second one changes.

use std::cell::Cell;

use tandem_backends::config::{MAX_VIPS, Plan, parse};
use tandem_backends::control::{Changes, Control, ControlError, Facts, Grace, NoGrace, addr_words, features, key_name, vip_key};
use tandem_backends::memory::{Plain, Sizes, Tables};
use tandem_engine::memory::ids::find;
use tandem_engine::memory::nats::Opening;
use tandem_engine::memory::prefixes::{self, Space};
use tandem_engine::memory::reals::Method;
use tandem_engine::memory::vips::{self, DECAP, EGRESS, HAS_VIPS};
use tandem_engine::memory::{IdKey, Memory, Nat, Root, VipKey};
use tandem_engine::room_for;

const HEAD: &str = "
    node = { next_hop_mac = \"00:00:de:ad:be:af\", local_mac = \"00:ff:de:ad:be:af\", profile = \"PROFILE\" }
    tunnel = { source_v4 = \"10.0.13.37\", source_v6 = \"fc00:2307::1337\", decap = [\"gue\"], gue_port = 9886 }
";

const REST: &str = "
    server_ids = { 1022 = \"10.0.0.1\", 4294967295 = \"fc00::1\" }
    source_route = [{ prefix = \"192.168.0.0/17\", real = \"fc00::2307:1\" }]
    decap = [{ address = \"10.200.1.1\" }, { address = \"fc00:1404::1\", then = \"egress\" }]
    health_encap = [{ mark = 1, real = \"10.0.0.9\" }]
    [[vip]]
    address = \"10.200.1.1\"
    port = 80
    protocol = \"udp\"
    flags = [\"quic\", \"udp-flow-migration\"]
    real = [{ address = \"10.0.0.1\", state = \"down\" }, { address = \"10.0.0.2\", encap = \"gue\" }]
    [[vip]]
    address = \"fc00:1::/32\"
    port = 0
    protocol = \"tcp\"
    real = [{ address = \"fc00::1\", local = true }]
    [[vip]]
    address = \"252.0.0.1/32\"
    port = 0
    protocol = \"tcp\"
";

fn plan(profile: &str, rest: &str) -> Plan {
    parse(&format!("{}{rest}", HEAD.replace("PROFILE", profile)), "plan").unwrap_or_else(|e| panic!("{e}")).plan
}

struct Bed {
    control: Control,
    desk: Plain,
}

impl Bed {
    fn new(plan: &Plan) -> Self {
        let tables = Tables::plain(Sizes { flow_sets: 1024, ..Sizes::for_plan(plan, 1) }).unwrap();
        let desk = Plain::new(tables.clone(), 0);
        let mut bed = Self { control: Control::adopt(tables).unwrap(), desk };
        bed.apply(plan);
        bed
    }

    fn apply(&mut self, plan: &Plan) -> Changes {
        let facts = Facts::of_plan(plan, 0).unwrap();
        self.control.apply(plan, &facts, &NoGrace).unwrap()
    }

    fn root(&self) -> &Root {
        self.desk.root().unwrap()
    }

    /// What the id table has, as the address of the real; its owner is nobody.
    fn server(&self, id: u32) -> Option<u32> {
        Some(find(&self.desk, self.root(), IdKey::server(id))).filter(|real| *real != 0)
    }

    fn about(&self, address: &str) -> u32 {
        let key = VipKey::address(addr_words(address.parse().unwrap()));
        vips::find(&self.desk, self.root(), &key).map_or(0, |entry| entry.flags)
    }
}

#[test]
fn everything_of_a_plan_is_found() {
    let plan = plan("katran", REST);
    let bed = Bed::new(&plan);
    let (root, control) = (bed.root(), &bed.control);
    let unowned = |address: &str| control.unowned_real_id(address.parse().unwrap());
    assert_eq!(bed.server(1022), unowned("10.0.0.1"));
    assert_eq!(bed.server(u32::MAX), unowned("fc00::1"));
    assert_eq!(bed.server(1), None);
    assert!(unowned("10.0.0.9").is_some() && unowned("10.0.0.2").is_none());
    assert_ne!(bed.server(1022), control.real_id(&plan.vips[0], "10.0.0.1".parse().unwrap()));
    let route = prefixes::find(&bed.desk, root, Space::SourceV4, 0, addr_words("192.168.1.1".parse().unwrap()));
    assert_eq!(Some(route), unowned("fc00::2307:1"));

    // Both ids of the real that is down, and no other.
    let [first, prefix, same_words] = &plan.vips[..] else { panic!("{:?}", plan.vips) };
    let id = |vip| vips::find(&bed.desk, root, &vip_key(vip)).unwrap().id;
    let down = |real: Option<u32>| find(&bed.desk, root, IdKey::down(id(first), real.unwrap()));
    let of_first = |address: &str| control.real_id(first, address.parse().unwrap());
    assert_eq!((down(of_first("10.0.0.1")), down(unowned("10.0.0.1"))), (1, 1));
    assert_eq!((down(of_first("10.0.0.2")), down(unowned("fc00::1"))), (0, 0));

    assert_eq!(bed.about("10.200.1.1"), HAS_VIPS | DECAP);
    assert_eq!(bed.about("fc00:1404::1"), DECAP | EGRESS);
    assert_eq!(bed.about("fc00:1::"), 0);

    // fc00:1::/32 and 252.0.0.1/32 have the same words.
    assert_ne!(id(prefix), id(same_words));
    assert_eq!(key_name(&vip_key(prefix)), prefix.to_string());
    assert_eq!(key_name(&vip_key(same_words)), "252.0.0.1/32:0/tcp");

    let real = |id: Option<u32>| bed.desk.real(id.unwrap()).unwrap().hop();
    assert!(
        real(of_first("10.0.0.2")).is(Method::Gue)
            && !real(of_first("10.0.0.1")).is(Method::Gue)
            && !real(unowned("10.0.0.1")).is(Method::Gue)
    );
    assert!(real(control.real_id(prefix, "fc00::1".parse().unwrap())).is_local());
    // A connection id can lead to an IPv6 real, whose header is larger than that of GUE over IPv4.
    let entry = vips::find(&bed.desk, root, &vip_key(first)).unwrap();
    assert_eq!(entry.room(), u32::from(room_for(true, Method::Ipip)));
    // One of its reals is reached by GUE.
    assert_eq!(entry.flags & 0xffff, vips::QUIC | vips::UDP_FLOW_MIGRATION);
    assert_eq!(root.features.get(), features(&plan));
    assert_eq!(root.gue_port.get(), u32::from(9886_u16.to_be()));
}

#[test]
fn the_same_plan_changes_nothing() {
    let plan = plan("katran", REST);
    let mut bed = Bed::new(&plan);
    assert_eq!(bed.apply(&plan), Changes::default());
    // Another process that takes over looks, and finds everything in its place.
    bed.control = Control::adopt(bed.control.tables().clone()).unwrap();
    let before = bed.root().prefixes_in_force();
    assert_eq!(bed.apply(&plan), Changes::default());
    assert_eq!(bed.root().prefixes_in_force(), before);
}

/// Counts what it is asked to wait for.
#[derive(Default)]
struct Counting(Cell<u32>);

impl Grace for Counting {
    fn wait(&self) -> bool {
        self.0.set(self.0.get() + 1);
        true
    }
}

#[test]
fn what_a_plan_no_longer_says_goes() {
    let all = plan("katran", REST);
    let mut bed = Bed::new(&all);
    let none = plan("katran", "");
    let facts = Facts::of_plan(&none, 0).unwrap();
    let grace = Counting::default();
    let changes = bed.control.apply(&none, &facts, &grace).unwrap();
    assert_eq!((changes.vips_removed, changes.reals_removed, changes.prefix_tables), (3, 3 + 4, 1));
    assert!(grace.0.get() >= 4, "ids, prefixes, flows twice");
    assert_eq!((bed.server(1022), bed.server(u32::MAX)), (None, None));
    assert_eq!((bed.about("10.200.1.1"), bed.about("fc00:1404::1")), (0, 0));
    let root = bed.root();
    assert_eq!(prefixes::find(&bed.desk, root, Space::SourceV4, 0, addr_words("192.168.1.1".parse().unwrap())), 0);
    assert!(bed.control.tables().reals().iter().all(|real| !real.hop().is_present()));
    // And it can all come back, into the half that was in force first.
    assert_eq!(bed.apply(&all).prefix_tables, 1);
    assert_eq!(bed.root().prefixes_in_force().0, 0);
    assert!(bed.server(1022).is_some());
}

/// In profile standard a real that is down keeps no flows, so nobody has to leave it.
#[test]
fn down_reals_are_known_in_profile_katran_only() {
    let plan = plan("standard", REST);
    let bed = Bed::new(&plan);
    assert!(bed.server(1022).is_some());
    let keys = bed.control.tables().ids().iter().map(tandem_engine::memory::IdLine::used).sum::<usize>();
    assert_eq!(keys, 2);
    assert_eq!(bed.control.real_id(&plan.vips[0], "10.0.0.1".parse().unwrap()), None);
}

#[test]
fn a_real_changes_its_way_in_place() {
    let before = plan("standard", REST);
    let mut bed = Bed::new(&before);
    let id = bed.control.real_id(&before.vips[0], "10.0.0.2".parse().unwrap()).unwrap();
    let after = plan("standard", &REST.replace("encap = \"gue\"", "encap = \"ipip\""));
    assert_eq!(bed.apply(&after), Changes::default());
    assert_eq!(bed.control.real_id(&after.vips[0], "10.0.0.2".parse().unwrap()), Some(id));
    assert!(!bed.desk.real(id).unwrap().hop().is(Method::Gue));
}

#[test]
fn what_does_not_fit_is_named() {
    let small = plan("standard", "");
    let mut bed = Bed::new(&small);
    let ids: String = (1..=30_000).map(|id| format!("{id} = \"10.0.0.1\"\n")).collect();
    let ids = plan("standard", &format!("[server_ids]\n{ids}"));
    let facts = Facts::of_plan(&ids, 0).unwrap();
    assert_eq!(bed.control.apply(&ids, &facts, &NoGrace), Err(ControlError::IdsFull { found: 30_000, lines: 4096 }));
    let routes: String = (0..2000)
        .map(|n| format!("[[source_route]]\nprefix = \"10.{}.{}.0/24\"\nreal = \"10.0.0.1\"\n", n / 256, n % 256))
        .collect();
    let routes = plan("standard", &routes);
    let facts = Facts::of_plan(&routes, 0).unwrap();
    let mut bed = Bed::new(&small);
    assert_eq!(bed.control.apply(&routes, &facts, &NoGrace), Err(ControlError::PrefixesFull { found: 2000, slots: 1024 }));
    Bed::new(&routes);
}

/// Every VIP and every destination of tunnels that a configuration may have: the VIP table holds them all.
#[test]
fn as_many_addresses_as_a_plan_may_have() {
    let count = if std::env::var_os("TANDEM_LONG").is_some() { MAX_VIPS } else { 20_000 };
    let vips =
        (0..count).map(|n| format!("[[vip]]\naddress = \"10.200.{}.{}\"\nport = 80\nprotocol = \"tcp\"\n", n / 256, n % 256));
    let decaps = (0..512).map(|n| format!("[[decap]]\naddress = \"fc00:1404::{n:x}\"\n"));
    let plan = plan("standard", &vips.chain(decaps).collect::<String>());
    let bed = Bed::new(&plan);
    assert!((0..count).all(|n| bed.about(&format!("10.200.{}.{}", n / 256, n % 256)) == HAS_VIPS));
    assert!((0..512).all(|n| bed.about(&format!("fc00:1404::{n:x}")) == DECAP));
}

/// Claims that a process left on the NAT table when it was killed are taken off; one that a core is about to use is not.
#[test]
fn claims_of_dead_cores_are_taken_off() {
    let nat = "nat = { sources_v4 = [\"10.0.13.40\"] }\n[[vip]]\naddress = \"10.200.1.1\"\nport = 80\nprotocol = \"tcp\"\n\
               encap = \"nat\"\nreal = [{ address = \"10.0.0.1\" }]\n";
    let plan = plan("standard", nat);
    let bed = Bed::new(&plan);
    let tables = bed.control.tables().clone();
    let claim = |place: usize| assert!(tables.nats()[place].claim(&tables.root().nat, 5, false));
    assert_eq!(bed.control.release_claims(&NoGrace), 0);
    [3, 700].into_iter().for_each(claim);
    assert_eq!(bed.control.release_claims(&NoGrace), 2);
    assert!(tables.nats().iter().all(|nat| nat.claimed().is_none()));
    [3, 700].into_iter().for_each(claim);
    // The core of the first one lives: it has filled its place when the wait is over.
    struct Fills<'t>(&'t Nat);
    impl Grace for Fills<'_> {
        fn wait(&self) -> bool {
            if self.0.claimed().is_some() {
                let (client, vip) = ([1, 0], [2, 0]);
                self.0.fill(&Opening { client, vip, ports: 3, real: 1, source: 1, client_v6: false, tcp: true }, 0, 5);
            }
            true
        }
    }
    assert_eq!(bed.control.release_claims(&Fills(&tables.nats()[3])), 1);
    assert!(tables.nats()[3].entry().is_some() && tables.nats()[3].claimed().is_none());
    claim(700);
    // Nobody knows who has passed: nothing is taken off.
    struct Never;
    impl Grace for Never {
        fn wait(&self) -> bool {
            false
        }
    }
    assert_eq!(bed.control.release_claims(&Never), 0);
    assert!(tables.nats()[700].claimed().is_some());
}
