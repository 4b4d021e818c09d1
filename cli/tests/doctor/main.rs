//! The doctor in the lab: each row of a table breaks something, sees real traffic fail, has the doctor name the cause, runs the
//! cures as they are printed, and sees traffic flow and the doctor satisfied.

mod breaks;
#[path = "../common/mod.rs"]
mod common;
mod spread;
mod stand;

use tandem_doctor::{Report, Status};
use tandem_lab::Host;

use breaks::{BREAKS, Break, Effect};
use common::{permitted, tandem};
use stand::{HOSTS, Stand};

/// Checks of this host that are not as they should be and are no consequence of others.
fn bad(report: &Report) -> Vec<String> {
    let bad = report.checks.iter().filter(|row| row.status >= Status::Warn && row.because.is_empty());
    bad.map(|row| row.id.clone()).collect()
}

/// Breaks one thing, and has it cured.
fn one(stand: &mut Stand, row: &Break) -> Result<(), String> {
    for step in row.before {
        stand.step(step)?;
    }
    if !stand.flows(row.traffic) {
        return Err(format!("no traffic before anything was broken:\n{}", stand.state()));
    }
    for step in row.breaks {
        stand.step(step)?;
    }
    if !matches!(row.effect, Effect::Risks) && stand.flows_still(row.traffic) {
        return Err("traffic flows, although it is broken".to_owned());
    }
    if matches!(row.effect, Effect::Risks) && !stand.flows(row.traffic) {
        return Err(format!("traffic does not flow any more, although this is a risk alone:\n{}", stand.state()));
    }
    let report = stand.doctor(row.host)?;
    let expected = if matches!(row.effect, Effect::Stops) { Status::Fail } else { Status::Warn };
    if bad(&report) != [row.id] || report.row(row.id).is_none_or(|found| found.status != expected) {
        return Err(format!("expected {} alone, found {:?}:\n{report}", row.id, bad(&report)));
    }
    let cures = report.cures(row.id);
    if cures.is_empty() {
        return Err(format!("no cure:\n{report}"));
    }
    for cure in &cures {
        stand.cure(row.host, cure)?;
    }
    for step in row.then {
        stand.step(step)?;
    }
    if !stand.flows(row.traffic) {
        return Err(format!("no traffic after {cures:?}:\n{}\n{}", stand.doctor(row.host)?, stand.state()));
    }
    let report = stand.doctor(row.host)?;
    if !bad(&report).is_empty() {
        return Err(format!("cured by {cures:?}, and still {:?}:\n{report}", bad(&report)));
    }
    for step in row.after {
        stand.step(step)?;
    }
    Ok(())
}

#[test]
fn what_is_broken_is_named_and_cured_as_it_is_printed() {
    if !permitted() {
        return;
    }
    let mut stand = Stand::new();
    for host in HOSTS {
        let report = stand.doctor(host).expect("a report");
        assert!(bad(&report).is_empty(), "the healthy lab, {host}:\n{report}");
        assert!(report.count(Status::Pass) >= 3, "{host}: what was looked at?\n{report}");
    }
    let only = std::env::var("TANDEM_DOCTOR_ONLY").ok();
    let mut failures = Vec::new();
    for row in BREAKS.iter().filter(|row| only.as_ref().is_none_or(|only| row.what.contains(only) || row.id == only)) {
        let began = std::time::Instant::now();
        match one(&mut stand, row) {
            Ok(()) => eprintln!("ok {} on {}: {} ({:?})", row.id, row.host, row.what, began.elapsed()),
            Err(why) => {
                failures.push(format!("{} on {}: {}: {why}", row.id, row.host, row.what));
                eprintln!("FAIL {}", failures.last().map_or("", String::as_str));
                // The next row begins with a lab that works.
                drop(stand);
                stand = Stand::new();
            }
        }
    }
    assert!(failures.is_empty(), "{} of {} failed:\n{}", failures.len(), BREAKS.len(), failures.join("\n"));
}

