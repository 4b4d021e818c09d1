//! The table: what is broken, what fails of it, and which check says so.
//!
//! In commands: `{vip}` `{vip6}` VIPs; `{lb}` `{real}` `{client}` hosts, `{lb6}` and so on their IPv6 addresses; `{gw}` the
//! balancer's router, `{gw6}` by IPv6, `{rgw}` the real's; `{mac}` the balancer's MAC; `{conf}` the configuration; `{pins}` the lab's pins.

use tandem_lab::Host;

use super::REAL;

/// Something that is done.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    /// A command for the shell, in a host.
    Sh(Host, &'static str),
    /// The configuration is changed by a command, and the balancer started with it.
    Reconfigured(&'static str),
    /// The balancer is stopped.
    Stopped,
    /// It is killed, and leaves everything.
    Killed,
    /// It is started.
    Started,
    /// It is started, and refuses.
    Refused,
    /// The server of the port 7200 listens on the VIP, or on the real's own address.
    Listening(bool),
}

/// What is tried.
#[derive(Clone, Copy, Debug)]
pub enum Traffic {
    /// Datagrams of the client to the IPv4 VIP, answered.
    Udp,
    /// To the IPv6 VIP.
    Udp6,
    /// To the port of [`Step::Listening`].
    Other,
    /// A TCP stream with full segments to the IPv4 VIP.
    Upload,
    /// A probe of the balancer's, with a mark.
    Probe,
}

/// What the break does.
#[derive(Clone, Copy, Debug)]
pub enum Effect {
    /// Traffic fails, and the check with it.
    Stops,
    /// Traffic flows: it is a risk, or costs. The check warns.
    Risks,
    /// Traffic fails by what this host cannot see. The check warns.
    Elsewhere,
}

pub struct Break {
    pub id: &'static str,
    pub host: Host,
    pub what: &'static str,
    pub before: &'static [Step],
    pub breaks: &'static [Step],
    pub traffic: Traffic,
    pub effect: Effect,
    /// Beside the cures: what a cure leaves to the administrator.
    pub then: &'static [Step],
    /// Puts back what the cure did not have to.
    pub after: &'static [Step],
}

use Effect::{Elsewhere, Risks, Stops};
use Host::{Client, Lb, Router};
use Step::{Killed, Listening, Reconfigured, Refused, Sh, Started, Stopped};

const PLAIN: Break =
    Break { id: "", host: REAL, what: "", before: &[], breaks: &[], traffic: Traffic::Udp, effect: Stops, then: &[], after: &[] };

pub const BREAKS: &[Break] = &[
    // --- real ---------------------------------------------------------------------------------------------------------------
    Break { id: "D-07", what: "the VIP is missing", breaks: &[Sh(REAL, "ip addr del {vip}/32 dev lo")], ..PLAIN },
    Break {
        id: "D-07",
        what: "the IPv6 VIP is missing",
        breaks: &[Sh(REAL, "ip addr del {vip6}/128 dev lo")],
        traffic: Traffic::Udp6,
        ..PLAIN
    },
    Break {
        id: "D-04",
        what: "strict reverse path filter on `all`, and answers leave by another link",
        before: &[
            Sh(
                Router,
                "ip link add back0 type veth peer name back1 netns {real_ns}; ip addr add 10.90.99.1/24 dev back0; ip link set back0 up",
            ),
            Sh(REAL, "ip addr add 10.90.99.2/24 dev back1; ip link set back1 up; ip route add {client}/32 via 10.90.99.1"),
        ],
        breaks: &[Sh(REAL, "sysctl -qw net.ipv4.conf.all.rp_filter=1")],
        after: &[Sh(Router, "ip link del back0")],
        ..PLAIN
    },
    Break {
        id: "D-35",
        what: "the service listens on the real's own address",
        breaks: &[Listening(false)],
        traffic: Traffic::Other,
        after: &[Sh(REAL, "nft delete table ip tandem-doctor"), Listening(true)],
        ..PLAIN
    },
    Break {
        id: "D-10",
        what: "a policy rule refuses answers",
        breaks: &[Sh(REAL, "ip rule add from {vip} prohibit pref 100")],
        ..PLAIN
    },
    Break {
        id: "D-10",
        what: "a route refuses the clients",
        breaks: &[Sh(REAL, "ip -6 route add unreachable {client6}/128")],
        traffic: Traffic::Udp6,
        ..PLAIN
    },
    Break {
        id: "D-10",
        what: "the gateway's MAC is the real's own",
        breaks: &[Sh(
            REAL,
            "ip neigh replace {rgw} lladdr $(ip -o link show eth0 | sed 's/.*ether \\([^ ]*\\).*/\\1/') dev eth0 nud permanent",
        )],
        ..PLAIN
    },
    Break {
        id: "D-12",
        what: "ARP with the VIP as the sender, which the router does not answer",
        before: &[Sh(Router, "sysctl -qw net.ipv4.conf.all.arp_ignore=2")],
        breaks: &[Sh(
            REAL,
            "sysctl -qw net.ipv4.conf.all.arp_announce=0 net.ipv4.conf.eth0.arp_announce=0; ip neigh del {rgw} dev eth0",
        )],
        after: &[Sh(Router, "sysctl -qw net.ipv4.conf.all.arp_ignore=0")],
        ..PLAIN
    },
    Break {
        id: "D-11",
        what: "a rule of the real drops the service",
        breaks: &[Sh(
            REAL,
            "nft add table inet fw; nft add chain inet fw in '{ type filter hook input priority 0; }'; nft add rule inet fw in ip daddr {vip} udp dport { 53, 7000 } counter drop",
        )],
        after: &[Sh(REAL, "nft delete table inet fw")],
        ..PLAIN
    },
    // --- router -------------------------------------------------------------------------------------------------------------
    Break {
        id: "D-11",
        host: Router,
        what: "a rule of the router eats protocol 4",
        breaks: &[Sh(
            Router,
            "nft add table ip fw; nft add chain ip fw across '{ type filter hook forward priority 0; }'; nft add rule ip fw across ip protocol 4 counter drop",
        )],
        after: &[Sh(Router, "nft delete table ip fw")],
        ..PLAIN
    },
    Break {
        id: "D-11",
        host: Router,
        what: "the router forwards only what connection tracking knows, and some ports, by default",
        breaks: &[Sh(
            Router,
            "nft add table inet fw; nft add chain inet fw across '{ type filter hook forward priority 0; policy drop; }'; nft add rule inet fw across ct state vmap '{ established : accept, related : accept }'; nft add rule inet fw across udp dport 7000-7300 accept; nft add rule inet fw across tcp dport 7000-7300 accept; nft add rule inet fw across udp sport 7000-7300 accept; nft add rule inet fw across tcp sport 7000-7300 accept; nft add rule inet fw across meta l4proto 41 accept; nft add rule inet fw across meta l4proto '{ icmp, icmpv6 }' accept",
        )],
        after: &[Sh(Router, "nft delete table inet fw")],
        ..PLAIN
    },
    Break {
        id: "D-30",
        host: Router,
        what: "the VIP's route leads to another host",
        breaks: &[Sh(Router, "ip route replace {vip} via {client}")],
        ..PLAIN
    },
    Break {
        id: "D-30",
        host: Router,
        what: "the VIP's route ends at the router itself",
        breaks: &[Sh(Router, "ip route del {vip}; ip route add local {vip} dev lo")],
        ..PLAIN
    },
    Break {
        id: "D-30",
        host: Router,
        what: "the VIP is an address of the router",
        breaks: &[Sh(Router, "ip addr add {vip}/32 dev lo")],
        ..PLAIN
    },
    Break {
        id: "D-30",
        host: Router,
        what: "the VIP is sent straight onto the link",
        breaks: &[Sh(Router, "ip route replace {vip} dev lb")],
        ..PLAIN
    },
    Break {
        id: "D-30",
        host: Router,
        what: "the router does not forward",
        breaks: &[Sh(Router, "sysctl -qw net.ipv4.ip_forward=0")],
        ..PLAIN
    },
    Break {
        id: "D-32",
        host: Router,
        what: "strict reverse path filter on the router",
        breaks: &[Sh(Router, "sysctl -qw net.ipv4.conf.all.rp_filter=1")],
        ..PLAIN
    },
    Break {
        id: "D-45",
        host: Router,
        what: "ICMP errors are dropped, and the way to the real is narrow",
        before: &[],
        breaks: &[
            Sh(
                Router,
                "nft add table ip fw; nft add chain ip fw across '{ type filter hook forward priority 0; }'; nft add rule ip fw across icmp type destination-unreachable drop",
            ),
            Sh(Lb, "ip link set eth0 mtu 1500"),
        ],
        traffic: Traffic::Upload,
        after: &[Sh(Router, "nft delete table ip fw"), Sh(Lb, "ip link set eth0 mtu 1600"), Sh(Client, "ip route flush cache")],
        ..PLAIN
    },
    Break {
        id: "D-43",
        host: Router,
        what: "checksums are left to hardware that is not there",
        breaks: &[Sh(Client, "ethtool -K eth0 tx on"), Sh(Router, "ethtool -K lb tx on")],
        after: &[Sh(Client, "ethtool -K eth0 tx off")],
        ..PLAIN
    },
    Break {
        id: "D-43",
        host: Router,
        what: "no XDP program on the far end of the balancer's veth",
        breaks: &[Sh(Router, "rm {pins}/router")],
        ..PLAIN
    },
    // --- client -------------------------------------------------------------------------------------------------------------
    Break {
        id: "D-58",
        host: Client,
        what: "the VIP is an address of the client",
        breaks: &[Sh(Client, "ip addr add {vip}/32 dev lo")],
        ..PLAIN
    },
    Break {
        id: "D-11",
        host: Client,
        what: "a rule of the client drops answers",
        breaks: &[Sh(
            Client,
            "nft add table inet fw; nft add chain inet fw in '{ type filter hook input priority 0; }'; nft add rule inet fw in udp sport 7000 drop",
        )],
        after: &[Sh(Client, "nft delete table inet fw")],
        ..PLAIN
    },
    // --- balancer -----------------------------------------------------------------------------------------------------------
    Break {
        id: "D-33",
        host: Lb,
        what: "the gateway's MAC is the balancer's own",
        breaks: &[Sh(Lb, "ip neigh replace {gw} lladdr {mac} dev eth0 nud permanent")],
        ..PLAIN
    },
    Break {
        id: "D-33",
        host: Lb,
        what: "node.next_hop_mac is nobody's",
        breaks: &[Reconfigured("sed -i '/^interface/a next_hop_mac = \"02:00:00:00:99:99\"' {conf}")],
        then: &[Stopped, Started],
        ..PLAIN
    },
    Break {
        id: "D-34",
        host: Lb,
        what: "the VIP is an address of the balancer: probes end there",
        breaks: &[Sh(Lb, "ip addr add {vip}/32 dev lo")],
        traffic: Traffic::Probe,
        ..PLAIN
    },
    Break {
        id: "D-49",
        host: Lb,
        what: "a route refuses the real",
        breaks: &[Sh(Lb, "ip route add unreachable {real}/32")],
        ..PLAIN
    },
    Break {
        id: "D-44",
        host: Lb,
        what: "the outer headers do not fit, and nobody is told",
        breaks: &[Sh(Lb, "ip link set eth0 mtu 1500"), Reconfigured("sed -i '/^.tunnel/a too_big = \"drop\"' {conf}")],
        traffic: Traffic::Upload,
        after: &[Sh(Lb, "ip link set eth0 mtu 1600"), Reconfigured("sed -i '/^too_big/d' {conf}")],
        ..PLAIN
    },
    Break {
        id: "D-38",
        host: Lb,
        what: "two queues on one core",
        breaks: &[Reconfigured("sed -i -e '/^interface/a cores = [0]' -e 's/^mode.*/mode = \"afxdp\"/' {conf}")],
        effect: Risks,
        then: &[Stopped, Started],
        after: &[Reconfigured("sed -i 's/^mode.*/mode = \"xdp\"/' {conf}")],
        ..PLAIN
    },
    Break {
        id: "D-36",
        host: Lb,
        what: "data has a pool of outer sources, and a firewall knows the probes' alone",
        before: &[Sh(
            Router,
            "nft add table ip fw; nft add chain ip fw across '{ type filter hook forward priority 0; }'; nft add rule ip fw across ip protocol 4 ip saddr != {lb} drop",
        )],
        breaks: &[Reconfigured("sed -i '/^.tunnel/a source_prefix_v4 = \"10.66.0.0/24\"' {conf}")],
        effect: Elsewhere,
        then: &[Stopped, Started],
        after: &[Sh(Router, "nft delete table ip fw")],
        ..PLAIN
    },
    Break {
        id: "D-48",
        host: Lb,
        what: "the interface has no IPv6 address, and the configuration leaves it to the interface",
        before: &[Sh(Lb, "ip -6 addr add fc00:99::1/128 dev lo nodad")],
        breaks: &[Stopped, Sh(Lb, "ip -6 addr del {lb6}/64 dev eth0; sed -i '/^source_v6/d' {conf}"), Refused],
        then: &[Started],
        after: &[
            Sh(Lb, "ip -6 addr add {lb6}/64 dev eth0 nodad; ip -6 addr del fc00:99::1/128 dev lo"),
            Reconfigured("sed -i 's/^source_v6.*/source_v6 = \"{lb6}\"/' {conf}"),
        ],
        ..PLAIN
    },
    Break {
        id: "D-54",
        host: Lb,
        what: "node.cores names a core that nobody has",
        breaks: &[Stopped, Sh(Lb, "sed -i -e '/^interface/a cores = [1000]' -e 's/^mode.*/mode = \"afxdp\"/' {conf}"), Refused],
        then: &[Started],
        after: &[Reconfigured("sed -i 's/^mode.*/mode = \"xdp\"/' {conf}")],
        ..PLAIN
    },
    Break {
        id: "D-52",
        host: Lb,
        what: "the interface was down for a moment, which ends the workers",
        before: &[Reconfigured("sed -i 's/^mode.*/mode = \"afxdp\"/' {conf}")],
        breaks: &[
            Sh(Lb, "ip link set eth0 down; sleep 0.3; ip link set eth0 up; ip route add default via {gw}"),
            Sh(Lb, "ip -6 addr add {lb6}/64 dev eth0 nodad; ip -6 route add default via {gw6}"),
        ],
        effect: Risks,
        after: &[Reconfigured("sed -i 's/^mode.*/mode = \"xdp\"/' {conf}")],
        ..PLAIN
    },
    Break { id: "D-40", host: Lb, what: "the balancer does not run", breaks: &[Stopped], ..PLAIN },
    Break {
        id: "D-56",
        host: Lb,
        what: "the balancer was killed, its program forwards on",
        breaks: &[Killed],
        effect: Risks,
        ..PLAIN
    },
    Break {
        id: "D-51",
        host: Lb,
        what: "another XDP program is on the interface",
        breaks: &[Stopped, Sh(Lb, "tandem decap attach eth0")],
        then: &[Started],
        ..PLAIN
    },
    // The last, as the cure stays: its pins have the interface's name, which the balancer's has, too.
    Break {
        id: "D-05",
        what: "nobody takes the tunnels off",
        breaks: &[Sh(REAL, "rm {pins}/real1")],
        after: &[Sh(REAL, "tandem decap detach eth0")],
        ..PLAIN
    },
];
