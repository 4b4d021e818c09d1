//! The filter of a capture, in the kernel seat's own program, against libpcap's interpreter; and what a captured frame costs.

use etherparse::{EtherType, IpNumber, PacketBuilder, VlanId};
use pcap::{BpfProgram, Capture, Linktype};
use tandem_backends::capture::{Classic, Counts, Wish};
use tandem_backends::config::parse;
use tandem_backends::control::{Control, Facts, KernelGrace};
use tandem_backends::memory::Sizes;
use tandem_backends::xdp::{Balancer, Headroom, Role, Sources};

use super::shell::is_privileged;

/// What people ask for, and what takes every instruction of classic BPF that libpcap makes.
const FILTERS: [&str; 24] = [
    "ip",
    "not ip6 and not arp",
    "host 192.0.2.7",
    "src net 198.51.100.0/24 and dst port 80",
    "host 2001:db8::7 or tcp portrange 8000-8100",
    "udp",
    "tcp[tcpflags] & (tcp-syn|tcp-fin) != 0",
    "tcp[13] = 2 and tcp[2:2] = 80",
    "vlan and udp port 53",
    "vlan 7",
    "ether src 02:00:00:00:00:01",
    "ether broadcast or multicast",
    "greater 100",
    "less 70 and ip",
    "len - 20 > 60",
    "ip[8] < 10",
    "ip[0] & 0xf > 5",
    "ip[6:2] & 0x1fff != 0",
    "udp[8:4] = 0x74616e64",
    "ip[2:2] - ((ip[0] & 0xf) << 2) > 40",
    "(udp[4:2] * 3 / 2) % 7 = 0",
    "ip proto 4 or icmp",
    "ip6 proto 17",
    "ether[12:2] >= 0x86dd or ether[6] ^ 4 = 0",
];

fn compiled(filter: &str) -> BpfProgram {
    Capture::dead(Linktype::ETHERNET).expect("libpcap").compile(filter, true).unwrap_or_else(|e| panic!("{filter}: {e}"))
}

fn classic(program: &BpfProgram) -> Vec<Classic> {
    let instruction = |text: String| {
        let numbers: Vec<u32> = text.split(' ').map(|number| number.parse().expect("a number")).collect();
        Classic { code: numbers[0] as u16, jt: numbers[1] as u8, jf: numbers[2] as u8, k: numbers[3] }
    };
    program.get_instructions().iter().map(ToString::to_string).map(instruction).collect()
}

fn frames() -> Vec<Vec<u8>> {
    let ethernet = || PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 8]);
    let stranger = || PacketBuilder::ethernet2([4, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 8]);
    let (near, far) = ([192, 0, 2, 7], [198, 51, 100, 9]);
    let six = |last: u8| [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last];
    let mut frames = Vec::new();
    let mut write = |payload: &[u8], build: &dyn Fn(&mut Vec<u8>, &[u8])| {
        let mut frame = Vec::new();
        build(&mut frame, payload);
        frames.push(frame);
    };
    let payloads: [&[u8]; 4] = [b"", b"tandem", &[0x55; 60], &[7; 400]];
    for payload in payloads {
        for port in [53, 80, 8050] {
            for (from, to) in [(near, far), (far, near)] {
                write(payload, &|out, data| {
                    ethernet().ipv4(from, to, 64).udp(port, 80).write(out, data).expect("a frame");
                });
                write(payload, &|out, data| {
                    let builder = ethernet().ipv4(from, to, 5).tcp(port, 80, 1, 1000);
                    let builder = if port == 53 { builder.syn() } else { builder.ack(7) };
                    builder.write(out, data).expect("a frame");
                });
                write(payload, &|out, data| {
                    let vlan = VlanId::try_new(if port == 53 { 7 } else { 9 }).expect("an id");
                    ethernet().single_vlan(vlan).ipv4(from, to, 64).udp(1000, port).write(out, data).expect("a frame");
                });
            }
            write(payload, &|out, data| {
                stranger().ipv6(six(7), six(9), 64).udp(port, 80).write(out, data).expect("a frame");
            });
        }
        write(payload, &|out, data| {
            ethernet().ipv4(near, far, 64).icmpv4_echo_request(1, 2).write(out, data).expect("a frame");
        });
        write(payload, &|out, data| {
            let builder = ethernet().ip(etherparse::IpHeaders::Ipv4(
                etherparse::Ipv4Header {
                    source: near,
                    destination: far,
                    time_to_live: 3,
                    fragment_offset: 100_u16.try_into().expect("an offset"),
                    options: [1, 1, 1, 0].into(),
                    ..etherparse::Ipv4Header::default()
                },
                etherparse::Ipv4Extensions::default(),
            ));
            builder.write(out, IpNumber::UDP, data).expect("a frame");
        });
    }
    // Neither IP nor long.
    let with = |kind: EtherType, rest: &[u8]| [&[0xff; 6], [2, 0, 0, 0, 0, 1].as_slice(), &kind.0.to_be_bytes(), rest].concat();
    frames.push(with(EtherType::ARP, &[1; 46]));
    frames.push(with(EtherType::IPV4, &[0x45, 0, 0]));
    frames.push(with(EtherType::IPV4, &[]));
    frames.push(with(EtherType(0x88cc), &[0x45; 30]));
    frames
}

