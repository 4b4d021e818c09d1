//! More VIPs and reals than sixteen bits have ids for, in both seats.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};

use tandem_backends::config::parse;
use tandem_backends::replay::Tuple;
use tandem_backends::xdp::Headroom;
use tandem_engine::{From, Reason};

use crate::Twins;
use crate::frames::Rng;

const VIPS: u32 = 4_000;
const REALS: u32 = 20;
/// VIPs share the reals of every so many.
const ALIKE: u32 = 40;

#[test]
fn many_vips_and_reals() {
    let mut text = "node = { next_hop_mac = \"00:00:de:ad:be:af\", local_mac = \"00:ff:de:ad:be:af\" }
        tunnel = { source_v4 = \"10.0.13.37\" }\n"
        .to_owned();
    for vip in 0..VIPS {
        let address = Ipv4Addr::from(0x0a80_0000 + vip);
        let _ = write!(text, "[[vip]]\naddress = \"{address}\"\nport = 53\nprotocol = \"udp\"\nring_size = 1009\nreal = [");
        for real in 0..REALS {
            let _ = write!(text, "{{ address = \"{}\" }}, ", Ipv4Addr::from(0xac10_0000 + vip % ALIKE * REALS + real));
        }
        text += "]\n";
    }
    let mut plan = parse(&text, "plan").unwrap_or_else(|e| panic!("{e}")).plan;
    let Some(mut twins) = Twins::new(&plan, 1024) else { return };
    let mut rng = Rng(5);
    let (mut largest, mut largest_vip) = (0, 0);
    for round in 0..2 {
        assert_eq!(twins.engine.control().rings_shared(), (ALIKE as usize + round, VIPS));
        for n in 0..500 {
            // The last VIPs have the largest ids.
            let vip = if n % 2 == 0 { VIPS - 1 - rng.below(100) as u32 } else { rng.below(VIPS.into()) as u32 };
            let to = Ipv4Addr::from(0x0a80_0000 + vip);
            let tuple: Tuple = format!("udp 198.51.100.7:{} > {to}:53", 2000 + n).parse().unwrap();
            let first = twins.frame(&tuple.frame(), Headroom::Usual);
            assert_eq!(first.reason, Some(Reason::Forwarded));
            let (id, address) = first.real.expect("a real");
            let of = &plan.vips[vip as usize];
            assert!(of.reals.iter().any(|real| real.address == address), "{to}: {address}");
            assert_eq!(twins.engine.control().real_id(of, address), Some(id));
            largest = largest.max(id);
            largest_vip = largest_vip.max(first.vip.expect("a VIP").0);
            let second = twins.frame(&tuple.frame(), Headroom::Usual);
            assert_eq!((second.from, second.real), (Some(From::Flow), first.real));
        }
        let counters = twins.assert_tables_equal();
        assert_eq!(counters.vips.values().map(|row| row["packets"]).sum::<u64>(), 1000 * (round as u64 + 1));
        // A real that is removed takes its counters along.
        if round == 0 {
            assert_eq!(counters.reals.iter().map(|row| row.packets).sum::<u64>(), 1000);
        }
        // One of the last VIPs leaves the ring that it shares.
        plan.vips[VIPS as usize - 1].reals[0].address = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 9));
        let changes = twins.apply(&plan);
        assert_eq!(changes.rings, u32::from(round == 0), "{changes:?}");
    }
    assert!(largest > u16::MAX.into() && largest_vip > 3_000, "{largest} and {largest_vip} are the largest ids");
}
