//! The prefix table against a naive longest match.

use std::net::IpAddr;

use proptest::prelude::*;
use tandem_backends::config::{Plan, parse};
use tandem_backends::control::prefixes::{Contents, Entry, Spaces, slots, spaces};
use tandem_backends::memory::{Plain, Sizes, Tables};
use tandem_engine::Addr;
use tandem_engine::memory::prefixes::{self, SPACES, Space, V4};
use tandem_engine::memory::{Memory, Root};

const SPACE: [Space; SPACES as usize] = [Space::SourceV4, Space::SourceV6, Space::VipV4, Space::VipV6];

fn base() -> Plan {
    parse("", "base").unwrap().plan
}

/// Tables whose first half holds the prefixes.
fn tables(spaces: &Spaces) -> Plain {
    let contents = Contents::new(spaces.clone());
    let slots = contents.slots();
    let tables = Tables::plain(Sizes { prefix_slots: slots, ..Sizes::for_plan(&base(), 1) }).unwrap();
    let (half, trees) = (&tables.prefixes()[..slots as usize], &tables.trees()[..SPACES as usize]);
    assert!(!contents.is_in(half, trees) || contents.is_empty());
    assert!(contents.write(half, trees));
    assert!(contents.is_in(half, trees));
    tables.root().publish_prefixes(0, slots);
    Plain::new(tables, 0)
}

/// What a search finds; the engine's 0 is nothing.
fn find(desk: &Plain, root: &Root, space: Space, tag: u32, addr: Addr) -> Option<u32> {
    Some(prefixes::find(desk, root, space, tag, addr)).filter(|value| *value != 0)
}

fn addr(bits: u128) -> Addr {
    [((bits >> 64) as u64).to_be(), (bits as u64).to_be()]
}

/// The value of the longest prefix of the tag that covers the address; of none: any tag's of length 0.
fn naive(entries: &[Entry], tag: u32, bits: u128) -> Option<u32> {
    let mask = |len: u8| if len == 0 { 0 } else { u128::MAX << (128 - u32::from(len)) };
    let covers = |entry: &&Entry| bits & mask(entry.len) == entry.bits && (entry.tag == tag || entry.len == 0);
    entries.iter().filter(covers).max_by_key(|entry| entry.len).map(|entry| entry.value)
}

