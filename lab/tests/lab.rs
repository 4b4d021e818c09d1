//! Labs in the running kernel: up and usable. Each test has a prefix of its own.

mod support;

use std::{
    net::{IpAddr, SocketAddr, TcpStream},
    process::Command,
    time::Duration,
};

use support::{assert_gone, assert_talks, permitted};
use tandem_lab::{Host, Lab, LabError, Spec, Topology};

fn vips() -> [IpAddr; 2] {
    [[10, 200, 1, 1].into(), [0xfc00, 0x200, 0, 0, 0, 0, 0, 1].into()]
}

/// Everything the reals need but a balancer: addresses of both families reachable, the VIPs on `lo`, answers from there.
fn assert_connected(lab: &Lab) {
    for link in lab.topology().reals().chain([lab.link(Host::Lb).unwrap()]) {
        assert_talks(lab, link.host, link.v4.into());
        assert_talks(lab, link.host, link.v6.into());
    }
}

#[test]
fn routed_connects_all_hosts() {
    if !permitted() {
        return;
    }
    let lab = Lab::up(Spec { reals: 4, ..Spec::routed("t-routed", &vips()) }).unwrap();
    let topology = lab.topology().clone();
    assert_eq!(topology.links.len(), 6);
    assert_connected(&lab);
    for link in &topology.links {
        let index = lab.enter(link.host, || nix::net::if_::if_nametoindex("eth0").unwrap()).unwrap();
        assert_eq!(index, link.index);
    }
    let removed = lab.tear_down().unwrap();
    assert_eq!(removed.namespaces.len(), 7);
    assert_gone(&topology);
}

#[test]
fn classic_connects_all_hosts() {
    if !permitted() {
        return;
    }
    let lab = Lab::up(Spec::classic("t-classic")).unwrap();
    assert_connected(&lab);
    let topology = lab.topology().clone();
    drop(lab);
    assert_gone(&topology);
}

#[test]
fn segment_connects_all_hosts() {
    if !permitted() {
        return;
    }
    let lab = Lab::up(Spec::segment("t-segment", &vips())).unwrap();
    assert_connected(&lab);
    let topology = lab.topology().clone();
    let subnet = |host| lab.link(host).unwrap().v4.octets()[..3].to_vec();
    assert_eq!(subnet(Host::Lb), subnet(Host::Real(3)));
    assert_ne!(subnet(Host::Lb), subnet(Host::Client));
    drop(lab);
    assert_gone(&topology);
}

/// The bytes of the frame in which a packet to the VIP reaches the balancer: announced by the router's route, with a
/// checksum that is complete although the client's stack would have left it to the device.
#[test]
fn vips_reach_the_balancer_with_complete_checksums() {
    if !permitted() {
        return;
    }
    let specs = [Spec::routed("t-vip-routed", &vips()), Spec::classic("t-vip-classic"), Spec::segment("t-vip-segment", &vips())];
    for spec in specs {
        let lab = Lab::up(spec).unwrap();
        for vip in lab.topology().spec.vips.clone() {
            let frame = first_frame_to(&lab, SocketAddr::new(vip, 5678));
            let lb = lab.link(Host::Lb).unwrap();
            assert_eq!(frame[..6], lb.mac.0, "{vip}");
            let packet = etherparse::PacketHeaders::from_ethernet_slice(&frame).unwrap();
            let udp = packet.transport.unwrap().udp().unwrap();
            let ip = packet.net.unwrap();
            let right = match ip {
                etherparse::NetHeaders::Ipv4(ip, _) => udp.calc_checksum_ipv4(&ip, packet.payload.slice()),
                etherparse::NetHeaders::Ipv6(ip, _) => udp.calc_checksum_ipv6(&ip, packet.payload.slice()),
                other => panic!("{other:?}"),
            };
            assert_eq!(right.unwrap(), udp.checksum, "{vip}");
        }
    }
}

