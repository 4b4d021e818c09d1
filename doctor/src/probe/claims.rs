//! Who says that he has a VIP: asked by ARP and by neighbour discovery on every Ethernet, as somebody would who looks for a duplicate
//! of his own address (RFC 5227 section 2.1.1, RFC 4862 section 5.4), so that nobody's neighbour table changes.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use etherparse::{ArpEthIpv4Packet, ArpOperation, EtherType, Ethernet2Header, PacketBuilder};
use tandem_backends::config::Mac;

use super::wire::Socket;
use crate::checks::sample;
use crate::facts::{HostFacts, Link};
use crate::setting::Setting;

/// How long answers are waited for.
const WAIT: Duration = Duration::from_millis(800);
const BROADCAST: [u8; 6] = [0xff; 6];
/// Types of ICMPv6.
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;

/// Somebody's answer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Claim {
    /// The VIP.
    pub vip: IpAddr,
    /// The link that the answer came in by.
    pub interface: String,
    /// Who sent it.
    pub mac: String,
    /// It is a balancer's, by the neighbour table.
    pub is_balancers: bool,
}

/// Asks for the address of every VIP (of a prefix: for one of it) on every Ethernet of this host that is up.
///
/// # Errors
/// No packet socket, for lack of CAP_NET_RAW.
pub fn claims(setting: &Setting) -> io::Result<Vec<Claim>> {
    let facts = HostFacts::read(setting, |_, _| Vec::new());
    let mut socket = Socket::open()?;
    let vips: BTreeSet<IpAddr> = setting.vips().iter().map(sample).collect();
    for link in facts.links.iter().filter(|link| link.up && !link.loopback && link.master.is_none()) {
        let Some(Mac(mac)) = link.mac.as_deref().and_then(|mac| mac.parse().ok()) else { continue };
        for vip in &vips {
            // What a link refuses nobody answers there.
            let _ = question(*vip, mac).map(|frame| socket.send(link.index, &frame));
        }
    }
    let balancers: BTreeSet<&str> = facts
        .neighbours
        .iter()
        .filter(|neighbour| setting.balancers.contains(&neighbour.address))
        .filter_map(|neighbour| neighbour.mac.as_deref())
        .collect();
    let own: BTreeSet<&str> = facts.links.iter().filter_map(|link: &Link| link.mac.as_deref()).collect();
    let mut found = BTreeSet::new();
    socket.frames(Instant::now() + WAIT, |frame| {
        let Some((vip, mac)) = answer(&frame.bytes).filter(|(vip, _)| frame.incoming && vips.contains(vip)) else { return };
        if !own.contains(mac.as_str()) {
            let is_balancers = balancers.contains(mac.as_str());
            found.insert(Claim { vip, interface: frame.interface, mac, is_balancers });
        }
    })?;
    Ok(found.into_iter().collect())
}

/// The question for an address, from nobody's.
fn question(vip: IpAddr, from: [u8; 6]) -> Option<Vec<u8>> {
    let mut frame = Vec::new();
    match vip {
        IpAddr::V4(vip) => {
            let ethernet = Ethernet2Header { source: from, destination: BROADCAST, ether_type: EtherType::ARP };
            let arp = ArpEthIpv4Packet {
                operation: ArpOperation::REQUEST,
                sender_mac: from,
                sender_ipv4: [0; 4],
                target_mac: [0; 6],
                target_ipv4: vip.octets(),
            };
            frame.extend_from_slice(&ethernet.to_bytes());
            frame.extend_from_slice(&arp.to_bytes());
        }
        IpAddr::V6(vip) => {
            let [.., a, b, c] = vip.octets();
            let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from(b) << 8 | u16::from(c));
            PacketBuilder::ethernet2(from, [0x33, 0x33, 0xff, a, b, c])
                .ipv6([0; 16], group.octets(), 255)
                .icmpv6_raw(SOLICITATION, 0, [0; 4])
                .write(&mut frame, &vip.octets())
                .ok()?;
        }
    }
    Some(frame)
}

/// The address that a frame claims, and the MAC that it comes from.
fn answer(frame: &[u8]) -> Option<(IpAddr, String)> {
    let bytes = |at: usize| frame.get(at..);
    let mac = Mac(*bytes(6)?.first_chunk()?).to_string();
    let address = match frame.get(12..14)? {
        // An answer: operation 2.
        [0x08, 0x06] if frame.get(20..22)? == [0, 2] => Ipv4Addr::from(*bytes(28)?.first_chunk::<4>()?).into(),
        [0x86, 0xdd] if (frame.get(20)?, frame.get(54)?) == (&58, &ADVERTISEMENT) => {
            Ipv6Addr::from(*bytes(62)?.first_chunk::<16>()?).into()
        }
        _ => return None,
    };
    Some((address, mac))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: [u8; 6] = [2, 0, 0, 0, 7, 2];

    #[test]
    fn a_question_is_no_answer_and_its_answer_is() {
        let mut arp = question("10.200.1.1".parse().unwrap(), OWN).unwrap();
        assert_eq!((arp.len(), answer(&arp)), (42, None));
        // The answer's operation and sender.
        arp[21] = 2;
        arp[28..32].copy_from_slice(&[10, 200, 1, 1]);
        assert_eq!(answer(&arp), Some(("10.200.1.1".parse().unwrap(), "02:00:00:00:07:02".to_owned())));
        let vip = "fc00:200::1".parse().unwrap();
        let mut solicitation = question(vip, OWN).unwrap();
        assert_eq!((&solicitation[..6], answer(&solicitation)), (&[0x33, 0x33, 0xff, 0, 0, 1][..], None));
        solicitation[54] = ADVERTISEMENT;
        assert_eq!(answer(&solicitation).map(|(address, _)| address), Some(vip));
        for len in 0..62 {
            assert_eq!(answer(&solicitation[..len]), None);
        }
    }
}
