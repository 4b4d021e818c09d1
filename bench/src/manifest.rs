//! Where and how something was measured: enough to do it again, and to see what may not be compared.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tandem_backends::afxdp::receive_queues;

use crate::host::{Host, HostFacts};

/// The interface of the device under test.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct InterfaceFacts {
    /// Its name.
    pub name: String,
    /// `veth`, or the NIC's driver.
    pub driver: String,
    /// Receive queues.
    pub queues: u32,
    /// What `ethtool` says of driver and firmware, channels, rings, offloads, RSS and coalescing; empty where it is not installed
    /// or has nothing to say.
    pub ethtool: BTreeMap<String, String>,
}

impl InterfaceFacts {
    /// Of an interface in the current network namespace.
    pub fn of(name: &str, host: &Host) -> Self {
        let asked =
            [("driver", "-i"), ("channels", "-l"), ("rings", "-g"), ("offloads", "-k"), ("rss", "-x"), ("coalescing", "-c")];
        let answers = asked.into_iter().filter_map(|(what, switch)| {
            let output = Command::new("ethtool").args([switch, name]).output().ok().filter(|output| output.status.success())?;
            Some((what.to_owned(), String::from_utf8_lossy(&output.stdout).trim().to_owned()))
        });
        let ethtool: BTreeMap<String, String> = answers.collect();
        let said = ethtool.get("driver").and_then(|text| text.lines().find_map(|line| line.strip_prefix("driver: ")));
        // A veth is no device of a bus.
        let driver = said.map(str::to_owned).or_else(|| host.driver(name)).unwrap_or_else(|| "veth".to_owned());
        Self { name: name.to_owned(), driver, queues: receive_queues(name).unwrap_or(0), ethtool }
    }
}

/// What was measured with.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Method {
    /// The generator.
    pub generator: String,
    /// Its core.
    pub generator_core: usize,
    /// The forwarding cores.
    pub forwarding_cores: Vec<usize>,
    /// How the receive queue is served.
    pub napi: String,
    /// Flows that the balancer's table holds.
    pub flow_capacity: u32,
    /// Repeats of each row.
    pub repeats: u32,
    /// Seconds of each.
    pub seconds: f64,
    /// Share of frames that may be lost at the loss-free rate.
    pub loss_threshold: f64,
    /// An artificial delay: seat and nanoseconds; none in a measurement that is worth anything.
    pub delay: Option<(String, f64)>,
}

/// All of it.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Manifest {
    /// This program's version.
    pub version: String,
    /// The revision that it was built from.
    pub revision: String,
    /// Built for release or not.
    pub profile: String,
    /// The exact command.
    pub command: String,
    /// When it began, in seconds since 1970.
    pub started: u64,
    /// How long it took, in seconds.
    pub took: f64,
    /// The machine.
    pub host: HostFacts,
    /// The interface.
    pub interface: InterfaceFacts,
    /// The method.
    pub method: Method,
    /// What was left out, and why.
    pub skipped: Vec<String>,
}

impl Manifest {
    /// Of this process, on this host, now.
    pub fn begin(interface: InterfaceFacts, method: Method) -> Self {
        let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            revision: env!("TANDEM_REVISION").to_owned(),
            profile: profile.to_owned(),
            command: std::env::args().collect::<Vec<_>>().join(" "),
            started: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs()),
            took: 0.0,
            host: Host::default().facts(),
            interface,
            method,
            skipped: Vec::new(),
        }
    }

    /// In what two environments differ, as far as it changes numbers: names with both values. The build is what is compared, and
    /// the load of the moment is noise.
    pub fn differences(&self, other: &Self) -> Vec<(String, String, String)> {
        let key = |manifest: &Self| {
            let host = HostFacts { load: 0, command_line: String::new(), ..manifest.host.clone() };
            let method = Method { delay: None, ..manifest.method.clone() };
            let interface = InterfaceFacts { ethtool: BTreeMap::new(), ..manifest.interface.clone() };
            let value =
                serde_json::json!({ "host": host, "interface": interface, "method": method, "profile": manifest.profile });
            let mut flat = BTreeMap::new();
            flatten("", &value, &mut flat);
            flat
        };
        let (mine, theirs) = (key(self), key(other));
        let names: std::collections::BTreeSet<&String> = mine.keys().chain(theirs.keys()).collect();
        let of = |map: &BTreeMap<String, String>, name: &String| map.get(name).cloned().unwrap_or_else(|| "nothing".to_owned());
        let pairs = names.into_iter().map(|name| (name.clone(), of(&mine, name), of(&theirs, name)));
        pairs.filter(|(_, mine, theirs)| mine != theirs).collect()
    }

    /// What virtual interfaces cannot show; `None` for a NIC.
    pub fn caveat(&self) -> Option<&'static str> {
        (self.interface.driver == "veth").then_some(
            "Measured on veth pairs in network namespaces, not on a NIC: no zero-copy AF_XDP, no receive-side scaling, no bus and no \
             wire. Rates compare the rows of this report with each other and say nothing about the rate on a network card.",
        )
    }
}

fn flatten(prefix: &str, value: &serde_json::Value, into: &mut BTreeMap<String, String>) {
    match value {
        serde_json::Value::Object(map) => {
            for (name, value) in map {
                let name = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
                flatten(&name, value, into);
            }
        }
        other => {
            into.insert(prefix.to_owned(), other.to_string());
        }
    }
}
