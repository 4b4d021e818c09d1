//! Every method, between every pair of families, in both seats: real TCP and UDP through the lab, every byte compared. The
//! reals take the tunnels off with Tandem's own `decap`; what comes to them is read by tshark, who says which checksums are
//! wrong and what is malformed.

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/judge.rs"]
mod judge;
mod neighbours;
mod packet;
mod service;
mod stand;
mod transfers;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use etherparse::PacketBuilder;
use tandem_backends::config;
use tandem_backends::replay::{Action, Backend, Instance, write_capture};
use tandem_lab::Host;

use common::permitted;
use judge::{Capturing, Judged, judge};
use neighbours::answers_for;
use service::{REAL, Service, VIP_V4, VIP_V6, text};
use stand::Stand;
use transfers::{LEAST, echo, failures};

/// All transfers to all services in both seats, with what came to the real judged. `ready` looks at the stand before.
fn carried_and_judged(kind: char, layout: &str, services: &[Service], ready: impl FnOnce(&Stand)) {
    if !permitted() {
        return;
    }
    let tshark = judge::program();
    let stand = Stand::new(kind, layout, services);
    stand.lab.enter(REAL, || echo(services)).expect("the real's namespace");
    ready(&stand);
    for seat in ["xdp", "afxdp"] {
        stand.seat(seat);
        let capturing = tshark.as_ref().map(|_| Capturing::start(&stand.lab, REAL, seat));
        let failures = stand.lab.enter(Host::Client, || failures(&stand.lab, services)).expect("the client's namespace");
        assert!(failures.is_empty(), "{seat}: {} failures:\n{}", failures.len(), failures.join("\n"));
        stand.assert_carried(seat, services, LEAST);
        if let (Some(tshark), Some(capturing)) = (&tshark, capturing) {
            let frames = judge(tshark, &capturing.finish());
            let mistakes = mistakes(&frames, services, LEAST);
            assert!(mistakes.is_empty(), "{seat}: {} of {} frames:\n{}", mistakes.len(), frames.len(), mistakes.join("\n"));
            eprintln!("{seat}: {} frames judged", frames.len());
        }
    }
}

/// What is wrong with the frames of these services: complaints, and services that nothing was seen of. `least`: frames of each
/// protocol.
fn mistakes(frames: &[Judged], services: &[Service], least: usize) -> Vec<String> {
    let mut mistakes = Vec::new();
    for frame in frames.iter().filter(|frame| !frame.complaints.is_empty()) {
        mistakes.push(format!("frame {} ({} to {}): {}", frame.number, frame.layers, frame.to, frame.complaints.join("; ")));
    }
    for service in services {
        for protocol in ["tcp", "udp"] {
            let (to, layers) = (format!("{}|{}", service.vip, service.at().port()), service.layers(protocol));
            let of_it = frames.iter().filter(|frame| frame.to == to && frame.layers.ends_with(protocol));
            let (right, other): (Vec<_>, Vec<_>) = of_it.partition(|frame| frame.layers == layers);
            if let Some(frame) = other.first() {
                mistakes.push(format!("{service}: frame {} is {}, not {layers}", frame.number, frame.layers));
            }
            // Each header that has a checksum was judged, and found right.
            for layer in ["ip", "udp", "tcp"] {
                let headers = layers.split(':').filter(|found| *found == layer).count();
                let good: usize = right.iter().filter_map(|frame| frame.good.get(layer)).sum();
                if good < headers * least {
                    mistakes.push(format!("{service}, {protocol}: only {good} good checksums of {layer} in {layers}"));
                }
            }
        }
    }
    mistakes
}

#[test]
fn every_tunnel_carries_every_byte_in_both_seats() {
    carried_and_judged('m', "routed", &Service::tunnels(), |_| ());
}

/// Direct return: the real is on the balancer's own link and has the VIPs, which it tells nobody.
#[test]
fn l2_carries_every_byte_in_both_seats() {
    carried_and_judged('l', "segment", &Service::l2(), |stand| {
        let real = stand.lab.link(REAL).expect("a link");
        for own in [IpAddr::from(real.v4), IpAddr::from(real.v6)] {
            assert!(answers_for(&stand.lab, own, Duration::from_secs(5)), "{own}: is anybody asked?");
        }
        for vip in [VIP_V4, VIP_V6] {
            assert!(!answers_for(&stand.lab, vip, Duration::from_millis(300)), "{vip}: somebody says that it is his");
        }
    });
}

// --- Does the judge see anything? ----------------------------------------------------------------------------------------

