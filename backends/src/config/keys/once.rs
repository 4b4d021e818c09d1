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
            "name, or array of 1 to 8 names",
            "none; `tandem run` needs it",
            "\"eth0\"",
            "Where VIP traffic arrives, and by which it leaves again. The first one supplies what is not configured: MAC and outer \
             sources. With several, a frame leaves by the interface of the route to its real; mode afxdp has as many workers as the \
             interface with the fewest receive queues has queues.",
        ),
        key(
            "mode",
            "one of",
            "\"auto\"",
            "\"xdp\"",
            "Who forwards: the kernel (`xdp`), threads in userspace (`afxdp`), or the cheaper one, as measured at the start.",
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
        key(
            "on_control_loss",
            "one of",
            "\"keep\"",
            "\"pass\"",
            "What becomes of frames to VIPs when the control process was killed or hangs. `keep`: the kernel forwards them as before. \
             `pass`: they are given to the host. `drop`: they are dropped. `keep` costs nothing, the others a look at the clock \
             for each frame.",
        )
        .of(&[now("keep"), now("pass"), now("drop")]),
        key(
            "control_loss_after",
            "duration, 1s to 24h",
            "\"10s\"",
            "\"10s\"",
            "How long it may be silent before that: longer than a restart takes.",
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
             real's own MAC, the tunnels carry both families inside both: `ipip`; `gre` without options; `fou`, UDP with the \
             packet right behind it and a port for each family; `gue`, version 1, one port for both, as Katran sends it; \
             `gue0`, version 0, with a header of four bytes; `geneve` without options. `nat` replaces addresses and ports, in both \
             directions (`[nat]`). Profile katran: `ipip` and `gue`.",
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
            "key_file",
            "absolute path",
            "none: a random key for each table",
            "\"/etc/tandem/flows.key\"",
            "A file with 128 hexadecimal digits, the key that flows are hashed with: `openssl rand -hex 64`. Balancers that exchange \
             flows have the same, and keep it secret: who knows it can aim at the flow table.",
        ),
        key(
            "new_flows_per_core",
            "number, 1 to 4294967295, per second",
            "125_000",
            "125_000",
            "New flows that one core remembers; above it the ring alone decides, so that a flood does not push out what is there.",
        ),
    ],
};

/// Translation of addresses.
pub static NAT: Section = Section {
    name: "nat",
    repeated: false,
    meaning: "Reals with the method `nat`: what their clients send gets the real's address and port, and what they answer is \
              translated back here.",
    since: NOW,
    keys: &[
        key(
            "sources_v4",
            "array of distinct IPv4 addresses, unicast, at most 16 with those of IPv6",
            "[]",
            "[\"10.0.13.40\"]",
            "Addresses of this host that the clients' are replaced by towards IPv4 reals; each client always gets the same. \
             Answers come back by themselves then, and clients may be of the other family. Empty: clients keep their addresses, \
             and the reals' route to them has to lead through this host.",
        ),
        key(
            "sources_v6",
            "array of distinct IPv6 addresses, unicast, at most 16 with those of IPv4",
            "[]",
            "[\"fc00:2307::40\"]",
            "The same towards IPv6 reals.",
        ),
        key("first_port", "number, 1 to 65535", "1024", "1024", "First of the ports towards the reals."),
        key(
            "ports",
            "number, 1 to 65535",
            "31744",
            "64512",
            "How many there are; each carries one connection of each protocol, whatever its real. The default ends where those \
             begin that Linux takes for this host's own connections, 32768; an address that only NAT uses can have all, 64512. A \
             connection takes 128 bytes.",
        ),
        key(
            "capacity",
            "number, 16 to 67108864",
            "65_536",
            "65_536",
            "Connections whose client keeps its address. A place is free for nearly all new ones until three quarters are taken.",
        ),
        key(
            "tcp_opening",
            "duration, 1s to 24h",
            "\"30s\"",
            "\"30s\"",
            "How long a silent connection of TCP is kept before its client has answered the real.",
        ),
        key(
            "tcp_established",
            "duration, 1s to 24h",
            "\"124m\"",
            "\"15m\"",
            "The same when it is established (RFC 5382 REQ-5 asks for no less than the default).",
        ),
        key("tcp_half_closed", "duration, 1s to 24h", "\"4m\"", "\"2m\"", "The same when one side has sent all."),
        key(
            "tcp_closed",
            "duration, 1s to 24h",
            "\"30s\"",
            "\"10s\"",
            "The same when both have, or one of them aborted it. A SYN with the same ports opens a new one at once.",
        ),
        key("udp", "duration, 1s to 24h", "\"2m\"", "\"30s\"", "The same of UDP (RFC 4787 REQ-5: two minutes at least)."),
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
