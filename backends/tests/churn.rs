//! Many changes of the configuration under load: both seats forward on one memory while VIPs and reals come and go. Every
//! address is used once, and says which VIP it belongs to, so that a frame at a wrong real, or at one that was gone before
//! the frame was looked at, shows by its address alone.
//!
//! `TANDEM_LONG=1`: 100,000 changes. `TANDEM_SEED=N`: other changes.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use etherparse::PacketBuilder;
use tandem_backends::afxdp::epoch::{Epoch, grace};
use tandem_backends::config::{Plan, parse};
use tandem_backends::control::{Control, Facts, Grace, KernelGrace};
use tandem_backends::memory::{Plain, Sizes, Tables};
use tandem_backends::replay::Buffer;
use tandem_backends::xdp::{Balancer, Headroom, Role};
use tandem_engine::memory::Memory;
use tandem_engine::{Flow, account, classify, finish};

/// VIPs 10.200.0.0 and up, port 80/udp.
const VIPS: u32 = 12;
/// Reals of a VIP at most.
const REALS: usize = 6;
/// XDP_TX (include/uapi/linux/bpf.h).
const TX: u32 = 3;
/// Lines of all rings; line 0 is nobody's, and a ring of [`ALL`] slots takes the others.
const RING_LINES: u32 = 2048;
const ALL: u32 = 65_497;
/// Frames of a batch, and how many batches go by from one rest to the next.
const BATCH: usize = 32;
const RESTS: usize = 40;
/// Addresses of reals: 10.(1 + VIP).x.y, x.y a number that each real has alone.
const NUMBERS: usize = 1 << 16;

struct Rng(u64);

impl Rng {
    /// SplitMix64 (Steele, Lea and Flood, 2014).
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

/// What the writer has promised and the readers hold it to.
struct World {
    stop: AtomicBool,
    /// Number of the last change that was begun, and of the last that was completed.
    begun: AtomicU32,
    done: AtomicU32,
    /// By the number of a real: the change that brought it, and the one that removed it; `u32::MAX`: none.
    added: Vec<AtomicU32>,
    removed: Vec<AtomicU32>,
    epoch: Epoch,
    forwarded: [AtomicU64; 2],
    refused: [AtomicU64; 2],
}

impl World {
    fn new() -> Self {
        let numbers = || (0..NUMBERS * VIPS as usize).map(|_| AtomicU32::new(u32::MAX)).collect();
        Self {
            stop: AtomicBool::new(false),
            begun: AtomicU32::new(0),
            done: AtomicU32::new(0),
            added: numbers(),
            removed: numbers(),
            epoch: Epoch::new(),
            forwarded: [const { AtomicU64::new(0) }; 2],
            refused: [const { AtomicU64::new(0) }; 2],
        }
    }

    /// What a frame for `vip` became, which was looked at after change `done` was complete.
    fn judge(&self, seat: usize, vip: u32, done: u32, sent: Option<&[u8]>) {
        let Some(frame) = sent else {
            self.refused[seat].fetch_add(1, Ordering::Relaxed);
            return;
        };
        self.forwarded[seat].fetch_add(1, Ordering::Relaxed);
        let [ten, owner, high, low] = frame[30..34].try_into().unwrap();
        let number = place(u32::from(owner) - 1, u16::from_be_bytes([high, low]));
        assert_eq!((ten, u32::from(owner)), (10, 1 + vip), "seat {seat}: a frame for VIP {vip} went to 10.{owner}.{high}.{low}");
        let (added, removed) = (self.added[number].load(Ordering::Acquire), self.removed[number].load(Ordering::Acquire));
        let begun = self.begun.load(Ordering::Acquire);
        assert!(added <= begun, "seat {seat}: 10.{owner}.{high}.{low} comes with change {added}, this is {begun}");
        assert!(removed > done, "seat {seat}: 10.{owner}.{high}.{low} went with change {removed}, {done} was complete before");
    }
}

fn place(vip: u32, number: u16) -> usize {
    vip as usize * NUMBERS + usize::from(number)
}

/// Waits for both seats.
struct Both<'a>(&'a Epoch);

impl Grace for Both<'_> {
    fn wait(&self) -> bool {
        KernelGrace.wait() && grace([self.0], Duration::from_secs(20))
    }
}

/// What is configured: for each VIP its reals, or that it is not there.
struct Wish {
    vips: Vec<Option<Vec<u16>>>,
    next: [u16; VIPS as usize],
    rng: Rng,
}

