//! The generator in userspace, for kernels without live frames (before Linux 5.18): an AF_XDP socket at the far end of each pair.
//!
//! Its frames come to a veth as packets of the network stack, which copies each for the program there: receiving costs more than
//! frames of a driver do, for each way to forward alike.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tandem_engine::memory::Line;

use super::CalibrateError;
use super::traffic::{BACK, CREDIT, FLOWS, INTERFACE, SENT};
use crate::afxdp::{Ask, Port, PortConfig, PortError, SeatError};
use crate::memory::Area;

/// Frames of a batch.
const BATCH: u64 = 32;
/// While nothing is to be sent.
const REST: Duration = Duration::from_micros(50);
/// The first source port, and where it is.
const FIRST_PORT: u64 = 1024;
const SOURCE_AT: std::ops::Range<usize> = 34..36;

/// Sends as the program does, until it is told to stop: `ends` are the interfaces, by index and name.
pub(super) fn send(ends: &[(u32, String)], lines: &Area<Line>, frame: &[u8], stop: &AtomicBool) -> Result<(), CalibrateError> {
    let failed = |error: PortError| CalibrateError::Seat(SeatError::Port(error));
    let open = |(index, name): &(u32, String)| {
        let port = Port::open_to_send(&PortConfig::new(name, 0, Ask::Never)).map_err(failed)?;
        Ok((*index, port))
    };
    let mut ports = ends.iter().map(open).collect::<Result<Vec<_>, CalibrateError>>()?;
    let (Some(sender), Some(receiver)) = (lines.first(), lines.get(1)) else {
        return Err(CalibrateError::Generator("its words are not there".to_owned()));
    };
    while !stop.load(Ordering::Relaxed) {
        let mut sent = sender.get(SENT);
        let most = (receiver.get(BACK) + sender.get(CREDIT)).saturating_sub(sent).min(BATCH);
        let wanted = sender.get(INTERFACE);
        let Some((_, port)) = ports.iter_mut().find(|(index, _)| u64::from(*index) == wanted).filter(|_| most > 0) else {
            // The kernel takes a part of what is queued each time it is woken.
            ports.iter_mut().try_for_each(|(_, port)| port.advance()).map_err(failed)?;
            std::thread::sleep(REST);
            continue;
        };
        for _ in 0..most {
            let Some(mut token) = port.take() else { break };
            let (chunk, _) = port.bytes(&mut token);
            if let Some(start) = chunk.get_mut(..frame.len()) {
                start.copy_from_slice(frame);
            }
            if let Some(source) = chunk.get_mut(SOURCE_AT) {
                source.copy_from_slice(&((FIRST_PORT + sent % u64::from(FLOWS)) as u16).to_be_bytes());
            }
            if let Err(token) = port.send(0, token, frame.len()) {
                port.release(token);
                break;
            }
            sent += 1;
        }
        sender.set(SENT, sent);
        port.advance().map_err(failed)?;
    }
    Ok(())
}
