//! UDP flows that stay: each echo says which real it comes from, and that must not change while the real is there.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tandem_lab::{Host, Lab};
use tokio::net::UdpSocket;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::load::{Fault, thread_in};
use super::stand::REALS;

/// How often a flow says something.
const PERIOD: Duration = Duration::from_millis(250);
/// Longer than any echo takes that nothing holds up.
const UNDER_WAY: Duration = Duration::from_millis(100);
/// An echo that takes longer is lost.
const PATIENCE: Duration = Duration::from_secs(2);

/// What happened so far.
#[derive(Default)]
pub struct Echoes {
    pub sent: AtomicU64,
    pub lost: AtomicU64,
    /// Flows that changed their real though it was there.
    pub moved: Mutex<Vec<Fault>>,
    /// How often each real was removed and came back: odd while it is away.
    changes: [AtomicU64; REALS as usize],
}

impl Echoes {
    /// This real is about to be removed, or is there again: until then its flows may move.
    pub fn changes(&self, real: u16) {
        self.changes[usize::from(real) - 1].fetch_add(1, Ordering::SeqCst);
    }

    fn changed(&self, real: u8) -> u64 {
        self.changes.get(usize::from(real).wrapping_sub(1)).map_or(1, |n| n.load(Ordering::SeqCst))
    }
}

/// Flows from the client, until it is dropped.
pub struct Datagrams {
    pub echoes: Arc<Echoes>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Sends back what comes to the VIPs, in a real, behind a byte that says which real it is; ends with the process.
pub fn serve(lab: &Lab, real: u16, vips: &[SocketAddr]) {
    let vips = vips.to_vec();
    drop(thread_in(lab, Host::Real(real), move || async move {
        for vip in vips {
            let socket = UdpSocket::bind(vip).await.expect("a port of the real's");
            tokio::task::spawn_local(async move {
                let mut buffer = [0; 64];
                buffer[0] = real as u8;
                loop {
                    // An ICMP error about an earlier echo is no reason to end.
                    let Ok((length, from)) = socket.recv_from(&mut buffer[1..]).await else { continue };
                    let _ = socket.send_to(&buffer[..=length], from).await;
                }
            });
        }
        std::future::pending::<()>().await;
    }));
}

impl Datagrams {
    /// So many flows, over all VIPs alike.
    pub fn start(lab: &Lab, vips: &[SocketAddr], flows: usize) -> Self {
        let (echoes, stop, vips) = (Arc::new(Echoes::default()), Arc::new(AtomicBool::new(false)), vips.to_vec());
        let (told, until) = (echoes.clone(), stop.clone());
        let thread = thread_in(lab, Host::Client, move || async move {
            let mut open = Vec::new();
            for (n, to) in vips.iter().copied().cycle().take(flows).enumerate() {
                open.push(tokio::task::spawn_local(flow(to, n as u64, told.clone(), until.clone())));
                sleep(Duration::from_millis(5)).await;
            }
            for flow in open {
                flow.await.expect("no panic");
            }
        });
        Self { echoes, stop, thread: Some(thread) }
    }

