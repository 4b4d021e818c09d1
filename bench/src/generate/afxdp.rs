//! A generator over AF_XDP: frames are written into a UMEM and sent from there.

use std::sync::Arc;

use anyhow::Result;
use tandem_backends::afxdp::frames::BATCH;
use tandem_backends::afxdp::{Ask, Port, PortConfig};
use tandem_lab::{Host, Lab};

use super::packets::{Pacer, Packets, start as start_thread};
use super::{Load, Running};

/// Starts it on queue 0 of the router's end of the device's link.
pub fn start(packets: &Arc<Packets>, lab: &Lab, load: &Load) -> Result<Running> {
    let interface = lab.link(Host::Lb)?.router.interface.clone();
    start_thread(packets, lab, load, move |pacer| send(&interface, pacer))
}

fn send(interface: &str, mut pacer: Pacer) -> Result<()> {
    let mut port = Port::open_to_send(&PortConfig::new(interface, 0, Ask::Prefer))?;
    while pacer.goes_on() {
        let mut sent = 0;
        for _ in 0..pacer.due(BATCH) {
            let Some(mut token) = port.take() else { break };
            let Some(length) = pacer.write(port.bytes(&mut token).0) else {
                port.release(token);
                anyhow::bail!("a frame of the scenario does not fit into a chunk of 2048 bytes");
            };
            if let Err(token) = port.send(0, token, length) {
                port.release(token);
                break;
            }
            sent += 1;
        }
        pacer.sent(sent);
        port.advance()?;
    }
    Ok(())
}