/// A datagram or a segment of each service as the engine leaves it, with padding behind it.
fn encapsulated(services: &[Service]) -> Vec<Vec<u8>> {
    let node = "next_hop_mac = \"02:00:00:00:00:09\"\nlocal_mac = \"02:00:00:00:00:08\"\n";
    let sources = ["192.0.2.2".parse().unwrap(), "fd00::2".parse().unwrap()];
    let text = text(node, "", sources, ["10.0.0.1".parse().unwrap(), "fd00:7::1".parse().unwrap()], services);
    let plan = config::parse(&text, "judged").expect("a configuration").plan;
    let mut engine = Instance::new(Backend::Engine, &plan, 1).expect("an engine");
    let mut frames = Vec::new();
    for service in services {
        for tcp in [false, true] {
            let eth = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 8]);
            let ip = match service.vip {
                IpAddr::V4(vip) => eth.ipv4([198, 51, 100, 7], vip.octets(), 64),
                IpAddr::V6(vip) => eth.ipv6([0x20; 16], vip.octets(), 64),
            };
            let (port, mut frame) = (service.at().port(), Vec::new());
            if tcp {
                ip.tcp(61_001, port, 1, 1000).ack(2).write(&mut frame, b"seven b").unwrap();
            } else {
                ip.udp(61_001, port).write(&mut frame, b"seven b").unwrap();
            }
            frame.extend([0xa5; 9]);
            let (decision, out) = engine.frame(&frame).expect("a frame");
            assert_eq!(decision.action, Action::Tx, "{service}: {decision:?}");
            frames.push(out.to_vec());
        }
    }
    frames
}

fn judged(tshark: &Path, name: &str, frames: &[Vec<u8>]) -> Vec<Judged> {
    let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}.pcap", std::process::id()));
    let mut output = write_capture(&file).expect("a file");
    for frame in frames {
        output.frame(frame).expect("written");
    }
    output.finish().expect("written");
    let judged = judge(tshark, &file);
    let _ = std::fs::remove_file(&file);
    assert_eq!(judged.len(), frames.len());
    judged
}

#[test]
fn the_judge_finds_what_is_broken() {
    let Some(tshark) = judge::program() else { return };
    let services = Service::tunnels();
    let whole = encapsulated(&services);
    let right = judged(&tshark, "right", &whole);
    let found = mistakes(&right, &services, 1);
    assert!(found.is_empty(), "{found:?}");
    // A bit of the payload; a bit of the outer source, where a checksum covers it; the end cut off.
    let payload = |frame: &[u8]| frame.windows(7).position(|at| at == b"seven b").expect("the payload");
    let (mut broken, mut why) = (Vec::new(), Vec::new());
    for (frame, layers) in whole.iter().zip(right.iter().map(|judged| &judged.layers)) {
        let mut at = |position: usize, what: &str| {
            let mut frame = frame.clone();
            frame[position] ^= 4;
            broken.push(frame);
            why.push(format!("{layers}: {what}"));
        };
        at(payload(frame) + 3, "payload");
        let outer_v4 = frame[14] >> 4 == 4;
        let has_sum = outer_v4 || layers.contains("udp:") && !layers.contains("gre");
        if has_sum {
            at(if outer_v4 { 29 } else { 37 }, "outer source");
        }
        broken.push(frame[..payload(frame) + 2].to_vec());
        why.push(format!("{layers}: end"));
    }
    let judged = judged(&tshark, "broken", &broken);
    let unseen: Vec<_> = judged.iter().zip(&why).filter(|(frame, _)| frame.complaints.is_empty()).collect();
    assert!(unseen.is_empty(), "{} of {} not found: {unseen:?}", unseen.len(), broken.len());
    assert!(broken.len() > 3 * services.len(), "{}", broken.len());
    // What is missing is found, too, and what is in the wrong tunnel.
    let none = mistakes(&[], &services, 1);
    assert!(none.len() >= 2 * services.len(), "{none:?}");
    let mut wrong = services.clone();
    wrong[0].method = services[4].method;
    assert!(!mistakes(&right, &wrong, 1).is_empty(), "another tunnel than is expected");
}

/// A checksum that is the other zero is as good; a wrong one beside it is not forgiven.
#[test]
fn the_judge_takes_either_zero() {
    let Some(tshark) = judge::program() else { return };
    let segment = |payload: [u8; 2]| {
        let ip = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 8]).ipv4([198, 51, 100, 7], [10, 200, 1, 1], 64);
        let mut frame = Vec::new();
        ip.tcp(61_001, 7001, 1, 1000).ack(2).write(&mut frame, &payload).unwrap();
        frame
    };
    let sum = |frame: &[u8]| [frame[50], frame[51]];
    // What the checksum is without it, as payload, makes it 0.
    let mut zero = segment(sum(&segment([0, 0])));
    assert_eq!(sum(&zero), [0, 0]);
    zero[50..52].fill(0xff);
    let mut wrong = zero.clone();
    // Of the IP header.
    wrong[24] ^= 1;
    let judged = judged(&tshark, "zeros", &[zero, wrong]);
    assert!(judged[0].complaints.is_empty() && judged[0].good["tcp"] == 1, "{judged:?}");
    assert!(!judged[1].complaints.is_empty(), "{judged:?}");
}
