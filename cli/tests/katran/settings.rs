//! The part of the configuration that the model knows, read from and written as the product's own TOML, but by types of
//! its own: a mistake in the product's reader must not hide here.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// A whole configuration of `profile = "katran"`.
#[derive(Clone, PartialEq, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub node: Node,
    pub tunnel: Tunnel,
    #[serde(default)]
    pub flows: Flows,
    /// By number, as text: TOML's keys are texts.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub server_ids: BTreeMap<String, IpAddr>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub source_route: Vec<SourceRoute>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub decap: Vec<DecapAddress>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub vip: Vec<Vip>,
}

#[derive(Clone, PartialEq, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    pub profile: String,
    pub next_hop_mac: String,
    pub local_mac: String,
}

#[derive(Clone, PartialEq, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tunnel {
    pub encap: String,
    pub source_v4: Ipv4Addr,
    pub source_v6: Ipv6Addr,
    pub gue_port: u16,
    pub decap: Vec<String>,
    pub decap_strict: bool,
    pub tcp_server_id: bool,
    pub max_frame: usize,
    pub too_big: String,
}

impl Default for Tunnel {
    fn default() -> Self {
        Self {
            encap: "ipip".to_owned(),
            source_v4: Ipv4Addr::new(10, 0, 13, 37),
            source_v6: Ipv6Addr::new(0xfc00, 0x2307, 0, 0, 0, 0, 0, 0x1337),
            gue_port: 6080,
            decap: Vec::new(),
            decap_strict: true,
            tcp_server_id: false,
            max_frame: 1514,
            too_big: "icmp".to_owned(),
        }
    }
}

#[derive(Clone, PartialEq, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Flows {
    pub capacity: u32,
    pub new_flows_per_core: u64,
}

impl Default for Flows {
    fn default() -> Self {
        Self { capacity: 100_000, new_flows_per_core: 125_000 }
    }
}

#[derive(Clone, PartialEq, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SourceRoute {
    pub prefix: String,
    pub real: IpAddr,
}

#[derive(Clone, PartialEq, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct DecapAddress {
    pub address: IpAddr,
    pub then: String,
}

#[derive(Clone, PartialEq, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Vip {
    /// An address, or a prefix.
    pub address: String,
    pub port: u16,
    pub protocol: String,
    #[serde(default = "v2")]
    pub ring: String,
    #[serde(default)]
    pub flags: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encap: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub real: Vec<Real>,
}

fn v2() -> String {
    "maglev-v2".to_owned()
}

#[derive(Clone, PartialEq, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Real {
    pub address: IpAddr,
    #[serde(default = "one")]
    pub weight: u32,
    #[serde(default = "up")]
    pub state: String,
    #[serde(default)]
    pub local: bool,
}

fn one() -> u32 {
    1
}

fn up() -> String {
    "up".to_owned()
}

impl Settings {
    /// Reads a configuration.
    #[track_caller]
    pub fn parse(text: &str) -> Self {
        toml::from_str(text).unwrap_or_else(|error| panic!("{error} in\n{text}"))
    }

    /// Writes it, for the product to read.
    pub fn text(&self) -> String {
        toml::to_string(self).expect("TOML has a form for each field")
    }
}

impl Vip {
    /// As verdicts and counters name it.
    pub fn name(&self) -> String {
        let v6 = self.address.contains(':');
        let address = if v6 { format!("[{}]", self.address) } else { self.address.clone() };
        format!("{address}:{}/{}", self.port, self.protocol)
    }
}
