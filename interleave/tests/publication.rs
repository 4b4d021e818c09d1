//! The control plane exchanges rings, reals and VIPs while frames are under way: `Control::apply` against `classify` and
//! `finish`, as a worker and as the kernel seat call them.
//!
//! Every address of a real is used once and names its VIP, so that a frame at a wrong real, or at one that was removed before the
//! frame was looked at, shows by its address alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use etherparse::PacketBuilder;
use tandem_engine::memory::counters::Extent;
use tandem_engine::memory::{Memory, RingLine};
use tandem_engine::{Flow, account, classify, finish};
use tandem_interleave::buffer::Buffer;
use tandem_interleave::config::{Plan, parse};
use tandem_interleave::control::{Control, Facts, Grace, NoGrace};
use tandem_interleave::epoch::Epoch;
use tandem_interleave::memory::{Plain, Sizes, Tables};
use tandem_interleave::{Readers, Watch, explore, fails};

use Sent::{First, Later, Whole};

/// VIPs 10.200.0.1, ports 80 and up, udp.
const VIPS: usize = 3;
/// Numbers of a VIP's reals, which are at 10.(1 + VIP).0.NUMBER.
const NUMBERS: usize = 8;
/// Slots of a ring: one line.
const RING: u32 = 7;
/// A worker, which classifies a batch before it finishes it, and the kernel seat.
const READERS: u32 = 2;

/// The numbers of each VIP's reals; no VIP has none.
type Step = [&'static [u8]; VIPS];

struct World {
    tables: Arc<Tables>,
    epochs: Arc<Vec<Epoch>>,
    /// The last step that was begun, and the last that was completed.
    begun: AtomicU32,
    done: AtomicU32,
    /// The step that brought each real, and the one that removed it.
    added: [[u32; NUMBERS]; VIPS],
    removed: [[u32; NUMBERS]; VIPS],
    /// Whether each VIP is there all the time.
    stays: [bool; VIPS],
}

/// A plan, and what it needs to know of a host.
type Planned = Arc<Vec<(Plan, Facts)>>;

fn planned(steps: &[Step]) -> Planned {
    let plan = |step: &Step| {
        let mut text = "node = { next_hop_mac = \"00:00:de:ad:be:af\", local_mac = \"00:ff:de:ad:be:af\" }
            tunnel = { source_v4 = \"10.0.13.37\" }\n"
            .to_owned();
        // The last one first: it can be given ids of those before it, not the other way round.
        for (vip, reals) in step.iter().enumerate().rev().filter(|(_, reals)| !reals.is_empty()) {
            let real = |n: &u8| format!("{{ address = \"10.{}.0.{n}\" }}", 1 + vip);
            let reals: Vec<_> = reals.iter().map(real).collect();
            text += &format!("[[vip]]\naddress = \"10.200.0.1\"\nport = {}\nprotocol = \"udp\"\n", 80 + vip);
            text += &format!("ring_size = {RING}\nreal = [{}]\n", reals.join(", "));
        }
        let plan = parse(&text, "plan").unwrap_or_else(|e| panic!("{e}")).plan;
        let facts = Facts::of_plan(&plan, 1).unwrap();
        (plan, facts)
    };
    Arc::new(steps.iter().map(plan).collect())
}

/// The first step at which it is so, from `from` on.
fn first(steps: &[Step], from: usize, is_so: impl Fn(&Step) -> bool) -> u32 {
    steps.iter().skip(from).position(is_so).map_or(u32::MAX, |n| (from + n) as u32)
}

impl World {
    fn new(steps: &[Step], tables: Arc<Tables>) -> Self {
        let has = |vip: usize, n: usize| move |step: &Step| step[vip].contains(&(n as u8));
        let added = std::array::from_fn(|vip| std::array::from_fn(|n| first(steps, 0, has(vip, n))));
        let removed = std::array::from_fn(|vip: usize| {
            std::array::from_fn(|n| match first(steps, 0, has(vip, n)) {
                u32::MAX => u32::MAX,
                added => first(steps, added as usize, |step| !has(vip, n)(step)),
            })
        });
        Self {
            tables,
            epochs: Arc::new((0..READERS).map(|_| Epoch::new()).collect()),
            begun: AtomicU32::new(0),
            done: AtomicU32::new(0),
            added,
            removed,
            stays: std::array::from_fn(|vip| steps.iter().all(|step| !step[vip].is_empty())),
        }
    }

    /// What a frame for `vip` became, which was looked at after step `done` was complete.
    fn judge(&self, vip: usize, done: u32, sent: Option<&[u8]>) {
        let Some(frame) = sent else {
            assert!(!self.stays[vip], "a frame for VIP {vip}, which always has reals, was not forwarded");
            return;
        };
        let [ten, owner, zero, n] = frame[30..34].try_into().unwrap();
        assert_eq!((ten, usize::from(owner), zero), (10, 1 + vip, 0), "a frame for VIP {vip} went to 10.{owner}.{zero}.{n}");
        let (added, removed) = (self.added[vip][usize::from(n)], self.removed[vip][usize::from(n)]);
        let begun = self.begun.load(Ordering::Relaxed);
        assert!(added <= begun, "a frame went to 10.{owner}.0.{n}, which comes with step {added}, in step {begun}");
        assert!(removed > done, "a frame went to 10.{owner}.0.{n}, which went with step {removed}; {done} was complete before");
    }
}

/// What is sent of a client's datagram.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sent {
    Whole,
    /// Its first fragment, which enters where the later ones are to go.
    First,
    Later,
}

fn frame(vip: usize, client: u16, sent: Sent) -> Vec<u8> {
    let packet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 2], [0, 0xff, 0xde, 0xad, 0xbe, 0xaf])
        .ipv4([192, 0, 2, 1], [10, 200, 0, 1], 64)
        .udp(1024 + client, 80 + vip as u16);
    let mut frame = Vec::new();
    packet.write(&mut frame, b"sixteen bytes...").unwrap();
    // Identification, flags and offset of the IPv4 header (RFC 791 section 3.1); nobody looks at its checksum here.
    frame[18..20].copy_from_slice(&client.to_be_bytes());
    let (flags, offset) = match sent {
        Whole => (0, 0),
        First => (0x20, 0),
        Later => (0, 3),
    };
    frame[20..22].copy_from_slice(&[flags, offset]);
    frame
}