/// A balancer that captures, and what it tells.
fn capturing(wish: &Wish) -> (Balancer, Sources) {
    let plan = parse("[node]\nnext_hop_mac = \"02:00:00:00:00:09\"\nlocal_mac = \"02:00:00:00:00:01\"\n", "filters")
        .expect("a plan")
        .plan;
    let cpus = u32::try_from(std::thread::available_parallelism().map_or(1, std::num::NonZero::get)).expect("few");
    let sizes = Sizes { flow_sets: 64, features: 0, ..Sizes::for_plan(&plan, cpus.max(64)) };
    let mut balancer = Balancer::load_for(&Role::Unpinned, sizes, Some(wish.clone())).expect("it loads");
    let sources = balancer.sources().expect("buffers");
    (balancer, sources)
}

#[test]
fn filters_take_what_libpcap_takes() {
    if !is_privileged() {
        return;
    }
    let frames = frames();
    for filter in FILTERS {
        let program = compiled(filter);
        let wish = Wish { filter: classic(&program), rate: 1_000_000, ..Wish::default() };
        let (balancer, mut sources) = capturing(&wish);
        let (mut out, mut taken) = (Vec::new(), 0);
        for frame in &frames {
            balancer.run_frame(frame, Headroom::Usual, &mut out).expect("it runs");
            let mut came = Vec::new();
            sources.read(|sight, bytes| {
                if sight.reason == 0 {
                    came.push(bytes.to_vec());
                }
            });
            let expected: Vec<Vec<u8>> = if program.filter(frame) { vec![frame.clone()] } else { Vec::new() };
            assert_eq!(came, expected, "{filter}, for {frame:02x?}");
            taken += came.len();
        }
        println!("{filter}: {} instructions, {taken} of {} frames", wish.filter.len(), frames.len());
        let counted = Counts { accepted: taken as u64, limited: 0, captured: taken as u64, lost: 0 };
        assert_eq!(sources.counts(), counted, "{filter}");
        assert!(taken > 0 && taken < frames.len(), "{filter}: {taken} of {} frames are no test", frames.len());
    }
}

const SERVICE: &str = r#"
    node = { next_hop_mac = "02:00:00:00:00:09", local_mac = "02:00:00:00:00:01" }
    tunnel.source_v4 = "192.0.2.1"
    vip = [{ address = "10.200.1.1", port = 80, protocol = "udp", real = [{ address = "10.0.0.1" }, { address = "10.0.0.2" }] }]
"#;

/// Nanoseconds for a forwarded frame, with and without a capture. Printed, not judged: a machine that does something else at the
/// same time says anything.
#[test]
fn what_a_frame_costs() {
    if !is_privileged() {
        return;
    }
    let frame = |len: usize| {
        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], [2, 0, 0, 0, 0, 1]);
        let builder = builder.ipv4([198, 51, 100, 7], [10, 200, 1, 1], 64).udp(41_000, 80);
        builder.write(&mut frame, &vec![0; len]).expect("a frame");
        frame
    };
    let plan = parse(SERVICE, "costs").expect("a plan").plan;
    let facts = Facts::of_plan(&plan, 0).expect("all is in the plan");
    let other = classic(&compiled("host 203.0.113.1 and tcp port 443"));
    let cases = [
        ("nobody captures", None),
        ("a filter does not take it", Some(Wish { filter: other, ..Wish::default() })),
        ("it is not the one of many", Some(Wish { sample: u32::MAX, ..Wish::default() })),
        ("it is over the rate", Some(Wish { rate: 1, ..Wish::default() })),
        ("it is captured, 128 bytes of it", Some(Wish { rate: u32::MAX, snap: 128, ..Wish::default() })),
        ("it is captured", Some(Wish { rate: u32::MAX, ..Wish::default() })),
    ];
    let sizes = Sizes { flow_sets: 64, ..Sizes::for_plan(&plan, 64) };
    for (what, wish) in cases {
        let mut balancer = Balancer::load_for(&Role::Unpinned, sizes, wish).expect("it loads");
        let mut control = Control::adopt(balancer.tables().clone()).expect("tables");
        control.apply(&plan, &facts, &KernelGrace).expect("it fits");
        let mut sources = balancer.sources().expect("maps");
        for frame in [frame(18), frame(1400)] {
            // The first one enters the flow.
            balancer.run_frame(&frame, Headroom::Usual, &mut Vec::new()).expect("it runs");
            let mut least = u128::MAX;
            for _ in 0..10 {
                let (with, without) = balancer.time_frame(&frame, 100).expect("it runs");
                least = least.min(with.saturating_sub(without).as_nanos());
                sources.read(|_, _| {});
            }
            println!("{what}: {least} ns, {} bytes", frame.len());
        }
        assert_eq!(sources.counts().lost, 0);
    }
}
