//! Pktgen-DPDK's command files: read strictly, and stepped exactly as Pktgen steps its fields.
//!
//! Pktgen itself skips a line that it does not understand and goes on, so that a slip changes the traffic without a word.
//! Here it is an error with line and column. The rules are those of Pktgen 23.06 to 26.02 (`app/pktgen-range.c`,
//! `lib/cli/cli.c`); `pktgen-scenarios/README.md` has them in prose. This module builds no frames and never touches a host.

mod commands;
mod read;
mod walk;

#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

pub use read::{Mistake, PktError};
pub use walk::{Step, Walk};

/// Start, minimum, maximum and increment of a field, all in the field's own unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Range<T> {
    /// Counts where `inc` is 0 (and always for link-layer addresses).
    pub start: T,
    /// Where the walk goes on past the maximum.
    pub min: T,
    /// Where the walk goes on below the minimum.
    pub max: T,
    /// Added with every frame.
    pub inc: T,
}

impl<T: Copy + Default> Range<T> {
    const fn new(start: T, min: T, max: T, inc: T) -> Self {
        Self { start, min, max, inc }
    }
}

/// Layer 4 of the frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    /// TCP segments with ACK.
    Tcp,
    /// UDP datagrams.
    Udp,
}

/// What a command file says: the traffic of one transmitting port, in range mode.
#[derive(Clone, PartialEq, Debug)]
pub struct Traffic {
    /// Frames to send; 0: until stopped.
    pub count: u64,
    /// Per cent of the link's speed.
    pub rate: f64,
    /// Frame size with FCS that the rate is computed from.
    pub rate_size: u32,
    /// IPv6 instead of IPv4.
    pub v6: bool,
    /// Layer 4; Pktgen's default is TCP.
    pub protocol: Protocol,
    /// Frame size with FCS, bytes.
    pub size: Range<u32>,
    /// Time to live, or hop limit.
    pub ttl: Range<u32>,
    /// Source MAC, as a number of 48 bits.
    pub src_mac: Range<u64>,
    /// Destination MAC, as a number of 48 bits.
    pub dst_mac: Range<u64>,
    /// Source address, as a number.
    pub src_ip: Range<u128>,
    /// Destination address, as a number.
    pub dst_ip: Range<u128>,
    /// Source port.
    pub src_port: Range<u32>,
    /// Destination port.
    pub dst_port: Range<u32>,
}

impl Traffic {
    /// Pktgen's own settings of port `port`, before any command.
    pub fn pktgen_default(port: u8) -> Self {
        let v4 = |a, b| u128::from(u32::from(Ipv4Addr::new(192, 168, a, b)));
        let (from, to) = (port, port.wrapping_add(1));
        Self {
            count: 0,
            rate: 100.0,
            rate_size: 64,
            v6: false,
            protocol: Protocol::Tcp,
            size: Range::new(64, 64, 1518, 0),
            ttl: Range::new(64, 0, 255, 0),
            src_mac: Range::new(0, 0, 0, 0),
            dst_mac: Range::new(0, 0, 0, 0),
            src_ip: Range::new(v4(from, 1), v4(from, 1), v4(from, 254), 0),
            dst_ip: Range::new(v4(to, 1), v4(to, 1), v4(to, 254), 1),
            src_port: Range::new(walk::TEMPLATE_SRC_PORT, 0, 65_535, 1),
            dst_port: Range::new(walk::TEMPLATE_DST_PORT, 0, 65_535, 1),
        }
    }

    /// Reads a command file; `name` is for messages.
    ///
    /// # Errors
    /// [`PktError`] names line and column.
    pub fn parse(text: &str, name: &str) -> Result<Self, PktError> {
        read::parse(text, name)
    }

    /// Reads a command file from the disk.
    ///
    /// # Errors
    /// [`PktError`].
    pub fn load(path: &Path) -> Result<Self, PktError> {
        let text = std::fs::read_to_string(path).map_err(|source| PktError::File { path: path.to_owned(), source })?;
        Self::parse(&text, &path.display().to_string())
    }

    /// An address of this traffic from its number.
    pub fn address(&self, number: u128) -> IpAddr {
        if self.v6 { IpAddr::V6(number.into()) } else { IpAddr::V4((number as u32).into()) }
    }

    /// The frames' fields, from the first one on, without end.
    pub fn walk(&self) -> Walk {
        Walk::new(self)
    }

    /// Frames per second that `rate` means on a link of this speed, as Pktgen calculates it: the size with preamble, start
    /// delimiter and gap (20 bytes).
    pub fn offered(&self, bits_per_second: f64) -> f64 {
        self.rate / 100.0 * bits_per_second / (8.0 * f64::from(self.rate_size + 20))
    }
}
