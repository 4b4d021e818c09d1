//! Facts of the host, all read through one root directory: `/`, or a recorded one in tests.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The one reader of `/proc` and `/sys`.
#[derive(Clone, Debug)]
pub struct Host {
    root: PathBuf,
}

/// What may change while something is measured.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct HostState {
    /// Frequency of each core; empty or 0 where the kernel does not say.
    pub kilohertz: Vec<u64>,
    /// Times that cores were throttled since the start.
    pub throttled: u64,
}

/// What belongs into every result.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct HostFacts {
    /// `uname -r` and `-v`.
    pub kernel: String,
    /// Whether BPF programs are compiled to machine code.
    pub bpf_jit: String,
    /// Preemption model and other configuration that matters, where the kernel tells.
    pub kernel_config: BTreeMap<String, String>,
    /// Each hardware vulnerability, and what is done about it.
    pub mitigations: BTreeMap<String, String>,
    /// The boot command line.
    pub command_line: String,
    /// The CPU's name.
    pub cpu: String,
    /// Cores that are online.
    pub cores: usize,
    /// NUMA nodes.
    pub nodes: usize,
    /// Runs as a guest.
    pub is_virtual: bool,
    /// How frequencies are governed, by core; empty where the kernel does not say.
    pub governors: Vec<String>,
    /// Bytes of memory.
    pub memory: u64,
    /// Load average of the last minute before the run, in hundredths: what else was going on.
    pub load: u64,
}

/// Options of the kernel that change what packets cost.
const OPTIONS: [&str; 12] = [
    "CONFIG_PREEMPT_NONE",
    "CONFIG_PREEMPT_VOLUNTARY",
    "CONFIG_PREEMPT",
    "CONFIG_PREEMPT_LAZY",
    "CONFIG_PREEMPT_RT",
    "CONFIG_PREEMPT_DYNAMIC",
    "CONFIG_HZ",
    "CONFIG_BPF_JIT_ALWAYS_ON",
    "CONFIG_MITIGATION_RETPOLINE",
    "CONFIG_RETPOLINE",
    "CONFIG_MITIGATION_RETHUNK",
    "CONFIG_NO_HZ_FULL",
];

impl Default for Host {
    fn default() -> Self {
        Self::at("/")
    }
}

