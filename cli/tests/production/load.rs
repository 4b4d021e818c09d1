//! Many TCP connections at once: long-lived ones that are checked byte by byte, and new ones all the time.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tandem_lab::{Host, Lab};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

/// Bytes of a message and of its echo.
const MESSAGE: usize = 64;
/// How often a long-lived connection says something.
const PERIOD: Duration = Duration::from_millis(500);
/// A server's connection that is silent for longer was reset by another server. If its client comes back with the same port, to a
/// third one, and that goes, too, then this one must not know the connection any more: it would not reset it.
const FORGOTTEN: Duration = Duration::from_secs(15);
/// Longer than any gap that TCP mends by itself here.
const PATIENCE: Duration = Duration::from_secs(30);

/// What went wrong with a connection.
#[derive(Clone, Debug)]
pub struct Fault {
    pub at: Instant,
    /// The real that it was with, by its number; 0: with none yet.
    pub real: u8,
    pub what: String,
}

/// What happened so far.
#[derive(Default)]
pub struct Events {
    pub broken: Mutex<Vec<Fault>>,
    pub failed: Mutex<Vec<Fault>>,
    /// Messages that came back as they were.
    pub echoed: AtomicU64,
    /// New connections that were served.
    pub served: AtomicU64,
    /// New connections whose opening took longer than the first retransmission of a SYN: a packet was lost.
    pub late: AtomicU64,
    /// The longest wait for an echo since it was asked for last, in microseconds.
    slowest: AtomicU64,
    /// Long-lived connections with each real, by its number.
    with: Mutex<[u32; 16]>,
}

impl Events {
    pub fn slowest(&self) -> Duration {
        Duration::from_micros(self.slowest.swap(0, Ordering::Relaxed))
    }

    pub fn with(&self, real: u8) -> u32 {
        self.with.lock().expect("no panic")[usize::from(real)]
    }

    fn count(&self, real: u8, by: i32) {
        let mut with = self.with.lock().expect("no panic");
        let count = &mut with[usize::from(real)];
        *count = count.wrapping_add_signed(by);
    }
}

/// Traffic from the client, until it is dropped.
pub struct Load {
    pub events: Arc<Events>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Runs asynchronous work on a thread in a host of the lab.
pub fn thread_in<F: Future<Output = ()> + 'static>(
    lab: &Lab,
    host: Host,
    work: impl FnOnce() -> F + Send + 'static,
) -> JoinHandle<()> {
    let run = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        LocalSet::new().block_on(&runtime, async { work().await });
    };
    lab.enter(host, || std::thread::spawn(run)).expect("its namespace")
}

/// Echoes whatever is sent to the VIPs, in a real, after a byte that says which real it is; ends with the process.
pub fn serve(lab: &Lab, real: u16, vips: &[SocketAddr]) {
    let vips = vips.to_vec();
    thread_in(lab, Host::Real(real), move || async move {
        for vip in vips {
            let listener = TcpListener::bind(vip).await.expect("a port of the real's");
            tokio::task::spawn_local(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::task::spawn_local(echo(stream, real as u8));
                }
            });
        }
        std::future::pending::<()>().await;
    });
}

async fn echo(mut stream: TcpStream, real: u8) {
    let _ = stream.set_nodelay(true);
    if stream.write_all(&[real]).await.is_err() {
        return;
    }
    let mut buffer = [0; 4096];
    loop {
        match timeout(FORGOTTEN, stream.read(&mut buffer)).await {
            Ok(Ok(len @ 1..)) if stream.write_all(&buffer[..len]).await.is_ok() => {}
            Ok(_) => return,
            Err(_) => {
                // Nothing is sent to the client, and nothing is left here.
                let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
                return;
            }
        }
    }
}

