//! A frame, seen through windows of fixed size.

use crate::memory::{Memory, Root};
use crate::parse::Flow;
use crate::vlan;

/// A frame that the core may read, write and grow at the head.
///
/// A window borrows the packet, so none outlives a change of its ends.
pub trait Packet {
    /// Bytes of the frame, from the Ethernet header on, without FCS.
    fn len(&self) -> usize;
    /// Whether it has no bytes at all.
    #[inline(always)]
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// The `N` bytes from offset `at`, if the frame has them.
    fn bytes<const N: usize>(&self, at: usize) -> Option<&[u8; N]>;
    /// The same for an offset that was calculated: the BPF verifier wants to see the one pointer that is compared and read.
    #[inline(always)]
    fn bytes_anywhere<const N: usize>(&self, at: usize) -> Option<&[u8; N]> {
        self.bytes(at)
    }
    /// The first `N` bytes, if there are as many, and how many there are in all: one look at the frame's ends.
    #[inline(always)]
    fn head<const N: usize>(&self) -> Option<(&[u8; N], usize)> {
        Some((self.bytes(0)?, self.len()))
    }
    /// The `N` bytes from offset `at`, to change them.
    fn bytes_mut<const N: usize>(&mut self, at: usize) -> Option<&mut [u8; N]>;
    /// The same for an offset that was calculated.
    #[inline(always)]
    fn bytes_anywhere_mut<const N: usize>(&mut self, at: usize) -> Option<&mut [u8; N]> {
        self.bytes_mut(at)
    }
    /// Makes the frame longer at its start, by at most 255 bytes; what is there is undefined. `false`: no room, and nothing
    /// changed.
    fn grow_head(&mut self, by: usize) -> bool;
    /// Takes bytes off the frame's start, at most 255. `false`: less than an Ethernet header would be left, and nothing
    /// changed.
    fn shrink_head(&mut self, by: usize) -> bool;
    /// Makes the frame end after its first `len` bytes. `false`: it is not that long, and nothing changed.
    fn truncate(&mut self, len: usize) -> bool;
    /// Takes the VLAN tag off, if an IP packet is behind it; what it was, or why there is none: [`vlan::take`].
    #[inline]
    fn take_tag(&mut self) -> u32
    where
        Self: Sized,
    {
        vlan::take(self)
    }
    /// Puts a VLAN tag on ([`vlan::put`]). `false`: there is no room, and nothing changed.
    #[inline]
    fn put_tag(&mut self, tag: u32) -> bool
    where
        Self: Sized,
    {
        vlan::put(self, tag)
    }
    /// The sum of the `len` bytes from offset `at`, for [`crate::checksum::finish`]; `None`: the frame has not all of them.
    #[inline]
    fn sum(&self, at: usize, len: usize) -> Option<u64>
    where
        Self: Sized,
    {
        crate::checksum::of_packet(self, at, len)
    }
    /// [`crate::encap::tunnel`].
    #[inline(always)]
    fn tunnel<M: Memory>(&mut self, memory: &M, root: &Root, flow: &Flow, real: u32, port: u32) -> u32
    where
        Self: Sized,
    {
        crate::encap::tunnel(self, memory, root, flow, real, port)
    }
    /// [`crate::nat::translate`].
    #[inline(always)]
    fn nat<M: Memory>(&mut self, memory: &M, root: &Root, flow: &Flow, real: u32) -> u32
    where
        Self: Sized,
    {
        crate::nat::translate(self, memory, root, flow, real)
    }
    /// [`crate::nat::error`].
    #[inline(always)]
    fn nat_error<M: Memory>(&mut self, memory: &M, root: &Root, flow: &Flow, real: u32) -> u32
    where
        Self: Sized,
    {
        crate::nat::error(self, memory, root, flow, real)
    }
    /// Turns the frame into an ICMP error to its sender that names this MTU: see [`crate::answer_too_big`].
    #[inline(never)]
    fn answer_too_big(&mut self, is_v6: bool, mtu: u32) -> bool
    where
        Self: Sized,
    {
        crate::answer::answer_too_big(self, is_v6, mtu)
    }
    /// Turns an ICMP error about one of our tunnels into one for the client: see [`crate::relay`], also for what it says.
    #[inline(never)]
    fn relay<M: Memory>(&mut self, memory: &M) -> u32
    where
        Self: Sized,
    {
        crate::relay::relay(self, memory)
    }
}