/// Entries that nest: few different bits, every length; values differ, but at length 0 (they name the length, for VIPs).
fn entries(most: u8) -> impl Strategy<Value = Vec<Entry>> {
    let lens = prop_oneof![0..=most, Just(most), Just(0), (0..=most / 8).prop_map(|bytes| bytes * 8)];
    let one = (0..3_u32, any::<u128>(), any::<u128>(), lens).prop_map(move |(tag, a, b, len)| {
        // Bits are mostly 0, so that networks are inside others.
        let bits = (a & b & b.rotate_left(17)) >> (128 - u32::from(most)) << (128 - u32::from(most));
        let bits = if len == 0 { 0 } else { bits >> (128 - u32::from(len)) << (128 - u32::from(len)) };
        (tag, bits, len)
    });
    prop::collection::vec(one, 0..80).prop_map(|mut keys| {
        keys.sort_unstable();
        keys.dedup();
        let value = |index: usize, len: u8| if len == 0 { 1 } else { index as u32 + 2 };
        keys.into_iter().enumerate().map(|(index, (tag, bits, len))| Entry { tag, bits, len, value: value(index, len) }).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_search_finds_the_longest_match(
        v4 in entries(32), v6 in entries(128), vip_v4 in entries(32), vip_v6 in entries(128), noise: u128
    ) {
        let spaces = [v4, v6, vip_v4, vip_v6];
        let desk = tables(&spaces);
        let root = desk.root().unwrap();
        for (space, entries) in SPACE.into_iter().zip(&spaces) {
            let most = if matches!(space, Space::SourceV4 | Space::VipV4) { 32 } else { 128 };
            let whole = |bits: u128| bits >> (128 - most) << (128 - most);
            // The first, the last and some address of every network, the ones around it, and any address.
            let around = entries.iter().flat_map(|entry| {
                let host = if entry.len == 0 { u128::MAX } else { (1_u128 << (128 - u32::from(entry.len))).wrapping_sub(1) };
                let unit = 1_u128 << (128 - most);
                [entry.bits, entry.bits | host, entry.bits | noise & host, entry.bits.wrapping_sub(unit), (entry.bits | host).wrapping_add(1)]
            });
            for bits in around.chain([noise, 0, u128::MAX]).map(whole) {
                for tag in 0..4 {
                    prop_assert_eq!(find(&desk, root, space, tag, addr(bits)), naive(entries, tag, bits), "{:?} {} {:x}", space, tag, bits);
                }
            }
        }
    }
}

#[test]
fn a_plan_says_the_spaces() {
    let plan = parse(
        r#"
        source_route = [
            { prefix = "10.0.0.0/8", real = "10.0.0.1" }, { prefix = "2001:db8::/32", real = "10.0.0.2" },
            { prefix = "0.0.0.0/0", real = "10.0.0.3" },
        ]
        vip = [
            { address = "10.200.0.0/16", port = 80, protocol = "tcp" }, { address = "fc00:1::/96", port = 0, protocol = "udp" },
            { address = "10.200.0.1", port = 80, protocol = "tcp" },
        ]
        "#,
        "plan",
    );
    let plan = plan.unwrap().plan;
    let id = |address: IpAddr| match address {
        IpAddr::V4(v4) => Some(u32::from(v4.octets()[3])),
        IpAddr::V6(_) => None,
    };
    let desk = tables(&spaces(&plan, id));
    let root = desk.root().unwrap();
    let look =
        |space, tag, address: &str| find(&desk, root, space, tag, tandem_backends::control::addr_words(address.parse().unwrap()));
    assert_eq!(look(Space::SourceV4, 0, "10.9.9.9"), Some(1));
    assert_eq!(look(Space::SourceV4, 0, "11.9.9.9"), Some(3));
    assert_eq!(look(Space::SourceV6, 0, "2001:db8:ffff::1"), Some(2));
    assert_eq!(look(Space::SourceV6, 0, "2001:db9::1"), None);
    let tcp_80 = 6 << 16 | u32::from(80_u16.to_be());
    assert_eq!(look(Space::VipV4, tcp_80, "10.200.255.255"), Some(V4 + 16 + 1));
    assert_eq!(look(Space::VipV4, 6 << 16, "10.200.255.255"), None);
    assert_eq!(look(Space::VipV6, 17 << 16, "fc00:1::ffff:ffff"), Some(97));
    assert_eq!(slots(&plan), 1024);
}

/// A table that is too small says so, and stays as it was.
#[test]
fn what_does_not_fit_is_not_written() {
    let entry = |n: u32| Entry { tag: 0, bits: u128::from(n) << 96, len: 32, value: 1 };
    let contents = Contents::new([(1..=40).map(entry).collect(), Vec::new(), Vec::new(), Vec::new()]);
    let tables = Tables::plain(Sizes { prefix_slots: 32, ..Sizes::for_plan(&base(), 1) }).unwrap();
    assert!(!contents.write(&tables.prefixes()[..32], &tables.trees()[..4]));
    assert!(tables.prefixes().iter().all(|slot| slot.entry().is_none()));
    assert_eq!(contents.slots(), 64);
}

/// Of small sets some have keys that share their buckets: the half is then larger than its load asks for.
#[test]
fn a_small_set_whose_keys_meet_gets_a_larger_half() {
    let mut grown = 0;
    for set in 0..4_000_u32 {
        let entry =
            |n: u32| Entry { tag: 0, bits: u128::from((set * 12 + n).wrapping_mul(0x9e37_79b9)) << 96, len: 32, value: n + 1 };
        let contents = Contents::new([(0..12).map(entry).collect(), Vec::new(), Vec::new(), Vec::new()]);
        let slots = contents.slots();
        grown += u32::from(slots > 16);
        let tables = Tables::plain(Sizes { prefix_slots: slots, ..Sizes::for_plan(&base(), 1) }).unwrap();
        assert!(contents.write(&tables.prefixes()[..slots as usize], &tables.trees()[..SPACES as usize]), "set {set}");
    }
    assert!(grown > 0, "no set had keys that meet: the test tests nothing");
}

/// A hundred thousand prefixes of each family, at the load that `slots` plans with.
#[test]
fn many_prefixes_fit() {
    let mut state = 1_u64;
    let mut random = move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    };
    let mut many = |lens: [u8; 4]| -> Vec<Entry> {
        let mut entries: Vec<Entry> = (0..100_000)
            .map(|_| {
                let len = lens[(random() % 4) as usize];
                let bits =
                    (u128::from(random()) << 64 | u128::from(random())) >> (128 - u32::from(len)) << (128 - u32::from(len));
                Entry { tag: 0, bits, len, value: 1 + (random() % 4000) as u32 }
            })
            .collect();
        entries.sort_unstable();
        entries.dedup_by_key(|entry| (entry.bits, entry.len));
        entries
    };
    let spaces = [many([24, 24, 22, 32]), many([48, 48, 32, 64]), Vec::new(), Vec::new()];
    let desk = tables(&spaces);
    let root = desk.root().unwrap();
    for (space, entries) in SPACE.into_iter().zip(&spaces) {
        // Of networks that others are not inside of: the last address of the longest ones.
        let longest = entries.iter().map(|entry| entry.len).max().unwrap_or(0);
        for entry in entries.iter().filter(|entry| entry.len == longest) {
            assert_eq!(find(&desk, root, space, 0, addr(entry.bits)), Some(entry.value));
        }
    }
}
