//! The configuration that is measured, and frames to it: Katran's own test set-up (8 VIPs, 100 reals of each family, rings
//! of 65,537 slots), so that numbers can be laid side by side.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result};
use etherparse::{IpHeaders, PacketBuilder, PacketBuilderStep, TcpHeader};
use tandem_backends::config::{Plan, parse};
use tandem_backends::control::{Changes, Control, Facts, Grace};
use tandem_backends::memory::Tables;

use std::sync::Arc;

/// The balancer's own MAC and the router's.
const LOCAL_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const CLIENT_V4: Ipv4Addr = Ipv4Addr::new(192, 168, 100, 17);
const CLIENT_V6: Ipv6Addr = Ipv6Addr::new(0xfc00, 2, 0, 0, 0, 0, 0, 1);
const SOURCE_PORT: u16 = 31_337;

/// VIPs by what is special about them.
pub mod vip {
    use std::net::{Ipv4Addr, Ipv6Addr};
    /// Port 80, TCP and UDP, IPv4 reals.
    pub const PLAIN: Ipv4Addr = Ipv4Addr::new(10, 200, 1, 1);
    /// Every port, UDP.
    pub const ANY_PORT: Ipv4Addr = Ipv4Addr::new(10, 200, 1, 2);
    /// Port 80, TCP, IPv6 reals.
    pub const V6_REALS: Ipv4Addr = Ipv4Addr::new(10, 200, 1, 3);
    /// Port 80, TCP and UDP, no flow table.
    pub const BYPASS: Ipv4Addr = Ipv4Addr::new(10, 200, 1, 7);
    /// No VIP at all.
    pub const NONE: Ipv4Addr = Ipv4Addr::new(10, 200, 1, 99);
    /// Port 80, TCP and UDP, IPv6 reals.
    pub const V6: Ipv6Addr = Ipv6Addr::new(0xfc00, 1, 0, 0, 0, 0, 0, 1);
    /// No VIP at all.
    pub const V6_NONE: Ipv6Addr = Ipv6Addr::new(0xfc00, 1, 0, 0, 0, 0, 0, 0x99);
}

/// Reals of each family.
const REALS: u16 = 100;

/// The forwarding methods, each with a VIP of [`everything`] on port 80, UDP.
pub const METHODS: [(&str, Ipv4Addr); 9] = [
    ("ipip", Ipv4Addr::new(10, 200, 2, 1)),
    ("gre", Ipv4Addr::new(10, 200, 2, 2)),
    ("fou", Ipv4Addr::new(10, 200, 2, 3)),
    ("gue", Ipv4Addr::new(10, 200, 2, 4)),
    ("gue0", Ipv4Addr::new(10, 200, 2, 5)),
    ("geneve", Ipv4Addr::new(10, 200, 2, 6)),
    ("geneve, ethernet", Ipv4Addr::new(10, 200, 2, 7)),
    ("l2", Ipv4Addr::new(10, 200, 2, 8)),
    ("nat", Ipv4Addr::new(10, 200, 2, 9)),
];

/// The configuration.
///
/// # Errors
/// If the text below is not a valid configuration any more.
pub fn plan() -> Result<Plan> {
    Ok(parse(&text("too_big = \"drop\"\n")?, "bench").context("the benchmarks' own configuration")?.plan)
}

/// The same VIPs beside everything else that can be configured, and a VIP for each of [`METHODS`].
///
/// # Errors
/// If the text below is not a valid configuration any more.
pub fn everything() -> Result<Plan> {
    const MORE: &str = r#"
        [nat]
        sources_v4 = ["10.0.13.37"]
        [server_ids]
        1022 = "10.0.0.1"
        [[source_route]]
        prefix = "203.0.113.0/24"
        real = "10.0.0.2"
        [[decap]]
        address = "10.200.9.9"
        then = "balance"
        [[vip]]
        address = "10.201.0.0/16"
        port = 443
        protocol = "udp"
        flags = ["quic", "udp-flow-migration", "source-routing", "local", "global-flow-table", "hash-src-dst-port"]
        real = [{ address = "10.0.0.1", local = true }, { address = "10.0.0.2" }]
        [[vip]]
        address = "10.202.0.1"
        port = 444
        protocol = "udp"
        flags = ["udp-stable-routing", "hash-dport-only"]
        real = [{ address = "10.0.0.1", encap = "gue" }]
    "#;
    let mut text = text("decap = [\"ipip\", \"gue\"]\ntcp_server_id = true\nsource_v6 = \"fc00::99\"\n")? + MORE;
    for (method, address) in METHODS {
        let (encap, more) = match method {
            "geneve, ethernet" => ("geneve", "geneve_inner = \"ethernet\"\n"),
            other => (other, ""),
        };
        writeln!(text, "[[vip]]\naddress = \"{address}\"\nport = 80\nprotocol = \"udp\"\nencap = \"{encap}\"\n{more}")?;
        writeln!(text, "real = [{{ address = \"10.0.0.1\", inner_mac = \"02:00:00:00:00:07\" }}]")?;
    }
    Ok(parse(&text, "bench").context("the benchmarks' own configuration")?.plan)
}

