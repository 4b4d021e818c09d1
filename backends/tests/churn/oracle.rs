//! What may become of a frame while the configuration changes: told by the reals' addresses, each of which is used once, and by a
//! map that knows every flow by its whole key, as the tables do not.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, RwLock};

use tandem_backends::afxdp::epoch::Epoch;
use tandem_backends::config::Plan;
use tandem_engine::maglev::{Endpoint, Recipe, fill};
use tandem_engine::memory::rings::slot_of;
use tandem_engine::wire::IPPROTO_UDP;
use tandem_engine::{Flow, hash};

/// VIPs 10.200.0.0 and up, port 80/udp.
pub const VIPS: u32 = 12;
/// Clients of a VIP, each a flow: somewhat more than the flow table has places for.
pub const CLIENTS: u16 = 512;
/// Slots of a ring.
pub const RING: u32 = 127;
/// Addresses of reals: 10.(1 + VIP).x.y, x.y a number that each real has alone.
const NUMBERS: usize = 1 << 16;
/// Steps whose rings are kept; a frame is under way for two or three.
const KEPT: u32 = 64;
/// The seats, in the order of their counters.
pub const SEATS: [&str; 2] = ["userspace", "kernel"];
/// Of a seat that has no frame under way.
const IDLE: u32 = u32::MAX;

/// The real with this number.
pub fn real(vip: usize, number: u16) -> IpAddr {
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(10, 1 + vip as u8, high, low).into()
}

/// The place of a real in the lists of all.
pub fn place(vip: u32, number: u16) -> usize {
    vip as usize * NUMBERS + usize::from(number)
}

/// Addresses and ports of a client's datagrams to a VIP.
pub fn endpoints(vip: u32, client: u16) -> ([u8; 4], [u8; 4], u16) {
    let [high, low] = client.to_be_bytes();
    ([192, 0, high, low], [10, 200, 0, vip as u8], 1024 + client)
}

/// What the ring is asked by for this flow.
fn hash_of(vip: u32, client: u16) -> u32 {
    let (from, to, port) = endpoints(vip, client);
    let word = |address| [u64::from(u32::from_ne_bytes(address)), 0];
    let ports = u32::from(port.to_be()) | u32::from(80_u16.to_be()) << 16;
    hash::packet(&Flow { src: word(from), dst: word(to), ports, protocol: IPPROTO_UDP, ..Flow::default() })
}

/// The rings of one step: the numbers of the reals, plus one.
struct Rings {
    step: u32,
    of: Vec<Option<Vec<u16>>>,
}

impl Rings {
    fn new(step: u32, plan: &Plan, numbers: &[Option<Vec<u16>>]) -> Self {
        let mut plans = plan.vips.iter();
        let of = (0..).zip(numbers).map(|(vip, numbers)| {
            let plan = numbers.as_ref().and_then(|_| plans.next())?;
            let endpoint = |n: &u16| Endpoint::new(Recipe::Standard, n + 1, real(vip, *n), 1);
            let mut endpoints: Vec<_> = numbers.iter().flatten().map(endpoint).collect();
            let mut ring = vec![0; RING as usize];
            fill(&mut ring, &mut endpoints, plan.weighting.into());
            Some(ring)
        });
        Self { step, of: of.collect() }
    }
}

/// What a seat's frames came to.
#[derive(Default)]
pub struct Tally {
    pub forwarded: AtomicU64,
    /// Without a VIP or a real.
    pub refused: AtomicU64,
    /// At a real that the ring does not name (any more): the flow table kept it.
    pub kept: AtomicU64,
    /// Of these: those of a flow that only the other seat had met with this real.
    pub shared: AtomicU64,
}

/// What the writer has promised and the readers hold it to.
pub struct World {
    pub stop: AtomicBool,
    /// The last step that was begun, and the last that was completed.
    begun: AtomicU32,
    done: AtomicU32,
    /// By the number of a real: the step that brought it, and the one that removed it; `u32::MAX`: none.
    added: Vec<AtomicU32>,
    removed: Vec<AtomicU32>,
    rings: RwLock<VecDeque<Rings>>,
    /// By flow: the reals that it was with, and the seats that had it so, a bit each.
    with: Vec<Mutex<Vec<(u16, u8)>>>,
    /// By seat: the step that was complete when the frames that are under way were looked at, or [`IDLE`].
    since: [AtomicU32; 2],
    pub epoch: Epoch,
    pub tallies: [Tally; 2],
}

