//! NAT in the lab: thousands of TCP connections of clients whose ports collide, both families in both, through both seats and
//! live switches between them; UDP; errors; a table that is full.

mod common;
#[path = "common/judge.rs"]
mod judge;

use std::fmt::Write as _;
use std::io::{ErrorKind, Read, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::libc;
use serde_json::Value;
use socket2::{Domain, Socket, Type};
use tandem_lab::{Host, Lab, Process};

use common::{output, permitted, tandem};
use judge::{Capturing, judge};

const VIP_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 200, 1, 1));
const VIP_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfc00, 0x200, 0, 0, 0, 0, 0, 1));
const REAL: Host = Host::Real(1);
/// VIPs of each family to reals of each family: port 7000 and up to port 8080 of the real, 7100 and up to a closed one.
const PAIRS: [(IpAddr, bool); 4] = [(VIP_V4, false), (VIP_V4, true), (VIP_V6, false), (VIP_V6, true)];
const REAL_PORT: u16 = 8080;
const CLOSED_PORT: u16 = 9;
/// Clients, and what each opens to each VIP from the same ports: 10,000 connections in all.
const CLIENTS: u16 = 4;
const EACH: u16 = 625;
const FIRST_PORT: u16 = 20_000;
/// Clients' ports whose connections tshark looks at.
const JUDGED: std::ops::Range<u16> = 28_000..28_002;
const TIMEOUT: Duration = Duration::from_secs(10);
const THREADS: usize = 8;

fn vip(pair: usize, first_port: u16) -> SocketAddr {
    SocketAddr::new(PAIRS[pair].0, first_port + pair as u16)
}

/// Where the server process is told its addresses.
const ADDRESSES: &str = "TANDEM_TEST_SERVE";

/// As many files as this process may have.
fn many_files() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the limit lives until the call returns.
    let found = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: as above.
    let set = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    assert_eq!((found, set), (0, 0), "{}", std::io::Error::last_os_error());
    assert!(limit.rlim_max > 11_000, "10,000 connections need as many files, and {} are allowed (`ulimit -Hn`)", limit.rlim_max);
}

/// Not a test: the real's server, in a process of its own, as one may not have enough files for both ends.
#[test]
#[ignore = "the server of the other tests"]
fn server() {
    let Ok(addresses) = std::env::var(ADDRESSES) else { return };
    many_files();
    serve(addresses.split(' ').map(|address| address.parse().expect("an address")));
    loop {
        std::thread::park();
    }
}

async fn echo(stream: tokio::net::TcpStream) {
    let mut buffer = [0; 256];
    loop {
        if stream.readable().await.is_err() {
            return;
        }
        let len = match stream.try_read(&mut buffer) {
            Ok(0) => return,
            Ok(len) => len,
            Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
            Err(_) => return,
        };
        let mut sent = 0;
        while sent < len {
            match stream.try_write(&buffer[sent..len]) {
                Ok(more) => sent += more,
                Err(error) if error.kind() == ErrorKind::WouldBlock => drop(stream.writable().await),
                Err(_) => return,
            }
        }
    }
}

/// Echoes TCP and UDP on the real's port; ends with the process.
fn serve(addresses: impl Iterator<Item = IpAddr>) {
    for address in addresses {
        let at = SocketAddr::new(address, REAL_PORT);
        let listener = TcpListener::bind(at).expect("a port of the real's");
        listener.set_nonblocking(true).expect("a flag");
        let socket = UdpSocket::bind(at).expect("a port of the real's");
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().expect("a runtime");
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(echo(stream));
                }
            });
        });
        std::thread::spawn(move || {
            let mut buffer = [0; 8192];
            while let Ok((len, from)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(&buffer[..len], from);
            }
        });
    }
}

/// One connection, and who it is.
struct Connection {
    stream: TcpStream,
    name: String,
}

impl Connection {
    fn open(from: SocketAddr, to: SocketAddr) -> Result<Self, String> {
        let name = format!("{from} > {to}");
        let failed = |error: std::io::Error| format!("{from} > {to}: {error}");
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).map_err(failed)?;
        socket.set_reuse_address(true).map_err(failed)?;
        socket.bind(&from.into()).map_err(failed)?;
        socket.connect_timeout(&to.into(), TIMEOUT).map_err(failed)?;
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(TIMEOUT)).map_err(failed)?;
        Ok(Self { stream, name })
    }

    /// What this connection says comes back on it, and nothing else.
    fn says(&mut self, round: usize) -> Result<(), String> {
        let said = format!("{} round {round};", self.name);
        let failed = |error: std::io::Error| format!("{said} {error}");
        self.stream.write_all(said.as_bytes()).map_err(failed)?;
        let mut heard = vec![0; said.len()];
        self.stream.read_exact(&mut heard).map_err(failed)?;
        if heard == said.as_bytes() { Ok(()) } else { Err(format!("{said} heard {}", String::from_utf8_lossy(&heard))) }
    }
}

