//! Probes of health checks over real sockets: a mark leads to its real, whatever the ring says.

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use socket2::{Domain, Protocol, Socket, Type};

use super::shell::{Balancer, Scratch, assert_gone, tandem};
use super::wire::{NEAR, VIP, config, in_namespace};

/// `ETH_P_ALL`, as the kernel wants it.
const EVERYTHING: i32 = 0x0003_u16.to_be() as i32;
/// The checker's address.
const CHECKER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const REALS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2)];
/// A real that serves no VIP.
const SPARE: Ipv4Addr = Ipv4Addr::new(10, 9, 9, 9);

/// A checker's socket on the balancer's interface.
fn checker(mark: u32) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).expect("a socket");
    socket.bind_device(Some(NEAR.as_bytes())).expect("on the interface");
    socket.set_mark(mark).expect("a mark");
    socket.set_reuse_address(true).expect("the same port again");
    socket.bind(&SocketAddrV4::new(CHECKER, 5000).into()).expect("an address");
    socket
}

/// Everything that leaves or arrives in this namespace.
fn tap() -> Socket {
    let tap = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(EVERYTHING))).expect("a packet socket");
    tap.set_read_timeout(Some(Duration::from_millis(50))).expect("a time limit");
    assert!(tap.as_raw_fd() >= 0);
    tap
}

/// The next frame whose payload ends with `tag`: its outer destination, and what the outer header carries.
fn next(tap: &Socket, tag: &[u8]) -> Option<(Ipv4Addr, u8, Vec<u8>)> {
    let end = Instant::now() + Duration::from_secs(10);
    while Instant::now() < end {
        let mut frame = [0; 2048];
        let Ok(length) = std::io::Read::read(&mut &*tap, &mut frame) else { continue };
        let frame = &frame[..length];
        if frame.ends_with(tag) && frame[12..14] == [8, 0] {
            let destination: [u8; 4] = frame[30..34].try_into().expect("four bytes");
            return Some((destination.into(), frame[23], frame[34..].to_vec()));
        }
    }
    None
}

fn probing() -> String {
    let marks = [(1, REALS[0]), (2, REALS[1]), (3, SPARE)];
    let rules = marks.map(|(mark, real)| format!("[[health_encap]]\nmark = {mark}\nreal = \"{real}\"\n"));
    config(NEAR, "mode = \"xdp\"") + &rules.concat()
}

#[test]
fn a_mark_leads_to_its_real() {
    in_namespace(|links| {
        links.veth();
        links.reach(NEAR, IpAddr::V4(CHECKER));
        let scratch = Scratch::new();
        let mut balancer = Balancer::start(&scratch.file("t.toml", probing()));
        let tap = tap();
        let send = |mark: u32, tag: &str| {
            let vip = SocketAddrV4::new(VIP, 80).into();
            checker(mark).send_to(tag.as_bytes(), &vip).expect("sent");
            next(&tap, tag.as_bytes()).unwrap_or_else(|| panic!("mark {mark}: nothing left the interface"))
        };
        // One flow, so that the ring has one real for it: at least one of the marks leads elsewhere.
        for (mark, real) in [(1, REALS[0]), (2, REALS[1]), (3, SPARE), (1, REALS[0])] {
            let (to, protocol, inner) = send(mark, &format!("probe of {mark}"));
            assert_eq!((to, protocol), (real, 4), "mark {mark}");
            assert_eq!((&inner[12..16], &inner[16..20]), (&CHECKER.octets()[..], &VIP.octets()[..]));
        }
        for mark in [0, 9] {
            let (to, protocol, _) = send(mark, &format!("no probe {mark}"));
            assert_eq!((to, protocol), (VIP, 17), "mark {mark} is no probe's");
        }
        balancer.signal(Signal::SIGTERM);
        balancer.end().done();
        assert_gone(&balancer.name);
        assert_eq!(send(1, "after the end").0, VIP, "the program is still there");
    });
}

#[test]
fn a_killed_one_leaves_no_probes_after_detach() {
    in_namespace(|links| {
        links.veth();
        links.reach(NEAR, IpAddr::V4(CHECKER));
        let scratch = Scratch::new();
        let mut balancer = Balancer::start(&scratch.file("t.toml", probing()));
        let tap = tap();
        let send = |tag: &str| {
            checker(3).send_to(tag.as_bytes(), &SocketAddrV4::new(VIP, 80).into()).expect("sent");
            next(&tap, tag.as_bytes()).expect("a frame").0
        };
        balancer.signal(Signal::SIGKILL);
        balancer.end();
        assert_eq!(send("without a process"), SPARE);
        let second = Balancer::start_as(&balancer.name, &scratch.file("t.toml", probing()), &[]);
        assert_eq!(send("of the second"), SPARE);
        second.signal(Signal::SIGKILL);
        drop(second);
        tandem(["detach", &balancer.name]).done();
        assert_gone(&balancer.name);
        assert_eq!(send("detached"), VIP);
    });
}

/// Each real's own method, through the kernel's socket buffers: what is between the outer IP header and the probe.
#[test]
fn a_probe_goes_by_its_reals_method() {
    const METHODS: [(&str, u8, usize); 5] =
        [("ipip", 4, 0), ("gre", 47, 4), ("fou", 17, 8), ("gue0", 17, 12), ("geneve", 17, 16)];
    in_namespace(|links| {
        links.veth();
        links.reach(NEAR, IpAddr::V4(CHECKER));
        let real = |n: usize| Ipv4Addr::new(10, 0, 0, 1 + n as u8);
        let (mut reals, mut marks) = (Vec::new(), String::new());
        for (n, (method, ..)) in METHODS.into_iter().enumerate() {
            let address = real(n);
            reals.push(format!("{{ address = \"{address}\", encap = \"{method}\" }}"));
            marks += &format!("[[health_encap]]\nmark = {}\nreal = \"{address}\"\n", n + 1);
        }
        let old = "{ address = \"10.0.0.1\" }, { address = \"10.0.0.2\" }";
        let text = config(NEAR, "mode = \"xdp\"").replace(old, &reals.join(", ")) + &marks;
        let scratch = Scratch::new();
        let _balancer = Balancer::start(&scratch.file("t.toml", text));
        let tap = tap();
        for (n, (method, protocol, between)) in METHODS.into_iter().enumerate() {
            let tag = format!("by {method}");
            checker(n as u32 + 1).send_to(tag.as_bytes(), &SocketAddrV4::new(VIP, 80).into()).expect("sent");
            let (to, found, behind) =
                next(&tap, tag.as_bytes()).unwrap_or_else(|| panic!("{method}: nothing left the interface"));
            assert_eq!((to, found), (real(n), protocol), "{method}");
            let inner = &behind[between..];
            assert_eq!((inner[0], &inner[12..16], &inner[16..20]), (0x45, &CHECKER.octets()[..], &VIP.octets()[..]), "{method}");
        }
    });
}
