//! The full-key oracle: no packet ever gets a real that is neither its ring's choice nor its own earlier one.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use etherparse::{IpNumber, Ipv6ExtensionSlice, LaxNetSlice, LaxSlicedPacket};
use tandem_backends::config::{Plan, Profile, Real, RealState, Vip, VipFlags};
use tandem_backends::replay::Decision;
use tandem_engine::maglev::{Endpoint, Recipe, fill};
use tandem_engine::memory::rings::slot_of;
use tandem_engine::{From, Reason};

/// A flow, whole: its VIP, its client, the ports that take part.
type Key = (Arc<str>, IpAddr, u16, u16);

/// The address in each slot; `None`: there are no slots.
type Ring = Option<Vec<IpAddr>>;

#[derive(Default)]
pub struct Oracle {
    /// The real that each flow has had last since it was told of all that are gone.
    reals: HashMap<Key, HashSet<IpAddr>>,
    /// The reals that the first fragments of a packet (client, VIP, identification) went to.
    fragments: HashMap<(IpAddr, IpAddr, u32), HashSet<IpAddr>>,
    /// The plan's VIPs by their names, and what their rings say; those are made when they are asked for.
    vips: HashMap<Arc<str>, (Vip, Option<Ring>)>,
    pub by_flow: u64,
}

impl Oracle {
    pub fn new(plan: &Plan) -> Self {
        let mut oracle = Self::default();
        oracle.plan(plan);
        oracle
    }

    /// Learns of a new plan: reals that are gone or down may be nobody's any more.
    pub fn plan(&mut self, plan: &Plan) {
        self.vips = plan.vips.iter().map(|vip| (vip.to_string().into(), (vip.clone(), None))).collect();
        for (key, reals) in &mut self.reals {
            let stays = |real: &Real, address: &IpAddr| real.address == *address && real.state != RealState::Down;
            let vip = self.vips.get(&key.0);
            reals.retain(|address| vip.is_some_and(|(vip, _)| vip.reals.iter().any(|real| stays(real, address))));
        }
    }

    /// Checks one forwarded frame.
    pub fn check(&mut self, frame: &[u8], decision: &Decision) {
        if decision.reason != Some(Reason::Forwarded) {
            return;
        }
        let (_, real) = decision.real.expect("a forwarded frame has a real");
        let Packet { ends, part } = packet(frame);
        let whole = (ends.source, ends.destination);
        if let Part::Later(id) = part {
            let had = self.fragments.get(&(whole.0, whole.1, id));
            assert!(had.is_some_and(|had| had.contains(&real)), "a fragment of {whole:?} got {real}: {had:?}");
            return;
        }
        let (_, name) = decision.vip.as_ref().expect("a forwarded frame has a VIP");
        let (vip, ring) = self.vips.get_mut(name).expect("only VIPs of the plan forward");
        let (sport, dport) = ends.ports_of(vip);
        let key: Key = (name.clone(), ends.source, sport, dport);
        let from = decision.from.expect("somebody chose the real");
        let ring = ring.get_or_insert_with(|| ring_of(vip)).as_ref();
        let ring = ring.zip(decision.ring).map(|(ring, (hash, _))| ring[slot_of(hash, vip.ring_size) as usize]);
        match from {
            From::ServerId | From::SourceRoute => panic!("{key:?}: nothing configures these"),
            From::Ring => assert_eq!(Some(real), ring, "{key:?}: not what the ring says"),
            From::Flow => {
                let had = self.reals.get(&key);
                assert!(had.is_some_and(|had| had.contains(&real)), "{key:?}: got {real}, which it never had: {had:?}");
                self.by_flow += 1;
            }
        }
        if let Part::First(id) = part {
            self.fragments.entry((whole.0, whole.1, id)).or_default().insert(real);
        }
        // An error about a flow opens none.
        if !ends.quoted {
            self.reals.entry(key).or_default().insert(real);
        }
    }
}