impl World {
    pub fn new() -> Self {
        let numbers = || (0..NUMBERS * VIPS as usize).map(|_| AtomicU32::new(u32::MAX)).collect();
        Self {
            stop: AtomicBool::new(false),
            begun: AtomicU32::new(0),
            done: AtomicU32::new(0),
            added: numbers(),
            removed: numbers(),
            rings: RwLock::default(),
            with: (0..VIPS * u32::from(CLIENTS)).map(|_| Mutex::default()).collect(),
            since: [const { AtomicU32::new(IDLE) }; 2],
            epoch: Epoch::new(),
            tallies: Default::default(),
        }
    }

    /// The writer is about to add a real.
    pub fn adds(&self, vip: u32, number: u16, step: u32) {
        self.added[place(vip, number)].store(step, Ordering::Release);
    }

    /// The writer begins a step.
    pub fn begin(&self, step: u32, plan: &Plan, numbers: &[Option<Vec<u16>>]) {
        let mut rings = self.rings.write().unwrap();
        rings.push_back(Rings::new(step, plan, numbers));
        if rings.len() > KEPT as usize {
            rings.pop_front();
        }
        drop(rings);
        self.begun.store(step, Ordering::Release);
    }

    /// The writer has completed it; these reals are gone.
    pub fn complete(&self, step: u32, gone: &[usize]) {
        gone.iter().for_each(|real| self.removed[*real].store(step, Ordering::Release));
        self.done.store(step, Ordering::Release);
    }

    /// A seat is about to look at frames; gives the step that is complete.
    pub fn look(&self, seat: usize) -> u32 {
        let done = self.done.load(Ordering::SeqCst);
        self.since[seat].store(done, Ordering::SeqCst);
        done
    }

    /// A seat has no frame under way.
    pub fn rest(&self, seat: usize) {
        self.since[seat].store(IDLE, Ordering::SeqCst);
    }

    /// The reals that rings named for this flow, from step `from` on.
    fn named(&self, vip: u32, client: u16, from: u32) -> Vec<u16> {
        let slot = slot_of(hash_of(vip, client), RING) as usize;
        let rings = self.rings.read().unwrap();
        let oldest = rings.front().map_or(0, |rings| rings.step);
        assert!(oldest <= from.max(1), "a frame was under way from step {from} on; the oldest that is known is {oldest}");
        let of = |rings: &Rings| rings.of[vip as usize].as_ref().and_then(|ring| ring[slot].checked_sub(1));
        rings.iter().filter(|rings| rings.step >= from).filter_map(of).collect()
    }

    /// What a frame of a flow became, which was looked at after step `done` was complete.
    pub fn judge(&self, seat: usize, vip: u32, client: u16, done: u32, sent: Option<&[u8]>) {
        let (tally, name) = (&self.tallies[seat], SEATS[seat]);
        let Some(frame) = sent else {
            tally.refused.fetch_add(1, Ordering::Relaxed);
            return;
        };
        tally.forwarded.fetch_add(1, Ordering::Relaxed);
        let [ten, owner, high, low] = frame[30..34].try_into().unwrap();
        let to = format!("10.{owner}.{high}.{low}");
        assert_eq!((ten, u32::from(owner)), (10, 1 + vip), "{name}: a frame for VIP {vip} went to {to}");
        let number = u16::from_be_bytes([high, low]);
        let at = place(vip, number);
        let (added, removed) = (self.added[at].load(Ordering::Acquire), self.removed[at].load(Ordering::Acquire));
        let begun = self.begun.load(Ordering::Acquire);
        assert!(added <= begun, "{name}: {to} comes with step {added}, this is {begun}");
        assert!(removed > done, "{name}: {to} went with step {removed}, {done} was complete before");
        // The other seat may have entered the flow, and not told yet; then it does so before it looks at other frames.
        let other = self.since[1 - seat].load(Ordering::SeqCst);
        let mut with = self.with[vip as usize * usize::from(CLIENTS) + usize::from(client)].lock().unwrap();
        with.retain(|(number, _)| self.removed[place(vip, *number)].load(Ordering::Acquire) > done.min(other));
        let before = with.iter_mut().find(|(known, _)| *known == number);
        let named = self.named(vip, client, done);
        if !named.contains(&number) {
            tally.kept.fetch_add(1, Ordering::Relaxed);
            let is_known = before.is_some() || other < done && self.named(vip, client, other).contains(&number);
            assert!(
                is_known,
                "{name}: client {client} of VIP {vip} went to {to}: it never was with that, and the ring names {named:?}"
            );
            if before.as_ref().is_some_and(|(_, seats)| seats & 1 << seat == 0) {
                tally.shared.fetch_add(1, Ordering::Relaxed);
            }
        }
        match before {
            Some((_, seats)) => *seats |= 1 << seat,
            None => with.push((number, 1 << seat)),
        }
    }
}