/// Opens connections from every client's every port of `ports` to every VIP.
fn open(clients: &[[IpAddr; 2]], ports: std::ops::Range<u16>) -> Result<Vec<Connection>, String> {
    let mut wanted = Vec::new();
    for port in ports {
        for client in clients {
            for pair in 0..PAIRS.len() {
                let to = vip(pair, 7000);
                wanted.push((SocketAddr::new(client[usize::from(to.is_ipv6())], port), to));
            }
        }
    }
    std::thread::scope(|scope| {
        let threads: Vec<_> = wanted
            .chunks(wanted.len().div_ceil(THREADS))
            .map(|some| scope.spawn(|| some.iter().map(|(from, to)| Connection::open(*from, *to)).collect::<Result<Vec<_>, _>>()))
            .collect();
        let mut all = Vec::new();
        for thread in threads {
            all.extend(thread.join().expect("no panic")?);
        }
        Ok(all)
    })
}

fn all_say(connections: &mut [Connection], round: usize) -> Vec<String> {
    let chunk = connections.len().div_ceil(THREADS);
    std::thread::scope(|scope| {
        let say = |some: &mut [Connection]| some.iter_mut().filter_map(|one| one.says(round).err()).collect::<Vec<_>>();
        let threads: Vec<_> = connections.chunks_mut(chunk).map(|some| scope.spawn(move || say(some))).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
    })
}

/// A lab that goes with the test, however it ends.
struct Stand {
    prefix: String,
    lab: Lab,
    clients: Vec<[IpAddr; 2]>,
    balancer: Process,
    server: Option<Process>,
}

impl Stand {
    fn new(letter: char, nat: &str) -> Self {
        let prefix = format!("{letter}{}", std::process::id() % 10_000);
        let (v4, v6) = (VIP_V4.to_string(), VIP_V6.to_string());
        output(&["lab", "up", "--prefix", &prefix, "--reals", "1", "--vip", &v4, &v6]);
        let lab = Lab::open(&prefix).expect("the lab just made");
        let file = lab.directory().join("tandem.toml");
        std::fs::write(&file, configuration(&lab, nat)).expect("a file");
        let file = file.display().to_string();
        let balancer = lab.spawn(Host::Lb, tandem(&["run", "-c", &file, "--name", &format!("lab-{prefix}")])).expect("started");
        let clients = clients(&lab);
        let mut stand = Self { prefix, lab, clients, balancer, server: None };
        let until = Instant::now() + Duration::from_secs(30);
        while !tandem(&["mode", "show", "--name", &stand.name()]).output().is_ok_and(|output| output.status.success()) {
            let ended = stand.balancer.try_wait().expect("a child");
            assert!(ended.is_none() && Instant::now() < until, "{ended:?}: {}", stand.balancer.last_words());
            std::thread::sleep(Duration::from_millis(50));
        }
        let real = stand.lab.link(REAL).expect("a link");
        let addresses: [IpAddr; 2] = [real.v4.into(), real.v6.into()];
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.args(["--exact", "server", "--ignored"]).env(ADDRESSES, addresses.map(|address| address.to_string()).join(" "));
        stand.server = Some(stand.lab.spawn(REAL, command).expect("started"));
        stand.lab.enter(REAL, || answers(addresses, until)).expect("the real's namespace");
        stand
    }

    fn name(&self) -> String {
        format!("lab-{}", self.prefix)
    }

    fn switch(&self, seat: &str) {
        output(&["mode", "set", seat, "--name", &self.name()]);
    }

    fn counters(&self) -> Value {
        serde_json::from_str(&output(&["counters", "--name", &self.name(), "--json"])).expect("JSON")
    }

    fn at_client<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.lab.enter(Host::Client, work).expect("the client's namespace")
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        let _ = tandem(&["lab", "down", "--prefix", &self.prefix]).output();
    }
}