/// One batch: VIPs and clients.
type Batch<'a> = &'a [(usize, u16, Sent)];

/// Classifies a batch, then finishes all of it, and holds nothing before and after.
fn batch(world: &World, desk: &Plain, reader: usize, batch: Batch<'_>) {
    world.epochs[reader].begin();
    let done = world.done.load(Ordering::Relaxed);
    let root = desk.root().unwrap();
    let classified = batch.iter().map(|(vip, client, of)| {
        let (mut buffer, mut flow) = (Buffer::default(), Flow::default());
        buffer.load(&frame(*vip, *client, *of));
        let ready = classify(&mut buffer, desk, root, &mut flow).is_ok();
        (*vip, *of, buffer, flow, ready)
    });
    let classified: Vec<_> = classified.collect();
    for (vip, of, mut buffer, mut flow, ready) in classified {
        let verdict = ready.then(|| finish(&mut buffer, desk, root, &mut flow));
        verdict.iter().for_each(|verdict| account(verdict, &flow, desk));
        let sent = verdict.is_some_and(|verdict| verdict.is_forwarded());
        // A later fragment is dropped where nobody knows the first one.
        if sent || of != Later {
            world.judge(vip, done, sent.then(|| buffer.frame()));
        }
    }
    world.epochs[reader].park();
}

fn reader(world: &Arc<World>, reader: usize, batches: &'static [Batch<'static>]) -> shuttle::thread::JoinHandle<()> {
    let world = world.clone();
    shuttle::thread::spawn(move || {
        let desk = Plain::new(world.tables.clone(), reader as u32);
        desk.set_now(1000);
        batches.iter().for_each(|frames| batch(&world, &desk, reader, frames));
    })
}

/// Tables with the first plan in force, and its writer.
fn tables(plans: &Planned, ring_lines: u32) -> (Arc<Tables>, Control) {
    let (plan, facts) = &plans[0];
    // So few ids that a VIP that grows is given those that another one had.
    let extent = Extent { vips: 4, reals: 8 };
    let sizes = Sizes { extent, flow_sets: 1, hash_lines: 1, id_lines: 1, ring_lines, ..Sizes::for_plan(plan, READERS) };
    let tables = Tables::plain(sizes).unwrap();
    let mut control = Control::adopt(tables.clone()).unwrap();
    control.apply(plan, facts, &NoGrace).unwrap();
    (tables, control)
}

/// From here on everything is a scheduling point that anybody else could see.
fn begin(tables: &Tables) {
    let mut watch = Watch::all().read_alone(tables.vips()).read_alone(tables.rings()).read_alone(tables.reals());
    watch = watch.read_alone(tables.ids()).read_alone(std::slice::from_ref(tables.root()));
    for block in 0..tables.blocks() {
        watch = watch.but(tables.block(block));
    }
    watch.begin();
}

/// What each reader sees.
type Traffic = [&'static [Batch<'static>]; READERS as usize];
const TRAFFIC: Traffic = [
    &[&[(0, 1, Whole), (1, 1, Whole)], &[(0, 2, Whole), (0, 1, Whole)]],
    &[&[(0, 1, Whole)], &[(1, 1, Whole)], &[(0, 3, Whole)], &[(2, 1, Whole)]],
];
/// The same with datagrams in fragments, of a flow that the table knows.
const FRAGMENTS: Traffic = [
    &[&[(0, 1, First), (0, 1, Later)], &[(0, 1, Later)], &[(0, 1, Later)]],
    &[&[(0, 1, Later)], &[(0, 1, First)], &[(0, 1, Later)], &[(0, 1, Later)]],
];