impl Load {
    /// `long` connections that stay, and `rate` new ones a second, over all VIPs alike.
    pub fn start(lab: &Lab, vips: &[SocketAddr], long: usize, rate: u32) -> Self {
        // A port is free again a minute after its connection, and the lab's clients have 4,536 of them.
        let ports = || std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "1024 65535");
        lab.enter(Host::Client, ports).expect("its namespace").expect("more ports");
        let (events, stop, vips) = (Arc::new(Events::default()), Arc::new(AtomicBool::new(false)), vips.to_vec());
        let (told, until) = (events.clone(), stop.clone());
        let thread = thread_in(lab, Host::Client, move || async move {
            for (n, to) in vips.iter().copied().cycle().take(long).enumerate() {
                tokio::task::spawn_local(stay(to, n as u64, told.clone(), until.clone()));
                if n % 20 == 19 {
                    sleep(Duration::from_millis(10)).await;
                }
            }
            let mut ticks = interval(Duration::from_secs(1) / rate);
            // A machine that is too slow for a moment shall not make up for it by a storm.
            ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
            let open = Rc::new(Cell::new(0_u64));
            for (n, to) in vips.iter().copied().cycle().enumerate() {
                ticks.tick().await;
                if until.load(Ordering::Relaxed) {
                    break;
                }
                open.set(open.get() + 1);
                let (told, open) = (told.clone(), open.clone());
                tokio::task::spawn_local(async move {
                    come_and_go(to, n as u64, &told).await;
                    open.set(open.get() - 1);
                });
            }
            while open.get() > 0 {
                sleep(Duration::from_millis(10)).await;
            }
        });
        Self { events, stop, thread: Some(thread) }
    }

    /// Ends the traffic, once the last new connection is done.
    pub fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.end();
    }
}

/// Opens a connection; gives it and the number of its real.
async fn open(to: SocketAddr) -> Result<(TcpStream, u8), String> {
    let mut stream = timeout(PATIENCE, TcpStream::connect(to))
        .await
        .map_err(|_| "connecting takes too long")?
        .map_err(|e| format!("connect: {e}"))?;
    let _ = stream.set_nodelay(true);
    let mut real = [0];
    timeout(PATIENCE, stream.read_exact(&mut real)).await.map_err(|_| "no greeting")?.map_err(|e| format!("greeting: {e}"))?;
    Ok((stream, real[0]))
}

/// Sends a message and has it back.
async fn exchange(stream: &mut TcpStream, number: u64) -> Result<(), String> {
    let mut message = [0; MESSAGE];
    for (at, word) in message.chunks_mut(8).enumerate() {
        word.copy_from_slice(&(number.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(at as u32)).to_be_bytes());
    }
    let mut back = [0; MESSAGE];
    let both = async {
        stream.write_all(&message).await.map_err(|e| format!("write: {e}"))?;
        stream.read_exact(&mut back).await.map_err(|e| format!("read: {e}"))
    };
    timeout(PATIENCE, both).await.map_err(|_| "no echo")??;
    if back == message { Ok(()) } else { Err("other bytes came back".to_owned()) }
}

/// A connection that stays, and is opened anew when it breaks.
async fn stay(to: SocketAddr, id: u64, events: Arc<Events>, stop: Arc<AtomicBool>) {
    let mut number = id << 32;
    while !stop.load(Ordering::Relaxed) {
        let (mut stream, real) = match open(to).await {
            Ok(opened) => opened,
            Err(what) => {
                events.failed.lock().expect("no panic").push(Fault {
                    at: Instant::now(),
                    real: 0,
                    what: format!("{to}: {what}"),
                });
                sleep(PERIOD).await;
                continue;
            }
        };
        events.count(real, 1);
        while !stop.load(Ordering::Relaxed) {
            number += 1;
            let began = Instant::now();
            if let Err(what) = exchange(&mut stream, number).await {
                events.broken.lock().expect("no panic").push(Fault { at: Instant::now(), real, what: format!("{to}: {what}") });
                break;
            }
            events.echoed.fetch_add(1, Ordering::Relaxed);
            events.slowest.fetch_max(began.elapsed().as_micros() as u64, Ordering::Relaxed);
            sleep(PERIOD + Duration::from_millis(id % 97)).await;
        }
        events.count(real, -1);
    }
}

/// A connection that is opened, used once and closed.
async fn come_and_go(to: SocketAddr, number: u64, events: &Events) {
    let began = Instant::now();
    let result = async {
        let (mut stream, real) = open(to).await.map_err(|what| (0, what))?;
        if began.elapsed() > Duration::from_millis(950) {
            events.late.fetch_add(1, Ordering::Relaxed);
        }
        exchange(&mut stream, number).await.map_err(|what| (real, what))
    };
    match result.await {
        Ok(()) => {
            events.served.fetch_add(1, Ordering::Relaxed);
        }
        Err((real, what)) => {
            events.failed.lock().expect("no panic").push(Fault { at: Instant::now(), real, what: format!("{to}: {what}") });
        }
    }
}
