//! Every tunnel, between every pair of families, in both seats: real TCP and UDP through the lab, every byte compared. The
//! reals take the tunnels off with Tandem's own `decap`.
//!
//! (`l2` needs the real on the balancer's own link, which no layout of the lab has; the engine's oracles and the twins have it.)

use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::libc;
use serde_json::Value;
use socket2::{Domain, Socket, Type};
use tandem_lab::{Host, Lab, Process};

const VIP_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 200, 1, 1));
const VIP_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfc00, 0x200, 0, 0, 0, 0, 0, 1));
const REAL: Host = Host::Real(1);
/// Methods as the configuration has them, and what else its VIPs and reals need.
const METHODS: [(&str, &str, &str); 7] = [
    ("ipip", "", ""),
    ("gre", "", ""),
    ("fou", "", ""),
    ("gue", "", ""),
    ("gue0", "", ""),
    ("geneve", "vni = 4242", ""),
    ("geneve", "vni = 4242\ngeneve_inner = \"ethernet\"", "inner_mac = \"02:00:00:00:77:77\""),
];
/// Payloads of UDP: nothing but a header's padding, odd, even, and what a full frame of the client's holds.
const DATAGRAMS: [usize; 7] = [1, 2, 17, 18, 333, 1024, 1452];
/// Bytes of TCP transfers: less than a frame, odd, and many frames.
const STREAMS: [usize; 3] = [1, 1447, 300_001];
const TIMEOUT: Duration = Duration::from_secs(10);

fn permitted() -> bool {
    match tandem_lab::check_permitted() {
        Ok(()) => true,
        Err(why) => {
            let required = std::env::var_os("TANDEM_REQUIRE_KERNEL").is_some_and(|v| v == "1");
            assert!(!required, "{why}");
            eprintln!("skipped: {why}");
            false
        }
    }
}

/// One method between two families.
#[derive(Clone, Copy, Debug)]
struct Service {
    method: usize,
    vip: IpAddr,
    v6_real: bool,
}

impl Service {
    fn all() -> impl Iterator<Item = Self> {
        let pairs = [(VIP_V4, false), (VIP_V4, true), (VIP_V6, false), (VIP_V6, true)];
        (0..METHODS.len()).flat_map(move |method| pairs.map(|(vip, v6_real)| Self { method, vip, v6_real }))
    }

    fn at(self) -> SocketAddr {
        let port = 7000 + 2 * self.method as u16 + u16::from(self.v6_real);
        SocketAddr::new(self.vip, port)
    }
}

/// Payload that differs from place to place and from case to case.
fn payload(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 + at / 256 + seed * 7) as u8).collect()
}

/// Echoes everything on the services' ports, in the real's namespace; ends with the test.
fn echo(services: &[Service]) {
    for service in services {
        let listener = TcpListener::bind(service.at()).expect("a port of the real's");
        let socket = UdpSocket::bind(service.at()).expect("a port of the real's");
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || {
                    let mut to = stream.try_clone().expect("a second handle");
                    let _ = std::io::copy(&mut &stream, &mut to);
                    let _ = to.shutdown(Shutdown::Write);
                });
            }
        });
        std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            while let Ok((len, from)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(&buffer[..len], from);
            }
        });
    }
}

fn stream(service: Service, len: usize) -> Result<(), String> {
    let failed = |doing: &'static str| move |error: std::io::Error| format!("{doing}: {error}");
    let stream = TcpStream::connect_timeout(&service.at(), TIMEOUT).map_err(failed("connect"))?;
    stream.set_read_timeout(Some(TIMEOUT)).map_err(failed("set a limit"))?;
    let sent = payload(len, service.method);
    let writer = std::thread::spawn({
        let (mut stream, sent) = (stream.try_clone().map_err(failed("clone"))?, sent.clone());
        move || stream.write_all(&sent).and_then(|()| stream.shutdown(Shutdown::Write))
    });
    let mut received = Vec::new();
    (&stream).read_to_end(&mut received).map_err(failed("read"))?;
    writer.join().expect("no panic").map_err(failed("write"))?;
    if received == sent { Ok(()) } else { Err(format!("{} of {len} bytes came back, or others", received.len())) }
}

/// `checksum`: with one, or (IPv4 only) without.
fn datagram(service: Service, len: usize, checksum: bool) -> Result<(), String> {
    let failed = |doing: &'static str| move |error: std::io::Error| format!("{doing}: {error}");
    let domain = if service.vip.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::DGRAM, None).map_err(failed("open"))?;
    if !checksum {
        no_checksum(&socket).map_err(failed("leave the checksum out"))?;
    }
    let socket = UdpSocket::from(socket);
    socket.set_read_timeout(Some(TIMEOUT)).map_err(failed("set a limit"))?;
    socket.connect(service.at()).map_err(failed("connect"))?;
    let sent = payload(len, service.method);
    socket.send(&sent).map_err(failed("send"))?;
    let mut buffer = [0; 2048];
    let received = socket.recv(&mut buffer).map_err(failed("receive"))?;
    if buffer[..received] == sent { Ok(()) } else { Err("other bytes came back".to_owned()) }
}

