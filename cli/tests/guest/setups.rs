//! What a stock kernel is told, and what it then takes. A row here is a row of `docs/kernels.md`.

use super::service::Service;

/// Whether a service's frames are delivered.
pub type Delivers = fn(&Service) -> bool;

/// A real server's set-up.
pub struct Setup {
    pub name: &'static str,
    /// For `ip`, in groups; those of IPv6's own begin with `-6`.
    pub commands: &'static [&'static [&'static str]],
    /// Below `/proc/sys/net`, after the commands.
    pub sysctls: &'static [(&'static str, &'static str)],
    /// The device with the real's addresses.
    pub device: &'static str,
    /// 802.1Q identifiers that frames arrive with, outermost first.
    pub tags: &'static [u16],
    /// Kernels, by the beginning of their release, that do something else, and why.
    pub otherwise: &'static [(&'static str, Delivers, &'static str)],
    pub delivers: Delivers,
    /// Why not everything; empty if nothing is amiss.
    pub why: &'static str,
}

pub const PLAIN: Setup =
    Setup { name: "", commands: &[], sysctls: &[], device: "r0", tags: &[], otherwise: &[], delivers: everything, why: "" };

const FALLBACK: &[&str] =
    &["link set tunl0 up", "link set sit0 up", "link set ip6tnl0 up", "link set gre0 up", "link set ip6gre0 up"];
const ANY: &[&str] = &["-6 tunnel change ip6tnl0 mode any"];
const PORTS: &[&str] = &[
    "fou add port 6080 gue",
    "fou add port 5555 ipproto 4",
    "fou add port 5556 ipproto 41",
    "-6 fou add port 6080 gue",
    "-6 fou add port 5555 ipproto 4",
    "-6 fou add port 5556 ipproto 41",
];

pub const SETUPS: [Setup; 14] = [
    Setup {
        name: "no device",
        delivers: is_l2,
        why: "a tunnel needs a device, or `tandem decap`; direct return needs nothing",
        ..PLAIN
    },
    Setup {
        name: "the devices that are there, up",
        commands: &[FALLBACK],
        delivers: |to| is_l2(to) || is(to, "gre") || is(to, "ipip") && !(to.v6_real && to.vip.is_ipv4()),
        why: "`ip6tnl0` takes only IPv6 inside until its mode is `any`; UDP tunnels need a port",
        ..PLAIN
    },
    Setup {
        name: "the same, ip6tnl0 for both families",
        commands: &[FALLBACK, ANY],
        delivers: |to| is_l2(to) || is(to, "gre") || is(to, "ipip"),
        why: "UDP tunnels need a port",
        ..PLAIN
    },
    Setup {
        name: "ports for FOU and GUE",
        commands: &[FALLBACK, ANY, PORTS],
        delivers: |to| !is(to, "geneve"),
        why: "Geneve needs a device",
        ..PLAIN
    },
    Setup {
        name: "a port for GUE, over IPv4 alone",
        commands: &[&["link set tunl0 up", "link set sit0 up", "link set ip6tnl0 up", "fou add port 6080 gue"], ANY],
        delivers: |to| is_l2(to) || is(to, "ipip") || (is(to, "gue") || is(to, "gue0")) && !to.v6_real,
        why: "a port is of one family: `ip -6 fou add …` is needed, too",
        ..PLAIN
    },
    Setup {
        name: "Geneve for Ethernet",
        commands: &[&["link add gnv0 address 02:00:00:00:77:77 type geneve external", "link set gnv0 up"]],
        delivers: |to| is_l2(to) || is_ethernet(to),
        why: "a packet without an Ethernet header needs `innerprotoinherit`",
        ..PLAIN
    },
    Setup {
        name: "Geneve for packets",
        commands: &[&["link add gnv0 type geneve external innerprotoinherit", "link set gnv0 up"]],
        otherwise: &[("5.10.", is_l2, "does not know `innerprotoinherit` and says nothing of it: no packet is delivered")],
        delivers: |to| is_l2(to) || is(to, "geneve") && !is_ethernet(to),
        why: "with `innerprotoinherit`, Ethernet frames are not for the device's own network",
        ..PLAIN
    },
    Setup {
        name: "Geneve of one balancer",
        commands: &[&["link add gnv0 address 02:00:00:00:77:77 type geneve id 4242 remote 172.16.1.2", "link set gnv0 up"]],
        delivers: |to| is_l2(to) || is_ethernet(to) && !to.v6_real,
        why: "a device with `remote` is of that address and its family; `external` serves every balancer",
        ..PLAIN
    },
    Setup {
        name: "Geneve of another network",
        commands: &[&["link add gnv0 address 02:00:00:00:77:77 type geneve id 4243 remote 172.16.1.2", "link set gnv0 up"]],
        delivers: is_l2,
        why: "the `vni` of the VIP and the device's `id` must agree",
        ..PLAIN
    },
    Setup {
        name: "devices with metadata",
        commands: &[&[
            "link add e0 type ipip external",
            "link add e1 type ip6tnl external",
            "link add e2 type gre external",
            "link add e3 type ip6gre external",
            "link set e0 up",
            "link set e1 up",
            "link set e2 up",
            "link set e3 up",
        ]],
        delivers: |to| is_l2(to) || is(to, "gre") || is(to, "ipip") && (to.v6_real || to.vip.is_ipv4()),
        why: "`sit` has no `external`: IPv6 in IPv4 needs `sit0`",
        ..PLAIN
    },
    Setup {
        name: "devices of this address",
        commands: &[&[
            "link add d0 type ipip local 192.168.7.1 remote any",
            "link add d1 type sit local 192.168.7.1 remote any",
            "link add d2 type ip6tnl local fd00:7::1 remote any mode any",
            "link add d3 type gre local 192.168.7.1 remote any",
            "link add d4 type ip6gre local fd00:7::1 remote any",
            "link set d0 up",
            "link set d1 up",
            "link set d2 up",
            "link set d3 up",
            "link set d4 up",
        ]],
        delivers: |to| is_l2(to) || is(to, "gre") || is(to, "ipip"),
        why: "UDP tunnels need a port",
        ..PLAIN
    },
    Setup {
        name: "reverse path filter 1",
        commands: &[FALLBACK, ANY],
        sysctls: &[("ipv4/conf/all/rp_filter", "1")],
        delivers: |to| is_l2(to) || (is(to, "gre") || is(to, "ipip")) && to.vip.is_ipv6(),
        why: "an IPv4 client's packet comes out of the tunnel's device, and its answer would leave by another; 0 is needed on `all` and on the device",
        ..PLAIN
    },
    Setup {
        name: "a VLAN's device",
        commands: &[FALLBACK, ANY, &["link add link r0 name r0.5 type vlan id 5", "link set r0.5 up"]],
        device: "r0.5",
        tags: &[5],
        delivers: |to| is_l2(to) || is(to, "gre") || is(to, "ipip"),
        why: "UDP tunnels need a port",
        ..PLAIN
    },
    Setup {
        name: "a bond",
        commands: &[
            FALLBACK,
            ANY,
            &["link add b0 mtu 1600 type bond mode active-backup", "link set r0 down", "link set r0 master b0", "link set b0 up"],
        ],
        device: "b0",
        delivers: |to| is_l2(to) || is(to, "gre") || is(to, "ipip"),
        why: "UDP tunnels need a port",
        ..PLAIN
    },
];

fn everything(_: &Service) -> bool {
    true
}

pub fn is(to: &Service, method: &str) -> bool {
    to.method.name == method
}

fn is_l2(to: &Service) -> bool {
    is(to, "l2")
}

pub fn is_ethernet(to: &Service) -> bool {
    to.method.of_vip.contains("ethernet")
}

impl Setup {
    /// What this kernel is to deliver.
    pub fn delivers_on(&self, release: &str) -> Delivers {
        let other = self.otherwise.iter().find(|(kernels, ..)| release.starts_with(kernels));
        other.map_or(self.delivers, |(_, delivers, _)| *delivers)
    }

    /// All commands.
    pub fn lines(&self) -> impl Iterator<Item = &'static str> {
        self.commands.iter().flat_map(|group| group.iter().copied())
    }
}

/// The method's name here, of which there is a row.
pub fn method(of: &Service) -> String {
    let inside = if is_ethernet(of) { ", Ethernet inside" } else { "" };
    format!("{}{inside}", of.method.name)
}

/// `INNER in OUTER`, by the families' numbers.
pub fn pair(of: &Service) -> String {
    let number = |v6| if v6 { 6 } else { 4 };
    format!("{}in{}", number(of.vip.is_ipv6()), number(of.v6_real))
}
