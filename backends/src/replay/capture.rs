//! Captures: classic pcap and pcapng in, classic pcap out.

use std::borrow::Cow;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use pcap_file::pcap::{PcapHeader, PcapPacket, PcapReader, PcapWriter};
use pcap_file::pcapng::{Block, PcapNgReader};
use pcap_file::{DataLink, PcapError};

/// Why a capture cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The file.
    #[error("{}: {source}", path.display())]
    File {
        /// Its path.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The contents.
    #[error("{}: frame {frame}: {what}; expected a pcap or pcapng file, complete to its end", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// Frames that could be read before.
        frame: u64,
        /// What is wrong.
        what: String,
    },
    /// Another link type.
    #[error("{}: link type {found:?}; expected Ethernet (capture on an Ethernet interface, not on `any`)", path.display())]
    LinkType {
        /// The file.
        path: PathBuf,
        /// Found.
        found: DataLink,
    },
}

enum Format {
    Pcap(PcapReader<BufReader<File>>),
    PcapNg(Box<PcapNgReader<BufReader<File>>>),
}

/// An open capture.
pub struct Capture {
    path: PathBuf,
    format: Format,
    read: u64,
}

impl Capture {
    /// Opens a capture of either format.
    ///
    /// # Errors
    /// [`CaptureError`]: no such file, neither format, not Ethernet.
    pub fn open(path: &Path) -> Result<Self, CaptureError> {
        let fail = |source| CaptureError::File { path: path.to_owned(), source };
        let broken = |error: PcapError| CaptureError::Broken { path: path.to_owned(), frame: 0, what: error.to_string() };
        let mut file = File::open(path).map_err(fail)?;
        let mut magic = [0; 4];
        file.read_exact(&mut magic).map_err(|e| broken(PcapError::IoError(e)))?;
        file.seek(SeekFrom::Start(0)).map_err(fail)?;
        let reader = BufReader::new(file);
        let format = if magic == [0x0a, 0x0d, 0x0d, 0x0a] {
            Format::PcapNg(Box::new(PcapNgReader::new(reader).map_err(broken)?))
        } else {
            let reader = PcapReader::new(reader).map_err(broken)?;
            ethernet(path, reader.header().datalink)?;
            Format::Pcap(reader)
        };
        Ok(Self { path: path.to_owned(), format, read: 0 })
    }

    /// The next frame's bytes; `None` at the end.
    ///
    /// # Errors
    /// [`CaptureError`]: the file ends inside a frame, a block contradicts itself, a frame was captured incompletely.
    pub fn next_frame(&mut self) -> Result<Option<Vec<u8>>, CaptureError> {
        let (path, frame) = (self.path.clone(), self.read);
        let broken = |what: String| CaptureError::Broken { path: path.clone(), frame, what };
        let (data, wire_len) = loop {
            match &mut self.format {
                Format::Pcap(reader) => match reader.next_packet() {
                    None => return Ok(None),
                    Some(Err(error)) => return Err(broken(error.to_string())),
                    Some(Ok(packet)) => break (packet.data.into_owned(), packet.orig_len),
                },
                Format::PcapNg(reader) => match reader.next_block() {
                    None => return Ok(None),
                    Some(Err(error)) => return Err(broken(error.to_string())),
                    Some(Ok(Block::InterfaceDescription(interface))) => ethernet(&self.path, interface.linktype)?,
                    Some(Ok(Block::EnhancedPacket(packet))) => break (packet.data.into_owned(), packet.original_len),
                    Some(Ok(Block::SimplePacket(packet))) => break (packet.data.into_owned(), packet.original_len),
                    // statistics, names, secrets: nothing for a data path
                    Some(Ok(_)) => {}
                },
            }
        };
        if (data.len() as u64) < u64::from(wire_len) {
            return Err(broken(format!(
                "only {} of its {wire_len} bytes were captured; capture with a larger snap length",
                data.len()
            )));
        }
        self.read += 1;
        Ok(Some(data))
    }
}

fn ethernet(path: &Path, found: DataLink) -> Result<(), CaptureError> {
    if found == DataLink::ETHERNET { Ok(()) } else { Err(CaptureError::LinkType { path: path.to_owned(), found }) }
}

/// A classic pcap file of Ethernet frames, all at time 0.
pub struct Output {
    path: PathBuf,
    writer: PcapWriter<BufWriter<File>>,
}

/// Creates a classic pcap file.
///
/// # Errors
/// [`CaptureError::File`].
pub fn write_capture(path: &Path) -> Result<Output, CaptureError> {
    let file = File::create(path).map_err(|source| CaptureError::File { path: path.to_owned(), source })?;
    let header = PcapHeader { datalink: DataLink::ETHERNET, snaplen: 1 << 18, ..PcapHeader::default() };
    let writer = PcapWriter::with_header(BufWriter::new(file), header).map_err(|e| output_error(path, e))?;
    Ok(Output { path: path.to_owned(), writer })
}

impl Output {
    /// Appends a frame.
    ///
    /// # Errors
    /// [`CaptureError::File`].
    pub fn frame(&mut self, frame: &[u8]) -> Result<(), CaptureError> {
        let orig_len = u32::try_from(frame.len()).unwrap_or(u32::MAX);
        let packet = PcapPacket { timestamp: Duration::ZERO, orig_len, data: Cow::Borrowed(frame) };
        self.writer.write_packet(&packet).map(|_| ()).map_err(|e| output_error(&self.path, e))
    }

    /// Writes out what is buffered.
    ///
    /// # Errors
    /// [`CaptureError::File`].
    pub fn finish(self) -> Result<(), CaptureError> {
        let path = self.path;
        self.writer.into_writer().flush().map_err(|source| CaptureError::File { path, source })
    }
}

fn output_error(path: &Path, error: PcapError) -> CaptureError {
    let source = match error {
        PcapError::IoError(source) => source,
        other => std::io::Error::other(other.to_string()),
    };
    CaptureError::File { path: path.to_owned(), source }
}
