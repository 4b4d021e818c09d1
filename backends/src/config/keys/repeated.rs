//! The sections of which there can be several.

use super::{ENCAPS, NOW, Section, key, now};

/// Routing by source.
pub static SOURCE_ROUTE: Section = Section {
    name: "source_route",
    repeated: true,
    meaning: "A real for the clients of a network, at VIPs with the flag `source-routing`. Networks may nest: the longest prefix \
              wins.",
    since: NOW,
    keys: &[
        key(
            "prefix",
            "prefix of either family, host bits zero, or array of them",
            "",
            "\"192.168.0.0/17\"",
            "The clients' network. An array takes a thirtieth of the memory that as many tables do, while the file is read.",
        ),
        key("real", "address, unicast, of either family", "", "\"fc00::2307:1\"", "Their real; it need not belong to a VIP."),
    ],
};

/// Inline decapsulation.
pub static DECAP: Section = Section {
    name: "decap",
    repeated: true,
    meaning: "An address at which tunnels end, of the kinds of `tunnel.decap`; at most 512.",
    since: NOW,
    keys: &[
        key("address", "address, unicast, of either family", "", "\"fc00:1404::1\"", "The outer destination."),
        key(
            "then",
            "one of",
            "\"balance\"",
            "\"egress\"",
            "What becomes of the inner packet: it is looked at as any other (`balance`), or sent on to where it is addressed, as \
             an answer of a real on its way out (`egress`).",
        )
        .of(&[now("balance"), now("egress")]),
    ],
};

/// Probes to single reals.
pub static HEALTH_ENCAP: Section = Section {
    name: "health_encap",
    repeated: true,
    meaning: "A real for this machine's own probes: they are sent to the VIP from a socket with that mark, and encapsulated to \
              the real.",
    since: NOW,
    keys: &[
        key("mark", "number, 1 to 4294967295", "", "1", "The mark of the socket (`SO_MARK`)."),
        key(
            "real",
            "address, unicast, of either family",
            "",
            "\"10.0.0.1\"",
            "The real that is probed; it need not belong to a VIP.",
        ),
    ],
};

/// A virtual service.
pub static VIP: Section = Section {
    name: "vip",
    repeated: true,
    meaning: "A virtual service; at most 65,536, distinct in address, port and protocol. For a packet are looked for, in this order: \
              its address and port, the longest prefix with its port, its address with port 0, the longest prefix with port 0.",
    since: NOW,
    keys: &[
        key(
            "address",
            "address, unicast, or prefix, host bits zero",
            "",
            "\"10.200.1.1\"",
            "Where clients connect to. A prefix stands for all of its addresses that are not VIPs themselves; the longest wins.",
        ),
        key("port", "number, 0 to 65535", "", "80", "0: every port that no other VIP of the address names."),
        key("protocol", "one of", "", "\"udp\"", "The transport.").of(&[now("tcp"), now("udp")]),
        key(
            "ring",
            "one of",
            "\"maglev-v2\"",
            "\"maglev-v1\"",
            "How weights shape the ring: a real takes its whole weight in a row (v1), or turns are spread (v2).",
        )
        .of(&[now("maglev-v1"), now("maglev-v2")]),
        key(
            "ring_size",
            "prime number, at least the number of reals, at most 1048576",
            "65537",
            "65537",
            "Slots of the ring; a hundred for each real keep the shares within a per cent or so. Profile katran: 65537 only.",
        ),
        key("encap", "one of", "that of `[tunnel]`", "\"ipip\"", "Forwarding method of its reals.").of(ENCAPS),
        key("vni", "number, 0 to 16777215", "0", "7", "Virtual network of `geneve`; the device of its reals must have the same."),
        key(
            "geneve_inner",
            "one of",
            "\"ip\"",
            "\"ethernet\"",
            "What is inside `geneve`: the packet (a device with `innerprotoinherit`), or an Ethernet frame with it, to the \
             `inner_mac` of the real.",
        )
        .of(&[now("ip"), now("ethernet")]),
        key(
            "on_removal",
            "one of",
            "\"reselect\"",
            "\"keep\"",
            "What becomes of the flows of a real that is removed, or `down`. `reselect`: they go to another real, whose reset tells \
             the client at once. `keep`: they stay until nothing came for 15 minutes. `drop`: they are dropped, and counted as \
             `real-removed`. Not in profile katran.",
        )
        .of(&[now("reselect"), now("keep"), now("drop")]),
        key(
            "flags",
            "array of distinct",
            "[]",
            "[\"no-source-port\"]",
            "`no-source-port`: all flows of one client reach one real. `bypass-flow-table`: the ring alone decides. `quic`: the \
             server id of a connection id comes first. `hash-dport-only`: only the destination port is hashed. \
             `source-routing`: clients of a `[[source_route]]` get its real. `local`: a real that is this machine gets its \
             packets as they are. `global-flow-table`: flows are looked for in the table that other balancers fill, too. \
             `hash-src-dst-port`: the destination port is hashed even if the VIP takes every port. `udp-stable-routing`: the \
             server id in the payload of UDP comes first. `udp-flow-migration`: UDP flows leave a real that is down.",
        )
        .of(&[
            now("no-source-port"),
            now("bypass-flow-table"),
            now("quic"),
            now("hash-dport-only"),
            now("source-routing"),
            now("local"),
            now("global-flow-table"),
            now("hash-src-dst-port"),
            now("udp-stable-routing"),
            now("udp-flow-migration"),
        ]),
    ],
};

/// A server of a virtual service.
pub static REAL: Section = Section {
    name: "vip.real",
    repeated: true,
    meaning: "A server of the VIP above it; at most 131,071 distinct addresses over all VIPs and everything else that names \
              reals, each once in a VIP.",
    since: NOW,
    keys: &[
        key("address", "address, unicast, of either family", "", "\"10.0.0.1\"", "Where the outer header leads."),
        key("weight", "number, 0 to 65535", "1", "1", "Share of the ring relative to the other reals; 0: no new flows."),
        key(
            "state",
            "one of",
            "\"up\"",
            "\"drain\"",
            "`drain` leaves the ring and keeps its flows; `down` leaves the ring and its flows follow the removal policy. In \
             profile katran the weight alone decides about the ring, and flows stay; `down` is for `udp-flow-migration`.",
        )
        .of(&[now("up"), now("drain"), now("down")]),
        key("local", "true or false", "false", "true", "The real is this machine; only with the flag `local` of its VIP."),
        key("encap", "one of", "that of the VIP", "\"ipip\"", "Forwarding method of this real.").of(ENCAPS),
        key(
            "inner_mac",
            "Ethernet address",
            "none; `geneve_inner = \"ethernet\"` needs it",
            "\"02:00:00:00:00:01\"",
            "MAC of the real's Geneve device: destination of the frame inside.",
        ),
        key("port", "number, 1 to 65535", "that of the packet", "8080", "Port of the server; only with `nat`."),
    ],
};