/// Waits until the server does.
fn answers(addresses: [IpAddr; 2], until: Instant) {
    for address in addresses {
        while TcpStream::connect((address, REAL_PORT)).is_err() {
            assert!(Instant::now() < until, "the server at {address} does not answer");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Addresses of each family for [`CLIENTS`] clients, on the client's interface.
fn clients(lab: &Lab) -> Vec<[IpAddr; 2]> {
    let link = lab.link(Host::Client).expect("a link");
    let clients = (0..CLIENTS).map(|n| -> [IpAddr; 2] {
        let v4 = Ipv4Addr::from(u32::from(link.v4) + 20 + u32::from(n));
        let v6 = Ipv6Addr::from(u128::from(link.v6) + 0x20 + u128::from(n));
        [v4.into(), v6.into()]
    });
    let clients: Vec<_> = clients.collect();
    for address in clients.iter().flatten() {
        let length = if address.is_ipv4() { 24 } else { 64 };
        let mut command = Command::new("ip");
        command.args(["addr", "add", &format!("{address}/{length}"), "dev", &link.interface]);
        if address.is_ipv6() {
            command.arg("nodad");
        }
        assert!(lab.exec(Host::Client, command).expect("ip starts").success(), "{address}");
    }
    clients
}

fn configuration(lab: &Lab, nat: &str) -> String {
    let lb = lab.link(Host::Lb).expect("a link");
    let real = lab.link(REAL).expect("a link");
    let mut text = format!(
        "[node]\ninterface = \"{}\"\nmode = \"xdp\"\n[flows]\ncapacity = 10_000\n[nat]\nsources_v4 = [\"{}\"]\nsources_v6 = [\"{}\"]\n{nat}\n",
        lb.interface, lb.v4, lb.v6
    );
    for (first, real_port) in [(7000, REAL_PORT), (7100, CLOSED_PORT)] {
        for (pair, (_, v6_real)) in PAIRS.into_iter().enumerate() {
            let address = if v6_real { IpAddr::V6(real.v6) } else { IpAddr::V4(real.v4) };
            let at = vip(pair, first);
            for protocol in ["tcp", "udp"] {
                write!(
                    text,
                    "[[vip]]\naddress = \"{}\"\nport = {}\nprotocol = \"{protocol}\"\nencap = \"nat\"\n[[vip.real]]\naddress = \"{address}\"\nport = {real_port}\n",
                    at.ip(),
                    at.port()
                )
                .expect("a String takes everything");
            }
        }
    }
    text
}

/// A socket at this address. One before it may still be in a process that another test is just starting.
fn bound(from: SocketAddr) -> std::io::Result<UdpSocket> {
    let until = Instant::now() + TIMEOUT;
    loop {
        match UdpSocket::bind(from) {
            Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(5));
            }
            other => return other,
        }
    }
}

/// UDP there and back, from all clients' same port to all VIPs.
fn datagrams(clients: &[[IpAddr; 2]]) -> Vec<String> {
    let mut failures = Vec::new();
    for (n, client) in clients.iter().enumerate() {
        for pair in 0..PAIRS.len() {
            let to = vip(pair, 7000);
            let from = SocketAddr::new(client[usize::from(to.is_ipv6())], 30_000);
            // The last one in fragments, both ways; of which the first may be too large for the way, and tell its sender.
            for len in [1, 2, 17, 333, 1400, 4000] {
                let sent: Vec<u8> = (0..len).map(|at| (at * 7 + n * 31 + pair) as u8).collect();
                let received = bound(from).and_then(|socket| {
                    socket.set_read_timeout(Some(TIMEOUT))?;
                    socket.connect(to)?;
                    let mut buffer = [0; 8192];
                    if len > 1400 {
                        socket.set_read_timeout(Some(Duration::from_millis(500)))?;
                        socket.send(&sent)?;
                        match socket.recv(&mut buffer) {
                            Ok(len) => return Ok(buffer[..len].to_vec()),
                            Err(_) => socket.set_read_timeout(Some(TIMEOUT))?,
                        }
                    }
                    socket.send(&sent)?;
                    let len = socket.recv(&mut buffer)?;
                    Ok(buffer[..len].to_vec())
                });
                match received {
                    Ok(bytes) if bytes == sent => {}
                    Ok(_) => failures.push(format!("{from} > {to}, {len} bytes: others came back")),
                    Err(error) => failures.push(format!("{from} > {to}, {len} bytes: {error}")),
                }
            }
        }
    }
    failures
}

/// A closed port of the real's: the client hears of it, by TCP's reset and by ICMP, as if the VIP had said so.
fn refusals() -> Vec<String> {
    let mut failures = Vec::new();
    for pair in 0..PAIRS.len() {
        let to = vip(pair, 7100);
        match TcpStream::connect_timeout(&to, TIMEOUT) {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
            other => failures.push(format!("TCP to {to}: {other:?}")),
        }
        let local: SocketAddr = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse().expect("an address");
        let answer = UdpSocket::bind(local).and_then(|socket| {
            socket.set_read_timeout(Some(TIMEOUT))?;
            socket.connect(to)?;
            socket.send(b"anybody?")?;
            socket.recv(&mut [0; 16])
        });
        match answer {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
            other => failures.push(format!("UDP to {to}: {other:?}")),
        }
    }
    failures
}

fn none(what: &str, failures: &[String]) {
    assert!(
        failures.is_empty(),
        "{what}: {} failures, of them\n{}",
        failures.len(),
        failures[..failures.len().min(10)].join("\n")
    );
}

/// UDP and two connections to each VIP, with what leaves the balancer to both sides read by tshark, if it is there: no wrong
/// checksum, nothing malformed.
fn judged(stand: &Stand, seat: &str, ports: std::ops::Range<u16>) {
    let tshark = judge::program();
    let capture = |host: Host| (host, Capturing::start(&stand.lab, host, &format!("{seat}-{host}")));
    let sides = tshark.as_ref().map(|_| [Host::Client, REAL].map(capture));
    let mut connections = stand.at_client(|| open(&stand.clients, ports)).unwrap_or_else(|error| panic!("mode {seat}: {error}"));
    none(seat, &stand.at_client(|| all_say(&mut connections, 0)));
    none(&format!("UDP in mode {seat}"), &stand.at_client(|| datagrams(&stand.clients)));
    let (Some(tshark), Some(sides)) = (tshark, sides) else { return };
    for (host, capturing) in sides {
        // Errors quote packets that are cut off, whose checksums nobody can judge.
        let mut frames = judge(&tshark, &capturing.finish());
        frames.retain(|frame| !frame.layers.contains("icmp"));
        let wrong = frames.iter().filter(|frame| !frame.complaints.is_empty());
        let wrong = wrong.map(|frame| format!("frame {} ({}): {}", frame.number, frame.layers, frame.complaints.join("; ")));
        none(&format!("{seat}, to {host}"), &wrong.collect::<Vec<_>>());
        for (layer, least) in [("ip", 60), ("tcp", 3 * connections.len()), ("udp", 80)] {
            let good: usize = frames.iter().filter_map(|frame| frame.good.get(layer)).sum();
            assert!(good >= least, "{seat}, to {host}: only {good} good checksums of {layer} in {} frames", frames.len());
        }
    }
}

#[test]
fn ten_thousand_connections_none_broken_none_crossed() {
    if !permitted() {
        return;
    }
    many_files();
    let stand = Stand::new('n', "");
    let clients = &stand.clients;
    let half = FIRST_PORT + EACH / 2;
    let mut connections = stand.at_client(|| open(clients, FIRST_PORT..half)).expect("mode xdp");
    none("mode xdp", &stand.at_client(|| all_say(&mut connections, 1)));
    judged(&stand, "xdp", JUDGED);
    none("refusals in mode xdp", &stand.at_client(refusals));
    stand.switch("afxdp");
    match stand.at_client(|| open(clients, half..FIRST_PORT + EACH)) {
        Ok(more) => connections.extend(more),
        Err(error) => panic!("mode afxdp: {error}: {}", stand.counters()),
    }
    assert_eq!(connections.len(), 10_000);
    none("mode afxdp", &stand.at_client(|| all_say(&mut connections, 2)));
    judged(&stand, "afxdp", JUDGED.end..JUDGED.end + 2);
    none("refusals in mode afxdp", &stand.at_client(refusals));
    stand.switch("xdp");
    none("mode xdp again", &stand.at_client(|| all_say(&mut connections, 3)));
    let counters = stand.counters();
    for seat in ["xdp", "afxdp"] {
        for reason in ["forwarded", "nat-reply"] {
            assert!(counters[seat]["reasons"][reason].as_u64() > Some(10_000), "{seat}, {reason}: {counters}");
        }
    }
    assert_eq!(counters["xdp"]["reasons"]["nat-full"], 0);
    assert!(counters["xdp"]["events"]["nat-errors"].as_u64() >= Some(4), "{counters}");
    assert_eq!(counters["afxdp"]["seat"]["defect"], 0, "{counters}");
}

#[test]
fn a_full_table_refuses_new_connections_and_breaks_none() {
    if !permitted() {
        return;
    }
    let stand = Stand::new('f', "ports = 60");
    let clients = &stand.clients;
    let (mut open, mut refused) = (Vec::new(), 0);
    let to = vip(0, 7000);
    stand.at_client(|| {
        for n in 0..100 {
            let from = SocketAddr::new(clients[n % 4][0], FIRST_PORT + n as u16);
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
            socket.bind(&from.into()).expect("a port");
            match socket.connect_timeout(&to.into(), Duration::from_millis(300)) {
                Ok(()) => {
                    let stream = TcpStream::from(socket);
                    stream.set_read_timeout(Some(TIMEOUT)).expect("a limit");
                    open.push(Connection { stream, name: from.to_string() });
                }
                Err(_) => refused += 1,
            }
        }
        none("the connections that are open", &all_say(&mut open, 1));
    });
    assert!(open.len() <= 60 && open.len() > 50, "{} open", open.len());
    assert_eq!(open.len() + refused, 100);
    assert!(stand.counters()["xdp"]["reasons"]["nat-full"].as_u64() >= Some(refused as u64));
}
