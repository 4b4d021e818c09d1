//! No tunnel: the frame as it is, to the real's own MAC. The real has the VIP's address (and tells nobody).
//!
//! One hop is taken off, so that a frame that a mistaken address sends round and round comes to an end.

use super::Path;
use super::tunnel::one_hop;
use crate::packet::Packet;
use crate::parse::Flow;
use crate::wire::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, Header};

#[inline(always)]
pub(crate) fn forward<P: Packet>(packet: &mut P, flow: &Flow, path: &Path<'_>) -> Option<()> {
    one_hop(packet, flow.is_v6)?;
    path.emit(Ethernet::view_mut(packet, 0)?, if flow.is_v6 { ETHERTYPE_IPV6 } else { ETHERTYPE_IPV4 });
    Some(())
}
