//! The longest match among three million networks of each family, as the internet has them: half of the IPv4 ones are /24, half
//! of the IPv6 ones /48. Against one hash map for each length in use, asked from the longest on.
//!
//! Both are asked for the same random clients of the same random networks. `cargo bench -p tandem-bench --bench prefixes`;
//! `-- NUMBER` for another number of networks.

use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use hashbrown::HashMap;
use tandem_backends::config::parse;
use tandem_backends::control::prefixes::{Contents, Entry, Spaces};
use tandem_backends::memory::{Plain, Sizes, Tables};
use tandem_bench::timing::{Series, is_measurement, stay_on_one_core, thread_time};
use tandem_engine::Addr;
use tandem_engine::memory::Memory as _;
use tandem_engine::memory::prefixes::{SPACES, Space, find};

/// Networks of each family.
const NETWORKS: usize = 3_000_000;
/// Clients that are looked up.
const CLIENTS: usize = 1_000_000;

/// The same numbers in every run (SplitMix64).
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn bits(&mut self) -> u128 {
        u128::from(self.next()) << 64 | u128::from(self.next())
    }
}

fn mask(bits: u128, len: u8) -> u128 {
    bits & u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0)
}

/// Distinct networks, half of them of the length `common`.
fn networks(rng: &mut Rng, count: usize, common: u8, (least, most): (u8, u8)) -> Vec<Entry> {
    let mut seen = HashMap::with_capacity(count);
    while seen.len() < count {
        let any = least + (rng.next() % u64::from(most - least + 1)) as u8;
        let len = if rng.next().is_multiple_of(2) { common } else { any };
        seen.insert((mask(rng.bits(), len), len), 1 + (rng.next() % 4000) as u32);
    }
    seen.into_iter().map(|((bits, len), value)| Entry { tag: 0, bits, len, value }).collect()
}

/// A client of some network.
fn clients(rng: &mut Rng, networks: &[Entry], bits: u32) -> Vec<u128> {
    let client = |_| {
        let network = networks.get(rng.next() as usize % networks.len())?;
        Some((network.bits | rng.bits() & !mask(u128::MAX, network.len)) >> (128 - bits) << (128 - bits))
    };
    (0..CLIENTS).filter_map(client).collect()
}

fn addr(bits: u128) -> Addr {
    [((bits >> 64) as u64).to_be(), (bits as u64).to_be()]
}

/// Maps by length, the longest first.
struct ByLength(Vec<(u8, HashMap<u128, u32>)>);

impl ByLength {
    fn new(networks: &[Entry]) -> Self {
        let mut maps: Vec<(u8, HashMap<u128, u32>)> = (0..=128).rev().map(|len| (len, HashMap::new())).collect();
        for entry in networks {
            if let Some((_, map)) = maps.get_mut(128 - usize::from(entry.len)) {
                map.insert(entry.bits, entry.value);
            }
        }
        maps.retain(|(_, map)| !map.is_empty());
        Self(maps)
    }

    fn find(&self, bits: u128) -> u32 {
        self.0.iter().find_map(|(len, map)| map.get(&mask(bits, *len))).copied().unwrap_or(0)
    }
}

/// Nanoseconds of this thread for each client, the least of three rounds; and the sum of what was found.
fn time(clients: &[u128], look: impl Fn(u128) -> u32) -> (f64, u64) {
    let (mut series, mut sum) = (Series::default(), 0);
    for _ in 0..3 {
        let start = thread_time();
        sum = clients.iter().map(|client| u64::from(look(*client))).sum();
        series.add(thread_time() - start, clients.len() as u32);
    }
    (series.min(), sum)
}

fn measure(count: usize) -> Result<()> {
    let mut rng = Rng(1);
    let spaces: Spaces =
        [networks(&mut rng, count, 24, (12, 32)), networks(&mut rng, count, 48, (20, 64)), Vec::new(), Vec::new()];
    let start = thread_time();
    let contents = Contents::new(spaces.clone());
    let (keys, slots) = (contents.len(), contents.slots());
    let sorted = thread_time();
    let plan = parse("", "none")?.plan;
    let tables = Tables::plain(Sizes { prefix_slots: slots, flow_sets: 1, ..Sizes::for_plan(&plan, 1) })?;
    let half = tables.prefixes().get(..slots as usize).context("a half")?;
    let begin = thread_time();
    ensure!(
        contents.write(half, tables.trees().get(..SPACES as usize).context("trees")?),
        "{keys} keys do not fit into {slots} slots"
    );
    println!(
        "{count} networks of each family: {keys} entries with markers in {slots} slots, {} MiB a half; sorted in {:.1} s, placed in {:.1} s",
        (u64::from(slots) * 32) >> 20,
        (sorted - start).as_secs_f64(),
        (thread_time() - begin).as_secs_f64(),
    );
    tables.root().publish_prefixes(0, slots);
    let desk = Plain::new(tables, 0);
    let root = desk.root().context("a root")?;
    for (space, networks, bits) in [(Space::SourceV4, spaces.first(), 32), (Space::SourceV6, spaces.get(1), 128)] {
        let networks = networks.context("a space")?;
        let clients = clients(&mut rng, networks, bits);
        let (ns, sum) = time(&clients, |client| find(&desk, root, space, 0, addr(client)));
        let rival = ByLength::new(networks);
        let (rival_ns, rival_sum) = time(&clients, |client| rival.find(client));
        ensure!(sum == rival_sum, "{space:?}: the two disagree");
        println!("  {space:?}: {ns:.0} ns; a hash map for each of {} lengths: {rival_ns:.0} ns", rival.0.len());
    }
    Ok(())
}

fn main() -> ExitCode {
    stay_on_one_core();
    let usual = if is_measurement() { NETWORKS } else { 3000 };
    let count = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(usual);
    match measure(count) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
