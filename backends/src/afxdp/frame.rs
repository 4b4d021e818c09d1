//! One received frame inside its chunk, as the core sees it.
//!
//! ```text
//!   start of descriptor                                         end of chunk
//!   |<------- room ------->|<------------- frame ------------->|<-- tail -->|
//!   | Handover | undefined | Ethernet | IP ...                 |  unused    |
//!              head -------^                              end -^
//! ```
//!
//! xsk-rs cannot send a frame from another address than it was received at, so it has to start at the descriptor's start
//! again when it leaves. Usually it does: the outer header takes the room exactly.

use tandem_engine::Packet;
use tandem_engine::handover::Handover;
use tandem_engine::wire::Ethernet;

/// A frame that the kernel seat handed over.
#[derive(Debug)]
pub struct FrameBuf<'a> {
    chunk: &'a mut [u8],
    head: usize,
    end: usize,
    moved: bool,
    vlan: u32,
    interface: u32,
    mark: u64,
}

impl<'a> FrameBuf<'a> {
    /// Takes over what arrived: `chunk` reaches from the descriptor's start to the end of the chunk, and its first
    /// `length` bytes were received. `None` if they do not start with a sane hand-over header.
    #[inline]
    pub fn received(chunk: &'a mut [u8], length: usize) -> Option<Self> {
        let handover = Handover::read(chunk.get(..length)?)?;
        let (head, vlan, mark) = (usize::from(handover.room), handover.vlan(), handover.mark(chunk));
        let fits = head + Ethernet::LEN <= length;
        fits.then_some(Self { chunk, head, end: length, moved: false, vlan, interface: 0, mark })
    }

    /// Notes the interface that it came in by, by its index, if the balancer has several.
    #[inline]
    pub fn came_by(self, interface: u32) -> Self {
        Self { interface, ..self }
    }

    /// The index of that interface; 0: there is only one.
    #[inline]
    pub fn interface(&self) -> u32 {
        self.interface
    }

    /// The VLAN tag that the kernel seat took off, as [`tandem_engine::vlan`] has it; 0: none.
    #[inline]
    pub fn vlan(&self) -> u32 {
        self.vlan
    }

    /// What the kernel seat marked it with, because it is captured; 0: it is not.
    #[inline]
    pub fn mark(&self) -> u64 {
        self.mark
    }

    /// Its bytes, as they are now.
    pub fn contents(&self) -> &[u8] {
        self.frame()
    }

    /// Puts the frame at the descriptor's start, if it is not there, and tells its length.
    #[inline]
    pub fn settle(&mut self) -> usize {
        if self.head != 0 {
            self.chunk.copy_within(self.head..self.end, 0);
            self.end -= self.head;
            self.head = 0;
            self.moved = true;
        }
        self.end
    }

    /// Whether its bytes had to be moved because another room was needed than there was.
    pub fn was_moved(&self) -> bool {
        self.moved
    }

    #[inline(always)]
    fn frame(&self) -> &[u8] {
        self.chunk.get(self.head..self.end).unwrap_or_default()
    }
}

impl Packet for FrameBuf<'_> {
    #[inline(always)]
    fn len(&self) -> usize {
        self.end - self.head
    }

    #[inline(always)]
    fn bytes<const N: usize>(&self, at: usize) -> Option<&[u8; N]> {
        self.frame().get(at..)?.first_chunk()
    }

    #[inline(always)]
    fn bytes_mut<const N: usize>(&mut self, at: usize) -> Option<&mut [u8; N]> {
        self.chunk.get_mut(self.head..self.end)?.get_mut(at..)?.first_chunk_mut()
    }

    /// Grows into the room; if that is too small, the frame makes way towards the tail.
    #[inline(always)]
    fn grow_head(&mut self, by: usize) -> bool {
        if self.head >= by {
            self.head -= by;
            return true;
        }
        let missing = by - self.head;
        if self.chunk.len() - self.end < missing {
            return false;
        }
        self.chunk.copy_within(self.head..self.end, by);
        self.head = 0;
        self.end += missing;
        self.moved = true;
        true
    }

    /// What is taken off becomes room.
    #[inline(always)]
    fn shrink_head(&mut self, by: usize) -> bool {
        if self.end - self.head < by + Ethernet::LEN {
            return false;
        }
        self.head += by;
        true
    }

    #[inline(always)]
    fn truncate(&mut self, len: usize) -> bool {
        let fits = len <= self.end - self.head;
        if fits {
            self.end = self.head + len;
        }
        fits
    }
}
