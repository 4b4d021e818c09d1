//! A lab with two more gateways between the balancer and its reals, a balancer in it, and traffic that does not stop.

use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use tandem_lab::{Host, Lab, Process};

use super::common::{output, tandem};

pub const VIP_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 200, 1, 1));
pub const VIP_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfc00, 0x200, 0, 0, 0, 0, 0, 1));
pub const REAL: Host = Host::Real(1);
/// One lab at a time: they share the machine's two cores, and times are measured.
static ONE: Mutex<()> = Mutex::new(());

/// A VIP of the stand.
#[derive(Clone, Copy, Debug)]
pub struct Service {
    pub at: SocketAddr,
    pub protocol: &'static str,
    pub encap: &'static str,
    pub v6_real: bool,
}

impl Service {
    pub fn udp(vip: IpAddr, port: u16, encap: &'static str, v6_real: bool) -> Self {
        Self { at: SocketAddr::new(vip, port), protocol: "udp", encap, v6_real }
    }

    pub fn tcp(vip: IpAddr, port: u16, encap: &'static str, v6_real: bool) -> Self {
        Self { at: SocketAddr::new(vip, port), protocol: "tcp", encap, v6_real }
    }
}

/// A lab that goes with the test, however it ends.
pub struct Stand {
    prefix: String,
    pub lab: Lab,
    pub balancer: Process,
    _one: std::sync::MutexGuard<'static, ()>,
}

impl Stand {
    /// `prepare` runs when the lab is up, and the balancer is not. `more`: lines of `[tunnel]`.
    pub fn new(services: &[Service], more: &str, prepare: impl FnOnce(&Ground)) -> Self {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let prefix = format!("tw-{}{}", std::process::id() % 1000, NEXT.fetch_add(1, Ordering::Relaxed));
        let vips: std::collections::BTreeSet<String> = services.iter().map(|service| service.at.ip().to_string()).collect();
        let up = ["lab", "up", "--prefix", &prefix, "--reals", "1", "--vip"];
        output(&up.into_iter().chain(vips.iter().map(String::as_str)).collect::<Vec<_>>());
        let down = Down(prefix.clone());
        let lab = Lab::open(&prefix).expect("the lab just made");
        let ground = Ground(&lab);
        ground.gateways();
        prepare(&ground);
        let file = lab.directory().join("tandem.toml");
        std::fs::write(&file, configuration(&lab, services, more)).expect("a file");
        let file = file.display().to_string();
        let balancer = lab.spawn(Host::Lb, tandem(&["run", "-c", &file, "--name", &format!("lab-{prefix}")])).expect("started");
        std::mem::forget(down);
        let mut stand = Self { prefix, lab, balancer, _one: one };
        let until = Instant::now() + Duration::from_secs(30);
        while !tandem(&["mode", "show", "--name", &stand.name()]).output().is_ok_and(|output| output.status.success()) {
            let ended = stand.balancer.try_wait().expect("a child");
            assert!(ended.is_none() && Instant::now() < until, "{ended:?}: {}", stand.log());
            std::thread::sleep(Duration::from_millis(50));
        }
        stand
    }

    pub fn ground(&self) -> Ground<'_> {
        Ground(&self.lab)
    }

    fn name(&self) -> String {
        format!("lab-{}", self.prefix)
    }

    pub fn seat(&self, seat: &str) {
        output(&["mode", "set", seat, "--name", &self.name()]);
    }

    pub fn counters(&self) -> Value {
        serde_json::from_str(&output(&["counters", "--name", &self.name(), "--json"])).expect("JSON")
    }

    /// Frames of a reason, in both seats.
    pub fn reason(&self, name: &str) -> u64 {
        let counters = self.counters();
        ["xdp", "afxdp"].iter().map(|seat| counters[seat]["reasons"][name].as_u64().unwrap_or(0)).sum()
    }

    pub fn mode(&self) -> Value {
        serde_json::from_str(&output(&["mode", "show", "--name", &self.name(), "--json"])).expect("JSON")
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.balancer.log()).unwrap_or_default()
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
        drop(Down(self.prefix.clone()));
    }
}

struct Down(String);

impl Drop for Down {
    fn drop(&mut self) {
        let _ = tandem(&["lab", "down", "--prefix", &self.0]).output();
    }
}

