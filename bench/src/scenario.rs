//! Scenarios: a Pktgen command file, with what Pktgen cannot say in a sidecar (`NAME.toml` beside `NAME.pkt`), made into the
//! sequence of frames that generators go through again and again.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::built_in::BUILT_IN;
use crate::pkt::{PktError, Protocol, Step, Traffic};

/// Most frames of a sequence.
pub const LONGEST: usize = 1 << 20;
/// Frames that a shuffled or skewed sequence has at least, and at least so many times the flows.
const AT_LEAST: usize = 1 << 16;
const TIMES: usize = 8;

/// Why there is no scenario.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// The command file.
    #[error(transparent)]
    Pkt(#[from] PktError),
    /// A file cannot be read.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The sidecar.
    #[error("{}: {what}", path.display())]
    Sidecar {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// No such scenario.
    #[error(
        "no scenario `{name}`: there is no {}, and none of this name is built in; those are {}",
        path.display(),
        BUILT_IN.iter().map(|(name, ..)| *name).collect::<Vec<_>>().join(", ")
    )]
    None {
        /// What was asked for.
        name: String,
        /// Where it would be.
        path: PathBuf,
    },
    /// The sequence does not come round.
    #[error("{name}: its frames do not repeat within {LONGEST}; give the ranges a common cycle that is shorter")]
    TooLong {
        /// The scenario.
        name: String,
    },
}

/// In which order the flows come.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// As Pktgen steps them.
    #[default]
    Cyclic,
    /// All of them in a new random order each time.
    Shuffled,
    /// At random, the k-th flow with a weight of `1 / k^zipf_exponent`.
    Zipf,
}

/// What Pktgen's format cannot say.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sidecar {
    /// The order of flows.
    pub order: Order,
    /// Exponent of the weights for `order = "zipf"`.
    pub zipf_exponent: f64,
    /// Share of the frames whose client has another address in each round of the sequence: flows that are never seen again.
    pub churn: f64,
    /// Share of the frames that are SYNs (TCP alone).
    pub syn_share: f64,
    /// Frame sizes with FCS, and their weights; instead of the command file's size.
    pub sizes: Vec<(u32, u32)>,
}

impl Default for Sidecar {
    fn default() -> Self {
        Self { order: Order::Cyclic, zipf_exponent: 1.0, churn: 0.0, syn_share: 0.0, sizes: Vec::new() }
    }
}

impl Sidecar {
    fn check(&self, traffic: &Traffic) -> Result<(), String> {
        let share = |name: &str, found: f64| {
            if (0.0..=1.0).contains(&found) { Ok(()) } else { Err(format!("{name} = {found}: expected a share from 0 to 1")) }
        };
        share("churn", self.churn)?;
        share("syn_share", self.syn_share)?;
        if !(self.zipf_exponent > 0.0 && self.zipf_exponent <= 4.0) {
            return Err(format!("zipf_exponent = {}: expected a number above 0, up to 4", self.zipf_exponent));
        }
        if self.syn_share > 0.0 && traffic.protocol == Protocol::Udp {
            return Err(format!("syn_share = {}: the frames are UDP; `range P proto tcp` makes them TCP", self.syn_share));
        }
        let largest = 1518;
        let least = if traffic.v6 { 86 } else { 64 };
        if let Some((size, _)) = self.sizes.iter().find(|(size, weight)| !(least..=largest).contains(size) || *weight == 0) {
            return Err(format!(
                "sizes: {size}: expected pairs of a frame size with FCS ({least} to {largest}) and a weight above 0"
            ));
        }
        Ok(())
    }
}

/// One frame of the sequence.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Item {
    /// Its fields.
    pub step: Step,
    /// A SYN.
    pub syn: bool,
    /// Another client in each round.
    pub churn: bool,
}

/// A named scenario.
#[derive(Clone, PartialEq, Debug)]
pub struct Scenario {
    /// The file's name without `.pkt`.
    pub name: String,
    /// What the command file says.
    pub traffic: Traffic,
    /// What the sidecar says.
    pub sidecar: Sidecar,
    /// What is sent, again and again.
    pub sequence: Vec<Item>,
}

