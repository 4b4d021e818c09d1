//! Datagrams that are larger than the client's link takes: fragments, through several methods, in both seats.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::time::Duration;

use tandem_lab::{Host, Lab};

use super::common::permitted;
use super::stand::{Service, Stand, VIP_V4, VIP_V6, echo};

/// Tries of one datagram: its fragments may arrive on two queues, and a later one before the first.
const TRIES: usize = 5;

fn datagram(lab: &Lab, service: &Service, len: usize) -> Result<(), String> {
    let work = || {
        let any: IpAddr = if service.at.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind((any, 0)).map_err(|e| e.to_string())?;
        socket.connect(service.at).map_err(|e| e.to_string())?;
        socket.set_read_timeout(Some(Duration::from_millis(500))).map_err(|e| e.to_string())?;
        let sent: Vec<u8> = (0..len).map(|at| (at * 31 + at / 256) as u8).collect();
        let mut buffer = vec![0; 8192];
        for _ in 0..TRIES {
            socket.send(&sent).map_err(|e| e.to_string())?;
            if let Ok(received) = socket.recv(&mut buffer) {
                return if buffer[..received] == sent { Ok(()) } else { Err("other bytes came back".to_owned()) };
            }
        }
        Err(format!("no answer to {TRIES} datagrams"))
    };
    lab.enter(Host::Client, work).expect("the client's namespace")
}

#[test]
fn fragments_arrive_by_every_method_in_both_seats() {
    if !permitted() {
        return;
    }
    let methods = ["ipip", "gre", "fou", "gue", "gue0", "geneve"];
    let services: Vec<Service> = (7300..)
        .zip(methods)
        .flat_map(|(port, method)| {
            let of = |v6: bool| Service::udp(if v6 { VIP_V6 } else { VIP_V4 }, port, method, v6 != (port % 2 == 0));
            [of(false), of(true)]
        })
        .collect();
    let stand = Stand::new(&services, "", |_| {});
    echo(&stand.lab, &services);
    for seat in ["xdp", "afxdp"] {
        stand.seat(seat);
        let mut failures = Vec::new();
        for service in &services {
            for len in [1473, 3001, 4000] {
                if let Err(error) = datagram(&stand.lab, service, len) {
                    failures.push(format!("{service:?}, {len} bytes: {error}"));
                }
            }
        }
        assert!(failures.is_empty(), "{seat}: {}", failures.join("\n"));
        let forwarded = stand.counters()[seat]["reasons"]["forwarded"].as_u64().unwrap_or(0);
        assert!(forwarded >= 2 * 3 * services.len() as u64, "{seat}: {forwarded}");
    }
    assert_eq!(stand.counters()["afxdp"]["seat"]["defect"], 0);
}
