//! What procfs and sysfs tell: the kernel and its settings, processors, the place of devices in the machine.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::links::Link;

/// The machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Machine {
    /// `uname -r`.
    pub release: String,
    /// Who made it, and as what (DMI): hypervisors and clouds say so here.
    pub maker: String,
    /// Processors that are on.
    pub processors: u32,
    /// Nodes of memory.
    pub nodes: u32,
    /// Processors of each node of memory, as `0-3,8`.
    pub node_processors: BTreeMap<i32, String>,
    /// `scaling_governor` of the processors, each once.
    pub governors: Vec<String>,
    /// What the kernel was started with.
    pub command_line: String,
    /// Whether `irqbalance` runs.
    pub irqbalance: bool,
    /// Capabilities that a balancer needs and this process has not.
    pub missing_capabilities: Vec<String>,
    /// Whether a BPF file system is at the usual place.
    pub bpf_file_system: bool,
    /// Kernel modules that could be loaded, of those that tunnels need.
    pub modules: Vec<String>,
}

/// Where a device is in the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Place {
    /// Its driver.
    pub driver: String,
    /// Its node of memory; -1: the machine has none.
    pub node: i32,
    /// Its interrupts: number, name, processors that may take it (`0-3`), times it came.
    pub interrupts: Vec<Interrupt>,
}

/// An interrupt of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Interrupt {
    /// Its number.
    pub number: u32,
    /// What its driver calls it.
    pub name: String,
    /// Processors that it goes to.
    pub processors: String,
}

fn read(path: impl AsRef<Path>) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn parsed<T: std::str::FromStr>(path: impl AsRef<Path>) -> Option<T> {
    read(path)?.parse().ok()
}

/// Of `0-3,8`, the number of members.
fn members(list: &str) -> u32 {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(last.trim().parse::<u32>().ok()?.checked_sub(first.trim().parse().ok()?)? + 1)
    };
    list.split(',').filter_map(range).sum()
}

/// Where a balancer has its pins.
const BPFFS: &str = "/sys/fs/bpf";

/// Modules that open tunnels, by the kind of their devices.
const MODULES: [&str; 7] = ["ipip", "sit", "ip6_tunnel", "ip_gre", "ip6_gre", "fou", "geneve"];

/// The machine as it is.
pub(super) fn machine() -> Machine {
    let missing = tandem_backends::facts::check_privileges(true).err();
    let list = |path: &str| read(path).map_or(1, |list| members(&list).max(1));
    let mut governors: Vec<String> = directory("/sys/devices/system/cpu")
        .into_iter()
        .filter_map(|name| read(format!("/sys/devices/system/cpu/{name}/cpufreq/scaling_governor")))
        .collect();
    governors.sort();
    governors.dedup();
    let release = read("/proc/sys/kernel/osrelease").unwrap_or_default();
    let maker = ["sys_vendor", "product_name"].map(|file| read(format!("/sys/class/dmi/id/{file}")).unwrap_or_default());
    Machine {
        modules: modules(&release),
        release,
        maker: maker.join(" ").trim().to_owned(),
        processors: list("/sys/devices/system/cpu/online"),
        nodes: list("/sys/devices/system/node/online"),
        node_processors: node_processors(),
        governors,
        command_line: read("/proc/cmdline").unwrap_or_default(),
        irqbalance: runs("irqbalance"),
        missing_capabilities: missing.map(|missing| missing.0.into_iter().map(str::to_owned).collect()).unwrap_or_default(),
        bpf_file_system: tandem_backends::facts::is_bpffs(Path::new(BPFFS)),
    }
}

fn node_processors() -> BTreeMap<i32, String> {
    let node = |name: &String| {
        let number = name.strip_prefix("node")?.parse().ok()?;
        Some((number, read(format!("/sys/devices/system/node/{name}/cpulist"))?))
    };
    directory("/sys/devices/system/node").iter().filter_map(node).collect()
}

