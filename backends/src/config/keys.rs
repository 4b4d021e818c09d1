//! Every key of the configuration file, once: its name, type, default, meaning, values, and since when it works.
//!
//! The reader takes from here which keys and values are known, which of them a later version brings, and what to suggest for a
//! mistyped one; [`reference`](super::reference()) prints it as `docs/configuration.md`.

/// Since when a section, key or value works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// This version and later ones.
    Version(&'static str),
    /// A later version; until then it is refused by name.
    Later,
}

impl Since {
    /// Whether it works now.
    #[must_use]
    pub const fn is_now(self) -> bool {
        matches!(self, Self::Version(_))
    }
}

/// A table of the file, or each of an array of tables.
#[derive(Debug)]
pub struct Section {
    /// Its name without indices: `node`, `vip`, `vip.real`.
    pub name: &'static str,
    /// Whether there can be several: `[[vip]]` and not `[node]`.
    pub repeated: bool,
    /// What it is for.
    pub meaning: &'static str,
    /// If [`Since::Later`], so are all its keys.
    pub since: Since,
    /// Its keys in the order of the reference.
    pub keys: &'static [Key],
}

impl Section {
    /// How it is opened in the file.
    #[must_use]
    pub fn header(&self) -> String {
        if self.repeated { format!("[[{}]]", self.name) } else { format!("[{}]", self.name) }
    }

    /// The key of that name.
    #[must_use]
    pub fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name)
    }
}

/// One key of a section.
#[derive(Debug)]
pub struct Key {
    /// Its name in the section.
    pub name: &'static str,
    /// Type, unit and range, in words.
    pub kind: &'static str,
    /// Its default as TOML, or in words; empty: the key is required.
    pub default: &'static str,
    /// A good value, as TOML.
    pub example: &'static str,
    /// What it does.
    pub meaning: &'static str,
    /// Since when it works.
    pub since: Since,
    /// The values it chooses from; empty if it is not a choice.
    pub values: &'static [Value],
}

impl Key {
    const fn later(mut self) -> Self {
        self.since = Since::Later;
        self
    }

    const fn of(mut self, values: &'static [Value]) -> Self {
        self.values = values;
        self
    }

    /// The values that work now, as an enumeration.
    #[must_use]
    pub fn accepted(&self) -> String {
        let now = self.values.iter().filter(|value| value.since.is_now());
        now.map(|value| value.name).collect::<Vec<_>>().join(", ")
    }
}

/// One value of a choice.
#[derive(Debug)]
pub struct Value {
    /// As it is written in the file.
    pub name: &'static str,
    /// Since when it works.
    pub since: Since,
}

const NOW: Since = Since::Version("0.1");

const fn now(name: &'static str) -> Value {
    Value { name, since: NOW }
}

const fn later(name: &'static str) -> Value {
    Value { name, since: Since::Later }
}

const fn key(name: &'static str, kind: &'static str, default: &'static str, example: &'static str, meaning: &'static str) -> Key {
    Key { name, kind, default, example, meaning, since: NOW, values: &[] }
}

/// Every section, in the order of the reference.
pub static SECTIONS: &[&Section] = &[&NODE, &TUNNEL, &FLOWS, &SERVER_IDS, &SOURCE_ROUTE, &DECAP, &HEALTH_ENCAP, &VIP, &REAL];

/// The forwarding methods; shared by three keys.
const ENCAPS: &[Value] =
    &[now("ipip"), later("gue"), later("gue0"), later("gre"), later("fou"), later("geneve"), later("l2"), later("nat")];

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
        .of(&[now("standard"), later("katran")]),
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
            "Forwarding method of every VIP that names none. `ipip` carries both families inside both.",
        )
        .of(ENCAPS),
        key("source_v4", "IPv4 address, unicast", "the interface's own", "\"10.0.13.37\"", "Source of outer IPv4 headers."),
        key("source_v6", "IPv6 address, unicast", "the interface's own", "\"fc00:2307::1337\"", "Source of outer IPv6 headers."),
        key(
            "source_prefix_v4",
            "IPv4 prefix, length 1 to 32, host bits zero",
            "none",
            "\"172.16.0.0/16\"",
            "Outer IPv4 sources are crafted inside it, per flow, so that the real's network card spreads them over its queues; \
             then `source_v4` is not needed.",
        ),
        key(
            "source_prefix_v6",
            "IPv6 prefix, length 1 to 128, host bits zero",
            "none",
            "\"100::/64\"",
            "The same for outer IPv6 headers; at most the last 32 bits differ between flows.",
        ),
        key("gue_port", "number, 1 to 65535", "6080", "6080", "Destination port of GUE.").later(),
        key("decap", "array of", "[]", "[\"ipip\"]", "Kinds of tunnels to the balancer itself that are opened inline.")
            .of(&[later("ipip"), later("gue")])
            .later(),
        key("decap_strict", "true or false", "true", "true", "Whether inline decapsulation checks the inner packet.").later(),
        key("tcp_server_id", "true or false", "false", "true", "Routes TCP by the server-id option.").later(),
        key(
            "max_frame",
            "number, 60 to 3520, bytes without FCS",
            "1514",
            "1514",
            "Largest frame accepted for a VIP. The upper limit is what XDP has room for in one page of 4 KiB.",
        ),
        key(
            "too_big",
            "one of",
            "\"drop\"",
            "\"drop\"",
            "What happens to a larger frame. `icmp` (fragmentation needed, packet too big) will become the default.",
        )
        .of(&[now("drop"), later("icmp")]),
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
        key("new_flows_per_core", "number, per second", "125_000", "125_000", "Above it the ring alone decides.").later(),
    ],
};