fn configuration(lab: &Lab, services: &[Service], more: &str) -> String {
    let lb = lab.link(Host::Lb).expect("a link");
    let real = lab.link(REAL).expect("a link");
    let mut text = format!(
        "[node]\ninterface = \"{}\"\nmode = \"xdp\"\n[tunnel]\nsource_v4 = \"{}\"\nsource_v6 = \"{}\"\n{more}\n[flows]\ncapacity = 10_000\n",
        lb.interface, lb.v4, lb.v6
    );
    for Service { at, protocol, encap, v6_real } in services {
        let address = if *v6_real { IpAddr::V6(real.v6) } else { IpAddr::V4(real.v4) };
        write!(
            text,
            "[[vip]]\naddress = \"{}\"\nport = {}\nprotocol = \"{protocol}\"\nencap = \"{encap}\"\n[[vip.real]]\naddress = \"{address}\"\n",
            at.ip(),
            at.port()
        )
        .expect("a String takes everything");
    }
    text
}

/// A lab, to be changed by hand.
pub struct Ground<'a>(&'a Lab);

impl Ground<'_> {
    /// Runs `ip` with these arguments in a host.
    #[track_caller]
    pub fn ip(&self, host: Host, arguments: &str) {
        let mut command = Command::new("ip");
        command.args(arguments.split_whitespace());
        let status = self.0.exec(host, command).expect("iproute2");
        assert!(status.success(), "{host}: ip {arguments}: {status}");
    }

    /// Writes a setting below `/proc/sys/net` of a host.
    pub fn set(&self, host: Host, key: &str, value: &str) {
        let path = format!("/proc/sys/net/{key}");
        self.0.enter(host, || std::fs::write(&path, value)).expect("a namespace").expect("a setting");
    }

    /// The router's device towards a host.
    pub fn port(&self, host: Host) -> String {
        self.0.link(host).expect("a link").router.interface.clone()
    }

    /// The address of a gateway: 1 or 2 are there, others are nobody's.
    pub fn gateway(&self, n: u8, v6: bool) -> IpAddr {
        let lb = self.0.link(Host::Lb).expect("a link");
        if v6 {
            let mut segments = lb.v6.segments();
            segments[7] = 0xf0 + u16::from(n);
            Ipv6Addr::from(segments).into()
        } else {
            let [a, b, c, _] = lb.v4.octets();
            Ipv4Addr::new(a, b, c, 240 + n).into()
        }
    }

    pub fn real(&self, v6: bool) -> IpAddr {
        let real = self.0.link(REAL).expect("a link");
        if v6 { real.v6.into() } else { real.v4.into() }
    }

    fn gateways(&self) {
        // Each address is answered for by its own device alone, with that one's MAC.
        self.set(Host::Router, "ipv4/conf/all/arp_ignore", "1");
        for n in [1, 2] {
            self.add_gateway(n);
        }
    }

    /// Another gateway in the router, with a MAC of its own on the balancer's link.
    pub fn add_gateway(&self, n: u8) {
        let port = self.port(Host::Lb);
        self.ip(Host::Router, &format!("link add gw{n} link {port} type macvlan mode bridge"));
        self.ip(Host::Router, &format!("addr add {}/32 dev gw{n}", self.gateway(n, false)));
        self.ip(Host::Router, &format!("addr add {}/128 dev gw{n} nodad", self.gateway(n, true)));
        self.ip(Host::Router, &format!("link set gw{n} up"));
    }

    /// `ip route add | replace` in the balancer, towards the real, by these gateways.
    pub fn route(&self, verb: &str, v6: bool, more: &str) {
        let family = if v6 { "-6" } else { "-4" };
        self.ip(Host::Lb, &format!("{family} route {verb} {} {more}", self.real(v6)));
    }

    /// Packets that a device of a host received.
    pub fn received(&self, host: Host, device: &str) -> u64 {
        let text =
            self.0.enter(host, || std::fs::read_to_string("/proc/thread-self/net/dev")).expect("a namespace").expect("a file");
        let line = text.lines().find_map(|line| line.trim().strip_prefix(&format!("{device}:")).map(str::to_owned));
        line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap_or_else(|| panic!("no {device} in {text}"))
    }
}

/// The `n`-th VIP of a family.
pub fn vip(n: u8, v6: bool) -> IpAddr {
    if v6 { Ipv6Addr::new(0xfc00, 0x200, 0, 0, 0, 0, 0, u16::from(n)).into() } else { Ipv4Addr::new(10, 200, 1, n).into() }
}