fn ring_of(vip: &Vip) -> Ring {
    let up: Vec<_> = vip.reals.iter().filter(|r| Profile::Standard.is_in_ring(r)).collect();
    let endpoints = up.iter().enumerate().map(|(i, r)| Endpoint::new(Recipe::Standard, i as u16 + 1, r.address, r.weight));
    let mut ring = vec![0; vip.ring_size as usize];
    fill(&mut ring, &mut endpoints.collect::<Vec<_>>(), vip.weighting.into());
    (!up.is_empty()).then(|| ring.into_iter().map(|i| up[usize::from(i) - 1].address).collect())
}

/// Both ends of a flow, as its client sends.
struct Ends {
    source: IpAddr,
    destination: IpAddr,
    ports: (u16, u16),
    /// Read from what an ICMP error quotes.
    quoted: bool,
}

impl Ends {
    /// Source and destination port, as far as they take part in the VIP's flows.
    fn ports_of(&self, vip: &Vip) -> (u16, u16) {
        let (source, destination) = self.ports;
        let source = if vip.flags.contains(VipFlags::NO_SOURCE_PORT) { 0 } else { source };
        (source, if vip.port == 0 { 0 } else { destination })
    }
}

/// Whether a packet is whole, or which packet it is a fragment of.
enum Part {
    Whole,
    First(u32),
    Later(u32),
}

struct Packet {
    ends: Ends,
    part: Part,
}

/// A forwarded packet, read by etherparse (its lax parser: a wrong length inside UDP or TCP is the receiver's business).
fn packet(frame: &[u8]) -> Packet {
    let packet = LaxSlicedPacket::from_ethernet(frame).expect("a forwarded frame is a packet");
    let (addresses, part, number, payload) = net(packet.net.expect("of IP"));
    let (number, is_icmp) = (number.0, matches!(number.0, 1 | 58));
    if let Part::Later(_) = part {
        return Packet { ends: Ends { source: addresses.0, destination: addresses.1, ports: (0, 0), quoted: false }, part };
    }
    let port = |bytes: &[u8], at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    if !is_icmp {
        assert!(matches!(number, 6 | 17), "forwarded: protocol {number}");
        let ports = (port(&payload, 0), port(&payload, 2));
        return Packet { ends: Ends { source: addresses.0, destination: addresses.1, ports, quoted: false }, part };
    }
    // A frame of its own, for the quoted packet.
    let ethertype: [u8; 2] = if number == 1 { [8, 0] } else { [0x86, 0xdd] };
    let quoted = [&[0; 12][..], &ethertype, &payload[8..]].concat();
    let quoted = LaxSlicedPacket::from_ethernet(&quoted).expect("a quoted packet");
    let (addresses, _, _, payload) = net(quoted.net.expect("of IP"));
    let ports = (port(&payload, 2), port(&payload, 0));
    Packet { ends: Ends { source: addresses.1, destination: addresses.0, ports, quoted: true }, part }
}

/// Addresses, part, what follows, and that.
fn net(net: LaxNetSlice<'_>) -> ((IpAddr, IpAddr), Part, IpNumber, Vec<u8>) {
    let part = |id: u32, offset: u16, more: bool| match (offset, more) {
        (0, false) => Part::Whole,
        (0, true) => Part::First(id),
        _ => Part::Later(id),
    };
    match net {
        LaxNetSlice::Ipv4(ip) => {
            let header = ip.header();
            let part = part(header.identification().into(), header.fragments_offset().value(), header.more_fragments());
            let payload = ip.payload();
            ((header.source_addr().into(), header.destination_addr().into()), part, payload.ip_number, payload.payload.to_vec())
        }
        LaxNetSlice::Ipv6(ip) => {
            let header = ip.header();
            let fragment = ip.extensions().clone().into_iter().find_map(|extension| match extension {
                Ipv6ExtensionSlice::Fragment(f) => {
                    Some(part(f.identification(), f.fragment_offset().value(), f.more_fragments()))
                }
                _ => None,
            });
            let payload = ip.payload();
            let ends = (header.source_addr().into(), header.destination_addr().into());
            (ends, fragment.unwrap_or(Part::Whole), payload.ip_number, payload.payload.to_vec())
        }
        other => panic!("forwarded: {other:?}"),
    }
}
