//! Many changes of the configuration under load: both seats forward on one memory, and share its flow table, while VIPs and reals
//! come and go. Every frame is judged by what it was ([`oracle`]).
//!
//! `TANDEM_LONG=1`: 100,000 changes. `TANDEM_CHANGES=N`: so many. `TANDEM_SEED=N`: other changes.

mod oracle;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use etherparse::PacketBuilder;
use tandem_backends::afxdp::Clock;
use tandem_backends::afxdp::epoch::{Epoch, grace};
use tandem_backends::config::{Plan, parse};
use tandem_backends::control::{Control, Facts, Grace, KernelGrace};
use tandem_backends::memory::{Plain, Sizes, Tables};
use tandem_backends::replay::Buffer;
use tandem_backends::xdp::{Balancer, Headroom, KernelClock, Role};
use tandem_engine::memory::Memory;
use tandem_engine::{Flow, account, classify, finish};

use oracle::{CLIENTS, RING, VIPS, World, endpoints, place, real};

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
    fn change(&mut self, world: &World, step: u32) -> (u32, Vec<usize>) {
        let (mut changes, mut gone) = (0, Vec::new());
        for vip in 0..VIPS {
            let at = vip as usize;
            let mut fresh = || {
                let number = self.next[at];
                self.next[at] += 1;
                world.adds(vip, number, step);
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
            let vip =
                format!("[[vip]]\naddress = \"10.200.0.{vip}\"\nport = 80\nprotocol = \"udp\"\nring_size = {RING}\nreal = [");
            text += &format!("{vip}{}]\n", rows.join(", "));
        }
        parse(&text, "churn").unwrap_or_else(|e| panic!("{e}")).plan
    }
}

/// What is sent next: of whom, to whom, and whether it is a whole datagram, its first fragment or a later one.
struct Next {
    vip: u32,
    client: u16,
    /// Flags and offset, as in the IPv4 header (RFC 791 section 3.1).
    part: [u8; 2],
}

impl Next {
    fn any(rng: &mut Rng) -> Self {
        let part = match rng.below(8) {
            0 => [0x20, 0],
            1 => [0, 3],
            _ => [0, 0],
        };
        Self { vip: rng.below(VIPS as usize) as u32, client: rng.below(CLIENTS.into()) as u16, part }
    }

    /// The fragments of a client have one identification always: what the tables know of them is looked up again and again.
    fn frame(&self) -> Vec<u8> {
        let (from, to, port) = endpoints(self.vip, self.client);
        let packet =
            PacketBuilder::ethernet2([2, 0, 0, 0, 0, 2], [0, 0xff, 0xde, 0xad, 0xbe, 0xaf]).ipv4(from, to, 64).udp(port, 80);
        let mut frame = Vec::new();
        packet.write(&mut frame, b"sixteen bytes...").unwrap();
        frame[18..20].copy_from_slice(&self.client.to_be_bytes());
        frame[20..22].copy_from_slice(&self.part);
        frame
    }
}

/// The userspace seat, as a worker does it: it classifies a batch, then finishes all of it, and holds nothing in between
/// batches. In the middle it rests now and then, for as long as many changes take.
fn userspace(world: &World, tables: Arc<Tables>, block: u32, clock: &KernelClock, seed: u64) {
    const SEAT: usize = 0;
    let (desk, mut rng) = (Plain::new(tables, block), Rng(seed));
    let mut batch: Vec<_> = (0..BATCH).map(|_| (Next::any(&mut rng), Buffer::default(), Flow::default(), true)).collect();
    let root = desk.root().unwrap();
    while !world.stop.load(Ordering::Relaxed) {
        world.epoch.begin();
        desk.set_now(clock.tick());
        let done = world.look(SEAT);
        for (of, buffer, flow, ready) in &mut batch {
            *of = Next::any(&mut rng);
            buffer.load(&of.frame());
            *flow = Flow::default();
            *ready = classify(buffer, &desk, root, flow).is_ok();
        }
        if rng.below(RESTS) == 0 {
            std::thread::sleep(Duration::from_millis(30));
        }
        for (of, buffer, flow, ready) in &mut batch {
            let verdict = ready.then(|| finish(buffer, &desk, root, flow));
            verdict.iter().for_each(|verdict| account(verdict, flow, &desk));
            let sent = verdict.is_some_and(|verdict| verdict.is_forwarded());
            world.judge(SEAT, of.vip, of.client, done, sent.then(|| buffer.frame()));
        }
        if rng.below(4) == 0 {
            world.rest(SEAT);
            world.epoch.park();
            std::thread::yield_now();
        }
    }
    world.rest(SEAT);
    world.epoch.park();
}

/// The kernel seat: the loaded program, frame by frame.
fn kernel(world: &World, balancer: &Balancer, seed: u64) {
    const SEAT: usize = 1;
    let (mut rng, mut out) = (Rng(seed), Vec::new());
    while !world.stop.load(Ordering::Relaxed) {
        let next = Next::any(&mut rng);
        let done = world.look(SEAT);
        let action = balancer.run_frame(&next.frame(), Headroom::Usual, &mut out).unwrap();
        world.judge(SEAT, next.vip, next.client, done, (action == TX).then_some(out.as_slice()));
    }
    world.rest(SEAT);
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
    let usual = if std::env::var_os("TANDEM_LONG").is_some() { 100_000 } else { 3_000 };
    let wanted = number_of("TANDEM_CHANGES").map_or(usual, |n| n as u32);
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
    let (mut changes, mut step, mut forgotten, start) = (0, 0, 0, Instant::now());
    let (block, clock) = (tables.blocks() - 1, balancer.clock());
    std::thread::scope(|scope| {
        let _stop = Stop(&world.stop);
        let seats = [
            scope.spawn(|| userspace(&world, tables.clone(), block, &clock, seed ^ 0xaaaa)),
            scope.spawn(|| kernel(&world, &balancer, seed ^ 0x5555)),
        ];
        while changes < wanted && !seats.iter().any(|seat| seat.is_finished()) {
            step += 1;
            let (some, gone) = wish.change(&world, step);
            let plan = wish.plan();
            world.begin(step, &plan, &wish.vips);
            let done = control.apply(&plan, &facts(&plan), &Both(&world.epoch)).unwrap();
            world.complete(step, &gone);
            (changes, forgotten) = (changes + some, forgotten + done.flows_forgotten);
        }
    });
    println!(
        "seed {seed}: {changes} changes in {step} steps, {:.0} s; {forgotten} flows forgotten",
        start.elapsed().as_secs_f64()
    );
    for (tally, name) in world.tallies.iter().zip(oracle::SEATS) {
        let [forwarded, refused, kept, shared] =
            [&tally.forwarded, &tally.refused, &tally.kept, &tally.shared].map(|n: &AtomicU64| n.load(Ordering::Relaxed));
        println!(
            "{name}: {forwarded} frames forwarded, {kept} of them by the flow table alone, {shared} of these by an entry of the other seat's; {refused} without a VIP or a real"
        );
        assert!(forwarded > 1000 && refused > 0 && kept > 10 && shared > 0 && forgotten > 0, "hardly any load");
    }
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