/// Numbers of reals.
pub static SERVER_IDS: Section = Section {
    name: "server_ids",
    repeated: false,
    meaning: "Numbers of reals, for QUIC connection ids, stable routing of UDP and the TCP option.",
    since: Since::Later,
    keys: &[key("<number>", "address", "", "\"10.0.0.1\"", "The real with that number.").later()],
};

/// Routing by source.
pub static SOURCE_ROUTE: Section = Section {
    name: "source_route",
    repeated: true,
    meaning: "A real for clients of a prefix.",
    since: Since::Later,
    keys: &[
        key("prefix", "prefix", "", "\"192.168.0.0/17\"", "The clients; the longest prefix wins.").later(),
        key("real", "address", "", "\"fc00::2307:1\"", "Their real.").later(),
    ],
};

/// Inline decapsulation.
pub static DECAP: Section = Section {
    name: "decap",
    repeated: true,
    meaning: "An address of this machine at which tunnels end.",
    since: Since::Later,
    keys: &[
        key("address", "address", "", "\"fc00:1404::1\"", "The outer destination.").later(),
        key("then", "one of", "", "\"balance\"", "What happens to the inner packet.")
            .of(&[later("balance"), later("egress")])
            .later(),
    ],
};

/// Probes to single reals.
pub static HEALTH_ENCAP: Section = Section {
    name: "health_encap",
    repeated: true,
    meaning: "A real for probes of this machine that carry a socket mark.",
    since: Since::Later,
    keys: &[
        key("mark", "number", "", "1", "The mark of the socket.").later(),
        key("real", "address", "", "\"10.0.0.1\"", "The real that is probed.").later(),
    ],
};

/// A virtual service.
pub static VIP: Section = Section {
    name: "vip",
    repeated: true,
    meaning: "A virtual service; at most 512, distinct in address, port and protocol.",
    since: NOW,
    keys: &[
        key(
            "address",
            "address, unicast",
            "",
            "\"10.200.1.1\"",
            "Where clients connect to. A prefix in its place is a step of a later version.",
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
            "Slots of the ring; a hundred for each real keep the shares within a per cent or so.",
        ),
        key("encap", "one of", "that of `[tunnel]`", "\"ipip\"", "Forwarding method of its reals.").of(ENCAPS),
        key(
            "flags",
            "array of distinct",
            "[]",
            "[\"no-source-port\"]",
            "`no-source-port`: all flows of one client reach one real. `bypass-flow-table`: the ring alone decides.",
        )
        .of(&[
            now("no-source-port"),
            now("bypass-flow-table"),
            later("quic"),
            later("hash-dport-only"),
            later("source-routing"),
            later("local"),
            later("global-flow-table"),
            later("hash-src-dst-port"),
            later("udp-stable-routing"),
            later("udp-flow-migration"),
        ]),
    ],
};

/// A server of a virtual service.
pub static REAL: Section = Section {
    name: "vip.real",
    repeated: true,
    meaning: "A server of the VIP above it; at most 4,095 distinct addresses over all VIPs, each once in a VIP.",
    since: NOW,
    keys: &[
        key("address", "address, unicast, of either family", "", "\"10.0.0.1\"", "Where the outer header leads."),
        key("weight", "number, 0 to 65535", "1", "1", "Share of the ring relative to the other reals; 0: no new flows."),
        key(
            "state",
            "one of",
            "\"up\"",
            "\"drain\"",
            "`drain` leaves the ring and keeps its flows; `down` leaves the ring and its flows follow the removal policy.",
        )
        .of(&[now("up"), now("drain"), now("down")]),
        key("local", "true or false", "false", "true", "The real is this machine.").later(),
        key("encap", "one of", "that of the VIP", "\"ipip\"", "Forwarding method of this real.").of(ENCAPS),
    ],
};
