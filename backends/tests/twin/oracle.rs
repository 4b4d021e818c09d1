//! The full-key oracle: no packet ever gets a real that is neither its ring's choice nor its own earlier one.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use etherparse::{LaxNetSlice, LaxSlicedPacket};
use tandem_backends::config::{Plan, Profile, RealState, Vip, VipFlags};
use tandem_backends::replay::{Action, Decision};
use tandem_engine::From;
use tandem_engine::maglev::{Endpoint, Recipe, fill};
use tandem_engine::memory::rings::slot_of;

/// A flow, whole: its VIP, its client, the ports that take part.
type Key = (String, IpAddr, u16, u16);

#[derive(Default)]
pub struct Oracle {
    /// The real that each flow has had last since it was told of all that are gone.
    reals: HashMap<Key, HashSet<IpAddr>>,
    rings: HashMap<String, Option<Vec<IpAddr>>>,
    pub by_flow: u64,
}

impl Oracle {
    /// Learns of a new plan: reals that are gone or down may be nobody's any more.
    pub fn plan(&mut self, plan: &Plan) {
        self.rings.clear();
        let kept: HashSet<(String, IpAddr)> = plan
            .vips
            .iter()
            .flat_map(|v| v.reals.iter().filter(|r| r.state != RealState::Down).map(|r| (v.to_string(), r.address)))
            .collect();
        for (key, reals) in &mut self.reals {
            reals.retain(|real| kept.contains(&(key.0.clone(), *real)));
        }
    }

    /// Checks one forwarded frame.
    pub fn check(&mut self, plan: &Plan, frame: &[u8], decision: &Decision) {
        if decision.action != Action::Tx {
            return;
        }
        let (_, name) = decision.vip.as_ref().expect("a forwarded frame has a VIP");
        let (_, real) = decision.real.expect("a forwarded frame has a real");
        let vip = plan.vips.iter().find(|v| v.to_string() == *name).expect("only VIPs of the plan forward");
        let (source, dport, sport) = ends(frame, vip);
        let key: Key = (name.clone(), source, sport, dport);
        let from = decision.from.expect("somebody chose the real");
        let ring =
            self.ring(vip).as_ref().zip(decision.ring).map(|(ring, (hash, _))| ring[slot_of(hash, vip.ring_size) as usize]);
        match from {
            From::ServerId | From::SourceRoute => panic!("{key:?}: nothing configures these"),
            From::Ring => assert_eq!(Some(real), ring, "{key:?}: not what the ring says"),
            From::Flow => {
                let had = self.reals.get(&key);
                assert!(had.is_some_and(|had| had.contains(&real)), "{key:?}: got {real}, which it never had: {had:?}");
                self.by_flow += 1;
            }
        }
        self.reals.entry(key).or_default().insert(real);
    }

    fn ring(&mut self, vip: &Vip) -> &Option<Vec<IpAddr>> {
        self.rings.entry(vip.to_string()).or_insert_with(|| {
            let up: Vec<_> = vip.reals.iter().filter(|r| Profile::Standard.is_in_ring(r)).collect();
            let endpoints = up.iter().enumerate().map(|(i, r)| Endpoint::new(Recipe::Standard, i as u16 + 1, r.address, r.weight));
            let mut ring = vec![0; vip.ring_size as usize];
            fill(&mut ring, &mut endpoints.collect::<Vec<_>>(), vip.weighting.into());
            (!up.is_empty()).then(|| ring.into_iter().map(|i| up[usize::from(i) - 1].address).collect())
        })
    }
}

/// Client, destination port and source port, as far as they take part in the VIP's flows; read by etherparse
/// (its lax parser: a wrong length inside UDP or TCP is the receiver's business).
fn ends(frame: &[u8], vip: &Vip) -> (IpAddr, u16, u16) {
    let packet = LaxSlicedPacket::from_ethernet(frame).expect("a forwarded frame is a packet");
    let (source, payload): (IpAddr, _) = match packet.net.expect("of IP") {
        LaxNetSlice::Ipv4(ip) => (ip.header().source_addr().into(), ip.payload().payload),
        LaxNetSlice::Ipv6(ip) => (ip.header().source_addr().into(), ip.payload().payload),
        other => panic!("forwarded: {other:?}"),
    };
    let port = |at: usize| u16::from_be_bytes([payload[at], payload[at + 1]]);
    let (sport, dport) = (port(0), port(2));
    (source, if vip.port == 0 { 0 } else { dport }, if vip.flags.contains(VipFlags::NO_SOURCE_PORT) { 0 } else { sport })
}
