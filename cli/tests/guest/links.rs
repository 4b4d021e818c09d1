//! The balancer itself on devices that only stock kernels have: a VLAN's device and a bond as its interface, and a VLAN's device as
//! the way to its real.

use super::bed::ip;
use super::report::Report;
use super::running::{PLAIN, PLAIN_LINK, Stand, comes_back, exchange, udp, wire};
use super::start::is_init;

const ROUTED: &str = "link add lb0 address 02:00:00:00:00:08 type veth peer name far0\n\
    link add link lb0 name lb0.7 type vlan id 7\nlink add link far0 name far0.7 type vlan id 7\n\
    link set lb0 up\nlink set far0 up\nlink set lb0.7 up\nlink set far0.7 up\n\
    addr add 10.2.0.2/24 dev lb0.7\nneigh add 10.2.0.1 lladdr 02:00:00:00:07:07 dev lb0.7 nud permanent\n";
const OWN: &str = "link add lb0 address 02:00:00:00:00:08 type veth peer name far0\n\
    link add link lb0 name lb0.5 type vlan id 5\nlink add link far0 name far0.5 type vlan id 5\n\
    link set lb0 up\nlink set far0 up\nlink set lb0.5 up\nlink set far0.5 up\n\
    addr add 10.2.0.2/24 dev lb0.5\nneigh add 10.2.0.1 lladdr 02:00:00:00:07:07 dev lb0.5 nud permanent\n";
const BOND: &str = "link add s0 type veth peer name f0\nlink add s1 type veth peer name f1\n\
    link add b0 address 02:00:00:00:00:08 type bond mode active-backup miimon 50\n\
    link set s0 master b0\nlink set s1 master b0\nlink set b0 up\nlink set f0 up\nlink set f1 up\n\
    addr add 10.2.0.2/24 dev b0\nneigh add 10.2.0.1 lladdr 02:00:00:00:07:07 dev b0 nud permanent\n";

pub fn run(report: &mut Report) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let plain = Stand { lines: PLAIN_LINK, far: &["far0"], interface: "lb0", attach: "native", node: "", mode: "xdp" };
    say(report, "an ordinary device as the interface, to compare", plain.run(|_| comes_back(5000)));
    for mode in ["xdp", "afxdp"] {
        let routed = Stand { lines: ROUTED, far: &["far0"], interface: "lb0", attach: "native", node: "", mode };
        say(
            report,
            &format!("in by another VLAN or none, out by a VLAN's device, mode {mode}"),
            routed.run(|_| leaves_by_its_vlan()),
        );
        let own = Stand { lines: OWN, far: &[], interface: "lb0.5", attach: "generic", node: "", mode };
        say(report, &format!("a VLAN's device as the interface, generic, mode {mode}"), own.run(|_| stays_in_its_vlan()));
    }
    let native = Stand { lines: OWN, far: &[], interface: "lb0.5", attach: "native", node: "", mode: "xdp" };
    say(report, "a VLAN's device as the interface, native: refused by name", refused(native.run(|_| Ok(())), "generic"));
    // Native XDP on bonds: 9e2ee5c7e7c3 (v5.15).
    let attach = if release.starts_with("5.10.") { "generic" } else { "native" };
    let bond = Stand { lines: BOND, far: &["f0", "f1"], interface: "b0", attach, node: "", mode: "xdp" };
    say(report, &format!("a bond as the interface, {attach}, with a member lost"), bond.run(|_| fails_over()));
    let workers = Stand { mode: "afxdp", ..bond };
    say(report, "a bond as the interface, mode afxdp: refused by name", refused(workers.run(|_| Ok(())), "node.mode = \"xdp\""));
}

/// A kernel without modules lacks these devices.
fn say(report: &mut Report, name: &str, result: Result<(), String>) {
    match result {
        Err(why) if !is_init() && why.starts_with("ip: ") => report.skip(name, &why),
        result => report.result(name, result),
    }
}

fn refused(result: Result<(), String>, word: &str) -> Result<(), String> {
    match result {
        Err(why) if why.starts_with("ip: ") => Err(why),
        Err(why) if why.contains(word) => Ok(()),
        Err(why) => Err(format!("no word of {word:?}: {why}")),
        Ok(()) => Err("it was taken".to_owned()),
    }
}

fn tagged(frame: &[u8], vlan: u16) -> Vec<u8> {
    [&frame[..12], &[0x81, 0], &vlan.to_be_bytes(), &frame[12..]].concat()
}

const TAGGED: usize = PLAIN + 4;

fn leaves_by_its_vlan() -> Result<(), String> {
    let (from, mut to) = (wire("far0")?, wire("far0.7")?);
    exchange(&from, &mut to, &udp(5000), PLAIN).map_err(|why| format!("without a tag: {why}"))?;
    exchange(&from, &mut to, &tagged(&udp(5001), 5), TAGGED).map_err(|why| format!("VLAN 5: {why}"))?;
    exchange(&from, &mut to, &tagged(&udp(5002), 7), TAGGED).map_err(|why| format!("VLAN 7: {why}"))
}

fn stays_in_its_vlan() -> Result<(), String> {
    let (from, mut to) = (wire("far0")?, wire("far0.5")?);
    exchange(&from, &mut to, &tagged(&udp(5000), 5), TAGGED)
}

/// What comes by the active member goes back by it; when that one has lost its carrier, by the other.
fn fails_over() -> Result<(), String> {
    let mut first = wire("f0")?;
    let again = first.try_clone().map_err(|error| error.to_string())?;
    exchange(&again, &mut first, &udp(5000), PLAIN).map_err(|why| format!("by the first member: {why}"))?;
    ip(&[], "link set f0 down\n")?;
    let mut second = wire("f1")?;
    let again = second.try_clone().map_err(|error| error.to_string())?;
    exchange(&again, &mut second, &udp(5000), PLAIN).map_err(|why| format!("by the second one: {why}"))
}
