//! A pcapng file (draft-ietf-opsawg-pcapng).

use std::io::{self, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::interface_description::{InterfaceDescriptionBlock, InterfaceDescriptionOption};
use pcap_file::pcapng::blocks::interface_statistics::{InterfaceStatisticsBlock, InterfaceStatisticsOption};
use pcap_file::pcapng::blocks::section_header::{SectionHeaderBlock, SectionHeaderOption};
use pcap_file::pcapng::blocks::unknown::UnknownBlock;
use pcap_file::{DataLink, Endianness, PcapError};
use tandem_api::wire::{CaptureCounts, CapturedFate};

use super::order::Seen;

/// The type of an Enhanced Packet Block. It is written here: two of its options are none of the crate's.
const PACKET: u32 = 6;
/// Its options: `opt_comment`, `epb_flags`, `epb_packetid`, `epb_queue`.
const COMMENT: u16 = 1;
const FLAGS: u16 = 2;
const PACKET_ID: u16 = 5;
const QUEUE: u16 = 6;
/// `epb_flags`: the direction.
const INBOUND: u32 = 1;
const OUTBOUND: u32 = 2;
/// Bytes of a frame that are told at most.
const MOST: u32 = tandem_backends::capture::MOST as u32;
/// `if_tsresol`: nanoseconds.
const NANOSECONDS: u8 = 9;

/// A file that frames are written to.
pub struct Captured<W: Write> {
    writer: PcapNgWriter<W>,
    /// Their indices, in the order of the file.
    interfaces: Vec<u32>,
}

fn written<T>(result: Result<T, PcapError>) -> io::Result<T> {
    result.map_err(|error| match error {
        PcapError::IoError(error) => error,
        other => io::Error::other(other),
    })
}

impl<W: Write> Captured<W> {
    /// Begins it. `snap`: bytes of each frame at most.
    pub fn new(to: W, interfaces: Vec<(u32, String)>, snap: Option<u32>, filter: &str) -> io::Result<Self> {
        let program = format!("tandem {}", env!("CARGO_PKG_VERSION"));
        let section = SectionHeaderBlock {
            endianness: Endianness::native(),
            options: vec![SectionHeaderOption::UserApplication(program.into())],
            ..SectionHeaderBlock::default()
        };
        let mut writer = written(PcapNgWriter::with_section_header(to, section))?;
        for (_, name) in &interfaces {
            let mut options =
                vec![InterfaceDescriptionOption::IfName(name.into()), InterfaceDescriptionOption::IfTsResol(NANOSECONDS)];
            if !filter.is_empty() {
                // 0: it is a text of libpcap's.
                options.push(InterfaceDescriptionOption::IfFilter([&[0], filter.as_bytes()].concat().into()));
            }
            let block = InterfaceDescriptionBlock {
                linktype: DataLink::ETHERNET,
                snaplen: snap.map_or(MOST, |snap| snap.min(MOST)),
                options,
            };
            written(writer.write_pcapng_block(block))?;
        }
        Ok(Self { writer, interfaces: interfaces.into_iter().map(|(index, _)| index).collect() })
    }

    /// Writes a frame.
    pub fn write(&mut self, seen: &Seen) -> io::Result<()> {
        let (frame, comes_in) = (&seen.frame, seen.frame.fate.is_none());
        let place = self.interfaces.iter().position(|index| *index == seen.interface).unwrap_or(0);
        let numbers = [place as u32, (frame.time >> 32) as u32, frame.time as u32, frame.data.len() as u32, frame.length];
        let mut body: Vec<u8> = numbers.into_iter().flat_map(u32::to_ne_bytes).collect();
        put(&mut body, &frame.data);
        option(&mut body, COMMENT, comment(seen.fate.as_ref()).as_bytes());
        option(&mut body, FLAGS, &(if comes_in { INBOUND } else { OUTBOUND }).to_ne_bytes());
        option(&mut body, PACKET_ID, &frame.mark.to_ne_bytes());
        if comes_in {
            option(&mut body, QUEUE, &frame.queue.to_ne_bytes());
        }
        option(&mut body, 0, &[]);
        let block = UnknownBlock::new(PACKET, body.len() as u32, &body);
        written(self.writer.write_pcapng_block(block)).map(|_| ())
    }

    /// What was written so far is there for whoever reads.
    pub fn flush(&mut self) -> io::Result<()> {
        self.writer.get_mut().flush()
    }

    /// Ends it, with what was counted: for all interfaces together, with the first of them.
    pub fn finish(&mut self, counts: &CaptureCounts, frames: u64) -> io::Result<()> {
        let CaptureCounts { accepted, limited, captured, lost } = *counts;
        let comment = format!("all interfaces: {captured} frames captured, {limited} over the rate, {lost} sights lost");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
        let block = InterfaceStatisticsBlock {
            interface_id: 0,
            // The upper half comes first, whatever the order of bytes; the crate writes one word.
            timestamp: if cfg!(target_endian = "little") { now.rotate_left(32) } else { now },
            options: vec![
                InterfaceStatisticsOption::Comment(comment.into()),
                InterfaceStatisticsOption::IsbFilterAccept(accepted),
                InterfaceStatisticsOption::IsbOsDrop(limited + lost),
                InterfaceStatisticsOption::IsbUsrDeliv(frames),
            ],
        };
        written(self.writer.write_pcapng_block(block))?;
        self.flush()
    }
}

/// Adds bytes, and fills up to whole words.
fn put(body: &mut Vec<u8>, bytes: &[u8]) {
    body.extend_from_slice(bytes);
    body.resize(body.len().next_multiple_of(4), 0);
}

fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    body.extend([code, value.len() as u16].into_iter().flat_map(u16::to_ne_bytes));
    put(body, value);
}

/// What became of a frame, in words: `tx forwarded, real 10.0.0.1 (ring)`.
fn comment(fate: Option<&CapturedFate>) -> String {
    let Some(CapturedFate { action, reason, real, from }) = fate else {
        return "what became of it was lost".to_owned();
    };
    let chosen = if real.is_empty() { String::new() } else { format!(", real {real} ({from})") };
    format!("{action} {reason}{chosen}")
}
