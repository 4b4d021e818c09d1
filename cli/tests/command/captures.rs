//! Captures, written and read.

use std::borrow::Cow;
use std::fs::File;
use std::path::Path;
use std::time::Duration;

use pcap_file::pcap::{PcapHeader, PcapPacket, PcapReader, PcapWriter};
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketBlock;
use pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionBlock;
use pcap_file::{DataLink, Endianness, PcapError};

/// A classic pcap file of this link type: a header of 24 bytes, then for each frame 16 bytes (time, captured length,
/// length on the wire; little-endian words) and its data.
pub fn pcap_of(link: DataLink, frames: &[Vec<u8>]) -> Vec<u8> {
    let header = PcapHeader { datalink: link, snaplen: 1 << 18, endianness: Endianness::Little, ..PcapHeader::default() };
    let mut writer = PcapWriter::with_header(Vec::new(), header).expect("a header");
    for (second, frame) in (0..).zip(frames) {
        let orig_len = u32::try_from(frame.len()).expect("a frame");
        let packet = PcapPacket { timestamp: Duration::from_secs(second), orig_len, data: Cow::Borrowed(frame) };
        writer.write_packet(&packet).expect("a packet");
    }
    writer.into_writer()
}

/// A classic pcap file of Ethernet frames.
pub fn pcap(frames: &[Vec<u8>]) -> Vec<u8> {
    pcap_of(DataLink::ETHERNET, frames)
}

/// A pcapng file of one interface.
pub fn pcapng(link: DataLink, frames: &[Vec<u8>]) -> Vec<u8> {
    let mut writer = PcapNgWriter::new(Vec::new()).expect("a section");
    writer.write_pcapng_block(InterfaceDescriptionBlock::new(link, 1 << 18)).expect("an interface");
    for frame in frames {
        let block = EnhancedPacketBlock {
            interface_id: 0,
            timestamp: Duration::from_secs(1),
            original_len: u32::try_from(frame.len()).expect("a frame"),
            data: Cow::Borrowed(frame),
            options: Vec::new(),
        };
        writer.write_pcapng_block(block).expect("a packet");
    }
    writer.into_inner()
}

/// The frames of a classic pcap file of Ethernet frames.
pub fn frames(file: &Path) -> Vec<Vec<u8>> {
    let mut reader = PcapReader::new(File::open(file).expect("a capture")).expect("a pcap file");
    assert_eq!(reader.header().datalink, DataLink::ETHERNET);
    let mut frames = Vec::new();
    while let Some(packet) = reader.next_packet() {
        let packet = packet.unwrap_or_else(|error: PcapError| panic!("{}: {error}", file.display()));
        assert_eq!(packet.orig_len as usize, packet.data.len());
        frames.push(packet.data.into_owned());
    }
    frames
}
