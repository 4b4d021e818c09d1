//! The sections that are there once.

use super::{ENCAPS, NOW, NUMBER, Section, key, now};

/// The machine that forwards.
pub static NODE: Section = Section {
    name: "node",
    repeated: false,
    meaning: "The machine that forwards.",
    since: NOW,
    keys: &[
        key(
            "interface",
            "name, or array of one name",
            "none; `tandem run` needs it",
            "\"eth0\"",
            "Where VIP traffic arrives. Several interfaces are a step of a later version.",
        ),
        key(
            "mode",
            "one of",
            "\"auto\"",
            "\"xdp\"",
            "Who forwards: the kernel (`xdp`), threads in userspace (`afxdp`), or whichever suits the host.",
        )
        .of(&[now("auto"), now("xdp"), now("afxdp")]),
        key(
            "attach",
            "one of",
            "\"native\"",
            "\"generic\"",
            "Where the program runs: in the driver, or in the network stack. Never degraded silently: `native` on a driver \
             without XDP is an error.",
        )
        .of(&[now("native"), now("generic")]),
        key(
            "next_hop_mac",
            "Ethernet address",
            "from the kernel's routes and neighbours, per real",
            "\"00:00:de:ad:be:af\"",
            "Destination of every forwarded frame.",
        ),
        key("local_mac", "Ethernet address", "the interface's own", "\"00:ff:de:ad:be:af\"", "Source of every forwarded frame."),
        key(
            "profile",
            "one of",
            "\"standard\"",
            "\"standard\"",
            "Whose behaviour is followed: Tandem's own, or byte by byte that of Katran.",
        )
        .of(&[now("standard"), now("katran")]),
        key(
            "cores",
            "array of distinct numbers, each 0 to 1023",
            "one per receive queue",
            "[0, 1]",
            "Cores that the forwarding threads are pinned to.",
        ),
    ],
};

/// The outer headers.
pub static TUNNEL: Section = Section {
    name: "tunnel",
    repeated: false,
    meaning: "The outer headers that carry packets to the reals.",
    since: NOW,
    keys: &[
        key(
            "encap",
            "one of",
            "\"ipip\"",
            "\"ipip\"",
            "Forwarding method of every VIP that names none, and of the reals that belong to no VIP. `l2` sends the frame to the \
             real's own MAC, all others carry both families inside both: `ipip`; `gre` without options; `fou`, UDP with the \
             packet right behind it and a port for each family; `gue`, version 1, one port for both, as Katran sends it; \
             `gue0`, version 0, with a header of four bytes; `geneve` without options. Profile katran: `ipip` and `gue`.",
        )
        .of(ENCAPS),
        key("source_v4", "IPv4 address, unicast", "the interface's own", "\"10.0.13.37\"", "Source of outer IPv4 headers."),
        key("source_v6", "IPv6 address, unicast", "the interface's own", "\"fc00:2307::1337\"", "Source of outer IPv6 headers."),
        key(
            "source_prefix_v4",
            "IPv4 prefix, length 1 to 32, host bits zero",
            "none; in profile katran 172.16.0.0/16",
            "\"172.16.0.0/16\"",
            "Outer IPv4 sources of IPIP and GRE are crafted inside it, per flow, so that the real's network card spreads them over its \
             queues; then these do not need `source_v4`. UDP tunnels have their source port for that and always need it.",
        ),
        key(
            "source_prefix_v6",
            "IPv6 prefix, length 1 to 128, host bits zero",
            "none; in profile katran 100::/64",
            "\"100::/64\"",
            "The same for outer IPv6 headers; at most the last 32 bits differ between flows.",
        ),
        key("gue_port", "number, 1 to 65535", "6080", "6080", "UDP destination port of GUE, sent and opened."),
        key("fou_port_v4", "number, 1 to 65535", "5555", "5555", "UDP destination port of FOU with an IPv4 packet inside."),
        key("fou_port_v6", "number, 1 to 65535", "5556", "5556", "UDP destination port of FOU with an IPv6 packet inside."),
        key("geneve_port", "number, 1 to 65535", "6081", "6081", "UDP destination port of Geneve."),
        key(
            "udp_checksum",
            "one of",
            "\"always\"",
            "\"always\"",
            "The outer checksum of UDP tunnels costs nothing where the packet's own is right; fragments, ICMP, UDP without a \
             checksum, options and extension headers have to be read to their end for it. `where-cheap` sends those without: 0, \
             over IPv6, too (RFC 6935), which the receiver must allow. Profile katran trusts every packet's own.",
        )
        .of(&[now("always"), now("where-cheap")]),
        key(
            "decap",
            "array of distinct",
            "[]",
            "[\"ipip\"]",
            "Kinds of tunnels that are opened inline, before VIPs are looked for; `gue` is every UDP packet to `gue_port`.",
        )
        .of(&[now("ipip"), now("gue")]),
        key(
            "decap_strict",
            "true or false",
            "true",
            "true",
            "Whether a tunnel that does not end at a `[[decap]]` is opened only if it ends at `source_v4` or `source_v6`; \
             others are passed to the host as they are. `false`: every tunnel is opened.",
        ),
        key(
            "tcp_server_id",
            "true or false",
            "false",
            "true",
            "Routes TCP by the server-id option (kind 0xB7) that clients of `[server_ids]` send back.",
        ),
        key(
            "max_frame",
            "number, 60 to 3520, bytes without FCS",
            "1514",
            "1514",
            "Largest frame accepted for a VIP. The upper limit is what XDP has room for in one page of 4 KiB.",
        ),
        key(
            "path_mtu",
            "number, 576 to 65535, bytes",
            "what the kernel's routes and interfaces say",
            "1500",
            "Largest IP packet on the way to any real, outer headers included, where that is less than the kernel's routes say. A \
             frame that is larger with its outer headers is dealt with by `too_big`.",
        ),
        key(
            "too_big",
            "one of",
            "\"icmp\"",
            "\"drop\"",
            "What becomes of a frame larger than `max_frame`, or than the way to its real takes: its sender is told (fragmentation needed, packet too big), or nobody is.",
        )
        .of(&[now("icmp"), now("drop")]),
    ],
};

/// The flow table.
pub static FLOWS: Section = Section {
    name: "flows",
    repeated: false,
    meaning: "The flow table: which flow belongs to which real.",
    since: NOW,
    keys: &[
        key(
            "capacity",
            "number, 10 to 2147483648",
            "1_000_000",
            "1_000_000",
            "Entries of the one table that all cores share. The table has a power of two of sets of five entries each, so that \
             the number is rounded up: 1,000,000 gives 262,144 sets, 1,310,720 entries.",
        ),
        key("udp_idle", "duration, 1s to 15m", "\"30s\"", "\"30s\"", "How long a UDP flow without packets keeps its real."),
        key(
            "new_flows_per_core",
            "number, 1 to 4294967295, per second",
            "125_000",
            "125_000",
            "New flows that one core remembers; above it the ring alone decides, so that a flood does not push out what is there.",
        ),
    ],
};

/// Numbers of reals.
pub static SERVER_IDS: Section = Section {
    name: "server_ids",
    repeated: false,
    meaning: "Numbers of reals: for the connection ids of QUIC, the stable routing of UDP, and the server-id option of TCP. The \
              reals need not belong to a VIP.",
    since: NOW,
    keys: &[key(
        NUMBER,
        "address, unicast, of either family",
        "none",
        "\"10.0.0.1\"",
        "The real with that number, which is 1 to 4294967295, in decimal digits.",
    )],
};
