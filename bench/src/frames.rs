//! Frames of a scenario as they are on the wire (without FCS), and what the generator in the kernel needs of them.

use etherparse::PacketBuilder;

use crate::pkt::{Protocol, Step, Traffic};
use crate::scenario::{Item, Scenario};

/// Where a time stamp may be: the first bytes of the payload, a number and its complement, which leave the checksum as it is.
const STAMP: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255];

/// Where layer 4 begins.
pub fn transport_at(v6: bool) -> usize {
    14 + if v6 { 40 } else { 20 }
}

/// Where the payload begins.
pub fn payload_at(traffic: &Traffic) -> usize {
    transport_at(traffic.v6) + if traffic.protocol == Protocol::Udp { 8 } else { 20 }
}

fn mac(number: u64) -> [u8; 6] {
    let [_, _, mac @ ..] = number.to_be_bytes();
    mac
}

/// The frame of one step: Pktgen's, but for the first 16 bytes of the payload, where there are as many.
pub fn frame(traffic: &Traffic, step: &Step, syn: bool) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2(mac(step.src_mac), mac(step.dst_mac));
    let with_ip = if traffic.v6 {
        ethernet.ipv6(step.src_ip.to_be_bytes(), step.dst_ip.to_be_bytes(), step.ttl)
    } else {
        ethernet.ipv4((step.src_ip as u32).to_be_bytes(), (step.dst_ip as u32).to_be_bytes(), step.ttl)
    };
    let payload = payload((step.size as usize).saturating_sub(4 + payload_at(traffic)));
    let mut bytes = Vec::with_capacity(step.size as usize);
    // Writing into a vector cannot fail, and no length here is too large for its header.
    let _ = match traffic.protocol {
        Protocol::Udp => with_ip.udp(step.src_port, step.dst_port).write(&mut bytes, &payload),
        Protocol::Tcp => {
            let tcp = with_ip.tcp(step.src_port, step.dst_port, 1, 8192);
            let tcp = if syn { tcp.syn() } else { tcp.ack(1) };
            tcp.write(&mut bytes, &payload)
        }
    };
    // A SYN has no acknowledgement number, the base frame has one: both are the same but for flags and checksum.
    if syn && traffic.protocol == Protocol::Tcp {
        acknowledge(&mut bytes, transport_at(traffic.v6));
    }
    bytes
}

/// Gives a SYN the acknowledgement number 1, which no receiver looks at, so that it differs from the others in flags and checksum alone.
fn acknowledge(bytes: &mut [u8], at: usize) {
    let Some(number) = bytes.get_mut(at + 8..at + 12) else { return };
    number.copy_from_slice(&[0, 0, 0, 1]);
    let Some(sum) = bytes.get_mut(at + 16..at + 18) else { return };
    let before = u32::from(!u16::from_be_bytes([sum[0], sum[1]]));
    let after = before + 1;
    sum.copy_from_slice(&(!(((after & 0xffff) + (after >> 16)) as u16)).to_be_bytes());
}

/// Pktgen fills payloads with the alphabet.
fn payload(length: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (b'a'..=b'z').cycle().take(length).collect();
    if let Some(start) = bytes.get_mut(..STAMP.len()) {
        start.copy_from_slice(&STAMP);
    }
    bytes
}

/// One of the sequence's frames.
pub fn frame_of(scenario: &Scenario, item: &Item) -> Vec<u8> {
    frame(&scenario.traffic, &item.step, item.syn)
}

/// The words that the generator in the kernel reads for a frame (`SCHEDULE` in `bpf/src/bench/generator.rs`).
pub fn schedule_words(scenario: &Scenario, item: &Item) -> [u64; 4] {
    let (frame, traffic) = (frame_of(scenario, item), &scenario.traffic);
    let at = transport_at(traffic.v6);
    let bytes = |at: usize| -> [u8; 4] { frame.get(at..).and_then(<[u8]>::first_chunk).copied().unwrap_or_default() };
    let half = |at: usize| -> u64 {
        let [a, b, ..] = bytes(at);
        u16::from_ne_bytes([a, b]).into()
    };
    let word = |at: usize| u64::from(u32::from_ne_bytes(bytes(at)));
    let (source, destination, header) = if traffic.v6 { (34, 50, 0) } else { (26, 30, half(24)) };
    let sum = half(at + if traffic.protocol == Protocol::Udp { 6 } else { 16 });
    let flags = u64::from(item.syn) | u64::from(item.churn) << 1;
    [word(source) | word(destination) << 32, word(at) | header << 32 | sum << 48, frame.len() as u64 | flags << 16, 0]
}