/// D-09 and the probes: what one host sends, the others note; where the notes end, something is broken.
#[test]
fn probes_name_the_hop_where_they_vanish() {
    if !permitted() {
        return;
    }
    let stand = Stand::new();
    for from in [Host::Client, Host::Lb] {
        for text in stand.probed(from, None) {
            let tunnel = "leaves the balancer in its tunnel: 10.90.2.2 > 10.90.11.2";
            assert!(text.contains("it arrived") && text.contains(tunnel), "{from}: {text}");
        }
    }
    // A link behind the balancer that large packets do not fit through: the hop says so itself.
    let [small, large] = stand.probed(Host::Lb, Some(("ip link set real1 mtu 1300", "ip link set real1 mtu 1500")));
    assert!(small.contains("it arrived"), "{small}");
    let hop = "10.90.2.1 sent it back with an ICMP error";
    assert!(large.contains("vanished before it leaves the router towards the real") && large.contains(hop), "{large}");
    assert!(large.contains("D-44") && !small.contains("D-44"), "{large}");
    for (from, breaks, repair, words) in [
        (
            Host::Client,
            "ip rule add to {vip} blackhole pref 50",
            "ip rule del pref 50",
            "vanished before it leaves the router towards the balancer",
        ),
        (
            Host::Client,
            "nft add table ip fw; nft add chain ip fw across '{ type filter hook forward priority 0; }'; nft add rule ip fw across meta l4proto 4 drop",
            "nft delete table ip fw",
            "vanished before it leaves the router towards the real",
        ),
        // D-09: a network that takes no packets from addresses that it did not give to the host.
        (
            REAL,
            "nft add table ip fw; nft add chain ip fw across '{ type filter hook forward priority 0; }'; nft add rule ip fw across iifname real1 ip saddr {vip} drop",
            "nft delete table ip fw",
            "vanished before it leaves the router towards who sent it",
        ),
    ] {
        for arrived in stand.probed(from, None) {
            assert!(arrived.contains("it arrived"), "{from}: {arrived}");
        }
        for text in stand.probed(from, Some((breaks, repair))) {
            assert!(text.contains(words) && !text.contains("it arrived"), "{from}, {breaks}: {text}");
        }
    }
}

/// A real that answers ARP for the VIP is named to who asks for it.
#[test]
fn who_answers_for_a_vip_is_named() {
    if !permitted() {
        return;
    }
    let stand = Stand::new();
    assert_eq!(stand.who_has(Host::Router, "router"), (String::new(), true));
    stand.run(REAL, "sysctl -qw net.ipv4.conf.all.arp_ignore=0 net.ipv4.conf.eth0.arp_ignore=0").expect("settings");
    let (said, is_well) = stand.who_has(Host::Router, "router");
    let line = format!("10.200.1.1 on real1: {}, no balancer that is known here", stand.lab.link(REAL).expect("a link").mac);
    assert!(said.lines().any(|found| found == line) && !is_well, "{line}: {said}");
}

/// What the documentation says was tried out in the lab is in the table, and the other way round.
#[test]
fn the_documentation_says_what_is_tried_here() {
    use std::collections::BTreeSet;
    use tandem_doctor::checks::{Proof, all};
    let said: BTreeSet<&str> = all().filter(|check| check.proof.contains(&Proof::Lab)).map(|check| check.id).collect();
    // D-09 is no check that could fail: a probe of its own, above. D-57 needs two balancers: `spread`.
    let tried: BTreeSet<&str> = BREAKS.iter().map(|row| row.id).chain(["D-09", "D-57"]).collect();
    assert_eq!(said, tried);
}

#[test]
fn wrong_usage_is_named() {
    for (arguments, words) in [
        (&["doctor"][..], "which host is this?"),
        (&["doctor", "--role", "real", "--service", "tcp,10.0.0.1,ipip"], "has no port"),
        (&["doctor", "--role", "real", "--source", "10.0.0.0/40"], "neither an IP address nor a network"),
        (&["doctor", "explain", "D-99"], "there is no check `D-99`"),
        (&["doctor", "--facts", "/nonexistent"], "/nonexistent"),
    ] {
        let output = tandem(arguments).output().expect("tandem starts");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && errors.contains(words), "{arguments:?}: {:?}: {errors}", output.status);
    }
    let text = common::output(&["doctor", "explain", "d-04"]);
    assert!(text.contains("rp_filter") && text.contains("D-04"), "{text}");
}

/// The only one.
pub const REAL: Host = Host::Real(1);