impl Scenario {
    /// Loads a command file, and the sidecar if there is one.
    ///
    /// # Errors
    /// [`ScenarioError`].
    pub fn load(path: &Path) -> Result<Self, ScenarioError> {
        let traffic = Traffic::load(path)?;
        let beside = path.with_extension("toml");
        let text = match fs::read_to_string(&beside) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(source) => return Err(ScenarioError::File { path: beside, source }),
        };
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Self::with_sidecar(name, traffic, text.as_deref(), &beside)
    }

    fn with_sidecar(name: String, traffic: Traffic, text: Option<&str>, path: &Path) -> Result<Self, ScenarioError> {
        let wrong = |what: String| ScenarioError::Sidecar { path: path.to_owned(), what };
        let sidecar = match text {
            Some(text) => toml::from_str(text).map_err(|e| wrong(e.to_string().trim_end().to_owned()))?,
            None => Sidecar::default(),
        };
        sidecar.check(&traffic).map_err(wrong)?;
        Self::new(name, traffic, sidecar)
    }

    /// A scenario by its path, by its name in `directory`, or by that of one that is built in.
    ///
    /// # Errors
    /// [`ScenarioError`].
    pub fn find(name: &str, directory: &Path) -> Result<Self, ScenarioError> {
        if name.ends_with(".pkt") {
            return Self::load(Path::new(name));
        }
        let path = directory.join(format!("{name}.pkt"));
        if path.exists() {
            return Self::load(&path);
        }
        match BUILT_IN.iter().find(|(known, ..)| *known == name) {
            Some((_, pkt, sidecar)) => {
                let traffic = Traffic::parse(pkt, &format!("{name}.pkt"))?;
                Self::with_sidecar(name.to_owned(), traffic, *sidecar, Path::new(&format!("{name}.toml")))
            }
            None => Err(ScenarioError::None { name: name.to_owned(), path }),
        }
    }

    /// Puts the sequence together.
    ///
    /// # Errors
    /// [`ScenarioError::TooLong`].
    pub fn new(name: String, traffic: Traffic, sidecar: Sidecar) -> Result<Self, ScenarioError> {
        let cycle = cycle(&traffic).ok_or_else(|| ScenarioError::TooLong { name: name.clone() })?;
        let mut rng = Rng(1);
        let mut steps = match sidecar.order {
            Order::Cyclic => cycle,
            Order::Shuffled => shuffled(&cycle, &mut rng),
            Order::Zipf => zipf(&cycle, sidecar.zipf_exponent, &mut rng),
        };
        if !sidecar.sizes.is_empty() {
            steps = sized(&steps, &sidecar.sizes, &mut rng);
        }
        let item = |step| Item { step, syn: rng.chance(sidecar.syn_share), churn: rng.chance(sidecar.churn) };
        let sequence = steps.into_iter().map(item).collect();
        Ok(Self { name, traffic, sidecar, sequence })
    }

    /// Source ports that the command file declares: `0 0 8000 1` are 8001.
    pub fn spread(&self) -> u32 {
        let ports: HashSet<u16> = self.sequence.iter().map(|item| item.step.src_port).collect();
        ports.len() as u32
    }

    /// Distinct flows of one round.
    pub fn flows(&self) -> usize {
        let key = |step: &Step| (step.src_ip, step.dst_ip, step.src_port, step.dst_port);
        self.sequence.iter().map(|item| key(&item.step)).collect::<HashSet<_>>().len()
    }

    /// The numbers by which the receiver tells flows apart, each once (see `saw` in `bpf/src/bench/sink.rs`): exact where only
    /// source ports differ.
    pub fn flow_numbers(&self) -> HashSet<u32> {
        self.sequence.iter().map(|item| flow_number(item.step.src_port, item.step.src_ip as u16)).collect()
    }

    /// Bytes of the largest frame, without FCS.
    pub fn largest(&self) -> usize {
        self.sequence.iter().map(|item| item.step.size as usize - 4).max().unwrap_or(60)
    }

    /// Whether the flows differ between rounds, so that the receiver sees more than the sequence has.
    pub fn churns(&self) -> bool {
        self.sequence.iter().any(|item| item.churn)
    }
}

