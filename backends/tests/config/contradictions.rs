//! What names reals and addresses beside VIPs, what contradicts, and what profile katran accepts none the less.

use std::net::IpAddr;

use tandem_backends::config::{MAX_DECAPS, MAX_PREFIX_VIPS, Prefix, Profile, RealState};

use super::{SMALL, accepts, findings, good, refuses, warns};

/// The small file in profile katran.
fn katran() -> String {
    SMALL.replace("interface = \"eth0\"\n", "interface = \"eth0\"\nprofile = \"katran\"\n")
}

fn of_udp(text: &str, flags: &str) -> String {
    text.replace("protocol = \"tcp\"\n", &format!("protocol = \"udp\"\nflags = [{flags}]\n"))
}

#[test]
fn server_ids() {
    refuses(
        "[server_ids]\n1022 = \"10.0.0.1\"\n01022 = \"10.0.0.2\"\n0 = \"10.0.0.1\"\n4294967296 = \"10.0.0.1\"\n4294967295 = \"10.0.0.256\"\n7 = 8\n0x10 = \"10.0.0.1\"\n",
        "2:1: key `server_ids.1022`: the same server id as `server_ids.01022` on line 3 (found 1022); remove one of them
4:1: key `server_ids.0`: not a server id (found 0); accepted: numbers from 1 to 4294967295, for example 1022 = \"10.0.0.1\"
5:1: key `server_ids.4294967296`: not a server id (found 4294967296); accepted: numbers from 1 to 4294967295, for example 1022 = \"10.0.0.1\"
6:14: key `server_ids.4294967295`: not an IP address (found \"10.0.0.256\"); accepted: address, unicast, of either family, for example \"10.0.0.1\"
7:5: key `server_ids.7`: wrong type (found 8); accepted: address, unicast, of either family, for example \"10.0.0.1\"
8:1: key `server_ids.0x10`: unknown key; accepted: <number>",
    );
}

#[test]
fn source_routes() {
    let route = |prefix: &str| format!("[[source_route]]\nprefix = \"{prefix}\"\nreal = \"10.0.0.1\"\n");
    let all = ["10.0.0.0/8", "10.0.0.0/9", "0.0.0.0/0", "::/0", "::/1", "2001:db8::1/128", "192.0.2.1/32"].map(route).concat();
    assert_eq!(good(&all).plan.source_routes.len(), 7);
    refuses(
        &["10.0.0.0/8", "10.0.0.1/8", "10.0.0.0", "10.0.0.0/33", "::/129", "x/8", "10.0.0.0/+8", "10.0.0.0/8"].map(route).concat(),
        "5:10: key `source_route[1].prefix`: bits behind the prefix are set, the network is 10.0.0.0/8 (found \"10.0.0.1/8\"); accepted: prefix of either family, host bits zero, or array of them, for example \"192.168.0.0/17\"
8:10: key `source_route[2].prefix`: not a prefix: no `/` (found \"10.0.0.0\"); accepted: prefix of either family, host bits zero, or array of them, for example \"192.168.0.0/17\"
11:10: key `source_route[3].prefix`: the length of the prefix is not 0 to 32 (found \"10.0.0.0/33\"); accepted: prefix of either family, host bits zero, or array of them, for example \"192.168.0.0/17\"
14:10: key `source_route[4].prefix`: the length of the prefix is not 0 to 128 (found \"::/129\"); accepted: prefix of either family, host bits zero, or array of them, for example \"192.168.0.0/17\"
17:10: key `source_route[5].prefix`: not an IP address before the `/` (found \"x/8\"); accepted: prefix of either family, host bits zero, or array of them, for example \"192.168.0.0/17\"
20:10: key `source_route[6].prefix`: the length of the prefix is not 0 to 32 (found \"10.0.0.0/+8\"); accepted: prefix of either family, host bits zero, or array of them, for example \"192.168.0.0/17\"
23:10: key `source_route[7].prefix`: the same prefix as `source_route[0].prefix` on line 2 (found 10.0.0.0/8); remove one of them",
    );
    let several = "[[source_route]]\nprefix = [\"10.0.0.0/8\", \"::/0\", 5, \"10.0.0.0/8\"]\nreal = \"10.0.0.1\"\n";
    refuses(
        several,
        "2:33: key `source_route[0].prefix[2]`: wrong type (found 5); accepted: prefix of either family, host bits zero, or array of them, for example \"192.168.0.0/17\"
2:36: key `source_route[0].prefix[3]`: the same prefix as `source_route[0].prefix[0]` on line 2 (found 10.0.0.0/8); remove one of them",
    );
    assert_eq!(good(&several.replace(", 5, \"10.0.0.0/8\"", "")).plan.source_routes.len(), 2);
    warns(
        &of_udp(SMALL, "\"source-routing\""),
        "t.toml:9:9: key `vip[0].flags`: the flag `source-routing`, and no `[[source_route]]`: the ring decides; add a `[[source_route]]`, or remove the flag",
    );
    warns(&[of_udp(SMALL, "\"source-routing\""), route("::/0")].concat(), "");
}

#[test]
fn decaps() {
    refuses(
        "tunnel.decap = [\"gue\", \"gue\", \"gre\"]\n[[decap]]\naddress = \"10.0.0.1\"\n[[decap]]\naddress = \"10.0.0.1\"\nthen = \"egres\"\n[[decap]]\naddress = \"10.0.0.0/8\"\n",
        "1:24: key `tunnel.decap[1]`: the same value twice (found \"gue\"); remove one of them
1:31: key `tunnel.decap[2]`: unknown value, perhaps \"gue\" is meant (found \"gre\"); accepted: ipip, gue
5:11: key `decap[1].address`: the same destination as `decap[0].address` on line 3 (found 10.0.0.1); remove one of them
6:8: key `decap[1].then`: unknown value, perhaps \"egress\" is meant (found \"egres\"); accepted: balance, egress
8:11: key `decap[2].address`: not an IP address (found \"10.0.0.0/8\"); accepted: address, unicast, of either family, for example \"fc00:1404::1\"",
    );
    let decaps = |count: usize| -> String {
        let decap = |number| format!("[[decap]]\naddress = \"10.200.{}.{}\"\n", number / 200, number % 200);
        (0..count).map(decap).collect()
    };
    assert_eq!(good(&decaps(MAX_DECAPS)).plan.decaps.len(), MAX_DECAPS);
    refuses(
        &decaps(MAX_DECAPS + 1),
        "1025:1: key `decap[512]`: too many destinations of tunnels (found 513); accepted: up to 512",
    );
    warns(
        &format!("{SMALL}{}", decaps(2)),
        "t.toml:11:1: key `decap[0]`: a destination of tunnels, and no kind of them is opened; name the kinds in `tunnel.decap`, or remove it",
    );
}

#[test]
fn probes() {
    let probe = |mark: &str| format!("[[health_encap]]\nmark = {mark}\nreal = \"10.0.0.1\"\n");
    refuses(
        &["1", "0", "4294967296", "2", "1"].map(probe).concat(),
        "5:8: key `health_encap[1].mark`: out of range (found 0); accepted: number, 1 to 4294967295, for example 1
8:8: key `health_encap[2].mark`: out of range (found 4294967296); accepted: number, 1 to 4294967295, for example 1
14:8: key `health_encap[4].mark`: the same mark as `health_encap[0].mark` on line 2 (found 1); remove one of them",
    );
}

#[test]
fn vips_that_are_prefixes() {
    let vip = |address: &str| SMALL.replace("\"10.200.1.1\"", &format!("\"{address}\""));
    for (address, shown) in [
        ("10.200.0.0/16", "10.200.0.0/16:80/tcp"),
        ("10.200.1.1/32", "10.200.1.1/32:80/tcp"),
        ("0.0.0.0/0", "0.0.0.0/0:80/tcp"),
        ("fc00:1::/96", "[fc00:1::/96]:80/tcp"),
    ] {
        assert_eq!(good(&vip(address)).plan.vips[0].to_string(), shown);
    }
    refuses(
        &vip("10.200.1.1/16"),
        "6:11: key `vip[0].address`: bits behind the prefix are set, the network is 10.200.0.0/16 (found \"10.200.1.1/16\"); accepted: address, unicast, or prefix, host bits zero, for example \"10.200.1.1\"",
    );
    refuses(
        &vip("ff00::/8"),
        "6:11: key `vip[0].address`: a multicast address (found \"ff00::/8\"); accepted: address, unicast, or prefix, host bits zero, for example \"10.200.1.1\"",
    );
    // Prefixes nest, and an address is another VIP than the prefix of its length.
    let again = |address: &str| {
        format!("[[vip]]\naddress = \"{address}\"\nport = 80\nprotocol = \"tcp\"\nreal = [{{ address = \"10.0.0.1\" }}]\n")
    };
    let nested = [SMALL, &again("10.200.1.1/32"), &again("10.200.0.0/16"), &again("10.200.0.0/17")].concat();
    assert_eq!(good(&nested).plan.vips.len(), 4);
    refuses(
        &[&nested, again("10.200.0.0/16").as_str()].concat(),
        "26:1: key `vip[4]`: the same VIP as `vip[2]` on line 16 (found 10.200.0.0/16:80/tcp); remove one of them, or change its address, port or protocol",
    );
    warns(
        &vip("10.0.0.0/8"),
        "t.toml:10:11: key `vip[0].real[0].address`: an address in the prefix of its own VIP 10.0.0.0/8 (found \"10.0.0.1\"); see to it that its packets are not routed back to this machine",
    );
}

#[test]
fn at_most_256_prefixes_are_vips_in_profile_katran() {
    let vips = |profile: &str, count: usize| -> String {
        let vip = |number| format!("[[vip]]\naddress = \"fc00:{number:x}::/32\"\nport = 80\nprotocol = \"tcp\"\n");
        format!("node.profile = \"{profile}\"\n{}", (0..count).map(vip).collect::<String>())
    };
    accepts(&vips("katran", MAX_PREFIX_VIPS));
    accepts(&vips("standard", MAX_PREFIX_VIPS + 2));
    refuses(
        &vips("katran", MAX_PREFIX_VIPS + 2),
        "1026:1: key `vip[256]`: too many VIPs that are prefixes (found 258); accepted in profile katran: up to 256",
    );
}

#[test]
fn flags_for_udp() {
    let tcp = |text: &str| {
        text.replace("protocol = \"tcp\"\n", "protocol = \"tcp\"\nflags = [\"local\", \"udp-flow-migration\", \"quic\"]\n")
    };
    refuses(
        &tcp(SMALL),
        "9:19: key `vip[0].flags[1]`: a flag for UDP at a VIP of TCP (found \"udp-flow-migration\"); remove it, or change the protocol
9:41: key `vip[0].flags[2]`: a flag for UDP at a VIP of TCP (found \"quic\"); remove it, or change the protocol",
    );
    warns(
        &tcp(&katran()),
        "t.toml:10:19: key `vip[0].flags[1]`: a flag for UDP at a VIP of TCP (found \"udp-flow-migration\"); Katran accepts it, so does profile katran; remove it, or change the protocol
t.toml:10:41: key `vip[0].flags[2]`: a flag for UDP at a VIP of TCP (found \"quic\"); Katran accepts it, so does profile katran; remove it, or change the protocol",
    );
    warns(&of_udp(SMALL, "\"udp-stable-routing\", \"quic\""), "");
}

#[test]
fn local_reals() {
    let local = format!("{SMALL}local = true\n");
    warns(
        &local,
        "t.toml:11:9: key `vip[0].real[0].local`: a local real, and its VIP has not the flag `local`: it gets its packets encapsulated; add `local` to the `flags` of the VIP, or remove this key",
    );
    warns(&of_udp(&local, "\"local\""), "");
    assert_eq!(findings(&format!("{SMALL}local = 1\n")).len(), 1);
}

#[test]
fn profile_katran() {
    let plan = good(&katran()).plan;
    assert_eq!(plan.profile, Profile::Katran);
    assert_eq!(plan.source_prefix_v4, Some(("172.16.0.0".parse().unwrap(), 16)));
    assert_eq!(plan.source_prefix_v6, Some(("100::".parse().unwrap(), 64)));
    assert!(!plan.needs_source_v4(), "crafted");
    let other = katran().replace("[[vip]]", "source_prefix_v4 = \"10.9.0.0/16\"\n[[vip]]");
    assert_eq!(good(&other).plan.source_prefix_v4, Some(("10.9.0.0".parse().unwrap(), 16)));

    let ring = |size: u32| katran().replace("protocol", &format!("ring_size = {size}\nprotocol"));
    accepts(&ring(65_537));
    for size in [1009, 4] {
        refuses(
            &ring(size),
            &format!(
                "9:13: key `vip[0].ring_size`: not the ring size of Katran (found {size}); accepted in profile katran: 65537, the default"
            ),
        );
    }
    warns(
        &katran().replace("10.200.1.1", "fc00:1::1"),
        "t.toml:11:11: key `vip[0].real[0].address`: an IPv4 real of an IPv6 VIP (found \"10.0.0.1\"): Katran's outer header calls the packet IPv4; use an IPv6 real; profile standard sends 6in4, as RFC 4213 has it",
    );
    warns(&SMALL.replace("10.200.1.1", "fc00:1::1"), "");
}

/// In profile katran the weight alone decides about the ring, and every flow stays.
#[test]
fn states_in_profile_katran() {
    let reals = "real = [{ address = \"10.0.0.1\", state = \"drain\" }, { address = \"10.0.0.2\", state = \"down\" }, { address = \"10.0.0.3\", weight = 0 }]\n";
    let with = |text: &str| text.replace("[[vip.real]]\naddress = \"10.0.0.1\"\n", reals);
    for (text, in_ring, kept) in [(SMALL.to_owned(), 0, 2), (katran(), 2, 3)] {
        let plan = good(&with(&text)).plan;
        let vip = &plan.vips[0];
        assert_eq!(vip.reals.iter().filter(|real| real.state == RealState::Up).count(), 1);
        assert_eq!((plan.in_ring(vip).count(), plan.kept(vip).count()), (in_ring, kept));
    }
    warns(&with(&katran()), "");
}

/// GUE takes the plain source, whatever is crafted for IPIP.
#[test]
fn sources_of_gue() {
    let gue = |text: &str| text.replace("source_v4 = \"10.0.13.37\"", "encap = \"gue\"\nsource_prefix_v4 = \"172.16.0.0/16\"");
    let expected = |line: u32| {
        format!(
            "t.toml:{line}:1: key `tunnel.source_v4`: there are IPv4 reals and no source for their outer headers: it will be taken from the interface's own address; set it if the interface has no IPv4 address, or several"
        )
    };
    let crafted = "t.toml:3:1: key `tunnel.source_prefix_v4`: ICMP errors from the way to the reals go to the sources that are crafted inside it; only if they are routed to this host can it tell the clients of a small MTU there; route the prefix here, or see that the way to the reals takes every frame";
    warns(&gue(SMALL), &format!("{crafted}\n{}", expected(3)));
    warns(&gue(&katran()), &expected(4));
    // A server id alone is enough; probes are never crafted.
    let id = "[server_ids]\n1 = \"fc00::1\"\n";
    assert!(good(id).plan.needs_source_v6() && !good(id).plan.needs_source_v4());
    assert!(!good(&format!("tunnel.source_prefix_v6 = \"100::/64\"\n{id}")).plan.needs_source_v6());
    let probe = "tunnel.source_prefix_v6 = \"100::/64\"\n[[health_encap]]\nmark = 1\nreal = \"fc00::1\"\n";
    assert!(good(probe).plan.needs_source_v6());
}

#[test]
fn prefixes() {
    let address = |text: &str| -> IpAddr { text.parse().unwrap() };
    assert_eq!(Prefix::new(address("10.0.0.0"), 33), None);
    assert_eq!(Prefix::new(address("10.0.0.1"), 31), None);
    let prefix = Prefix::covering(address("2001:db8:ffff::1"), 33).unwrap();
    assert_eq!(prefix.to_string(), "2001:db8:8000::/33");
    assert!(prefix.contains(address("2001:db8:8000::")) && !prefix.contains(address("2001:db8:7fff::")));
    let all = Prefix::new(address("0.0.0.0"), 0).unwrap();
    assert!(all.contains(address("255.255.255.255")) && !all.contains(address("::")));
}

/// No tunnel without a port, and none with another's.
#[test]
fn x2_methods_and_their_ports() {
    let with = |tunnel: &str, vip: &str, real: &str| {
        format!(
            "[node]\ninterface = \"eth0\"\n[tunnel]\n{tunnel}\n[[vip]]\naddress = \"10.200.1.1\"\nport = 80\nprotocol = \"tcp\"\n{vip}\n[[vip.real]]\naddress = \"10.0.0.1\"\n{real}\n"
        )
    };
    let sources = "source_v4 = \"10.0.13.37\"";
    for encap in ["ipip", "gue", "gue0", "gre", "fou", "geneve", "l2"] {
        warns(&with(sources, &format!("encap = \"{encap}\""), ""), "");
        warns(&with(sources, "", &format!("encap = \"{encap}\"")), "");
    }
    warns(
        &with(sources, "encap = \"geneve\"\nvni = 16777215\ngeneve_inner = \"ethernet\"", "inner_mac = \"02:00:00:00:00:01\""),
        "",
    );
    refuses(
        &with("fou_port_v4 = 0", "", ""),
        "4:15: key `tunnel.fou_port_v4`: out of range (found 0); accepted: number, 1 to 65535, for example 5555",
    );
    refuses(
        &with("fou_port_v6 = 6080", "", ""),
        "4:15: key `tunnel.fou_port_v6`: the port of `gue_port`, too (found 6080); each kind of tunnel needs a port of its own",
    );
    refuses(
        &with(sources, "encap = \"geneve\"\nvni = 16777216", ""),
        "10:7: key `vip[0].vni`: out of range (found 16777216); accepted: number, 0 to 16777215, for example 7",
    );
    refuses(
        &with(sources, "encap = \"geneve\"\ngeneve_inner = \"ethernet\"", ""),
        "11:1: key `vip[0].real[0]`: its VIP has `geneve_inner = \"ethernet\"`, and where the frame inside goes is not known; add `inner_mac`, the MAC of the real's Geneve device",
    );
    refuses(
        &with(sources, "encap = \"l2\"", "").replace("\"10.0.0.1\"", "\"fc00::1\""),
        "11:11: key `vip[0].real[0].address`: `l2` puts no header of another family around the packet (found \"fc00::1\"); name the real by an address of the VIP's family, or choose a tunnel",
    );
    refuses(
        &with(sources, "encap = \"gre\"", "").replace("[tunnel]", "profile = \"katran\"\n[tunnel]"),
        "12:11: key `vip[0].real[0].address`: a forwarding method that Katran has not; accepted in profile katran: ipip, gue",
    );
    refuses(
        &(with(sources, "encap = \"nat\"", "") + "[[health_encap]]\nmark = 1\nreal = \"10.0.0.1\"\n"),
        "15:8: key `health_encap[0].real`: a real behind NAT answers no probe to the VIP's address (found \"10.0.0.1\"); probe the real's own address and port",
    );
}

/// A VIP whose only real is reached by NAT, after the lines of `[nat]`.
fn by_nat(nat: &str, vip: &str, real: &str) -> String {
    format!("[nat]\n{nat}[[vip]]\naddress = \"{vip}\"\nport = 80\nprotocol = \"tcp\"\nencap = \"nat\"\nreal = [{{ {real} }}]\n")
}

#[test]
fn nat() {
    let v6 = "sources_v6 = [\"fc00::40\"]\n";
    let plan = good(&by_nat(v6, "10.200.1.1", "address = \"fc00::1\", port = 8080")).plan;
    assert_eq!((plan.vips[0].reals[0].port, plan.nat.sources_v6.len(), plan.nat.ports), (Some(8080), 1, 31_744));
    assert_eq!(good(&by_nat("", "10.200.1.1", "address = \"10.0.0.1\"")).plan.nat, Default::default());
    refuses(
        &by_nat("", "10.200.1.1", "address = \"fc00::1\""),
        "2:1: key `vip[0]`: 10.200.1.1:80/tcp reaches fc00::1 by `nat`, and its clients have no IPv6 address; give them one: `nat.sources_v6`",
    );
    refuses(
        &by_nat("sources_v4 = [\"10.200.1.1\"]\n", "10.200.1.1", "address = \"10.0.0.1\""),
        "3:1: key `vip[0]`: its address is a source of NAT, too (found \"10.200.1.1\"); name another address in `[nat]`",
    );
    refuses(
        &by_nat("first_port = 65000\nports = 537\n", "10.200.1.1", "address = \"10.0.0.1\""),
        "3:9: key `nat.ports`: 537 ports from 65000 on: they end at 65535; accepted here: up to 536",
    );
    refuses(
        &by_nat("sources_v4 = [\"10.0.0.4\", \"10.0.0.4\", \"fc00::1\"]\ntcp_closed = \"25h\"\n", "10.200.1.1", "address = \"10.0.0.1\""),
        "2:27: key `nat.sources_v4[1]`: the same source twice (found \"10.0.0.4\"); remove one of them
2:39: key `nat.sources_v4[2]`: an IPv6 address where IPv4 is needed (found \"fc00::1\"); accepted: array of distinct IPv4 addresses, unicast, at most 16 with those of IPv6, for example [\"10.0.13.40\"]
3:14: key `nat.tcp_closed`: out of range (found \"25h\"); accepted: duration, 1s to 24h, for example \"10s\"",
    );
    let ipip = by_nat("", "10.200.1.1", "address = \"10.0.0.1\", port = 8080").replace("encap = \"nat\"\n", "");
    let warnings: Vec<String> = good(&ipip).warnings.iter().map(ToString::to_string).collect();
    let about = "key `vip[0].real[0].port`: a port of its own, and its method replaces no ports: it gets the packet's; remove it";
    assert!(warnings.iter().any(|warning| warning.contains(about)), "{warnings:?}");
}
