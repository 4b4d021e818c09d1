//! Real servers and real clients in a lab without a balancer: straight to the reals' own addresses.

mod support;

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use support::{assert_gone, permitted};
use tandem_lab::{
    Host, Lab, LabError, Servers, Services, Spec, http,
    iperf3::{Iperf3, Kind, Test},
    transfer::{Direction, Plan, Transfer},
};

fn everywhere(port: u16) -> Vec<SocketAddr> {
    vec![(Ipv4Addr::UNSPECIFIED, port).into(), (Ipv6Addr::UNSPECIFIED, port).into()]
}

/// A lab with servers, and the addresses of its first real.
fn lab(prefix: &str, services: &Services) -> (Lab, Servers, [IpAddr; 2]) {
    let lab = Lab::up(Spec { reals: 2, ..Spec::routed(prefix, &[]) }).unwrap();
    let servers = Servers::start(&lab, services).unwrap();
    let real = lab.link(Host::Real(1)).unwrap();
    let addresses = [real.v4.into(), real.v6.into()];
    (lab, servers, addresses)
}

fn down(lab: Lab, servers: Servers) {
    let topology = lab.topology().clone();
    drop(servers);
    assert_eq!(lab.tear_down().unwrap().stragglers, 0);
    assert_gone(&topology);
}

#[test]
fn every_request_is_answered_by_the_real_it_went_to() {
    if !permitted() {
        return;
    }
    let (lab, servers, addresses) = lab("t-http", &Services { web: everywhere(80), ..Services::default() });
    let client = lab.link(Host::Client).unwrap();
    for address in addresses {
        let load = http::Load {
            source: client.address_like(address),
            target: SocketAddr::new(address, 80),
            first_port: 20_000,
            requests: 300,
            threads: 8,
            timeout: Duration::from_secs(5),
        };
        // Twice: the ports of the first round are in TIME_WAIT then.
        for _ in 0..2 {
            let exchanges = http::run(&lab, &load, |_| true).unwrap();
            let ports: BTreeSet<_> = exchanges.iter().map(|exchange| exchange.source.port()).collect();
            assert_eq!(ports, (20_000..20_300).collect());
            for exchange in &exchanges {
                let answer = exchange.answer.as_ref().unwrap_or_else(|error| panic!("{}: {error}", exchange.source));
                assert_eq!((answer.real.as_str(), answer.seen), ("real1", exchange.source));
                assert!(exchange.latency < Duration::from_secs(5));
            }
        }
        let stopped = http::run(&lab, &load, |_| false).unwrap();
        assert!(stopped.len() <= load.threads, "{}", stopped.len());
        let nobody = http::Load { target: SocketAddr::new(address, 81), requests: 1, ..load.clone() };
        let exchanges = http::run(&lab, &nobody, |_| true).unwrap();
        assert!(
            matches!(&exchanges[0].answer, Err(http::HttpError::Connect(e)) if e.kind() == std::io::ErrorKind::ConnectionRefused)
        );
        let wrong = http::Load { first_port: 65_500, ..load };
        assert!(matches!(http::run(&lab, &wrong, |_| true), Err(LabError::Spec { .. })));
    }
    down(lab, servers);
}

#[test]
fn transfers_are_compared_at_both_ends() {
    if !permitted() {
        return;
    }
    let services = Services { web: everywhere(8080), blob: 3_000_000, ..Services::default() };
    let (lab, servers, addresses) = lab("t-transfer", &services);
    let plan = |direction, address, source_port| Plan {
        direction,
        target: SocketAddr::new(address, 8080),
        source_port,
        rate: 6_000_000,
        most: Duration::from_secs(20),
    };
    let mut transfers = Vec::new();
    for (address, port) in addresses.into_iter().zip([30_000, 31_000]) {
        transfers.push(Transfer::start(&lab, &servers, plan(Direction::Upload, address, port)).unwrap());
        transfers.push(Transfer::start(&lab, &servers, plan(Direction::Download, address, port + 1)).unwrap());
    }
    for transfer in transfers {
        let plan = transfer.plan();
        let outcome = transfer.finish(&lab, &servers).unwrap();
        assert_eq!((outcome.fault.as_deref(), outcome.real.as_deref()), (None, Some("real1")), "{plan:?}");
        assert_eq!((outcome.bytes, outcome.source.port()), (3_000_000, plan.source_port));
    }
    // A server that dies in the middle is a fault.
    let slow = Plan { rate: 500_000, ..plan(Direction::Upload, addresses[0], 32_000) };
    let transfer = Transfer::start(&lab, &servers, slow).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    assert!(transfer.running());
    drop(servers);
    let services = Services { web: everywhere(8080), blob: 1000, ..Services::default() };
    let servers = Servers::start(&lab, &services).unwrap();
    let fault = transfer.finish(&lab, &servers).unwrap().fault.unwrap();
    assert!(fault.starts_with("curl: ("), "{fault}");
    down(lab, servers);
}

