//! A decision in words: what `tandem trace` prints.

use std::fmt::Write;

use etherparse::{NetSlice, SlicedPacket};

use super::decision::{Action, Decision};
use crate::memory::Tables;

/// The decisions about one frame, line by line; `out` is the frame as it was left.
pub fn explain(decision: &Decision, tables: &Tables, out: &[u8]) -> String {
    let mut text = String::new();
    let mut line = |what: &str, value: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{what:<10}{value}");
    };
    if let Some(control) = decision.vlan {
        line("vlan", tag(control));
    }
    match &decision.vip {
        Some((id, name)) => line("vip", format!("{name} (id {id}){}", vip_details(tables, *id))),
        None => line("vip", "none".to_owned()),
    }
    if let [Some(one), Some(two)] = decision.sets {
        let place = match decision.found {
            Some((set, way)) => format!("found in set {set}, way {way}"),
            None => "not found, or not looked for (a SYN asks the ring)".to_owned(),
        };
        line("flow", format!("sets {one} and {two} of {}, print {:016x}: {place}", tables.flows().len(), decision.print));
    }
    if let Some((hash, slot)) = decision.ring {
        line("ring", format!("hash {hash:#010x}, slot {slot}"));
    }
    if let Some((id, address)) = decision.real {
        let from = decision.from.map_or("nobody", tandem_engine::From::name);
        line("real", format!("{address} (id {id}), chosen by the {from}"));
    }
    if let Some((set, way, evicted)) = decision.entered {
        line("entered", format!("set {set}, way {way}{}", if evicted { ", in the place of another flow" } else { "" }));
    }
    if decision.action == Action::Tx {
        line("outer", outer(out));
    }
    let reason = decision.reason;
    line("verdict", format!("{} ({})", decision.action.name(), reason.map_or("no reason", |r| r.name())));
    if let Some(reason) = reason {
        line("", reason.meaning().to_owned());
    }
    text
}

fn vip_details(tables: &Tables, id: u32) -> String {
    let root = tables.root();
    let (first, slots) = ((root.vips.get() >> 32) as usize, root.vip_mask.get() as usize + 1);
    let mut in_force = tables.vips().iter().skip(first).take(slots).filter_map(|slot| slot.entry());
    // What is known of an address itself has no protocol.
    let entry = in_force.find(|(key, vip)| key.protocol() != 0 && vip.id == id);
    entry.map_or_else(String::new, |(_, vip)| match vip.ring_len {
        0 => ", no ring".to_owned(),
        len => format!(", ring of {len} slots from line {}, room for {} bytes", vip.ring, vip.room()),
    })
}

/// A tag's control information.
fn tag(control: u16) -> String {
    let drop = if control & 0x1000 != 0 { ", drop eligible" } else { "" };
    format!("{}, priority {}{drop}", control & 0xfff, control >> 13)
}

/// The headers that were put in front.
fn outer(frame: &[u8]) -> String {
    let Ok(packet) = SlicedPacket::from_ethernet(frame) else { return "unreadable".to_owned() };
    let macs = frame.get(..12).map(|m| {
        let mac = |b: &[u8]| b.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(":");
        format!("{} > {}, ", mac(&m[6..]), mac(&m[..6]))
    });
    let ip = match &packet.net {
        Some(NetSlice::Ipv4(ip)) => {
            let h = ip.header();
            let (from, to) = (h.source_addr(), h.destination_addr());
            format!(
                "{from} > {to}, protocol {}, TTL {}, tos {:#04x}, {} bytes",
                h.protocol().0,
                h.ttl(),
                h.slice()[1],
                h.total_len()
            )
        }
        Some(NetSlice::Ipv6(ip)) => {
            let h = ip.header();
            let (from, to) = (h.source_addr(), h.destination_addr());
            format!(
                "{from} > {to}, next header {}, hop limit {}, class {:#04x}, {} bytes",
                h.next_header().0,
                h.hop_limit(),
                h.traffic_class(),
                40 + u32::from(h.payload_length())
            )
        }
        _ => "no IP header".to_owned(),
    };
    let vlan = match frame.get(12..16) {
        Some([0x81, 0, high, low]) => format!("VLAN {}, ", tag(u16::from_be_bytes([*high, *low]))),
        _ => String::new(),
    };
    format!("{}{vlan}{ip}", macs.unwrap_or_default())
}