/// Reads every stream to a VIP to its end and says how much that was, in the real; ends with the test.
pub fn sink(lab: &Lab, services: &[Service]) {
    let serve = || {
        for service in services.iter().filter(|service| service.protocol == "tcp") {
            let listener = TcpListener::bind(service.at).expect("a port of the real's");
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    std::thread::spawn(move || {
                        let mut bytes = Vec::new();
                        let _ = (&stream).read_to_end(&mut bytes);
                        let sum: u64 = bytes.iter().map(|byte| u64::from(*byte)).sum();
                        let _ = (&stream).write_all(&[(bytes.len() as u64).to_be_bytes(), sum.to_be_bytes()].concat());
                    });
                }
            });
        }
    };
    lab.enter(REAL, serve).expect("the real's namespace");
}

/// Sends this many bytes to a VIP, from the client, and has their number and sum confirmed.
pub fn upload(lab: &Lab, to: SocketAddr, len: usize, most: Duration) -> Result<Duration, String> {
    let work = || {
        let began = Instant::now();
        let stream = TcpStream::connect_timeout(&to, most).map_err(|e| format!("connect: {e}"))?;
        stream.set_write_timeout(Some(most)).expect("a limit");
        stream.set_read_timeout(Some(most)).expect("a limit");
        let bytes: Vec<u8> = (0..len).map(|at| (at * 31 + at / 256) as u8).collect();
        (&stream).write_all(&bytes).map_err(|e| format!("write: {e}"))?;
        stream.shutdown(Shutdown::Write).map_err(|e| format!("shut down: {e}"))?;
        let mut confirmed = [0; 16];
        (&stream).read_exact(&mut confirmed).map_err(|e| format!("read: {e}"))?;
        let sum: u64 = bytes.iter().map(|byte| u64::from(*byte)).sum();
        let expected = [(len as u64).to_be_bytes(), sum.to_be_bytes()].concat();
        if confirmed[..] == expected { Ok(began.elapsed()) } else { Err("other bytes arrived".to_owned()) }
    };
    lab.enter(Host::Client, work).expect("the client's namespace")
}

/// Answers every datagram to a VIP, in the real; ends with the test.
pub fn echo(lab: &Lab, services: &[Service]) {
    let serve = || {
        for service in services.iter().filter(|service| service.protocol == "udp") {
            let socket = UdpSocket::bind(service.at).expect("a port of the real's");
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok((len, from)) = socket.recv_from(&mut buffer) {
                    let _ = socket.send_to(&buffer[..len], from);
                }
            });
        }
    };
    lab.enter(REAL, serve).expect("the real's namespace");
}

/// Datagrams to a VIP, one every few milliseconds, and when those that were answered had been sent.
pub struct Pulse {
    answered: Arc<Mutex<Vec<Instant>>>,
    stop: Arc<AtomicBool>,
}

impl Pulse {
    pub fn start(lab: &Lab, to: SocketAddr) -> Self {
        let (answered, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let pulse = Self { answered: answered.clone(), stop: stop.clone() };
        let client = move || {
            let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
            let socket = UdpSocket::bind((any, 0)).expect("a port");
            socket.connect(to).expect("a route");
            socket.set_read_timeout(Some(Duration::from_millis(2))).expect("a limit");
            std::thread::spawn(move || {
                let (mut sent, mut buffer) = (Vec::<Instant>::new(), [0; 16]);
                while !stop.load(Ordering::Relaxed) {
                    let number = sent.len() as u64;
                    sent.push(Instant::now());
                    let _ = socket.send(&number.to_be_bytes());
                    while let Ok(8) = socket.recv(&mut buffer) {
                        let number = u64::from_be_bytes(*buffer.first_chunk().expect("eight bytes"));
                        answered.lock().expect("no panic").push(sent[number as usize]);
                    }
                }
            });
        };
        lab.enter(Host::Client, client).expect("the client's namespace");
        pulse
    }

    /// Waits until a datagram that was sent after `since` was answered; how long after, in the sender's time.
    #[track_caller]
    pub fn resumed(&self, since: Instant, most: Duration) -> Duration {
        loop {
            let answered = self.answered.lock().expect("no panic").iter().find(|sent| **sent >= since).copied();
            if let Some(sent) = answered {
                return sent - since;
            }
            assert!(since.elapsed() < most, "no answer for {most:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Waits for something to be so.
#[track_caller]
pub fn until(what: &str, most: Duration, mut is_so: impl FnMut() -> bool) -> Duration {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < most, "{what}: not within {most:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
    began.elapsed()
}
