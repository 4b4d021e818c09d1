//! `[[vip.real]]`.

use std::collections::HashMap;
use std::net::IpAddr;

use super::finding::Kind;
use super::named::Addresses;
use super::plan::Profile;
use super::prefix::Prefix;
use super::reader::{Place, Reader};
use super::sections::{ENCAPS, narrow};
use super::service::{Encap, GeneveInner, Real, RealState, VipFlags};
use super::tables::Table;
use super::values;

/// What a real's VIP says.
pub(super) struct Of {
    pub(super) profile: Profile,
    /// With the length of a prefix; `None`: it was not understood.
    pub(super) address: Option<(IpAddr, Option<u8>)>,
    pub(super) encap: Encap,
    pub(super) geneve_inner: GeneveInner,
    pub(super) flags: VipFlags,
}

/// The reals of a VIP; `None` if one of them was not understood: without it the VIP would be another one.
pub(super) fn read(reader: &mut Reader<'_>, tables: &[Table<'_>], vip: &Of, addresses: &mut Addresses) -> Option<Vec<Real>> {
    let mut places = HashMap::new();
    let reals: Vec<Option<Real>> = tables.iter().map(|real| read_real(reader, real, vip, &mut places, addresses)).collect();
    reals.into_iter().collect()
}

fn read_real(
    reader: &mut Reader<'_>,
    table: &Table<'_>,
    vip: &Of,
    places: &mut HashMap<IpAddr, Place>,
    addresses: &mut Addresses,
) -> Option<Real> {
    let address = reader.text(table, "address", values::address);
    let weight = match reader.any(table, "weight") {
        Some(item) => narrow(reader.number_of(table, "weight", 0..65_536, &item)),
        None => Some(1),
    };
    let states = [("up", RealState::Up), ("drain", RealState::Drain), ("down", RealState::Down)];
    let state = reader.choice(table, "state", &states).unwrap_or(RealState::Up);
    let local = reader.truth(table, "local").unwrap_or(false);
    let encap = reader.choice(table, "encap", ENCAPS).unwrap_or(vip.encap);
    let address = address?;
    let place = reader.any(table, "address")?.place;
    let inner_mac = reader.text(table, "inner_mac", values::station);
    note_method(reader, &place, address, encap, vip);
    if encap == Encap::Geneve && vip.geneve_inner == GeneveInner::Ethernet && reader.any(table, "inner_mac").is_none() {
        let problem = "its VIP has `geneve_inner = \"ethernet\"`, and where the frame inside goes is not known".to_owned();
        reader.mistake(Kind::Missing, &table.place, problem, "add `inner_mac`, the MAC of the real's Geneve device".to_owned());
    }
    if let Some(of) = vip.address {
        note_address(reader, &place, address, vip.profile, of);
    }
    if let (true, false, Some(item)) = (local, vip.flags.contains(VipFlags::LOCAL), reader.any(table, "local")) {
        let problem = "a local real, and its VIP has not the flag `local`: it gets its packets encapsulated".to_owned();
        reader.warn(&item.place, problem, "add `local` to the `flags` of the VIP, or remove this key".to_owned());
    }
    addresses.note(reader, &place, address);
    match places.get(&address) {
        Some(first) => {
            let problem = format!("the same real as `{}` on line {} (found \"{address}\")", first.key, reader.line(first));
            let cure = "remove one of them, a larger `weight` gives a larger share".to_owned();
            reader.mistake(Kind::Conflict, &place, problem, cure);
        }
        None => {
            places.insert(address, place);
        }
    }
    let port: Option<u16> = narrow(reader.number(table, "port", 1..65_536));
    if let (Some(_), Some(item), false) = (port, reader.any(table, "port"), encap == Encap::Nat) {
        let problem = "a port of its own, and its method replaces no ports: it gets the packet's".to_owned();
        reader.warn(&item.place, problem, "remove it, or set `encap = \"nat\"`".to_owned());
    }
    Some(Real { address, weight: weight?, state, local, encap, inner_mac, port })
}

/// Notes a method that cannot reach the real.
fn note_method(reader: &mut Reader<'_>, place: &Place, real: IpAddr, encap: Encap, vip: &Of) {
    if vip.profile == Profile::Katran && !matches!(encap, Encap::Ipip | Encap::Gue) {
        let problem = "a forwarding method that Katran has not".to_owned();
        reader.mistake(Kind::Conflict, place, problem, "accepted in profile katran: ipip, gue".to_owned());
    }
    let other_family = vip.address.is_some_and(|(address, _)| address.is_ipv4() != real.is_ipv4());
    if encap == Encap::L2 && other_family {
        let problem = format!("`l2` puts no header of another family around the packet (found \"{real}\")");
        let cure = "name the real by an address of the VIP's family, or choose a tunnel".to_owned();
        reader.mistake(Kind::Conflict, place, problem, cure);
    }
}

/// Notes an address that does not go with that of the VIP.
fn note_address(reader: &mut Reader<'_>, place: &Place, real: IpAddr, profile: Profile, vip: (IpAddr, Option<u8>)) {
    let (address, prefix_len) = vip;
    let prefix = prefix_len.and_then(|len| Prefix::new(address, len));
    if prefix_len.is_none() && address == real {
        let problem = format!("the address of its own VIP (found \"{real}\")");
        let cure = "use the address of the server itself, packets would come back for ever".to_owned();
        reader.unless_katran(profile, place, problem, cure);
    }
    if let Some(prefix) = prefix.filter(|prefix| prefix.contains(real)) {
        reader.warn(
            place,
            format!("an address in the prefix of its own VIP {prefix} (found \"{real}\")"),
            "see to it that its packets are not routed back to this machine".to_owned(),
        );
    }
    if profile == Profile::Katran && address.is_ipv6() && real.is_ipv4() {
        reader.warn(
            place,
            format!("an IPv4 real of an IPv6 VIP (found \"{real}\"): Katran's outer header calls the packet IPv4"),
            "use an IPv6 real; profile standard sends 6in4, as RFC 4213 has it".to_owned(),
        );
    }
}