impl Wish {
    /// Some changes at once. Gives their number, and the reals that go.
    fn change(&mut self, world: &World, change: u32) -> (u32, Vec<usize>) {
        let (mut changes, mut gone) = (0, Vec::new());
        for vip in 0..VIPS {
            let at = vip as usize;
            let mut fresh = || {
                let number = self.next[at];
                self.next[at] += 1;
                world.added[place(vip, number)].store(change, Ordering::Release);
                number
            };
            let slot = &mut self.vips[at];
            match (&mut *slot, self.rng.below(8)) {
                (None, 0..3) => {
                    *slot = Some(vec![fresh(), fresh()]);
                    changes += 3;
                }
                (Some(reals), 0) => {
                    changes += 1 + reals.len() as u32;
                    gone.extend(reals.iter().map(|n| place(vip, *n)));
                    *slot = None;
                }
                (Some(reals), 1..3) if reals.len() < REALS => {
                    reals.push(fresh());
                    changes += 1;
                }
                (Some(reals), 3..6) if !reals.is_empty() => {
                    let number = reals.swap_remove(self.rng.below(reals.len()));
                    gone.push(place(vip, number));
                    changes += 1;
                }
                _ => {}
            }
        }
        (changes, gone)
    }

    fn plan(&self) -> Plan {
        let mut text = "node = { next_hop_mac = \"00:00:de:ad:be:af\", local_mac = \"00:ff:de:ad:be:af\" }
            tunnel = { source_v4 = \"10.0.13.37\" }\n"
            .to_owned();
        for (vip, reals) in self.vips.iter().enumerate() {
            let Some(reals) = reals else { continue };
            let rows: Vec<_> = reals.iter().map(|n| format!("{{ address = \"{}\" }}", real(vip, *n))).collect();
            let vip = format!("[[vip]]\naddress = \"10.200.0.{vip}\"\nport = 80\nprotocol = \"udp\"\nring_size = 127\nreal = [");
            text += &format!("{vip}{}]\n", rows.join(", "));
        }
        parse(&text, "churn").unwrap_or_else(|e| panic!("{e}")).plan
    }
}

fn real(vip: usize, number: u16) -> IpAddr {
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(10, 1 + vip as u8, high, low).into()
}

/// A frame of one of 4,096 clients.
fn frame(rng: &mut Rng, vip: u32) -> Vec<u8> {
    let client = rng.below(4096) as u16;
    let [high, low] = client.to_be_bytes();
    let packet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 2], [0, 0xff, 0xde, 0xad, 0xbe, 0xaf])
        .ipv4([192, 0, high, low], [10, 200, 0, vip as u8], 64)
        .udp(1024 + client, 80);
    let mut frame = Vec::new();
    packet.write(&mut frame, b"churn").unwrap();
    frame
}

/// The userspace seat, as a worker does it: it classifies a batch, then finishes all of it, and holds nothing in between
/// batches. In the middle it rests now and then, for as long as many changes take.
fn userspace(world: &World, tables: Arc<Tables>, block: u32, seed: u64) {
    let (desk, mut rng) = (Plain::new(tables, block), Rng(seed));
    let mut batch: Vec<_> = (0..BATCH).map(|_| (0, Buffer::default(), Flow::default(), true)).collect();
    desk.set_now(1000);
    let root = desk.root().unwrap();
    while !world.stop.load(Ordering::Relaxed) {
        world.epoch.begin();
        let done = world.done.load(Ordering::Acquire);
        for (vip, buffer, flow, ready) in &mut batch {
            *vip = rng.below(VIPS as usize) as u32;
            buffer.load(&frame(&mut rng, *vip));
            *flow = Flow::default();
            *ready = classify(buffer, &desk, root, flow).is_ok();
        }
        if rng.below(RESTS) == 0 {
            std::thread::sleep(Duration::from_millis(30));
        }
        for (vip, buffer, flow, ready) in &mut batch {
            let verdict = ready.then(|| finish(buffer, &desk, root, flow));
            verdict.iter().for_each(|verdict| account(verdict, flow, &desk));
            let sent = verdict.is_some_and(|verdict| verdict.is_forwarded());
            world.judge(0, *vip, done, sent.then(|| buffer.frame()));
        }
        if rng.below(4) == 0 {
            world.epoch.park();
            std::thread::yield_now();
        }
    }
    world.epoch.park();
}

/// The kernel seat: the loaded program, frame by frame.
fn kernel(world: &World, balancer: &Balancer, seed: u64) {
    let (mut rng, mut out) = (Rng(seed), Vec::new());
    while !world.stop.load(Ordering::Relaxed) {
        let vip = rng.below(VIPS as usize) as u32;
        let frame = frame(&mut rng, vip);
        let done = world.done.load(Ordering::Acquire);
        let action = balancer.run_frame(&frame, Headroom::Usual, &mut out).unwrap();
        world.judge(1, vip, done, (action == TX).then_some(out.as_slice()));
    }
}