    /// Ends them.
    pub fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Datagrams {
    fn drop(&mut self) {
        self.end();
    }
}

async fn flow(to: SocketAddr, id: u64, echoes: Arc<Echoes>, stop: Arc<AtomicBool>) {
    let any: SocketAddr = if to.is_ipv4() { ([0; 4], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).await.expect("a port");
    socket.connect(to).await.expect("a way to the VIP");
    // The real of the last echo, and how often that had changed.
    let mut before = None;
    let mut number = id << 32;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        let real = echo(&socket, number).await;
        echoes.sent.fetch_add(1, Ordering::Relaxed);
        match (real, before) {
            (None, _) => drop(echoes.lost.fetch_add(1, Ordering::Relaxed)),
            (Some(real), Some((old, changes))) if old != real && changes % 2 == 0 && echoes.changed(old) == changes => {
                let what = format!("{to}: flow {id} went from real {old} to real {real}");
                echoes.moved.lock().expect("no panic").push(Fault { at: Instant::now(), real: old, what });
            }
            _ => {}
        }
        before = real.map(|real| (real, echoes.changed(real))).or(before);
        sleep(PERIOD).await;
    }
}

/// A flow with a datagram every millisecond, so that what is lost says for how long nothing came through.
pub struct Pulse {
    beats: Arc<Mutex<Beats>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// When datagrams were sent, from a number on, and which of them came back.
#[derive(Default)]
struct Beats {
    first: usize,
    sent: Vec<(Instant, bool)>,
}

impl Pulse {
    /// To a VIP, until it is dropped.
    pub fn start(lab: &Lab, to: SocketAddr) -> Self {
        let (beats, stop) = (Arc::new(Mutex::new(Beats::default())), Arc::new(AtomicBool::new(false)));
        let (told, until) = (beats.clone(), stop.clone());
        let thread = thread_in(lab, Host::Client, move || beat(to, told, until));
        Self { beats, stop, thread: Some(thread) }
    }

    /// The longest time from a datagram that came back to the next one that did, if others between them were lost, or to now; then it
    /// begins anew.
    pub fn gap(&self) -> Duration {
        let Beats { first, sent } = &mut *self.beats.lock().expect("no panic");
        let (mut longest, mut last) = (Duration::ZERO, None);
        for (at, (time, _)) in sent.iter().enumerate().filter(|(_, (_, is_back))| *is_back) {
            let before: Option<(usize, Instant)> = last.replace((at, *time));
            if let Some((_, before)) = before.filter(|(before, _)| at - before > 1) {
                longest = longest.max(*time - before);
            }
        }
        // What was sent after that is under way, if it is no longer than that.
        let (over, since) = last.unwrap_or((0, sent.first().map_or_else(Instant::now, |(time, _)| *time)));
        if since.elapsed() > UNDER_WAY {
            longest = longest.max(since.elapsed());
        }
        sent.drain(..over);
        *first += over;
        longest
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn beat(to: SocketAddr, beats: Arc<Mutex<Beats>>, stop: Arc<AtomicBool>) {
    let any: SocketAddr = if to.is_ipv4() { ([0; 4], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = Rc::new(UdpSocket::bind(any).await.expect("a port"));
    socket.connect(to).await.expect("a way to the VIP");
    let (back, told) = (socket.clone(), beats.clone());
    let listen = tokio::task::spawn_local(async move {
        let mut buffer = [0; 64];
        loop {
            // An error is that of an earlier one (ICMP).
            let Ok(9) = back.recv(&mut buffer).await else { continue };
            let number = u64::from_be_bytes(buffer[1..9].try_into().expect("eight bytes")) as usize;
            let Beats { first, sent } = &mut *told.lock().expect("no panic");
            if let Some((_, is_back)) = number.checked_sub(*first).and_then(|at| sent.get_mut(at)) {
                *is_back = true;
            }
        }
    });
    let mut ticks = interval(Duration::from_millis(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    while !stop.load(Ordering::Relaxed) {
        ticks.tick().await;
        let number = {
            let Beats { first, sent } = &mut *beats.lock().expect("no panic");
            sent.push((Instant::now(), false));
            *first + sent.len() - 1
        };
        // After an error, which is that of an earlier one, this one goes; if not, it is lost.
        let datagram = (number as u64).to_be_bytes();
        if socket.send(&datagram).await.is_err() {
            let _ = socket.send(&datagram).await;
        }
    }
    listen.abort();
}

/// Sends a number; gives the real that sends it back.
async fn echo(socket: &UdpSocket, number: u64) -> Option<u8> {
    let back = async {
        // Errors are those of earlier datagrams (ICMP): this one has its own fate.
        while socket.send(&number.to_be_bytes()).await.is_err() {}
        let mut buffer = [0; 64];
        loop {
            if let Ok(9) = socket.recv(&mut buffer).await
                && buffer[1..9] == number.to_be_bytes()
            {
                return buffer[0];
            }
        }
    };
    timeout(PATIENCE, back).await.ok()
}