/// Sends from the client and catches on the balancer's device.
fn first_frame_to(lab: &Lab, to: SocketAddr) -> Vec<u8> {
    use std::io::Read;
    let mut capture = lab.enter(Host::Lb, || {
        // ETH_P_ALL in network order: every frame of the namespace's devices.
        let all = socket2::Protocol::from(i32::from(0x0003_u16.to_be()));
        let socket = socket2::Socket::new(socket2::Domain::PACKET, socket2::Type::RAW, Some(all)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        socket
    });
    let capture = capture.as_mut().unwrap();
    lab.enter(Host::Client, || {
        let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
        std::net::UdpSocket::bind((any, 0)).unwrap().send_to(b"to the vip", to).unwrap();
    })
    .unwrap();
    let mut frame = [0; 2048];
    loop {
        let len = capture.read(&mut frame).unwrap();
        if frame[..len].ends_with(b"to the vip") {
            return frame[..len].to_vec();
        }
    }
}

#[test]
fn full_frames_pass_the_links_that_carry_tunnels() {
    if !permitted() {
        return;
    }
    let lab = Lab::up(Spec::routed("t-mtu", &vips())).unwrap();
    let real = lab.link(Host::Real(2)).unwrap();
    let to = SocketAddr::from((real.v4, 9));
    // 1500 and 40 of an outer IPv6 header, from the balancer; and what is larger than the client's link, from there.
    let send = |len: usize| {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        // IP_PMTUDISC_DO: never fragment.
        never_fragment(&socket);
        socket.send_to(&vec![0; len], to).map_err(|error| error.raw_os_error())
    };
    assert_eq!(lab.enter(Host::Lb, || send(1540 - 28)).unwrap(), Ok(1512));
    assert_eq!(lab.enter(Host::Client, || send(1501 - 28)).unwrap(), Err(Some(libc::EMSGSIZE)));
}

fn never_fragment(socket: &std::net::UdpSocket) {
    use std::os::fd::AsRawFd;
    let value = libc::IP_PMTUDISC_DO;
    // SAFETY: the descriptor is open, and the pointer is to an `int` of the length given.
    let answer =
        unsafe { libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, (&raw const value).cast(), 4) };
    assert_eq!(answer, 0);
}

#[test]
fn a_second_lab_of_the_name_is_refused_and_a_kept_one_stays() {
    if !permitted() {
        return;
    }
    let spec = Spec::routed("t-kept", &vips());
    let topology = Topology::new(spec.clone()).unwrap();
    let mut lab = Lab::up(spec.clone()).unwrap();
    let error = Lab::up(spec).unwrap_err();
    assert!(matches!(error, LabError::Exists { .. }) && error.to_string().contains("tandem lab down --prefix t-kept"));
    lab.keep().unwrap();
    drop(lab);
    let status = Lab::status("t-kept").unwrap();
    assert!(status.kept && status.owner_alive && status.missing_namespaces.is_empty());
    assert!(serde_json::to_string(&status).unwrap().contains("\"real3\""));
    let lab = Lab::open("t-kept").unwrap();
    assert_eq!(lab.topology().links, status.topology.links);
    assert!(lab.exec(Host::Lb, Command::new("true")).unwrap().success());
    assert!(Lab::all().unwrap().contains(&"t-kept".to_owned()));
    drop(lab);
    assert_eq!(Lab::down("t-kept").unwrap().namespaces.len(), 6);
    assert_gone(&topology);
    assert!(matches!(Lab::down("t-kept"), Err(LabError::Missing { .. })));
    assert!(matches!(Lab::open("t-kept"), Err(LabError::Missing { .. })));
}

#[test]
fn labs_stand_side_by_side() {
    if !permitted() {
        return;
    }
    let labs: Vec<_> = std::thread::scope(|scope| {
        let up = |n| scope.spawn(move || Lab::up(Spec::routed(&format!("t-side-{n}"), &vips())).unwrap());
        [1, 2, 3].map(up).into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for lab in labs.iter().rev() {
        assert_talks(lab, Host::Real(1), lab.link(Host::Real(1)).unwrap().v6.into());
    }
    let topologies: Vec<_> = labs.iter().map(|lab| lab.topology().clone()).collect();
    std::thread::scope(|scope| {
        for lab in labs {
            scope.spawn(move || drop(lab));
        }
    });
    topologies.iter().for_each(assert_gone);
}

#[test]
fn nobody_listens_in_a_fresh_lab() {
    if !permitted() {
        return;
    }
    let lab = Lab::up(Spec::routed("t-fresh", &[])).unwrap();
    let to = SocketAddr::from((lab.link(Host::Real(1)).unwrap().v4, 80));
    let error = lab.enter(Host::Client, || TcpStream::connect(to).map(|_| ()).unwrap_err()).unwrap();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
}