/// The receiver's number of a flow.
pub fn flow_number(src_port: u16, client: u16) -> u32 {
    u32::from(src_port).wrapping_add(u32::from(client).wrapping_mul(40_503)) & 0xf_ffff
}

/// One cycle of the walk, without what is sent only once before it; `None`: none that is short enough.
fn cycle(traffic: &Traffic) -> Option<Vec<Step>> {
    let mut seen: HashMap<Step, usize> = HashMap::new();
    let mut steps = Vec::new();
    for step in traffic.walk().take(LONGEST + 1) {
        if let Some(first) = seen.insert(step, steps.len()) {
            return Some(steps.split_off(first));
        }
        steps.push(step);
    }
    None
}

fn rounds(flows: usize) -> usize {
    TIMES.max(AT_LEAST.div_ceil(flows.max(1))).min((LONGEST / flows.max(1)).max(1))
}

/// Every flow once in each round, in a new order.
fn shuffled(cycle: &[Step], rng: &mut Rng) -> Vec<Step> {
    let mut all = Vec::with_capacity(cycle.len() * rounds(cycle.len()));
    let mut round = cycle.to_vec();
    for _ in 0..rounds(cycle.len()) {
        // Fisher and Yates.
        for last in (1..round.len()).rev() {
            round.swap(last, rng.below(last as u32 + 1) as usize);
        }
        all.extend_from_slice(&round);
    }
    all
}

fn zipf(cycle: &[Step], exponent: f64, rng: &mut Rng) -> Vec<Step> {
    let mut sum = 0.0;
    let sums: Vec<f64> = (1..=cycle.len())
        .map(|k| {
            sum += (k as f64).powf(-exponent);
            sum
        })
        .collect();
    let draw = |rng: &mut Rng| {
        let wanted = rng.unit() * sum;
        cycle.get(sums.partition_point(|sum| *sum <= wanted)).or(cycle.last()).copied()
    };
    // Once each: also the rarest is a flow that the scenario declares.
    let mut all = cycle.to_vec();
    all.extend((cycle.len()..cycle.len() * rounds(cycle.len())).filter_map(|_| draw(rng)));
    all
}

/// Draws a size for each frame, over enough rounds that flows and sizes do not stay in pairs.
fn sized(steps: &[Step], sizes: &[(u32, u32)], rng: &mut Rng) -> Vec<Step> {
    let total: u32 = sizes.iter().map(|(_, weight)| weight).sum();
    let draw = |rng: &mut Rng| {
        let mut left = rng.below(total);
        for (size, weight) in sizes {
            if left < *weight {
                return *size;
            }
            left -= weight;
        }
        64
    };
    let rounds = if steps.len() >= AT_LEAST { 1 } else { rounds(steps.len()) };
    let all = (0..rounds).flat_map(|_| steps);
    all.map(|step| Step { size: draw(rng), ..*step }).collect()
}

/// The same numbers for everyone (SplitMix64).
#[derive(Clone, Debug)]
pub struct Rng(pub u64);

impl Rng {
    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number below `n`.
    pub fn below(&mut self, n: u32) -> u32 {
        (((self.bits() >> 32) * u64::from(n)) >> 32) as u32
    }

