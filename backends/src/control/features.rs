//! What a plan uses: the bits that the kernel program is loaded for.

use hashbrown::HashSet;
use tandem_engine::memory::features as bits;
use tandem_engine::memory::vips::SPECIAL;

use super::vips;
use crate::config::{Encap, OnControlLoss, Plan, Profile, TooBig, Vip, VipFlags};

/// The [`features`](tandem_engine::memory::features) of a plan.
pub fn features(plan: &Plan) -> u32 {
    let any = |flags: VipFlags| plan.vips.iter().any(|vip| vip.flags.intersects(flags));
    let of_vips = plan.vips.iter().flat_map(|vip| &vip.reals).map(|real| real.encap);
    let encaps: HashSet<Encap> = of_vips.chain(plan.unowned_reals().map(|_| plan.encap)).collect();
    let standard = plan.profile == Profile::Standard;
    let features = [
        (bits::KATRAN, plan.profile == Profile::Katran),
        (bits::QUIC, any(VipFlags::QUIC)),
        (bits::STABLE, any(VipFlags::UDP_STABLE_ROUTING)),
        (bits::TCP_ID, plan.tcp_server_id),
        (bits::DECAP_IPIP, plan.decap.ipip),
        (bits::DECAP_GUE, plan.decap.gue),
        (bits::DECAP_STRICT, plan.decap_strict && plan.decap.any()),
        (bits::PREFIX_VIPS, plan.vips.iter().any(|vip| vip.prefix_len.is_some())),
        (bits::SOURCE_ROUTES, any(VipFlags::SOURCE_ROUTING)),
        (bits::TUNNELS, encaps.iter().any(|encap| !matches!(encap, Encap::Ipip | Encap::L2 | Encap::Nat))),
        (bits::NAT, encaps.contains(&Encap::Nat)),
        (bits::L2, encaps.contains(&Encap::L2)),
        (bits::TOO_BIG, plan.too_big == TooBig::Icmp),
        (bits::PATH_MTU, standard && (plan.next_hop_mac.is_none() || plan.path_mtu.is_some())),
        (bits::RELAY, standard && encaps.iter().any(|encap| !matches!(encap, Encap::L2 | Encap::Nat))),
        (bits::MIGRATE, any(VipFlags::UDP_FLOW_MIGRATION)),
        (bits::LOCAL, any(VipFlags::LOCAL)),
        (bits::GLOBAL, any(VipFlags::GLOBAL_FLOW_TABLE)),
        (bits::HASH_FLAGS, any(VipFlags::HASH_DPORT_ONLY | VipFlags::HASH_SRC_DST_PORT)),
        // Frames without a tag pay for a look at the way out alone.
        (bits::VLANS, standard),
        (bits::CONTROL_LOSS, plan.on_control_loss != OnControlLoss::Keep),
        (bits::RING_HASHES, standard),
        // Where none is, frames do not pay for being looked at. The first one that is added needs no other program.
        (bits::USUAL, plan.vips.is_empty() || plan.vips.iter().any(|vip| is_usual(plan, vip))),
        (bits::SEVERAL, plan.interfaces.len() > 1),
        // A number is always in force.
        (bits::GUARD, true),
    ]
    .into_iter()
    .filter(|(_, used)| *used)
    .fold(0, |features, (bit, _)| features | bit);
    if standard { features } else { features & !bits::STANDARD }
}

/// Whether its frames may be usual ones.
fn is_usual(plan: &Plan, vip: &Vip) -> bool {
    vips::bits(vip.flags) & SPECIAL == 0 && plan.kept(vip).all(|real| real.encap != Encap::Nat)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    fn of(vips: &[&str]) -> u32 {
        let vip = |(n, lines): (usize, &&str)| {
            format!(
                "[[vip]]\naddress = \"10.200.1.{n}\"\nport = 80\nprotocol = \"tcp\"\nreal = [{{ address = \"10.0.0.1\" }}]\n{lines}\n"
            )
        };
        let head = "node = { next_hop_mac = \"02:00:00:00:00:09\", local_mac = \"02:00:00:00:00:01\" }\ntunnel.source_v4 = \"192.0.2.1\"\n";
        let text = format!("{head}{}", vips.iter().enumerate().map(vip).collect::<String>());
        features(&parse(&text, "test").unwrap().plan)
    }

    #[test]
    fn usual_frames_have_a_way_of_their_own_where_a_vip_may_have_some() {
        let takes = |vips: &[&str]| bits::has_usual(of(vips));
        assert!(
            takes(&[""]) && takes(&["encap = \"gue\""]) && takes(&["encap = \"l2\""]) && takes(&["flags = [\"no-source-port\"]"])
        );
        assert!(takes(&[]), "the first VIP that is added needs no other program");
        let special = ["encap = \"nat\"", "flags = [\"bypass-flow-table\"]", "flags = [\"source-routing\"]"];
        assert!(!takes(&special), "each of them alone, and all together");
        for vip in special {
            assert!(!takes(&[vip]), "{vip}");
            assert!(takes(&[vip, ""]), "{vip}, and a usual one");
        }
    }
}
