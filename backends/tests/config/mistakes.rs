//! Each kind of mistake, with its literal message.

use tandem_backends::config::Kind;

use super::{SMALL, accepts, findings, good, refuses};

#[test]
fn unknown_keys() {
    refuses(
        "colour = 1\nnod.mode = 2\ngue_port = 3\n[tunnel]\nmaxframe = 4\nport = 5\n[[vip]]\naddress = \"10.0.0.1\"\nport = 1\nprotocol = \"udp\"\n\"\\u001b[2J\" = 1\n[[vip.reals]]\n",
        "1:1: key `colour`: unknown key; accepted: [node], [tunnel], [flows], [nat], [server_ids], [[source_route]], [[decap]], [[health_encap]], [[vip]], [announce], [api], [metrics]
2:1: key `nod`: unknown key, perhaps `node` is meant; accepted: [node], [tunnel], [flows], [nat], [server_ids], [[source_route]], [[decap]], [[health_encap]], [[vip]], [announce], [api], [metrics]
3:1: key `gue_port`: unknown key, perhaps `tunnel.gue_port` is meant; accepted: [node], [tunnel], [flows], [nat], [server_ids], [[source_route]], [[decap]], [[health_encap]], [[vip]], [announce], [api], [metrics]
5:1: key `tunnel.maxframe`: unknown key, perhaps `max_frame` is meant; accepted: encap, source_v4, source_v6, source_prefix_v4, source_prefix_v6, gue_port, fou_port_v4, fou_port_v6, geneve_port, udp_checksum, decap, decap_strict, tcp_server_id, max_frame, path_mtu, too_big
6:1: key `tunnel.port`: unknown key, perhaps `vip.port` is meant; accepted: encap, source_v4, source_v6, source_prefix_v4, source_prefix_v6, gue_port, fou_port_v4, fou_port_v6, geneve_port, udp_checksum, decap, decap_strict, tcp_server_id, max_frame, path_mtu, too_big
11:1: key `vip[0].\\u{1b}[2J`: unknown key; accepted: address, port, protocol, ring, ring_size, encap, vni, geneve_inner, on_removal, flags, real, health
12:7: key `vip[0].reals`: unknown key, perhaps `real` is meant; accepted: address, port, protocol, ring, ring_size, encap, vni, geneve_inner, on_removal, flags, real, health",
    );
}

