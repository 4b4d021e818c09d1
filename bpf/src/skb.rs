//! The frame of a TC program on its way out: packet memory of a socket buffer.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::{bpf_skb_adjust_room, bpf_skb_pull_data, bpf_skb_vlan_push};
use tandem_engine::Packet;
use tandem_engine::wire::{ETHERTYPE_VLAN, Ethernet};

/// Room between the Ethernet and the IP header (`enum bpf_adj_room_mode`).
const ROOM_AT_MAC: u32 = 1;
/// Flags of `bpf_skb_adjust_room` (include/uapi/linux/bpf.h): what the room is for, so that the kernel can cut large packets
/// into segments and fill in checksums behind it.
const IN_IPV4: u64 = 1 << 1;
const IN_IPV6: u64 = 1 << 2;
const IN_GRE: u64 = 1 << 3;
const IN_UDP: u64 = 1 << 4;
/// An Ethernet header is the last of what the room is for: its length, in the top byte.
const IN_ETHERNET: u64 = (Ethernet::LEN as u64) << 56;

/// The frame that `skb` describes. Positions are read anew for each window, so that none outlives a changed frame.
pub struct Skb {
    skb: *mut __sk_buff,
}

impl Skb {
    /// The frame of a running program.
    #[inline(always)]
    pub fn new(skb: *mut __sk_buff) -> Self {
        Self { skb }
    }

    /// The mark of the socket that it comes from.
    #[inline(always)]
    pub fn mark(&self) -> u32 {
        // SAFETY: the kernel gave `skb` to the program and keeps it valid while the program runs.
        unsafe { (*self.skb).mark }
    }

    /// Takes the mark off.
    #[inline(always)]
    pub fn unmark(&mut self) {
        // SAFETY: as in `mark`; programs may write this field.
        unsafe { (*self.skb).mark = 0 };
    }

    /// Gives it an 802.1Q tag.
    #[inline(always)]
    pub fn push_tag(&mut self, vlan: u16) -> bool {
        // SAFETY: the helper checks its arguments; every window ended with the borrow of `self`.
        unsafe { bpf_skb_vlan_push(self.skb, ETHERTYPE_VLAN.to_be(), vlan) == 0 }
    }

    /// The interface that it leaves by.
    #[inline(always)]
    pub fn interface(&self) -> u32 {
        // SAFETY: as in `mark`.
        unsafe { (*self.skb).ifindex }
    }

    /// Whether it leaves as one frame; the kernel cuts others into segments after the program.
    #[inline(always)]
    pub fn is_whole(&self) -> bool {
        // SAFETY: as in `mark`.
        unsafe { (*self.skb).gso_size == 0 }
    }

    /// Makes the first `len` bytes (or all there are) ones that can be read directly: others are in pages elsewhere.
    #[inline(always)]
    pub fn pull(&mut self, len: u32) {
        let all = self.len() as u32;
        let len = if len < all { len } else { all };
        // SAFETY: the helper checks its arguments, and every window ended with the borrow of `self`. If it fails for want of
        // memory, windows do not find their bytes.
        unsafe { bpf_skb_pull_data(self.skb, len) };
    }

    #[inline(always)]
    fn window<const N: usize>(&self, at: usize) -> Option<*mut [u8; N]> {
        // SAFETY: as in `mark`.
        let start = unsafe { (*self.skb).data } as usize + at;
        // SAFETY: as in `mark`.
        let end = unsafe { (*self.skb).data_end } as usize;
        if start + N > end { None } else { Some(start as *mut [u8; N]) }
    }
}

impl Packet for Skb {
    #[inline(always)]
    fn len(&self) -> usize {
        // SAFETY: as in `mark`.
        unsafe { (*self.skb).len as usize }
    }

    #[inline(always)]
    fn bytes<const N: usize>(&self, at: usize) -> Option<&[u8; N]> {
        // SAFETY: `window` compared the bytes with the end of what can be read; the verifier proves it again.
        self.window(at).map(|window| unsafe { &*window })
    }

    #[inline(always)]
    fn bytes_anywhere<const N: usize>(&self, at: usize) -> Option<&[u8; N]> {
        // SAFETY: as in `mark`.
        let start = unsafe { (*self.skb).data } as usize + at;
        // SAFETY: a reference is valid. Read back, it is one pointer, which is compared and read: LLVM would calculate it
        // twice, and what is known of one of them the verifier does not know of the other.
        let start = unsafe { (&raw const start).read_volatile() };
        // SAFETY: as in `mark`.
        let end = unsafe { (*self.skb).data_end } as usize;
        // SAFETY: compared with the end; the verifier proves it again.
        if start + N > end { None } else { Some(unsafe { &*(start as *const [u8; N]) }) }
    }

    #[inline(always)]
    fn bytes_mut<const N: usize>(&mut self, at: usize) -> Option<&mut [u8; N]> {
        // SAFETY: as in `bytes`; `&mut self` makes it the only window.
        self.window(at).map(|window| unsafe { &mut *window })
    }

    /// The room of an outer header: IPv4 or IPv6, alone, with GRE, with UDP, and with what Tandem puts behind that.
    #[inline(always)]
    fn grow_head(&mut self, by: usize) -> bool {
        let flags = match by {
            20 => IN_IPV4,
            24 => IN_IPV4 | IN_GRE,
            28 | 32 | 36 => IN_IPV4 | IN_UDP,
            50 => IN_IPV4 | IN_UDP | IN_ETHERNET,
            40 => IN_IPV6,
            44 => IN_IPV6 | IN_GRE,
            48 | 52 | 56 => IN_IPV6 | IN_UDP,
            70 => IN_IPV6 | IN_UDP | IN_ETHERNET,
            _ => return false,
        };
        // SAFETY: the helper checks its arguments; every window ended with the borrow of `self`.
        unsafe { bpf_skb_adjust_room(self.skb, by as i32, ROOM_AT_MAC, flags) == 0 }
    }

    /// What leaves this host is not stripped.
    #[inline(always)]
    fn shrink_head(&mut self, _by: usize) -> bool {
        false
    }

    /// What leaves this host is not cut.
    #[inline(always)]
    fn truncate(&mut self, _len: usize) -> bool {
        false
    }
}