/// The steps one after the other, while frames are under way.
fn change<G: Grace>(steps: &[Step], plans: &Planned, ring_lines: u32, traffic: &Traffic, grace: impl Fn(&World) -> G) {
    let (tables, mut control) = tables(plans, ring_lines);
    let world = Arc::new(World::new(steps, tables.clone()));
    // Flows that the table knows: those of the first client.
    let desk = Plain::new(tables.clone(), 0);
    desk.set_now(1000);
    batch(&world, &desk, 0, &[(0, 1, Whole), (1, 1, Whole)]);
    begin(&tables);
    let readers = [reader(&world, 0, traffic[0]), reader(&world, 1, traffic[1])];
    let grace = grace(&world);
    for (n, (plan, facts)) in (1..).zip(plans.iter().skip(1)) {
        world.begun.store(n, Ordering::Relaxed);
        control.apply(plan, facts, &grace).unwrap();
        world.done.store(n, Ordering::Relaxed);
    }
    readers.into_iter().for_each(|reader| reader.join().unwrap());
}

fn readers(world: &World) -> Readers {
    Readers(world.epochs.clone())
}

/// Two lines for the rings of a VIP: each ring is written where the one before the last was.
const EXCHANGE: [Step; 4] = [[&[1, 2], &[], &[]], [&[3, 4], &[], &[]], [&[5], &[], &[]], [&[5, 6], &[], &[]]];

#[test]
fn a_ring_is_exchanged_under_frames() {
    let plans = planned(&EXCHANGE);
    explore("a ring is exchanged", 200, move || change(&EXCHANGE, &plans, 3, &TRAFFIC, readers));
}

/// The id of VIP 0's first real becomes that of VIP 1's fifth, and VIP 0's again.
const REUSE: [Step; 5] =
    [[&[1, 2], &[1], &[]], [&[2], &[1], &[]], [&[2], &[1, 2, 3, 4, 5], &[]], [&[2], &[6], &[]], [&[2, 3], &[6], &[]]];

#[test]
fn a_reals_id_is_used_again_under_frames() {
    let plans = planned(&REUSE);
    explore("a real's id is used again", 200, move || change(&REUSE, &plans, 4, &TRAFFIC, readers));
}

/// What a first fragment enters is found by the later ones for a while, whoever has the id by then.
#[test]
fn a_reals_id_is_used_again_under_fragments() {
    let plans = planned(&REUSE);
    explore("a real's id is used again, with fragments", 400, move || change(&REUSE, &plans, 4, &FRAGMENTS, readers));
}

/// The place of a VIP's ring becomes another VIP's, and its id another's, too.
const REPLACED: [Step; 4] = [[&[1], &[1], &[]], [&[1], &[], &[]], [&[1], &[], &[1]], [&[1], &[2], &[1]]];

#[test]
fn a_vip_goes_and_another_comes_under_frames() {
    let plans = planned(&REPLACED);
    explore("a VIP goes and another comes", 200, move || change(&REPLACED, &plans, 4, &TRAFFIC, readers));
}

/// The last VIP 0 need not be there: what becomes of frames without a VIP is not asked.
const LENIENT: [Step; 5] = [REUSE[0], REUSE[1], REUSE[2], REUSE[3], [&[], &[6], &[]]];

/// Who does not wait for the readers is found out: a frame goes to the address that has the id now.
#[test]
fn without_a_grace_period_a_frame_goes_to_the_next_bearer_of_the_id() {
    let plans = planned(&LENIENT);
    fails("an id without a grace period", 20_000, "a frame for VIP 0 went to 10.2.0.", move || {
        change(&LENIENT, &plans, 4, &TRAFFIC, |_| NoGrace);
    });
}

/// Waits, but not the second time.
struct NotTwice(AtomicUsize, Readers);

impl Grace for NotTwice {
    fn wait(&self) -> bool {
        self.0.fetch_add(1, Ordering::Relaxed) == 1 || self.1.wait()
    }
}

/// Who found a flow before it was forgotten may still go by it.
#[test]
fn without_the_second_grace_period_of_a_removal_a_frame_goes_to_the_next_bearer() {
    let plans = planned(&LENIENT);
    fails("a removal without its second grace period", 20_000, "a frame for VIP 0 went to 10.2.0.", move || {
        change(&LENIENT, &plans, 4, &TRAFFIC, |world| NotTwice(AtomicUsize::new(0), readers(world)));
    });
}

/// So is who publishes a ring before it is written.
#[test]
fn a_ring_that_is_published_too_early_is_found_out() {
    let plans = planned(&EXCHANGE);
    fails("a ring that is published too early", 20_000, "was not forwarded", move || {
        let (tables, _control) = tables(&plans, 3);
        let world = Arc::new(World::new(&EXCHANGE, tables.clone()));
        begin(&tables);
        let reader = reader(&world, 0, TRAFFIC[0]);
        world.begun.store(1, Ordering::Relaxed);
        let slot = tables.vips().iter().find(|slot| slot.entry().is_some_and(|(key, _)| key.protocol() != 0)).unwrap();
        let (_, before) = slot.entry().unwrap();
        let line = 3 - before.ring;
        slot.set_ring(line, RING);
        let ids = [(); RING as usize].map(|()| tables.rings()[before.ring as usize].get(0) as u16);
        tables.rings()[line as usize].fill(&ids);
        assert_eq!(RingLine::lines(RING), 1);
        reader.join().unwrap();
    });
}
