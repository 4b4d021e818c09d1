//! The grammar's mistakes by line and column, and the stepping rules of Pktgen one by one.

use super::*;

/// A scenario in which only the given lines differ.
fn with(lines: &str) -> String {
    format!(
        "set 0 size 64\nrange 0 proto udp\nrange 0 dst ip 192.168.1.13 192.168.1.13 192.168.1.13 0.0.0.0\n{lines}\nenable 0 range\nstart 0\n"
    )
}

fn ports(range: &str, count: usize) -> Vec<u16> {
    let text = with(&format!("range 0 src port {range}"));
    let traffic = Traffic::parse(&text, "t").unwrap();
    traffic.walk().take(count).map(|step| step.src_port).collect()
}

#[test]
fn the_walk_begins_at_the_template_and_not_at_start() {
    // 1235 is inside: 0-2000, 0-6000, 0-8000
    assert_eq!(ports("0 0 2000 1", 3), [1235, 1236, 1237]);
    assert_eq!(ports("7 0 8000 1", 2), [1235, 1236], "whatever start says");
    // above the maximum: 0-0, 0-100, 0-1000 begin at the minimum
    assert_eq!(ports("0 0 0 1", 3), [0, 0, 0]);
    assert_eq!(ports("50 0 100 1", 2), [0, 1]);
    assert_eq!(ports("0 0 1000 1", 2), [0, 1]);
    // below the minimum: at the maximum
    assert_eq!(ports("2000 2000 3000 1", 3), [3000, 2000, 2001]);
    // nothing is added: start counts
    assert_eq!(ports("4711 0 8000 0", 3), [4711; 3]);
}

#[test]
fn ranges_are_inclusive_and_an_overshoot_jumps_to_the_minimum() {
    assert_eq!(ports("0 0 3 1", 6), [0, 1, 2, 3, 0, 1]);
    // 0, 4, 8, then 12 is beyond 10: the minimum, not 2
    assert_eq!(ports("0 0 10 4", 5), [0, 4, 8, 0, 4]);
    let traffic = Traffic::parse(&with("range 0 src port 0 0 8000 1"), "t").unwrap();
    let distinct: std::collections::HashSet<_> = traffic.walk().take(8001).map(|step| step.src_port).collect();
    assert_eq!(distinct.len(), 8001);
}

#[test]
fn ports_of_ipv4_do_not_wrap_and_those_of_ipv6_do() {
    // From 1298 in steps of 64 up to 65,490, the last one that fits; 65,554 is above the maximum.
    let walked = ports("0 1200 65535 64", 1006);
    assert_eq!(walked[1003..], [65_490, 1200, 1264]);
    // In 16 bits the same sum is 18, which is below the minimum.
    let v6 = "set 0 size 128\nrange 0 size 128 128 128 0\nrange 0 type ipv6\nrange 0 src ip start fc00::1\n\
              range 0 dst ip start fc00::2\nrange 0 src port 0 1200 65535 64\nenable 0 range\nstart 0";
    let walked: Vec<_> = Traffic::parse(v6, "t").unwrap().walk().skip(1003).take(3).map(|step| step.src_port).collect();
    assert_eq!(walked, [65_490, 65_535, 65_535]);
}

#[test]
fn all_fields_step_together() {
    let text = with("range 0 src port 0 0 2 1\nrange 0 src ip 10.0.0.1 10.0.0.1 10.0.0.2 0.0.0.1\nrange 0 ttl 64 63 64 1");
    let traffic = Traffic::parse(&text, "t").unwrap();
    let steps: Vec<_> = traffic.walk().take(6).map(|s| (s.src_port, (s.src_ip & 0xff) as u8, s.ttl)).collect();
    // Both templates lie outside of their ranges: the port falls on its minimum, the address (192.168.0.2) above its maximum, too.
    assert_eq!(steps, [(0, 1, 63), (1, 2, 64), (2, 1, 63), (0, 2, 64), (1, 1, 63), (2, 2, 64)]);
}

#[test]
fn what_is_left_out_steps_as_pktgens_defaults_do() {
    let text = "enable 0 range\nset 0 size 64\nstart 0\n";
    let traffic = Traffic::parse(text, "t").unwrap();
    assert_eq!(traffic.protocol, Protocol::Tcp);
    let steps: Vec<_> =
        traffic.walk().take(2).map(|s| (s.src_port, s.dst_port, traffic.address(s.src_ip), traffic.address(s.dst_ip))).collect();
    let ip = |text: &str| text.parse::<std::net::IpAddr>().unwrap();
    assert_eq!(steps[0], (1235, 5679, ip("192.168.0.1"), ip("192.168.1.2")));
    assert_eq!(steps[1], (1236, 5680, ip("192.168.0.1"), ip("192.168.1.3")));
}

#[test]
fn sizes_and_macs() {
    let text = with(
        "range 0 size 64 64 128 64\nrange 0 src mac start 02:00:00:00:00:01\nrange 0 src mac inc 00:00:00:00:00:01\nrange 0 src mac max 02:00:00:00:00:02\nrange 0 src mac min 02:00:00:00:00:01",
    );
    let steps: Vec<_> = Traffic::parse(&text, "t").unwrap().walk().take(3).map(|s| (s.size, s.src_mac & 0xff)).collect();
    // A size's walk begins at the template's 64, stepped; a link-layer address at its start.
    assert_eq!(steps, [(128, 1), (64, 2), (128, 1)]);
}

