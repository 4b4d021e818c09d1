//! VLAN tags (IEEE 802.1Q clause 9.6): taken off an IP packet's frame before it is looked at, put on where it leaves.
//!
//! What is known of a tag is one number, so that a BPF function can return it: [`PRESENT`] and the tag control information
//! (priority, drop eligibility, VLAN id), or 0 for a frame without a tag. A priority tag (VLAN id 0) is a tag as any other.

use crate::memory::reals::Out;
use crate::packet::Packet;
use crate::wire::{
    ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_SERVICE_VLAN, ETHERTYPE_VLAN, Ethernet, Header, TAG_LEN, TaggedEthernet,
};

/// There is a tag; its control information is in the low 16 bits.
pub const PRESENT: u32 = 1 << 16;
/// What [`take`] says of a frame that ends inside its tag.
pub const SHORT: u32 = 1 << 17;
/// What [`take`] says of a frame with two tags, or with one of a provider's network (IEEE 802.1ad).
pub const STACKED: u32 = 1 << 18;

/// Priority and drop eligibility, in the control information.
const PRIORITY: u32 = 0xf000;
const VLAN_ID: u32 = 0x0fff;

/// Takes the tag off a frame with an IP packet behind it. Of any other frame nothing changes: [`SHORT`], [`STACKED`], or 0.
#[inline(always)]
pub fn take<P: Packet>(packet: &mut P) -> u32 {
    let Some(eth) = Ethernet::view(packet, 0) else { return SHORT };
    match eth.ethertype.get() {
        ETHERTYPE_VLAN => {}
        ETHERTYPE_SERVICE_VLAN => return STACKED,
        _ => return 0,
    }
    let Some(&TaggedEthernet { macs, control, ethertype, .. }) = TaggedEthernet::view(packet, 0) else { return SHORT };
    match ethertype.get() {
        ETHERTYPE_IPV4 | ETHERTYPE_IPV6 => {}
        ETHERTYPE_VLAN | ETHERTYPE_SERVICE_VLAN => return STACKED,
        _ => return 0,
    }
    if !packet.shrink_head(TAG_LEN) {
        return 0;
    }
    // The EtherType is in its place already.
    if let Some(eth) = Ethernet::view_mut(packet, 0) {
        eth.macs = macs;
    }
    PRESENT | control.get() as u32
}

/// Puts a tag on. `false`: there is no room, and nothing changed.
#[inline(always)]
pub fn put<P: Packet>(packet: &mut P, tag: u32) -> bool {
    let Some(&Ethernet { macs, .. }) = Ethernet::view(packet, 0) else { return false };
    if !packet.grow_head(TAG_LEN) {
        return false;
    }
    if let Some(tagged) = TaggedEthernet::view_mut(packet, 0) {
        tagged.macs = macs;
        tagged.tag = ETHERTYPE_VLAN.into();
        tagged.control = (tag as u16).into();
    }
    true
}

/// The tag that a frame leaves with by a way with this [`Out::vlan`]; 0: none. Priority and drop eligibility are those of the
/// tag that it came with.
#[inline(always)]
pub const fn leaving(came: u32, vlan: u16) -> u32 {
    match vlan {
        0 => 0,
        Out::SAME_VLAN => came,
        id => PRESENT | came & PRIORITY | id as u32 & VLAN_ID,
    }
}