/// Stops the readers however the writer ends, or the scope would wait for them for ever.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn number_of(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|n| n.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

#[test]
fn no_frame_reaches_a_wrong_real_while_everything_changes() {
    let wanted = if std::env::var_os("TANDEM_LONG").is_some() { 100_000 } else { 3_000 };
    let seed = number_of("TANDEM_SEED").unwrap_or(1);
    let world = World::new();
    let mut wish = Wish { vips: vec![None; VIPS as usize], next: [0; VIPS as usize], rng: Rng(seed) };
    let plan = wish.plan();
    let cpus = aya::util::nr_cpus().map_or(1, |n| n as u32);
    let sizes = Sizes { flow_sets: 1024, ring_lines: RING_LINES, ..Sizes::for_plan(&plan, 1 + cpus) };
    let balancer = match Balancer::load(&Role::Unpinned, sizes) {
        Ok(balancer) => balancer,
        Err(error) if std::env::var_os("TANDEM_REQUIRE_KERNEL").is_none() => {
            eprintln!("SKIPPED: the kernel seat cannot be loaded: {error}");
            return;
        }
        Err(error) => panic!("the kernel seat cannot be loaded: {error}"),
    };
    let tables = balancer.tables().clone();
    let mut control = Control::adopt(tables.clone()).unwrap();
    let facts = |plan: &Plan| Facts::of_plan(plan, seed).unwrap();
    control.apply(&plan, &facts(&plan), &KernelGrace).unwrap();
    let (mut changes, mut applied, mut forgotten) = (0, 0, 0);
    let block = tables.blocks() - 1;
    std::thread::scope(|scope| {
        let _stop = Stop(&world.stop);
        scope.spawn(|| userspace(&world, tables.clone(), block, seed ^ 0xaaaa));
        scope.spawn(|| kernel(&world, &balancer, seed ^ 0x5555));
        while changes < wanted {
            applied += 1;
            world.begun.store(applied, Ordering::Release);
            let (some, gone) = wish.change(&world, applied);
            let plan = wish.plan();
            let done = control.apply(&plan, &facts(&plan), &Both(&world.epoch)).unwrap();
            gone.iter().for_each(|number| world.removed[*number].store(applied, Ordering::Release));
            world.done.store(applied, Ordering::Release);
            (changes, forgotten) = (changes + some, forgotten + done.flows_forgotten);
        }
    });
    let seats = |counts: &[AtomicU64; 2]| counts.each_ref().map(|n| n.load(Ordering::Relaxed));
    let (forwarded, refused) = (seats(&world.forwarded), seats(&world.refused));
    println!(
        "seed {seed}: {changes} changes in {applied} steps; frames forwarded {forwarded:?}, without a VIP or a real {refused:?} (userspace, kernel); {forgotten} flows forgotten"
    );
    assert!(forwarded.iter().all(|n| *n > 1000) && refused.iter().all(|n| *n > 0) && forgotten > 0, "hardly any load");
    nothing_leaks(&mut control, &tables, &facts);
}

/// With nothing configured every id, slot and line is free again, and no flow names anybody.
fn nothing_leaks(control: &mut Control, tables: &Tables, facts: &dyn Fn(&Plan) -> Facts) {
    let none = Wish { vips: vec![None; VIPS as usize], next: [0; VIPS as usize], rng: Rng(0) }.plan();
    control.apply(&none, &facts(&none), &KernelGrace).unwrap();
    assert_eq!(tables.reals().iter().filter(|real| real.hop().is_present()).count(), 0, "reals in use");
    assert_eq!(tables.flows().iter().map(|set| set.entries().count()).sum::<usize>(), 0, "flows in use");
    let all = format!(
        "node = {{ next_hop_mac = \"00:00:de:ad:be:af\", local_mac = \"00:ff:de:ad:be:af\" }}
        tunnel = {{ source_v4 = \"10.0.13.37\" }}
        vip = [{{ address = \"10.200.1.1\", port = 80, protocol = \"tcp\", ring_size = {ALL}, real = [{{ address = \"10.0.0.1\" }}] }}]"
    );
    let all = parse(&all, "all").unwrap_or_else(|e| panic!("{e}")).plan;
    let changes = control.apply(&all, &facts(&all), &KernelGrace).expect("every line of the rings is free");
    assert_eq!(changes.rings, 1);
}
