//! Scenarios as captures: for Pktgen versions that do not send the declared spread in range mode (24.05 and later), and for
//! any other generator that plays files.

use std::path::Path;
use std::time::Duration;

use pcap_file::pcap::{PcapHeader, PcapPacket, PcapWriter};
use pcap_file::{DataLink, PcapError};

use crate::frames::frame_of;
use crate::scenario::Scenario;

/// Why there is no capture.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {source}")]
pub struct ExportError {
    path: String,
    source: PcapError,
}

/// Writes one round of the sequence, a frame each, a microsecond apart; returns their number.
///
/// # Errors
/// [`ExportError`]: the file cannot be written.
pub fn export(scenario: &Scenario, path: &Path) -> Result<usize, ExportError> {
    let fail = |source| ExportError { path: path.display().to_string(), source };
    let file = std::fs::File::create(path).map_err(|e| fail(PcapError::IoError(e)))?;
    let header = PcapHeader { datalink: DataLink::ETHERNET, ..PcapHeader::default() };
    let mut writer = PcapWriter::with_header(std::io::BufWriter::new(file), header).map_err(fail)?;
    for (number, item) in scenario.sequence.iter().enumerate() {
        let frame = frame_of(scenario, item);
        let packet = PcapPacket::new(Duration::from_micros(number as u64), frame.len() as u32, &frame);
        writer.write_packet(&packet).map_err(fail)?;
    }
    let mut file = writer.into_writer();
    std::io::Write::flush(&mut file).map_err(|e| fail(PcapError::IoError(e)))?;
    Ok(scenario.sequence.len())
}