fn directory(path: impl AsRef<Path>) -> Vec<String> {
    let entries = fs::read_dir(path).into_iter().flatten().filter_map(Result::ok);
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Those of [`MODULES`] that are loaded, built in, or lie on the disk.
fn modules(release: &str) -> Vec<String> {
    let base = format!("/lib/modules/{release}");
    let lists = ["modules.dep", "modules.builtin"].map(|file| read(format!("{base}/{file}")).unwrap_or_default());
    let is_there = |module: &&&str| {
        Path::new("/sys/module").join(**module).exists() || lists.iter().any(|list| list.contains(&format!("/{module}.ko")))
    };
    MODULES.iter().filter(is_there).map(|module| (*module).to_owned()).collect()
}

/// Whether a process of this name runs.
fn runs(name: &str) -> bool {
    let is_it = |process: &String| read(format!("/proc/{process}/comm")).as_deref() == Some(name);
    directory("/proc").iter().filter(|entry| entry.bytes().all(|byte| byte.is_ascii_digit())).any(is_it)
}

/// The places of the links that have a device on a bus, by name. What sysfs has below `/sys/bus` is the same in every
/// network namespace, which `/sys/class/net` is not.
pub(super) fn places(links: &[Link]) -> BTreeMap<String, Place> {
    let place = |link: &Link| {
        let (name, bus) = link.device.as_ref()?;
        // The name becomes a part of a path.
        let base = Path::new("/sys/bus").join(bus).join("devices").join(Path::new(name).file_name()?);
        let driver = fs::read_link(base.join("driver")).ok().and_then(|to| Some(to.file_name()?.to_string_lossy().into_owned()));
        let node = parsed(base.join("numa_node")).unwrap_or(-1);
        let interrupts = directory(base.join("msi_irqs")).iter().filter_map(|number| interrupt(number)).collect();
        Some((link.name.clone(), Place { driver: driver.unwrap_or_default(), node, interrupts }))
    };
    links.iter().filter_map(place).collect()
}

fn interrupt(number: &str) -> Option<Interrupt> {
    let base = Path::new("/proc/irq").join(number);
    let processors = read(base.join("effective_affinity_list")).filter(|list| !list.is_empty());
    let processors = processors.or_else(|| read(base.join("smp_affinity_list")))?;
    // The directory beside the settings has the name that the driver gave.
    let name = directory(&base).into_iter().find(|name| base.join(name).is_dir()).unwrap_or_default();
    Some(Interrupt { number: number.parse().ok()?, name, processors })
}

/// Settings that the checks read: of every device these, and those named whole.
const OF_DEVICES: [&str; 6] = ["rp_filter", "arp_ignore", "arp_announce", "forwarding", "accept_local", "src_valid_mark"];
const WHOLE: [&str; 8] = [
    "net/ipv4/ip_forward",
    "net/ipv6/conf/all/forwarding",
    "net/ipv6/conf/all/disable_ipv6",
    "net/core/bpf_jit_enable",
    "net/core/bpf_jit_harden",
    "net/ipv4/fib_multipath_hash_policy",
    "net/ipv6/fib_multipath_hash_policy",
    "net/ipv4/tcp_mtu_probing",
];

/// Settings of this network namespace, by their paths below `/proc/sys`.
pub(super) fn settings() -> BTreeMap<String, String> {
    let mut paths: Vec<String> = WHOLE.iter().map(|path| (*path).to_owned()).collect();
    for device in directory("/proc/sys/net/ipv4/conf") {
        paths.extend(OF_DEVICES.iter().map(|name| format!("net/ipv4/conf/{device}/{name}")));
    }
    paths.into_iter().filter_map(|path| Some((path.clone(), read(Path::new("/proc/sys").join(&path))?))).collect()
}

/// Counters of the kernel's protocols that tell of refused packets (`nstat` has the names), of this network namespace.
pub(super) fn counters() -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    for file in ["snmp", "netstat"] {
        let text = read(format!("/proc/thread-self/net/{file}")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        for [names, values] in lines.as_chunks().0 {
            let group = names.split(':').next().unwrap_or_default();
            let pairs = names.split_whitespace().zip(values.split_whitespace()).skip(1);
            found.extend(pairs.filter_map(|(name, value)| Some((format!("{group}{name}"), value.parse().ok()?))));
        }
    }
    let text = read("/proc/thread-self/net/snmp6").unwrap_or_default();
    let pairs = text.lines().filter_map(|line| line.split_once(char::is_whitespace));
    found.extend(pairs.filter_map(|(name, value)| Some((name.to_owned(), value.trim().parse().ok()?))));
    let kept = ["IPReversePathFilter", "InCsumErrors", "InAddrErrors", "InNoRoutes", "OutNoRoutes", "NoPorts", "InDiscards"];
    found.retain(|name: &String, _| kept.iter().any(|kept| name.ends_with(kept)));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_counted() {
        assert_eq!((members("0-3,8"), members("0"), members(""), members("7-3")), (5, 1, 0, 0));
    }

    #[test]
    fn this_host_is_read() {
        assert!(machine().processors > 0 && !machine().release.is_empty());
        assert!(settings().contains_key("net/ipv4/conf/all/rp_filter"));
        assert!(counters().contains_key("TcpExtIPReversePathFilter"), "{:?}", counters());
    }
}
