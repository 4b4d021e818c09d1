//! A frame in memory of its own, as the engine sees it.

use tandem_engine::Packet;
use tandem_engine::wire::Ethernet;

/// Bytes in front of a frame, as the kernel leaves for XDP (XDP_PACKET_HEADROOM).
const HEADROOM: usize = 256;

/// One frame with room in front of it.
#[derive(Clone, Debug, Default)]
pub struct Buffer {
    bytes: Vec<u8>,
    head: usize,
}

impl Buffer {
    /// Takes a copy of `frame`, with the headroom that XDP has.
    pub fn load(&mut self, frame: &[u8]) {
        self.load_with(HEADROOM, frame);
    }

    /// Takes a copy of `frame`, with this headroom.
    pub fn load_with(&mut self, headroom: usize, frame: &[u8]) {
        // What lies there still is nobody's: every byte of a header is written.
        self.bytes.resize(headroom.max(self.bytes.len()), 0);
        self.bytes.truncate(headroom);
        self.bytes.extend_from_slice(frame);
        self.head = headroom;
    }

    /// The frame as it is now.
    pub fn frame(&self) -> &[u8] {
        self.bytes.get(self.head..).unwrap_or_default()
    }
}

impl Packet for Buffer {
    #[inline(always)]
    fn len(&self) -> usize {
        self.frame().len()
    }
    #[inline(always)]
    fn bytes<const N: usize>(&self, at: usize) -> Option<&[u8; N]> {
        self.frame().get(at..)?.first_chunk()
    }
    #[inline(always)]
    fn bytes_mut<const N: usize>(&mut self, at: usize) -> Option<&mut [u8; N]> {
        self.bytes.get_mut(self.head..)?.get_mut(at..)?.first_chunk_mut()
    }
    #[inline(always)]
    fn grow_head(&mut self, by: usize) -> bool {
        if self.head < by {
            return false;
        }
        self.head -= by;
        true
    }
    #[inline(always)]
    fn shrink_head(&mut self, by: usize) -> bool {
        if self.frame().len() < by + Ethernet::LEN {
            return false;
        }
        self.head += by;
        true
    }
    #[inline(always)]
    fn truncate(&mut self, len: usize) -> bool {
        let fits = len <= self.frame().len();
        if fits {
            self.bytes.truncate(self.head + len);
        }
        fits
    }
}