    /// A number from 0 to 1.
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn chance(&mut self, share: f64) -> bool {
        share > 0.0 && self.unit() < share
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scenario(ports: &str, sidecar: Sidecar) -> Scenario {
        let text = format!(
            "set 0 size 64\nrange 0 proto tcp\nrange 0 dst ip 192.168.1.13 192.168.1.13 192.168.1.13 0.0.0.0\n\
             range 0 dst port 80 80 80 0\nrange 0 src port {ports}\nenable 0 range\nstart 0"
        );
        Scenario::new("t".to_owned(), Traffic::parse(&text, "t").unwrap(), sidecar).unwrap()
    }

    #[test]
    fn a_cycle_has_every_flow_once() {
        let scenario = scenario("0 0 8000 1", Sidecar::default());
        assert_eq!((scenario.sequence.len(), scenario.flows(), scenario.spread()), (8001, 8001, 8001));
        assert_eq!(scenario.sequence.first().map(|item| item.step.src_port), Some(1235));
        assert_eq!(scenario.flow_numbers().len(), 8001);
        assert_eq!(scenario.largest(), 60);
    }

    #[test]
    fn what_comes_before_the_cycle_is_not_in_it() {
        // 1235 and on to 1299 comes once; the cycle is 0, 7, 14 … 1298.
        let scenario = scenario("0 0 1299 7", Sidecar::default());
        let ports: Vec<u16> = scenario.sequence.iter().map(|item| item.step.src_port).collect();
        assert!(ports.iter().all(|port| port % 7 == 0) && ports.len() == 186, "{ports:?}");
    }

    #[test]
    fn shuffled_rounds_are_whole() {
        let shuffled = scenario("0 0 999 1", Sidecar { order: Order::Shuffled, ..Sidecar::default() });
        assert!(shuffled.sequence.len() >= AT_LEAST);
        for round in shuffled.sequence.chunks(1000) {
            let ports: HashSet<u16> = round.iter().map(|item| item.step.src_port).collect();
            assert_eq!(ports.len(), 1000);
        }
        assert!(shuffled.sequence.windows(2).filter(|pair| pair[0].step.src_port + 1 == pair[1].step.src_port).count() < 500);
    }

    #[test]
    fn zipf_prefers_the_first() {
        let zipf = scenario("0 0 999 1", Sidecar { order: Order::Zipf, ..Sidecar::default() });
        let count = |port| zipf.sequence.iter().filter(|item| item.step.src_port == port).count() as f64;
        // Weights 1 and 1/10.
        let ratio = count(0) / count(9);
        assert!((8.0..12.5).contains(&ratio), "{ratio}");
    }

    #[test]
    fn shares_and_sizes_are_what_was_asked_for() {
        let sidecar = Sidecar { churn: 0.25, syn_share: 0.1, sizes: vec![(64, 7), (594, 4), (1518, 1)], ..Sidecar::default() };
        let mixed = scenario("0 0 999 1", sidecar);
        let share =
            |f: &dyn Fn(&Item) -> bool| mixed.sequence.iter().filter(|item| f(item)).count() as f64 / mixed.sequence.len() as f64;
        assert!((share(&|item| item.churn) - 0.25).abs() < 0.02);
        assert!((share(&|item| item.syn) - 0.1).abs() < 0.02);
        assert!((share(&|item| item.step.size == 64) - 7.0 / 12.0).abs() < 0.02);
        assert_eq!((mixed.largest(), mixed.flows()), (1514, 1000));
    }

    #[test]
    fn mistakes_of_the_sidecar_are_named() {
        let tcp = scenario("0 0 9 1", Sidecar::default()).traffic;
        let wrong = |sidecar: Sidecar| sidecar.check(&tcp).unwrap_err();
        assert!(wrong(Sidecar { churn: 2.0, ..Sidecar::default() }).contains("churn = 2"));
        assert!(wrong(Sidecar { sizes: vec![(63, 1)], ..Sidecar::default() }).contains("64 to 1518"));
        let udp = Traffic { protocol: Protocol::Udp, ..tcp.clone() };
        assert!(Sidecar { syn_share: 0.5, ..Sidecar::default() }.check(&udp).unwrap_err().contains("proto tcp"));
        let unknown = toml::from_str::<Sidecar>("ordre = \"cyclic\"").unwrap_err().to_string();
        assert!(unknown.contains("ordre"), "{unknown}");
    }
}