#[test]
fn interfaces() {
    refuses(
        "[node]\ninterface = [\"eth0\", \"eth1\", \"eth0\", \"eth 2\"]\n",
        "2:30: key `node.interface[2]`: the same interface twice (found \"eth0\"); remove one of them
2:38: key `node.interface[3]`: not the name of an interface (found \"eth 2\"); accepted: name, or array of 1 to 8 names, for example \"eth0\"",
    );
    refuses(
        "[node]\ninterface = [\"a\", \"b\", \"c\", \"d\", \"e\", \"f\", \"g\", \"h\", \"i\"]\n",
        "2:13: key `node.interface`: too many interfaces (found 9); 8 at most",
    );
}

#[test]
fn missing_keys() {
    refuses(
        "\n[[vip]]\n[[vip.real]]\nweight = 1\n",
        "2:1: key `vip[0].address`: missing; add it, for example `address = \"10.200.1.1\"`
2:1: key `vip[0].port`: missing; add it, for example `port = 80`
2:1: key `vip[0].protocol`: missing; add it, for example `protocol = \"udp\"`
3:1: key `vip[0].real[0].address`: missing; add it, for example `address = \"10.0.0.1\"`",
    );
}

#[test]
fn wrong_values_of_the_node() {
    refuses(
        "[node]\ninterface = \"eth 0\"\nmode = \"xpd\"\nattach = 3\nnext_hop_mac = \"00:00:de:ad:be\"\nlocal_mac = \"ff:ff:ff:ff:ff:ff\"\nprofile = \"standart\"\ncores = [0, 1, 0, -1, \"x\"]\n",
        "2:13: key `node.interface`: not the name of an interface (found \"eth 0\"); accepted: name, or array of 1 to 8 names, for example \"eth0\"
3:8: key `node.mode`: unknown value, perhaps \"xdp\" is meant (found \"xpd\"); accepted: auto, xdp, afxdp
4:10: key `node.attach`: wrong type (found 3); accepted: one of native, generic
5:16: key `node.next_hop_mac`: not an Ethernet address (found \"00:00:de:ad:be\"); accepted: Ethernet address, for example \"00:00:de:ad:be:af\"
6:13: key `node.local_mac`: a group address or all zero (found \"ff:ff:ff:ff:ff:ff\"); accepted: Ethernet address, for example \"00:ff:de:ad:be:af\"
7:11: key `node.profile`: unknown value, perhaps \"standard\" is meant (found \"standart\"); accepted: standard, katran
8:16: key `node.cores[2]`: the same core twice (found 0); remove one of them
8:19: key `node.cores[3]`: out of range (found -1); accepted: array of distinct numbers, each 0 to 1023, for example [0, 1]
8:23: key `node.cores[4]`: wrong type (found \"x\"); accepted: array of distinct numbers, each 0 to 1023, for example [0, 1]",
    );
    refuses(
        "[node]\ninterface = []\ncores = []\n",
        "2:13: key `node.interface`: wrong type (found an array); accepted: name, or array of 1 to 8 names, for example \"eth0\"
3:9: key `node.cores`: no core (found an empty array); name at least one, or remove the key for one per receive queue",
    );
}

#[test]
fn wrong_values_of_tunnel_and_flows() {
    refuses(
        "[tunnel]\nsource_v4 = \"fc00::1\"\nsource_v6 = \"10.0.0.1\"\nsource_prefix_v4 = \"172.16.0.1/16\"\nsource_prefix_v6 = \"100::/129\"\nmax_frame = 3521\n[flows]\ncapacity = 9\nudp_idle = \"30\"\n",
        "2:13: key `tunnel.source_v4`: an IPv6 address where IPv4 is needed (found \"fc00::1\"); accepted: IPv4 address, unicast, for example \"10.0.13.37\"
3:13: key `tunnel.source_v6`: an IPv4 address where IPv6 is needed (found \"10.0.0.1\"); accepted: IPv6 address, unicast, for example \"fc00:2307::1337\"
4:20: key `tunnel.source_prefix_v4`: bits behind the prefix are set, the network is 172.16.0.0/16 (found \"172.16.0.1/16\"); accepted: IPv4 prefix, length 1 to 32, host bits zero, for example \"172.16.0.0/16\"
5:20: key `tunnel.source_prefix_v6`: the length of the prefix is not 1 to 128 (found \"100::/129\"); accepted: IPv6 prefix, length 1 to 128, host bits zero, for example \"100::/64\"
6:13: key `tunnel.max_frame`: out of range (found 3521); accepted: number, 60 to 3520, bytes without FCS, for example 1514
8:12: key `flows.capacity`: out of range (found 9); accepted: number, 10 to 2147483648, for example 1_000_000
9:12: key `flows.udp_idle`: not a duration: a whole number and a unit (found \"30\"); accepted: duration, 1s to 15m, for example \"30s\"",
    );
    for edge in ["max_frame = 60", "max_frame = 3520"] {
        accepts(&format!("tunnel.{edge}"));
    }
    for edge in ["capacity = 10", "capacity = 2147483648", "udp_idle = \"15m\""] {
        accepts(&format!("flows.{edge}"));
    }
    for beyond in ["capacity = 2147483649", "udp_idle = \"16m\"", "udp_idle = \"999ms\""] {
        assert_eq!(findings(&format!("flows.{beyond}")).len(), 1);
    }
    for bad in ["tunnel.max_frame = 59", "tunnel.gue_port = 0", "tunnel.gue_port = 65536", "flows.new_flows_per_core = 0"] {
        assert_eq!(findings(bad).len(), 1);
    }
}

#[test]
fn wrong_values_of_vips_and_reals() {
    refuses(
        "[[vip]]\naddress = \"10.200.1.256\"\nport = 65536\nprotocol = \"sctp\"\nring = \"maglev-v3\"\nring_size = 65538\nflags = [\"no-source-port\", \"no-source-port\", \"no_source_port\"]\n[[vip.real]]\naddress = \"localhost\"\nweight = 65536\nstate = \"dran\"\nencap = \"ipsec\"\n",
        "2:11: key `vip[0].address`: not an IP address (found \"10.200.1.256\"); accepted: address, unicast, or prefix, host bits zero, for example \"10.200.1.1\"
3:8: key `vip[0].port`: out of range (found 65536); accepted: number, 0 to 65535, for example 80
4:12: key `vip[0].protocol`: unknown value (found \"sctp\"); accepted: tcp, udp
5:8: key `vip[0].ring`: unknown value, perhaps \"maglev-v1\" is meant (found \"maglev-v3\"); accepted: maglev-v1, maglev-v2
6:13: key `vip[0].ring_size`: not prime (found 65538); accepted: primes from the number of reals to 1048576, for example 65539
7:28: key `vip[0].flags[1]`: the same value twice (found \"no-source-port\"); remove one of them
7:46: key `vip[0].flags[2]`: unknown value, perhaps \"no-source-port\" is meant (found \"no_source_port\"); accepted: no-source-port, bypass-flow-table, quic, hash-dport-only, source-routing, local, global-flow-table, hash-src-dst-port, udp-stable-routing, udp-flow-migration
9:11: key `vip[0].real[0].address`: not an IP address (found \"localhost\"); accepted: address, unicast, of either family, for example \"10.0.0.1\"
10:10: key `vip[0].real[0].weight`: out of range (found 65536); accepted: number, 0 to 65535, for example 1
11:9: key `vip[0].real[0].state`: unknown value, perhaps \"drain\" is meant (found \"dran\"); accepted: up, drain, down
12:9: key `vip[0].real[0].encap`: unknown value (found \"ipsec\"); accepted: ipip, gue, gue0, gre, fou, geneve, l2, nat",
    );
}

#[test]
fn addresses_that_no_packet_can_be_sent_to() {
    for (address, problem) in [
        ("0.0.0.0", "the unspecified address"),
        ("::", "the unspecified address"),
        ("127.0.0.1", "a loopback address"),
        ("::1", "a loopback address"),
        ("224.0.0.1", "a multicast address"),
        ("ff02::1", "a multicast address"),
        ("255.255.255.255", "the broadcast address"),
        ("::ffff:10.0.0.1", "an IPv4-mapped IPv6 address"),
    ] {
        refuses(
            &SMALL.replace("10.200.1.1", address),
            &format!(
                "6:11: key `vip[0].address`: {problem} (found \"{address}\"); accepted: address, unicast, or prefix, host bits zero, for example \"10.200.1.1\""
            ),
        );
        refuses(
            &SMALL.replace("10.0.0.1", address),
            &format!(
                "10:11: key `vip[0].real[0].address`: {problem} (found \"{address}\"); accepted: address, unicast, of either family, for example \"10.0.0.1\""
            ),
        );
    }
}

#[test]
fn rings() {
    let ring = |size: u32| {
        SMALL.replace(
            "[[vip.real]]",
            &format!(
                "ring_size = {size}\n[[vip.real]]\naddress = \"10.0.0.2\"\n[[vip.real]]\naddress = \"10.0.0.3\"\n[[vip.real]]"
            ),
        )
    };
    assert_eq!(good(&ring(3)).plan.vips[0].ring_size, 3);
    assert_eq!(good(&ring(1_048_573)).plan.vips[0].ring_size, 1_048_573);
    refuses(
        &ring(2),
        "9:13: key `vip[0].ring_size`: smaller than the 3 reals of the VIP (found 2); accepted: primes from the number of reals to 1048576, for example 3",
    );
    refuses(
        &ring(65_535),
        "9:13: key `vip[0].ring_size`: not prime (found 65535); accepted: primes from the number of reals to 1048576, for example 65537",
    );
    refuses(
        &ring(1_048_576),
        "9:13: key `vip[0].ring_size`: not prime (found 1048576); accepted: primes up to 1048576, for example 65537",
    );
    refuses(
        &ring(1_048_583),
        "9:13: key `vip[0].ring_size`: out of range (found 1048583); accepted: prime number, at least the number of reals, at most 1048576, for example 65537",
    );
}

#[test]
fn duplicates() {
    let again = "[[vip]]\naddress = \"10.200.1.1\"\nport = 80\nprotocol = \"tcp\"\nring_size = 4\n[[vip.real]]\naddress = \"10.200.1.1\"\n[[vip.real]]\naddress = \"10.0.0.2\"\n[[vip.real]]\naddress = \"10.0.0.2\"\n";
    refuses(
        &format!("{SMALL}{again}"),
        "11:1: key `vip[1]`: the same VIP as `vip[0]` on line 5 (found 10.200.1.1:80/tcp); remove one of them, or change its address, port or protocol
15:13: key `vip[1].ring_size`: not prime (found 4); accepted: primes from the number of reals to 1048576, for example 5
17:11: key `vip[1].real[0].address`: the address of its own VIP (found \"10.200.1.1\"); use the address of the server itself, packets would come back for ever
21:11: key `vip[1].real[2].address`: the same real as `vip[1].real[1].address` on line 19 (found \"10.0.0.2\"); remove one of them, a larger `weight` gives a larger share",
    );
    // The same address with another port, every port, or another protocol is another VIP.
    let other = |port: u16, protocol: &str| {
        format!(
            "[[vip]]\naddress = \"10.200.1.1\"\nport = {port}\nprotocol = \"{protocol}\"\nreal = [{{ address = \"10.0.0.1\" }}]\n"
        )
    };
    let text = [SMALL, &other(81, "tcp"), &other(0, "tcp"), &other(80, "udp")].concat();
    assert_eq!(good(&text).plan.vips.len(), 4);
}

#[test]
fn tables_in_the_wrong_shape() {
    refuses(
        "flows = 3\ndecap = \"x\"\n[[node]]\n[vip]\naddress = \"10.200.1.1\"\n",
        "1:9: key `flows`: wrong type (found 3); accepted: tables that start with `[flows]`
2:9: key `decap`: wrong type (found \"x\"); accepted: tables that start with `[[decap]]`
3:1: key `node`: wrong type (found an array); accepted: tables that start with `[node]`
4:1: key `vip`: wrong type (found a table); accepted: tables that start with `[[vip]]`",
    );
    refuses(
        &SMALL.replace("[[vip.real]]", "[vip.real]"),
        "9:1: key `vip[0].real`: wrong type (found a table); accepted: tables that start with `[[vip.real]]`",
    );
    refuses("vip = [5]\n", "1:8: key `vip[0]`: wrong type (found 5); accepted: tables that start with `[[vip]]`");
}

#[test]
fn text_that_is_not_toml() {
    for (text, expected) in [
        ("[node\n", "1:6: not valid TOML: unclosed table, expected `]`"),
        ("\na = \n", "2:5: not valid TOML: string values must be quoted, expected literal string"),
        ("[node]\nmode = xdp\n", "2:8: not valid TOML: string values must be quoted, expected literal string"),
        ("[node]\nmode = \"xdp\"\nmode = \"xdp\"\n", "3:1: not valid TOML: duplicate key"),
        ("[node]\n[node]\n", "2:2: not valid TOML: duplicate key"),
        ("é = 1", "1:1: not valid TOML: invalid unquoted key, expected letters, numbers, `-`, `_`"),
    ] {
        refuses(text, &format!("{expected}; correct the text, its other keys are checked after that"));
    }
    // Deeper than any stack, and one message, not one for each bracket.
    let found = findings(&format!("a = {}", "[".repeat(100_000)));
    assert_eq!(found.len(), 2);
    assert!(found.iter().all(|finding| finding.kind == Kind::Syntax));
}