impl Host {
    /// A host whose `/proc` and `/sys` are below `root`.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// A file's text, trimmed; empty if there is none.
    fn text(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).map(|text| text.trim().to_owned()).unwrap_or_default()
    }

    fn names(&self, directory: &str, prefix: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(directory)).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.retain(|name| {
            name.strip_prefix(prefix).is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_digit()) && !rest.is_empty())
        });
        // cpu2 before cpu10
        names.sort_by_key(|name| name.get(prefix.len()..).and_then(|number| number.parse::<usize>().ok()));
        names
    }

    fn cpus(&self) -> Vec<String> {
        self.names("sys/devices/system/cpu", "cpu")
    }

    /// What may change from moment to moment.
    pub fn state(&self) -> HostState {
        let number = |path: String| self.text(&path).parse().unwrap_or(0);
        let directory = "sys/devices/system/cpu";
        let kilohertz = self.cpus().iter().map(|cpu| number(format!("{directory}/{cpu}/cpufreq/scaling_cur_freq"))).collect();
        let throttled =
            self.cpus().iter().map(|cpu| number(format!("{directory}/{cpu}/thermal_throttle/core_throttle_count"))).sum();
        HostState { kilohertz, throttled }
    }

    /// What stays.
    pub fn facts(&self) -> HostFacts {
        let cpu_info = self.text("proc/cpuinfo");
        let field = |name: &str| {
            let line = cpu_info.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let vulnerabilities = fs::read_dir(self.path("sys/devices/system/cpu/vulnerabilities")).into_iter().flatten().flatten();
        let mitigations = vulnerabilities.filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let text = self.text(&format!("sys/devices/system/cpu/vulnerabilities/{name}"));
            (text != "Not affected").then_some((name, text))
        });
        let memory =
            self.text("proc/meminfo").lines().next().and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
        let load = self.text("proc/loadavg").split(' ').next().and_then(|load| load.parse::<f64>().ok());
        HostFacts {
            kernel: format!("{} {}", self.text("proc/sys/kernel/osrelease"), self.text("proc/sys/kernel/version")),
            bpf_jit: match self.text("proc/sys/net/core/bpf_jit_enable").as_str() {
                "0" => "off".to_owned(),
                "" => "unknown".to_owned(),
                _ => "on".to_owned(),
            },
            kernel_config: self.kernel_config(),
            mitigations: mitigations.collect(),
            command_line: self.text("proc/cmdline"),
            cpu: field("model name").unwrap_or_default(),
            cores: cpu_info.lines().filter(|line| line.starts_with("processor")).count(),
            nodes: self.names("sys/devices/system/node", "node").len(),
            is_virtual: cpu_info.lines().any(|line| line.starts_with("flags") && line.contains(" hypervisor")),
            governors: self
                .cpus()
                .iter()
                .map(|cpu| self.text(&format!("sys/devices/system/cpu/{cpu}/cpufreq/scaling_governor")))
                .filter(|governor| !governor.is_empty())
                .collect(),
            memory: memory.unwrap_or(0) * 1024,
            load: (load.unwrap_or(0.0) * 100.0) as u64,
        }
    }

    /// From `/boot/config-RELEASE`; `/proc/config.gz` is read by `zcat`.
    fn kernel_config(&self) -> BTreeMap<String, String> {
        let mut text = self.text(&format!("boot/config-{}", self.text("proc/sys/kernel/osrelease")));
        if text.is_empty() && self.path("proc/config.gz").exists() {
            let output = std::process::Command::new("zcat").arg(self.path("proc/config.gz")).output();
            text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        }
        let options = text.lines().filter_map(|line| line.split_once('='));
        options.filter(|(name, _)| OPTIONS.contains(name)).map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    /// The NUMA node of an interface; `None` for one that is on none, as a veth is.
    pub fn node_of(&self, interface: &str) -> Option<u32> {
        self.text(&format!("sys/class/net/{interface}/device/numa_node")).parse().ok()
    }

    /// The NUMA node of a core; `None` where the kernel does not say.
    pub fn node_of_core(&self, core: usize) -> Option<u32> {
        let entries = fs::read_dir(self.path(&format!("sys/devices/system/cpu/cpu{core}"))).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().to_str()?.strip_prefix("node")?.parse().ok()).next()
    }

    /// The name of an interface's driver, from the kernel's device tree; a veth has none there.
    pub fn driver(&self, interface: &str) -> Option<String> {
        let link = fs::read_link(self.path(&format!("sys/class/net/{interface}/device/driver"))).ok()?;
        Some(Path::new(&link).file_name()?.to_string_lossy().into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Recorded facts: this machine may have no frequencies, no second node, no NIC.
    fn recorded(files: &[(&str, &str)]) -> (PathBuf, Host) {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let root = std::env::temp_dir().join(format!("tandem-bench-host-{}-{number}", std::process::id()));
        for (path, text) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        (root.clone(), Host::at(root))
    }

    #[test]
    fn recorded_facts_are_read() {
        let (root, host) = recorded(&[
            ("proc/cpuinfo", "processor\t: 0\nmodel name\t: EPYC\nflags\t\t: fpu hypervisor\n\nprocessor\t: 1\n"),
            ("proc/sys/kernel/osrelease", "6.12.1\n"),
            ("proc/sys/kernel/version", "#1 SMP PREEMPT_DYNAMIC\n"),
            ("proc/sys/net/core/bpf_jit_enable", "1\n"),
            ("proc/meminfo", "MemTotal:       1024 kB\n"),
            ("proc/loadavg", "1.25 1 1 2/3 4\n"),
            ("boot/config-6.12.1", "CONFIG_HZ=250\n# CONFIG_PREEMPT_RT is not set\nCONFIG_FOO=y\n"),
            ("sys/devices/system/cpu/vulnerabilities/spectre_v2", "Mitigation: Retpolines\n"),
            ("sys/devices/system/cpu/vulnerabilities/mds", "Not affected\n"),
            ("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "performance\n"),
            ("sys/devices/system/node/node0/cpulist", "0\n"),
            ("sys/devices/system/node/node1/cpulist", "1\n"),
        ]);
        let facts = host.facts();
        fs::remove_dir_all(root).unwrap();
        assert_eq!((facts.cpu.as_str(), facts.cores, facts.nodes, facts.is_virtual), ("EPYC", 2, 2, true));
        assert_eq!((facts.kernel.as_str(), facts.bpf_jit.as_str()), ("6.12.1 #1 SMP PREEMPT_DYNAMIC", "on"));
        assert_eq!((facts.memory, facts.load), (1 << 20, 125));
        assert_eq!(facts.kernel_config, BTreeMap::from([("CONFIG_HZ".to_owned(), "250".to_owned())]));
        assert_eq!(facts.mitigations.keys().collect::<Vec<_>>(), ["spectre_v2"]);
        assert_eq!(facts.governors, ["performance"]);
    }

    #[test]
    fn frequencies_and_throttling_are_by_core() {
        let (root, host) = recorded(&[
            ("sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq", "3700000\n"),
            ("sys/devices/system/cpu/cpu2/cpufreq/scaling_cur_freq", "3600000\n"),
            ("sys/devices/system/cpu/cpu10/cpufreq/scaling_cur_freq", "2900000\n"),
            ("sys/devices/system/cpu/cpu10/thermal_throttle/core_throttle_count", "4\n"),
        ]);
        let state = host.state();
        fs::remove_dir_all(root).unwrap();
        assert_eq!(state, HostState { kilohertz: vec![3_700_000, 3_600_000, 2_900_000], throttled: 4 });
    }

    #[test]
    fn nodes_are_those_of_device_and_core() {
        let (root, host) = recorded(&[
            ("sys/class/net/eth0/device/numa_node", "1\n"),
            ("sys/class/net/eth1/device/numa_node", "-1\n"),
            ("sys/devices/system/cpu/cpu3/node1/cpulist", "2-3\n"),
            ("sys/devices/system/cpu/cpu3/cpufreq/scaling_cur_freq", "1\n"),
        ]);
        let (devices, cores) =
            (["eth0", "eth1", "veth"].map(|name| host.node_of(name)), [3, 4].map(|core| host.node_of_core(core)));
        fs::remove_dir_all(root).unwrap();
        assert_eq!((devices, cores), ([Some(1), None, None], [Some(1), None]));
    }

    #[test]
    fn this_host_says_something() {
        let facts = Host::default().facts();
        assert!(!facts.kernel.trim().is_empty() && facts.cores > 0, "{facts:?}");
    }
}