fn no_checksum(socket: &Socket) -> std::io::Result<()> {
    let (on, len): (libc::c_int, _) = (1, size_of::<libc::c_int>() as libc::socklen_t);
    // SAFETY: the value is as long as is said, and lives until the call returns.
    match unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_NO_CHECK, (&raw const on).cast(), len) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// Everything that does not work, from the client's namespace.
fn failures(services: &[Service]) -> Vec<String> {
    let mut failures = Vec::new();
    for service in services {
        let (method, more, _) = METHODS[service.method];
        let mut note = |what: String, result: Result<(), String>| {
            if let Err(error) = result {
                failures.push(format!("{method} {more:?} to {} over IPv6 {}: {what}: {error}", service.at(), service.v6_real));
            }
        };
        for len in STREAMS {
            note(format!("TCP, {len} bytes"), stream(*service, len));
        }
        for len in DATAGRAMS {
            note(format!("UDP, {len} bytes"), datagram(*service, len, true));
            if service.vip.is_ipv4() {
                note(format!("UDP without checksum, {len} bytes"), datagram(*service, len, false));
            }
        }
    }
    failures
}

fn configuration(lab: &Lab, services: &[Service]) -> String {
    let lb = lab.link(Host::Lb).expect("a link");
    let real = lab.link(REAL).expect("a link");
    let mut text = format!(
        "[node]\ninterface = \"{}\"\nmode = \"xdp\"\n[tunnel]\nsource_v4 = \"{}\"\nsource_v6 = \"{}\"\n[flows]\ncapacity = 10_000\n",
        lb.interface, lb.v4, lb.v6
    );
    for service in services {
        let (method, vip, of_real) = METHODS[service.method];
        let address = if service.v6_real { IpAddr::V6(real.v6) } else { IpAddr::V4(real.v4) };
        for protocol in ["tcp", "udp"] {
            write!(
                text,
                "[[vip]]\naddress = \"{}\"\nport = {}\nprotocol = \"{protocol}\"\nencap = \"{method}\"\n{vip}\n[[vip.real]]\naddress = \"{address}\"\n{of_real}\n",
                service.vip,
                service.at().port()
            )
            .expect("a String takes everything");
        }
    }
    text
}

fn tandem(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tandem"));
    command.args(arguments);
    command
}

fn output(arguments: &[&str]) -> String {
    let output = tandem(arguments).output().expect("tandem starts");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A lab that goes with the test, however it ends.
struct Stand {
    prefix: String,
    lab: Lab,
    balancer: Process,
}

impl Stand {
    fn new(services: &[Service]) -> Self {
        let prefix = format!("m{}", std::process::id() % 10_000);
        let (v4, v6) = (VIP_V4.to_string(), VIP_V6.to_string());
        output(&["lab", "up", "--prefix", &prefix, "--reals", "1", "--vip", &v4, &v6]);
        let lab = Lab::open(&prefix).expect("the lab just made");
        let file = lab.directory().join("tandem.toml");
        std::fs::write(&file, configuration(&lab, services)).expect("a file");
        let file = file.display().to_string();
        let balancer = lab.spawn(Host::Lb, tandem(&["run", "-c", &file, "--name", &format!("lab-{prefix}")])).expect("started");
        let mut stand = Self { prefix, lab, balancer };
        let until = Instant::now() + Duration::from_secs(30);
        while !tandem(&["mode", "show", "--name", &stand.name()]).output().is_ok_and(|output| output.status.success()) {
            let ended = stand.balancer.try_wait().expect("a child");
            assert!(ended.is_none() && Instant::now() < until, "{ended:?}: {}", stand.balancer.last_words());
            std::thread::sleep(Duration::from_millis(50));
        }
        stand
    }

    fn name(&self) -> String {
        format!("lab-{}", self.prefix)
    }

    fn counters(&self) -> Value {
        serde_json::from_str(&output(&["counters", "--name", &self.name(), "--json"])).expect("JSON")
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        let _ = tandem(&["lab", "down", "--prefix", &self.prefix]).output();
    }
}

#[test]
fn every_method_carries_every_byte_in_both_seats() {
    if !permitted() {
        return;
    }
    let services: Vec<Service> = Service::all().collect();
    let stand = Stand::new(&services);
    stand.lab.enter(REAL, || echo(&services)).expect("the real's namespace");
    let name = stand.name();
    for seat in ["xdp", "afxdp"] {
        output(&["mode", "set", seat, "--name", &name]);
        let failures = stand.lab.enter(Host::Client, || failures(&services)).expect("the client's namespace");
        assert!(failures.is_empty(), "{seat}: {} failures:\n{}", failures.len(), failures.join("\n"));
        let counters = stand.counters();
        for service in &services {
            for protocol in ["tcp", "udp"] {
                let vip = format!("{}/{protocol}", service.at());
                let packets = counters[seat]["vips"][&vip]["packets"].as_u64().unwrap_or(0);
                assert!(packets >= DATAGRAMS.len() as u64, "{seat}, {vip}: {packets} packets: who carried them?");
            }
        }
        assert_eq!(counters["afxdp"]["seat"]["defect"], 0, "{counters}");
    }
}