/// The configuration with more keys of `[tunnel]`.
fn text(tunnel: &str) -> Result<String> {
    let mut text = format!(
        "[node]\nnext_hop_mac = \"02:00:00:00:00:09\"\nlocal_mac = \"02:00:00:00:00:01\"\n\
         [flows]\nnew_flows_per_core = 4_000_000_000\n[tunnel]\nsource_v4 = \"10.0.13.37\"\nsource_prefix_v6 = \"100::/64\"\n{tunnel}",
    );
    let vips = [
        (vip::PLAIN.to_string(), 80, "udp", "", false),
        (vip::PLAIN.to_string(), 80, "tcp", "", false),
        (vip::V6_REALS.to_string(), 80, "tcp", "", true),
        (vip::ANY_PORT.to_string(), 0, "udp", "", false),
        (vip::BYPASS.to_string(), 80, "udp", "\"bypass-flow-table\"", false),
        (vip::BYPASS.to_string(), 80, "tcp", "\"bypass-flow-table\"", false),
        (vip::V6.to_string(), 80, "tcp", "", true),
        (vip::V6.to_string(), 80, "udp", "", true),
    ];
    for (address, port, protocol, flags, v6_reals) in vips {
        write!(text, "[[vip]]\naddress = \"{address}\"\nport = {port}\nprotocol = \"{protocol}\"\nflags = [{flags}]\n")?;
        for n in 1..=REALS {
            let real = if v6_reals { format!("fc00::{n:x}") } else { format!("10.0.0.{n}") };
            writeln!(text, "[[vip.real]]\naddress = \"{real}\"")?;
        }
    }
    Ok(text)
}

/// Writes the configuration into tables.
///
/// # Errors
/// If it does not fit.
pub fn apply<G: Grace>(plan: &Plan, tables: &Arc<Tables>, grace: &G) -> Result<Changes> {
    let facts = Facts::of_plan(plan, 1).map_err(anyhow::Error::msg)?;
    Ok(Control::adopt(tables.clone())?.apply(plan, &facts, grace)?)
}

fn v4(to: Ipv4Addr) -> PacketBuilderStep<IpHeaders> {
    PacketBuilder::ethernet2(ROUTER_MAC, LOCAL_MAC).ipv4(CLIENT_V4.octets(), to.octets(), 64)
}

fn v6(to: Ipv6Addr) -> PacketBuilderStep<IpHeaders> {
    PacketBuilder::ethernet2(ROUTER_MAC, LOCAL_MAC).ipv6(CLIENT_V6.octets(), to.octets(), 64)
}

/// A UDP frame of 64 bytes to port 80.
pub fn udp_v4(to: Ipv4Addr) -> Vec<u8> {
    let mut frame = Vec::new();
    v4(to).udp(SOURCE_PORT, 80).write(&mut frame, &[0; 22]).expect("a vector takes everything");
    frame
}

/// A TCP segment to port 80, without payload.
pub fn tcp_v4(to: Ipv4Addr, syn: bool) -> Vec<u8> {
    let mut frame = Vec::new();
    v4(to).tcp_header(tcp(syn)).write(&mut frame, &[0; 10]).expect("a vector takes everything");
    frame
}

/// A TCP segment to port 80 of an IPv6 address.
pub fn tcp_v6(to: Ipv6Addr) -> Vec<u8> {
    let mut frame = Vec::new();
    v6(to).tcp_header(tcp(false)).write(&mut frame, &[]).expect("a vector takes everything");
    frame
}

fn tcp(syn: bool) -> TcpHeader {
    let mut header = TcpHeader::new(SOURCE_PORT, 80, 1, 1000);
    (header.syn, header.ack) = (syn, !syn);
    header
}
