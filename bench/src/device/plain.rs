//! An AF_XDP forwarder without lookups: each frame goes back as it is. What is left is the cost of the socket.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use aya::Ebpf;
use aya::maps::XskMap;
use core_affinity::CoreId;
use crossbeam::channel::bounded;
use tandem_backends::afxdp::frames::BATCH;
use tandem_backends::afxdp::{Ask, Bound, Pace, Port, PortConfig};
use tandem_lab::{Host, Lab};

/// The forwarder; ends with the value.
pub struct Plain {
    thread: Option<JoinHandle<()>>,
    shared: Arc<Shared>,
    bound: Bound,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    sent: AtomicU64,
    thread: AtomicI32,
}

impl Plain {
    /// Opens the socket in the balancer's namespace, on queue 0, and gives it to the program `steer`.
    pub fn start(lab: &Lab, ebpf: &mut Ebpf, core: usize) -> Result<Self> {
        let interface = lab.link(Host::Lb)?.interface.clone();
        let shared = Arc::new(Shared::default());
        let (tell, opened) = bounded(1);
        let inside = shared.clone();
        let work = move || {
            if !core_affinity::set_for_current(CoreId { id: core }) {
                let _ = tell.send(Err(anyhow!("cannot pin the forwarder to core {core}")));
                return;
            }
            inside.thread.store(nix::unistd::gettid().as_raw(), Ordering::Relaxed);
            match Port::open(&PortConfig::new(&interface, 0, Ask::Prefer)) {
                Err(error) => {
                    let _ = tell.send(Err(error.into()));
                }
                Ok(mut port) => {
                    let _ = tell.send(Ok((port.fds(), port.bound(0))));
                    if let Err(error) = forward(&mut port, &inside) {
                        log::error!("the forwarder without lookups ended: {error:#}");
                    }
                }
            }
        };
        let thread = lab.enter(Host::Lb, || std::thread::Builder::new().name("xsk-plain".to_owned()).spawn(work))?;
        let thread = Some(thread.context("cannot start the forwarder's thread")?);
        let opened = opened.recv().context("the forwarder ended at once")?;
        let (sockets, bound) = opened?;
        let plain = Self { thread, shared, bound };
        let socket = *sockets.first().context("the port has no socket")?;
        let mut steer: XskMap<_> = ebpf.map_mut("STEER").context("the object has no STEER")?.try_into()?;
        steer.set(0, socket, 0).context("the socket of queue 0")?;
        Ok(plain)
    }

    /// `copy` or `zerocopy`.
    pub fn bound(&self) -> &'static str {
        match self.bound {
            Bound::Copy => "copy",
            Bound::ZeroCopy => "zerocopy",
        }
    }

    /// Frames sent.
    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::Relaxed)
    }

    /// Its thread's number.
    pub fn thread(&self) -> i32 {
        self.shared.thread.load(Ordering::Relaxed)
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            log::error!("the forwarder without lookups panicked");
        }
    }
}

/// Rests as the balancer's workers do.
fn forward(port: &mut Port, shared: &Shared) -> Result<()> {
    let (pace, mut empty, mut batch) = (Pace::default(), 0, Vec::with_capacity(BATCH));
    while !shared.stop.load(Ordering::Relaxed) {
        if port.receive(0, &mut batch) == 0 {
            empty += 1;
        } else {
            empty = 0;
        }
        for mut token in batch.drain(..) {
            let (_, length) = port.bytes(&mut token);
            match port.send(0, token, length) {
                Ok(()) => {
                    shared.sent.fetch_add(1, Ordering::Relaxed);
                }
                Err(token) => port.release(token),
            }
        }
        port.advance()?;
        if empty > pace.spins {
            let census = port.census();
            let under_way = census.sending + census.queued > 0;
            port.wait(if under_way { pace.nap } else { pace.sleep.min(Duration::from_millis(100)) })?;
        }
        if port.census().defects > 0 {
            bail!("the kernel named a frame that was not its own");
        }
    }
    Ok(())
}
