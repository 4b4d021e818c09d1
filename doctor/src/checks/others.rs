//! On a client; and what only probes or other programs can tell.

use super::local::{refusal, sample};
use crate::facts::{Answer, HostFacts, Question};
use crate::finding::{Finding, or_pass};
use crate::setting::Setting;

/// The VIPs.
pub(super) fn questions(setting: &Setting) -> Vec<Question> {
    setting.vips().into_iter().map(|vip| Question { to: sample(&vip), from: None, by: None }).collect()
}

/// D-58.
pub(super) fn vips_have_ways(facts: &HostFacts, setting: &Setting) -> Vec<Finding> {
    let (mut findings, mut found) = (Vec::new(), 0);
    for vip in setting.vips() {
        let why = match facts.answer(&Question { to: sample(&vip), from: None, by: None }) {
            None => continue,
            Some(Answer::Way(way)) if way.kind == "unicast" => {
                found += 1;
                let (via, device) = (way.gateway.unwrap_or(sample(&vip)), way.device.clone().unwrap_or_default());
                findings.extend(super::local::hop_is_dead(facts, &device, via));
                continue;
            }
            Some(Answer::Way(way)) if way.kind == "local" => {
                let own = facts.addresses.iter().find(|own| own.address == vip.address);
                let finding = Finding::fail(format!("the VIP {vip} is an address of this client: packets to it never leave"));
                findings.push(finding.cures(
                    own.map(|own| format!("ip {}addr del {vip}/{} dev {}", vip.ip_option(), own.length, facts.name_of(own.link))),
                ));
                continue;
            }
            Some(Answer::Way(way)) => way.kind.clone(),
            Some(Answer::Refused(number)) => refusal(*number),
        };
        let cure = super::local::refuser(facts, None, vip.address);
        let (why, cure) = cure.map_or((why, None), |(why, cure)| (why, Some(cure)));
        findings.push(Finding::fail(format!("the VIP {vip} has no way: {why}")).cures(cure));
    }
    if found == 0 && findings.is_empty() {
        return vec![Finding::skip("no VIP is known (--service)")];
    }
    or_pass(findings, format!("{found} VIPs have a way"))
}

/// D-09.
pub(super) fn needs_probe(_: &HostFacts, _: &Setting) -> Vec<Finding> {
    vec![Finding::skip("only a probe tells: `tandem doctor --listen` on the client, `--probe --client ADDRESS` on this host")]
}

/// D-14.
pub(super) fn is_an_aid(_: &HostFacts, setting: &Setting) -> Vec<Finding> {
    let vips: Vec<String> = setting
        .vips()
        .iter()
        .take(4)
        .map(|vip| if vip.is_host() { format!("host {vip}") } else { format!("net {vip}") })
        .collect();
    let filter = if vips.is_empty() {
        String::new()
    } else {
        format!(" '{} or ip proto 4 or ip proto 41 or udp port {}'", vips.join(" or "), setting.ports.gue)
    };
    vec![Finding::skip(format!("an aid, no check; on every host of the way: tcpdump -nei any{filter}"))]
}

/// D-31.
pub(super) fn needs_tracing(_: &HostFacts, _: &Setting) -> Vec<Finding> {
    vec![Finding::skip(
        "only a trace tells: perf trace -e skb:kfree_skb --filter 'protocol == 0x800', and `reason`; `protocol=4` there is 802.2, not IPIP",
    )]
}

/// D-55.
pub(super) fn is_benchs(_: &HostFacts, _: &Setting) -> Vec<Finding> {
    vec![Finding::skip("`tandem bench` judges its own measurements")]
}
