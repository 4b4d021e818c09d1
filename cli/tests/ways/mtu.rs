//! MTUs on the way to the reals: what a real client's kernel makes of the balancer's ICMP.

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use nix::libc;
use tandem_lab::{Host, Lab};

use super::common::permitted;
use super::stand::{REAL, Service, Stand, sink, until, upload, vip};

const MOST: Duration = Duration::from_secs(20);
const STREAM: usize = 200_001;

fn option(socket: &UdpSocket, level: libc::c_int, name: libc::c_int, set: Option<libc::c_int>) -> libc::c_int {
    let (mut value, mut len) = (set.unwrap_or(0), size_of::<libc::c_int>() as libc::socklen_t);
    let (fd, at) = (socket.as_raw_fd(), (&raw mut value).cast());
    let done = if set.is_some() {
        // SAFETY: the value is as long as is said, and lives until the call returns.
        unsafe { libc::setsockopt(fd, level, name, at, len) }
    } else {
        // SAFETY: as above; the kernel writes at most that many bytes.
        unsafe { libc::getsockopt(fd, level, name, at, &raw mut len) }
    };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    value
}

/// The MTU that the client's kernel knows of the way to `to`, after it sent a full datagram there.
fn path_mtu(lab: &Lab, to: SocketAddr, expected: i32) -> i32 {
    let work = || {
        let any: SocketAddr = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse().expect("an address");
        let socket = UdpSocket::bind(any).expect("a port");
        let (level, discover, mtu) = if to.is_ipv4() {
            (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_MTU)
        } else {
            (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_MTU)
        };
        // IP_PMTUDISC_DO, and the same number for IPv6.
        option(&socket, level, discover, Some(2));
        socket.connect(to).expect("a route");
        let mut known = option(&socket, level, mtu, None);
        let began = Instant::now();
        while known != expected && began.elapsed() < Duration::from_secs(2) {
            let headers = if to.is_ipv4() { 28 } else { 48 };
            let _ = socket.send(&vec![7; known as usize - headers]);
            std::thread::sleep(Duration::from_millis(20));
            known = option(&socket, level, mtu, None);
        }
        known
    };
    lab.enter(Host::Client, work).expect("the client's namespace")
}

/// X3: the ICMP errors, judged by the kernel that gets them. The route's MTU counts, changed ones at once, in both seats.
#[test]
fn x3_a_client_learns_the_mtu_of_the_way_to_the_real() {
    if !permitted() {
        return;
    }
    let methods = [("ipip", 20, 40), ("gue", 28, 48), ("geneve", 36, 56)];
    let services: Vec<Service> = (1..)
        .zip(methods)
        .flat_map(|(n, (method, ..))| [false, true].map(|v6| Service::udp(vip(n, v6), 7000, method, v6)))
        .collect();
    let stand = Stand::new(&services, "", |ground| {
        for v6 in [false, true] {
            ground.route("add", v6, &format!("via {} mtu 1450", ground.gateway(1, v6)));
        }
    });
    let ground = stand.ground();
    assert!(stand.log().contains("has MTU 1450"), "{}", stand.log());
    for (seat, mtu) in [("xdp", 1450), ("afxdp", 1430)] {
        stand.seat(seat);
        for v6 in [false, true] {
            ground.route("replace", v6, &format!("via {} mtu {mtu}", ground.gateway(1, v6)));
        }
        std::thread::sleep(Duration::from_millis(300));
        for (service, (method, v4, v6)) in services.iter().zip(methods.into_iter().flat_map(|method| [method, method])) {
            let expected = mtu - if service.v6_real { v6 } else { v4 };
            let known = path_mtu(&stand.lab, service.at, expected);
            assert_eq!(known, expected, "{seat}, {method}, {}", service.at);
        }
        assert!(stand.counters()[seat]["reasons"]["too-big-reply"].as_u64().unwrap_or(0) >= 6, "{seat}");
    }
    assert_eq!(stand.counters()["afxdp"]["seat"]["defect"], 0);
}

/// The balancer's own way takes every frame; a router behind it does not, and says so to the balancer.
#[test]
fn a_transfer_over_a_small_mtu_behind_the_balancer_completes() {
    if !permitted() {
        return;
    }
    let ways = [
        ("ipip", false, false),
        ("ipip", true, true),
        ("gue", false, false),
        ("gue", true, true),
        ("ipip", true, false),
        ("gue", false, true),
    ];
    let all: Vec<(&str, Service)> = (1..)
        .zip(["xdp", "afxdp"].into_iter().flat_map(|seat| ways.map(|way| (seat, way))))
        .map(|(n, (seat, (method, v6, v6_real)))| (seat, Service::tcp(vip(n, v6), 7100, method, v6_real)))
        .collect();
    let services: Vec<Service> = all.iter().map(|(_, service)| *service).collect();
    let stand = Stand::new(&services, "", |_| {});
    let ground = stand.ground();
    ground.ip(Host::Router, &format!("link set {} mtu 1400", ground.port(REAL)));
    sink(&stand.lab, &services);
    for (seat, service) in &all {
        stand.seat(seat);
        let before = stand.reason("icmp-relayed");
        let took = upload(&stand.lab, service.at, STREAM, MOST)
            .unwrap_or_else(|error| panic!("{seat}, {service:?}: {error}; {}", stand.counters()));
        let relayed = stand.reason("icmp-relayed") - before;
        eprintln!("{seat}, {}, {} over IPv6 {}: {took:?}, {relayed} errors relayed", service.encap, service.at, service.v6_real);
        assert!(relayed > 0, "{seat}, {service:?}: it would have come through without");
    }
    assert_eq!(stand.counters()["afxdp"]["seat"]["defect"], 0);
}

/// The counter-proof: sources that are not routed back, and nobody to tell the client. It is said.
#[test]
fn errors_to_sources_that_are_not_routed_back_cannot_be_relayed() {
    if !permitted() {
        return;
    }
    let services = [Service::tcp(vip(1, false), 7100, "ipip", false)];
    let stand = Stand::new(&services, "source_prefix_v4 = \"172.31.0.0/16\"", |_| {});
    let ground = stand.ground();
    ground.ip(Host::Router, &format!("link set {} mtu 1400", ground.port(REAL)));
    sink(&stand.lab, &services);
    assert!(upload(&stand.lab, services[0].at, STREAM, Duration::from_secs(4)).is_err(), "{}", stand.counters());
    assert_eq!(stand.reason("icmp-relayed"), 0);
    assert!(stand.log().contains("source_prefix_v4: 172.31.0.0 is no address of this host"), "{}", stand.log());
    // Routed back, they are.
    let lb = stand.lab.link(Host::Lb).expect("a link").v4;
    ground.ip(Host::Router, &format!("route add 172.31.0.0/16 via {lb}"));
    until("the transfer", Duration::from_secs(60), || upload(&stand.lab, services[0].at, STREAM, MOST).is_ok());
    assert!(stand.reason("icmp-relayed") > 0);
}
