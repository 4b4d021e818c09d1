//! Many VIPs: that they load, share rings, and are left alone by a change of another.
//!
//! `TANDEM_LONG=1`: 10,000 VIPs instead of 2,000. What it takes in a release build: `cargo bench -p tandem-bench --bench load`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use tandem_backends::config::{Plan, Vip, parse};
use tandem_backends::control::{Changes, Control, ControlError, Facts, NoGrace, vip_key};
use tandem_backends::memory::{Plain, Sizes, Tables};
use tandem_engine::memory::counters::Extent;
use tandem_engine::memory::{Memory as _, Vip as Entry, VipKey, VipSlot, vips};

const HEAD: &str = "
    node = { next_hop_mac = \"00:00:de:ad:be:af\", local_mac = \"00:ff:de:ad:be:af\" }
    tunnel = { source_v4 = \"10.0.13.37\" }
";

/// A VIP's reals, by the last numbers of their addresses.
type Reals<'a> = &'a [u32];

/// VIPs of the same ring size, by their reals.
fn text(ring_size: u32, vips: &[Reals<'_>]) -> String {
    let mut text = HEAD.to_owned();
    for (vip, reals) in (0..).zip(vips) {
        let address = Ipv4Addr::from(0x0a80_0000_u32 + vip);
        let _ =
            write!(text, "[[vip]]\naddress = \"{address}\"\nport = 80\nprotocol = \"tcp\"\nring_size = {ring_size}\nreal = [");
        for real in *reals {
            let _ = write!(text, "{{ address = \"{}\" }}, ", Ipv4Addr::from(0xac10_0000_u32 + real));
        }
        text += "]\n";
    }
    text
}

fn plan(ring_size: u32, vips: &[Reals<'_>]) -> Plan {
    parse(&text(ring_size, vips), "plan").unwrap_or_else(|e| panic!("{e}")).plan
}

fn apply(control: &mut Control, plan: &Plan) -> Result<Changes, ControlError> {
    control.apply(plan, &Facts::of_plan(plan, 0).unwrap(), &NoGrace)
}

/// Where everything of the plan is, and that it is right: all slots of each ring name the VIP's own reals, and all of them.
fn check(control: &Control, plan: &Plan) -> BTreeMap<String, Entry> {
    let desk = Plain::new(control.tables().clone(), 0);
    let root = desk.root().unwrap();
    let mut numbers: BTreeMap<(u32, u32), BTreeSet<u32>> = BTreeMap::new();
    let look = |vip: &Vip| {
        let entry = vips::find(&desk, root, &vip_key(vip)).unwrap_or_else(|| panic!("{vip} is not there"));
        let numbers = numbers.entry((entry.ring, entry.ring_len)).or_insert_with(|| {
            let mut found = [false; 1 << 16];
            (0..entry.ring_len).for_each(|slot| found[desk.ring(entry.ring + slot / 32).unwrap().get(slot) as usize] = true);
            (0..1 << 16).filter(|number| found[*number as usize]).collect()
        });
        assert!(!numbers.contains(&0), "{vip}: a slot is nobody's");
        let ids: BTreeSet<u32> = numbers.iter().map(|number| entry.first + number).collect();
        let wanted: BTreeSet<u32> = vip.reals.iter().map(|real| control.real_id(vip, real.address).unwrap()).collect();
        assert_eq!(ids, wanted, "{vip}");
        for real in &vip.reals {
            let found = desk.real(control.real_id(vip, real.address).unwrap()).unwrap();
            assert_eq!(found.owner(), Some(entry.id), "{vip}");
            assert_eq!(found.addr(), tandem_backends::control::addr_words(real.address), "{vip}");
        }
        (vip.to_string(), entry)
    };
    plan.vips.iter().map(look).collect()
}

fn entries(tables: &Tables) -> BTreeMap<String, (VipKey, Entry)> {
    tables.vips().iter().filter_map(VipSlot::entry).map(|(key, vip)| (format!("{key:?}"), (key, vip))).collect()
}

/// VIPs with ten reals of one of so many sets of ten.
fn sets(vips: u32, sets: u32) -> Vec<Vec<u32>> {
    (0..vips).map(|vip| (0..10).map(|real| vip % sets * 10 + real + 1).collect()).collect()
}

fn slices(vips: &[Vec<u32>]) -> Vec<&[u32]> {
    vips.iter().map(Vec::as_slice).collect()
}

fn load(ring_size: u32, count: u32, distinct: u32) {
    let all = sets(count, distinct);
    let text = text(ring_size, &slices(&all));
    let start = Instant::now();
    let plan = parse(&text, "plan").unwrap_or_else(|e| panic!("{e}")).plan;
    let parsed = start.elapsed();
    let sizes = Sizes { flow_sets: 1024, hash_lines: 1024, ..Sizes::for_plan(&plan, 2) };
    let tables = Tables::plain(sizes).unwrap();
    let mut control = Control::adopt(tables.clone()).unwrap();
    let changes = apply(&mut control, &plan).unwrap();
    let applied = start.elapsed();
    assert_eq!((changes.vips_added, changes.reals_added, changes.rings), (count, 10 * count, count));
    assert_eq!(control.rings_shared(), (distinct as usize, count));
    println!(
        "{count} VIPs of 10 reals, {ring_size} slots: {distinct} rings; read in {:.2} s, with its tables written {:.2} s; {}",
        parsed.as_secs_f64(),
        applied.as_secs_f64(),
        sizes.in_words()
    );
    let before = check(&control, &plan);
    let entries_before = entries(&tables);
    // One of them gets another real.
    let mut changed = plan.clone();
    changed.vips[7].reals[3].address = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    let start = Instant::now();
    let changes = apply(&mut control, &changed).unwrap();
    println!("  one VIP changed: {:.3} s", start.elapsed().as_secs_f64());
    assert_eq!(changes, Changes { reals_added: 1, reals_removed: 1, rings: 1, ..Changes::default() });
    let still = distinct as usize + usize::from(distinct != count);
    assert_eq!(control.rings_shared(), (still, count));
    let after = check(&control, &changed);
    let differ = before.iter().filter(|(name, entry)| after[*name] != **entry).count();
    assert_eq!((differ, after.len()), (1, before.len()));
    let now = entries(&tables);
    assert_eq!(entries_before.iter().filter(|(key, was)| now[*key] != **was).count(), 1, "another VIP was touched");
    // A process that takes the tables over finds them as they are, and changes nothing.
    let mut next = Control::adopt(tables.clone()).unwrap();
    assert_eq!(next.rings_shared(), (still, count));
    assert_eq!(apply(&mut next, &changed).unwrap(), Changes::default());
    assert_eq!(entries(&tables), now);
}

fn many() -> u32 {
    if std::env::var_os("TANDEM_LONG").is_some() { 10_000 } else { 2_000 }
}

#[test]
fn many_vips_load() {
    load(1009, many(), many());
    load(65_537, many(), many() / 100);
}

/// Tables as a balancer makes them for its first plan.
fn started(plan: &Plan) -> Control {
    let sizes = Sizes { flow_sets: 1, hash_lines: 1, ..Sizes::for_plan(plan, 1) };
    let mut control = Control::adopt(Tables::plain(sizes).unwrap()).unwrap();
    apply(&mut control, plan).unwrap();
    control
}

/// The id of each VIP.
fn ids(control: &Control) -> BTreeMap<String, u32> {
    entries(control.tables())
        .into_iter()
        .filter(|(_, (key, _))| key.protocol() != 0)
        .map(|(name, (_, vip))| (name, vip.id))
        .collect()
}

/// With a key file a VIP's id follows from its name. Where two fall together, which is usual with so many, who came first has its own:
/// balancers that started with the same plan agree, and so does one that got the last VIPs later.
#[test]
fn balancers_of_a_group_give_the_same_ids() {
    let vips: Vec<Reals<'_>> = vec![&[1]; many() as usize];
    let text = text(31, &vips).replace("tunnel =", "flows = { key_file = \"/etc/tandem/flows.key\" }\n    tunnel =");
    let plan = parse(&text, "plan").unwrap_or_else(|e| panic!("{e}")).plan;
    let one = started(&plan);
    let agreed = ids(&one);
    let different: BTreeSet<u32> = agreed.values().copied().collect();
    assert_eq!((agreed.len(), different.len()), (vips.len(), vips.len()), "two VIPs have one id");
    assert_eq!(ids(&started(&plan)), agreed);
    // The last tenth comes later.
    let mut fewer = plan.clone();
    fewer.vips.truncate(vips.len() / 10 * 9);
    let mut grown = started(&fewer);
    assert_eq!(grown.tables().extent(), one.tables().extent(), "tables for another number of VIPs have other ids");
    apply(&mut grown, &plan).unwrap();
    assert_eq!(ids(&grown), agreed);
    // Whatever came in another order may differ where VIPs fall together.
    let differ = |other: &BTreeMap<String, u32>| agreed.iter().filter(|(name, id)| other[*name] != **id).count();
    let mut turned = plan.clone();
    turned.vips.reverse();
    let turned = differ(&ids(&started(&turned)));
    // One of a hundred goes and comes back.
    let mut fewer = plan.clone();
    fewer.vips = plan.vips.iter().enumerate().filter(|(n, _)| n % 100 != 0).map(|(_, vip)| vip.clone()).collect();
    apply(&mut grown, &fewer).unwrap();
    apply(&mut grown, &plan).unwrap();
    let back = differ(&ids(&grown));
    println!(
        "{} VIPs: in the opposite order {turned} of them have another id, after one of a hundred was away {back}",
        vips.len()
    );
    assert!(turned > 0, "no two VIPs fall together: then nothing was shown");
    assert!(back <= vips.len() / 100, "VIPs that stayed have another id");
}

/// VIPs that take the place of others have ids beside theirs until the others are gone: what does not fit is known before anything
/// is written.
#[test]
fn vips_are_replaced_where_there_is_room_for_both() {
    let vips: [Reals<'_>; 20] = [&[1]; 20];
    let all = plan(31, &vips);
    let (mut first, mut second) = (all.clone(), all.clone());
    first.vips.truncate(10);
    second.vips.drain(..10);
    let extent = Extent { vips: 16, reals: 64 };
    let tables = Tables::plain(Sizes { extent, flow_sets: 1, ..Sizes::for_plan(&all, 1) }).unwrap();
    let mut control = Control::adopt(tables.clone()).unwrap();
    apply(&mut control, &first).unwrap();
    let before = entries(&tables);
    assert_eq!(apply(&mut control, &second), Err(ControlError::TooManyVips { found: 20, most: 16 }));
    assert_eq!(entries(&tables), before);
    let mut between = first.clone();
    between.vips.truncate(6);
    apply(&mut control, &between).unwrap();
    let changes = apply(&mut control, &second).unwrap();
    assert_eq!((changes.vips_added, changes.vips_removed), (10, 6));
    check(&control, &second);
}

/// In whatever order reals are listed, whoever came first.
#[test]
fn rings_are_shared_and_left() {
    let first = plan(61, &[&[1, 2, 3], &[3, 2, 1], &[1, 2]]);
    let tables = Tables::plain(Sizes { ring_lines: 1 + 4 * 2, flow_sets: 1, ..Sizes::for_plan(&first, 1) }).unwrap();
    let mut control = Control::adopt(tables).unwrap();
    let mut step = |vips: &[Reals<'_>], shared: (usize, u32)| {
        let plan = plan(61, vips);
        let changes = apply(&mut control, &plan).unwrap();
        assert_eq!(control.rings_shared(), shared, "{vips:?}");
        let entries: Vec<Entry> = check(&control, &plan).into_values().collect();
        (changes, entries)
    };
    let (_, at) = step(&[&[1, 2, 3], &[3, 2, 1], &[1, 2]], (2, 3));
    assert_eq!(at[0].ring, at[1].ring);
    assert_ne!(at[0].ring, at[2].ring);
    assert_ne!(at[0].first, at[1].first);
    // One leaves the ring, the other one stays in it.
    let (changes, then) = step(&[&[1, 2, 3], &[1, 2, 4], &[1, 2]], (3, 3));
    assert_eq!((changes.rings, then[0]), (1, at[0]));
    assert_ne!(then[1].ring, at[1].ring);
    // The other one follows: it takes the first one's.
    let (changes, then) = step(&[&[1, 2, 4], &[1, 2, 4], &[1, 2]], (2, 3));
    assert_eq!((changes.rings, then[0].ring), (1, then[1].ring));
    // All of them are of one ring, although the third one had but two.
    let (_, then) = step(&[&[1, 2], &[1, 2], &[1, 2]], (1, 3));
    assert!(then.iter().all(|entry| entry.ring == then[0].ring));
    step(&[], (0, 0));
    // Nothing of it is left: rings that take all of the memory.
    step(&[&[1], &[2], &[3], &[4]], (4, 4));
    let too_many = plan(61, &[&[1], &[2], &[3], &[4], &[5]]);
    let full = apply(&mut control, &too_many).unwrap_err();
    assert!(matches!(full, ControlError::RingsFull { taken: 8, lines: 9, .. }), "{full:?}");
    // But one more that is like another.
    apply(&mut control, &plan(61, &[&[1], &[2], &[3], &[4], &[4]])).unwrap();
    assert_eq!(control.rings_shared(), (4, 5));
}

/// Where ids do not lie together any more, a VIP takes what there is behind its first.
#[test]
fn ids_are_taken_wherever_they_are() {
    let of = |vips: &[Reals<'_>]| plan(31, vips);
    let first = of(&[]);
    let extent = Extent { vips: 16, reals: 16 };
    let tables = Tables::plain(Sizes { extent, flow_sets: 1, ..Sizes::for_plan(&first, 1) }).unwrap();
    let mut control = Control::adopt(tables).unwrap();
    // Fifteen ids, with every second one free in the end.
    let full: [Reals<'_>; 8] = [&[1], &[2], &[3], &[4], &[5], &[6], &[7], &[8]];
    for count in 1..=full.len() - 1 {
        apply(&mut control, &of(&full[..count])).unwrap();
    }
    check(&control, &of(&full[..7]));
    // Seven VIPs of one real have two ids each; one is left.
    apply(&mut control, &of(&full)).unwrap();
    check(&control, &of(&full));
    let grown: [Reals<'_>; 8] = [&[1, 11], &[2, 12], &[3], &[4], &[5], &[6], &[7], &[8]];
    apply(&mut control, &of(&grown)).unwrap();
    check(&control, &of(&grown));
    // More than its own two: what the others had to grow.
    let more: [Reals<'_>; 8] = [&[1, 11, 21, 31, 41, 51], &[2, 12, 22], &[3], &[4], &[5], &[6], &[7], &[8]];
    apply(&mut control, &of(&more)).unwrap();
    check(&control, &of(&more));
    let too_many: [Reals<'_>; 9] = [&[1, 11, 21, 31, 41, 51], &[2, 12, 22], &[3], &[4], &[5], &[6], &[7], &[8], &[9]];
    let error = apply(&mut control, &of(&too_many)).unwrap_err();
    assert_eq!(error, ControlError::TooManyReals { found: 16, most: 15 });
    assert!(error.to_string().contains("tandem detach"), "{error}");
    check(&control, &of(&more));
    // The VIPs that go leave theirs to whoever needs them, scattered as they are.
    let fewer: [Reals<'_>; 4] = [&[1, 11], &[2, 12], &[3], &[4]];
    apply(&mut control, &of(&fewer)).unwrap();
    let wide: [Reals<'_>; 5] = [&[1, 11, 21, 31, 41], &[2, 12], &[3], &[4], &[5]];
    apply(&mut control, &of(&wide)).unwrap();
    check(&control, &of(&wide));
}

#[test]
fn what_is_too_small_is_named() {
    let many = sets(600, 1);
    let plan = plan(31, &slices(&many));
    let sizes = Sizes { flow_sets: 1, ..Sizes::for_plan(&plan, 1) };
    let fails = |sizes| apply(&mut Control::adopt(Tables::plain(sizes).unwrap()).unwrap(), &plan).unwrap_err();
    let extent = Extent { vips: 512, ..sizes.extent };
    assert_eq!(fails(Sizes { extent, ..sizes }), ControlError::TooManyVips { found: 600, most: 512 });
    assert_eq!(fails(Sizes { vip_slots: 4096, ..sizes }), ControlError::VipTableSmall { found: 1200 });
    let extent = Extent { reals: 4096, ..sizes.extent };
    assert_eq!(fails(Sizes { extent, ..sizes }), ControlError::TooManyReals { found: 4096, most: 4095 });
    apply(&mut Control::adopt(Tables::plain(sizes).unwrap()).unwrap(), &plan).unwrap();
}