#[test]
fn iperf3_reports_tcp_and_udp() {
    if !permitted() {
        return;
    }
    let services = Services {
        iperf3: vec![(Ipv4Addr::UNSPECIFIED, 5201).into(), (Ipv6Addr::UNSPECIFIED, 5202).into()],
        ..Services::default()
    };
    let (lab, servers, [v4, v6]) = lab("t-iperf3", &services);
    let test = |kind, target: SocketAddr| Test { kind, target, streams: 1, seconds: 1, reverse: false };
    let tcp = Iperf3::start(&lab, test(Kind::Tcp, (v4, 5201).into())).unwrap();
    let udp = Iperf3::start(&lab, test(Kind::Udp(20_000_000), (v6, 5202).into())).unwrap();
    let tcp = tcp.finish().unwrap();
    assert_eq!(tcp.fault, None);
    assert!(tcp.received > 1e8 && tcp.sent >= tcp.received * 0.5, "{tcp:?}");
    let udp = udp.finish().unwrap();
    assert_eq!(udp.fault, None);
    assert!((1e7..3e7).contains(&udp.received) && udp.datagrams > 1000 && udp.lost < udp.datagrams / 10, "{udp:?}");
    let refused = Iperf3::start(&lab, test(Kind::Tcp, (v4, 5999).into())).unwrap().finish().unwrap();
    assert!(refused.fault.is_some_and(|fault| fault.contains("refused")));
    down(lab, servers);
}

#[test]
fn a_server_that_cannot_listen_says_why() {
    if !permitted() {
        return;
    }
    let lab = Lab::up(Spec { reals: 1, ..Spec::routed("t-listen", &[]) }).unwrap();
    let elsewhere = Services { web: vec![([203, 0, 113, 1], 80).into()], ..Services::default() };
    let error = Servers::start(&lab, &elsewhere).unwrap_err().to_string();
    assert!(error.starts_with("real1-nginx in t-listen-real1 ended") && error.contains("203.0.113.1:80"), "{error}");
}

/// What the balancer does is done by a route here: the router sends the VIPs to the first real. Its answers then come
/// from the VIP, over TCP and over UDP, in both layouts.
#[test]
fn a_real_answers_from_the_vip() {
    if !permitted() {
        return;
    }
    let v4 = IpAddr::from([10, 200, 1, 1]);
    let v6 = IpAddr::from([0xfc00, 0x200, 0, 0, 0, 0, 0, 1]);
    let lab = Lab::up(Spec::routed("t-direct", &[v4, v6])).unwrap();
    let services = Services {
        web: vec![(v4, 80).into(), (v6, 80).into()],
        iperf3: vec![(v4, 5201).into(), (v6, 5201).into()],
        blob: 100_000,
    };
    let servers = Servers::start(&lab, &services).unwrap();
    let real = lab.link(Host::Real(1)).unwrap();
    lab.enter(Host::Router, || {
        for vip in [v4, v6] {
            replace_route(vip, real.address_like(vip));
        }
    })
    .unwrap();
    for vip in [v4, v6] {
        let load = http::Load {
            source: lab.link(Host::Client).unwrap().address_like(vip),
            target: SocketAddr::new(vip, 80),
            first_port: 10_000,
            requests: 50,
            threads: 4,
            timeout: Duration::from_secs(5),
        };
        for exchange in http::run(&lab, &load, |_| true).unwrap() {
            assert_eq!(exchange.answer.unwrap().real, "real1");
        }
        let test =
            Test { kind: Kind::Udp(5_000_000), target: SocketAddr::new(vip, 5201), streams: 2, seconds: 1, reverse: false };
        let udp = Iperf3::start(&lab, test).unwrap().finish().unwrap();
        assert!(udp.fault.is_none() && udp.datagrams > 500 && udp.lost < 50, "{udp:?}");
    }
    down(lab, servers);
}

fn replace_route(to: IpAddr, gateway: IpAddr) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    runtime.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection().unwrap();
        tokio::spawn(connection);
        let len = if to.is_ipv4() { 32 } else { 128 };
        let route =
            rtnetlink::RouteMessageBuilder::<IpAddr>::new().destination_prefix(to, len).unwrap().gateway(gateway).unwrap();
        handle.route().add(route.build()).replace().execute().await.unwrap();
    });
}
