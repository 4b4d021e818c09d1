//! Server ids come and go while packets ask for them: a key that has to make room for another is found all the while.

use std::fmt::Write as _;
use std::sync::Arc;

use tandem_engine::memory::{IdKey, Memory};
use tandem_interleave::config::{Plan, parse};
use tandem_interleave::control::{Control, Facts, Grace, NoGrace};
use tandem_interleave::epoch::Epoch;
use tandem_interleave::memory::{Plain, Sizes, Tables};
use tandem_interleave::{Readers, Watch, explore, fails};

/// Lines of the id table, minus one.
const MASK: u32 = 1;

/// The `n`-th server id that may be in these lines.
fn id(lines: [u32; 2], n: usize) -> u32 {
    (1..).filter(|id| IdKey::server(*id).lines(MASK) == lines).nth(n).expect("one of four has these lines")
}

/// A server id's real is at 10.9.x.y, x.y its number.
fn plan(ids: &[u32]) -> (Plan, Facts) {
    let mut text = "node = { next_hop_mac = \"00:00:de:ad:be:af\", local_mac = \"00:ff:de:ad:be:af\" }
        tunnel = { source_v4 = \"10.0.13.37\" }
        [[vip]]\naddress = \"10.200.0.1\"\nport = 80\nprotocol = \"udp\"\nring_size = 7\nflags = [\"quic\"]
        real = [{ address = \"10.1.0.1\" }]\n[server_ids]\n"
        .to_owned();
    for id in ids {
        writeln!(text, "{id} = \"10.9.{}.{}\"", id >> 8, id & 0xff).unwrap();
    }
    let plan = parse(&text, "plan").unwrap_or_else(|e| panic!("{e}")).plan;
    let facts = Facts::of_plan(&plan, 1).unwrap();
    (plan, facts)
}

/// The first id may be in either line, and is in the first. The next four fill that up, so that it has to make room for the
/// last one, whose place is the one that it leaves.
fn plans() -> Arc<Vec<(Plan, Facts)>> {
    let mut ids = vec![id([0, 1], 0)];
    let mut plans = vec![plan(&ids)];
    ids.extend((0..4).map(|n| id([0, 0], n)));
    plans.push(plan(&ids));
    ids.push(id([0, 0], 4));
    plans.push(plan(&ids));
    Arc::new(plans)
}

fn ask<G: Grace>(plans: &[(Plan, Facts)], grace: impl Fn(Arc<Vec<Epoch>>) -> G) {
    let (first, facts) = &plans[0];
    let sizes = Sizes { flow_sets: 1, ring_lines: 3, id_lines: MASK + 1, ..Sizes::for_plan(first, 1) };
    let tables = Tables::plain(sizes).unwrap();
    let mut control = Control::adopt(tables.clone()).unwrap();
    control.apply(first, facts, &NoGrace).unwrap();
    let epochs = Arc::new(vec![Epoch::new()]);
    let watch = Watch::all().read_alone(tables.vips()).read_alone(tables.rings()).read_alone(tables.reals());
    watch.read_alone(tables.ids()).read_alone(std::slice::from_ref(tables.root())).begin();
    let reader = {
        let (tables, epochs) = (tables.clone(), epochs.clone());
        shuttle::thread::spawn(move || {
            let (desk, asked) = (Plain::new(tables.clone(), 0), id([0, 1], 0));
            for _ in 0..4 {
                epochs[0].begin();
                let found = desk.id(tables.root(), IdKey::server(asked));
                assert_ne!(found, 0, "server id {asked} is not found");
                let real = desk.real(found).unwrap().addr()[0].to_le_bytes();
                assert_eq!(u32::from_be_bytes([0, 0, real[2], real[3]]), asked, "server id {asked} leads to another's real");
                epochs[0].park();
            }
        })
    };
    let grace = grace(epochs);
    for (plan, facts) in plans.iter().skip(1) {
        control.apply(plan, facts, &grace).unwrap();
    }
    reader.join().unwrap();
}

#[test]
fn a_server_id_that_makes_room_leads_to_its_real() {
    let plans = plans();
    explore("a server id that makes room", 1_000, move || ask(&plans, Readers));
}

#[test]
fn without_a_grace_period_it_leads_to_anothers() {
    let plans = plans();
    fails("a server id without a grace period", 50_000, "leads to another's real", move || ask(&plans, |_| NoGrace));
}