#[cfg(test)]
mod tests {
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};

    use super::*;
    use crate::scenario::Sidecar;

    fn traffic(v6: bool, protocol: &str, size: u32) -> Traffic {
        let ends = if v6 { ["fc00::1", "fc00::2"] } else { ["192.168.1.11", "192.168.1.13"] };
        let kind = if v6 { "ipv6" } else { "ipv4" };
        let text = format!(
            "set 0 size {size}\nrange 0 size {size} {size} {size} 0\nrange 0 type {kind}\nrange 0 proto {protocol}\n\
             range 0 src ip {0} {0} {0} {2}\nrange 0 dst ip {1} {1} {1} {2}\nrange 0 dst port 5678 5678 5678 0\n\
             range 0 src port 0 0 10 1\nenable 0 range\nstart 0",
            ends[0],
            ends[1],
            if v6 { "::" } else { "0.0.0.0" },
        );
        Traffic::parse(&text, "t").unwrap()
    }

    /// An independent reader agrees with lengths and checksums, also of a stamped payload.
    #[test]
    fn frames_are_right() {
        for (v6, protocol, size) in
            [(false, "udp", 64), (false, "tcp", 64), (false, "udp", 1500), (true, "udp", 128), (true, "tcp", 128)]
        {
            let traffic = traffic(v6, protocol, size);
            for syn in [false, true] {
                let step = traffic.walk().next().unwrap();
                let mut bytes = frame(&traffic, &step, syn);
                assert_eq!(bytes.len(), size as usize - 4);
                let at = payload_at(&traffic);
                if bytes.len() >= at + 16 {
                    let now = 0x0123_4567_89ab_cdef_u64;
                    bytes[at..at + 8].copy_from_slice(&now.to_le_bytes());
                    bytes[at + 8..at + 16].copy_from_slice(&(!now).to_le_bytes());
                }
                let packet = SlicedPacket::from_ethernet(&bytes).unwrap();
                let (found, expected) = match (packet.net.unwrap(), packet.transport.unwrap()) {
                    (NetSlice::Ipv4(ip), TransportSlice::Udp(udp)) => {
                        (udp.checksum(), udp.to_header().calc_checksum_ipv4(&ip.header().to_header(), udp.payload()).unwrap())
                    }
                    (NetSlice::Ipv4(ip), TransportSlice::Tcp(tcp)) => {
                        (tcp.checksum(), tcp.calc_checksum_ipv4(ip.header().source(), ip.header().destination()).unwrap())
                    }
                    (NetSlice::Ipv6(ip), TransportSlice::Udp(udp)) => {
                        (udp.checksum(), udp.to_header().calc_checksum_ipv6(&ip.header().to_header(), udp.payload()).unwrap())
                    }
                    (NetSlice::Ipv6(ip), TransportSlice::Tcp(tcp)) => {
                        (tcp.checksum(), tcp.calc_checksum_ipv6(ip.header().source(), ip.header().destination()).unwrap())
                    }
                    other => panic!("{other:?}"),
                };
                assert_eq!(found, expected, "{protocol} v6 {v6} size {size} syn {syn}");
            }
        }
    }

    #[test]
    fn frames_of_a_scenario_differ_in_what_the_generator_writes_alone() {
        let sidecar = Sidecar { syn_share: 0.5, ..Sidecar::default() };
        let scenario = Scenario::new("t".to_owned(), traffic(false, "tcp", 64), sidecar).unwrap();
        let frames: Vec<_> = scenario.sequence.iter().map(|item| frame_of(&scenario, item)).collect();
        let written: [std::ops::Range<usize>; 4] = [26..34, 34..38, 47..48, 50..52];
        for frame in &frames {
            let differs = (0..frame.len()).filter(|at| frame[*at] != frames[0][*at]);
            for at in differs {
                assert!(written.iter().any(|range| range.contains(&at)) || (24..26).contains(&at), "byte {at}");
            }
        }
    }
}