#[test]
fn the_rate_is_of_the_link_with_its_gaps() {
    let traffic = Traffic::parse(&with("set 0 rate 1"), "t").unwrap();
    // 14.88 million frames of 64 bytes fit into 10 Gbit/s
    assert!((traffic.offered(10e9) - 148_809.5).abs() < 1.0);
}

#[test]
fn every_mistake_has_its_place() {
    let cases = [
        (
            "set 0 count 1\nsend 0\n",
            "t:2:1: unknown command `send`; expected set, range, enable, disable, start, stop, str, stp, clr, rst, cls, on or off",
        ),
        ("set\t0 count 1\n", "t:1:4: a tab is Pktgen's completion key; use spaces"),
        (
            "set 0 count 1 # all\n",
            "t:1:15: a comment behind a command makes Pktgen refuse the command; give it a line of its own",
        ),
        ("set 0 size x\n", "t:1:12: `x` is no number (decimal digits)"),
        ("set 0 size 63\n", "t:1:12: `63` is no frame size with FCS (64 to 1518)"),
        ("set 0 rate 101\n", "t:1:12: `101` is no per cent from 0 to 100"),
        (
            "set 0 dport 80\n",
            "t:1:7: `set dport`: a setting of single mode, which leaves range frames alone; use the `range` command of this name",
        ),
        ("range 0 src prt 1\n", "t:1:13: unknown command `prt`; expected mac, ip or port"),
        ("range 0 src port 0 0 9\n", "t:1:23: the command ends here; expected the increment"),
        ("range 0 src port 0 0 9 1 5\n", "t:1:26: `5` is one word too many"),
        ("range 0 src port 0 0 70000 1\n", "t:1:13: `70000` is no port (0 to 65535)"),
        ("range 0 src port inc 65\n", "t:1:13: `65` is no increment of ports: Pktgen makes 64 of any larger one"),
        ("range 0 size inc 1\n", "t:1:9: `range size inc`: Pktgen sets 0 for this word; write `increment`, or all four values"),
        ("range 0 src ip 1.2.3 1.2.3.4 1.2.3.4 0.0.0.0\n", "t:1:16: `1.2.3` is no address"),
        ("range 0 src mac start 2:0:0:0:0:1\n", "t:1:23: `2:0:0:0:0:1` is no link-layer address, like 02:00:00:00:00:01"),
        ("range 0 src ip start fc00::1\nrange 0 dst ip start 1.2.3.4\n", "t:2:13: addresses of both families in one scenario"),
        ("range 0 vlan 1 1 1 0\n", "t:1:9: `range vlan`: no part of these scenarios; leave it out"),
        (
            "range 0 tcp flags syn\n",
            "t:1:9: `range tcp`: its grammar changed between versions of Pktgen (24.05 and 24.10); the share of SYNs is in the sidecar",
        ),
        ("enable 0 pcap\n", "t:1:10: `enable pcap`: scenarios are range mode alone; leave it out"),
        ("enable 0-x range\n", "t:1:8: `0-x` is no list of Pktgen ports (0, 0,2, 0-3 or all)"),
        ("set 0 count 1\nset 1 count 1\n", "t:2:5: port list `1`, but `0` before: a scenario is the traffic of one port"),
        (
            "enable 0 range\nstart 0\nset 0 count 1\n",
            "t:3:1: a command behind `start` would change traffic that is already sent; put `start` last",
        ),
        ("start 0", "t:1:1: no `enable P range`: Pktgen would send single-mode frames"),
        ("enable 0 range\n", "t:2:1: no `start P`: Pktgen would send nothing"),
        (
            "set 0 size 128\nenable 0 range\nstart 0",
            "t:3:1: `set size 128` with `range size 64`: the rate would be computed from another size",
        ),
        ("range 0 type ipv6\nenable 0 range\nstart 0", "t:3:1: `range type ipv6` with IPv4 addresses"),
        ("set 0 count \u{e4}\n", "t:1:13: the character 'ä' is no part of a command"),
    ];
    for (text, expected) in cases {
        assert_eq!(Traffic::parse(text, "t").map(|_| ()).unwrap_err().to_string(), expected, "{text}");
    }
    let long = format!("{}\n", "x".repeat(1024));
    assert!(Traffic::parse(&long, "t").unwrap_err().to_string().contains("reads at most 1023"));
}

#[test]
fn indented_lines_and_single_words_are_fine() {
    let text = with(
        "  # a comment\n\n   range 0 src port start 5\nrange 0 src port minimum 5\nrange 0 src port maximum 6\nrange 0 src port increment 1\r",
    );
    let steps: Vec<_> = Traffic::parse(&text, "t").unwrap().walk().take(3).map(|s| s.src_port).collect();
    assert_eq!(steps, [5, 6, 5]);
}
