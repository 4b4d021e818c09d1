//! Real TCP and UDP: what the client sends must come back from the real, every byte of it.

use std::io::{Read, Write as _};
use std::net::{IpAddr, Shutdown, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use etherparse::PacketBuilder;
use nix::libc;
use socket2::{Domain, Socket, Type};
use tandem_lab::{Host, Lab};

use super::packet::on_interface;
use super::service::Service;

/// Bytes of the client's frame without its headers: of Ethernet, IPv4 or IPv6, and UDP.
const MTU: usize = 1500;
/// Payloads of UDP: nothing but a header's padding, odd, even; full frames of each family are added.
const DATAGRAMS: [usize; 6] = [1, 2, 17, 18, 333, 1024];
/// Bytes of TCP transfers: less than a frame, odd, and many frames.
const STREAMS: [usize; 3] = [1, 1447, 300_001];
/// Transfers of each protocol to a service, at least: each is a frame or more.
pub const LEAST: usize = DATAGRAMS.len();
/// What small frames are filled up to on a real wire, and more than that.
const PADDED: [usize; 2] = [60, 77];
const TIMEOUT: Duration = Duration::from_secs(10);

/// `UDP_NO_CHECK6_TX` and `_RX` of `linux/udp.h`: IPv6 without a UDP checksum is sent, and accepted.
const NO_CHECK6_TX: libc::c_int = 101;
const NO_CHECK6_RX: libc::c_int = 102;

/// Payload that differs from place to place and from case to case.
fn payload(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 + at / 256 + seed * 7) as u8).collect()
}

fn seed(service: &Service) -> usize {
    usize::from(service.at().port())
}

/// The payloads of one family: the largest, and one byte less, fill a frame.
fn datagrams(service: &Service) -> impl Iterator<Item = usize> {
    let full = MTU - 8 - if service.vip.is_ipv4() { 20 } else { 40 };
    DATAGRAMS.into_iter().chain([full - 1, full])
}

/// Echoes everything on the services' ports, in the real's namespace; ends with the test.
pub fn echo(services: &[Service]) {
    for service in services {
        let listener = TcpListener::bind(service.at()).expect("a port of the real's");
        let socket = UdpSocket::bind(service.at()).expect("a port of the real's");
        if service.vip.is_ipv6() {
            set(&socket, libc::IPPROTO_UDP, NO_CHECK6_RX).expect("Linux");
        }
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

fn failed(doing: &'static str) -> impl Fn(std::io::Error) -> String {
    move |error| format!("{doing}: {error}")
}

fn stream(service: &Service, len: usize) -> Result<(), String> {
    let stream = TcpStream::connect_timeout(&service.at(), TIMEOUT).map_err(failed("connect"))?;
    stream.set_read_timeout(Some(TIMEOUT)).map_err(failed("set a limit"))?;
    let sent = payload(len, seed(service));
    let writer = std::thread::spawn({
        let (mut stream, sent) = (stream.try_clone().map_err(failed("clone"))?, sent.clone());
        move || stream.write_all(&sent).and_then(|()| stream.shutdown(Shutdown::Write))
    });
    let mut received = Vec::new();
    (&stream).read_to_end(&mut received).map_err(failed("read"))?;
    writer.join().expect("no panic").map_err(failed("write"))?;
    if received == sent { Ok(()) } else { Err(format!("{} of {len} bytes came back, or others", received.len())) }
}

/// A client's socket that talks to the service.
fn connected(service: &Service, checksum: bool) -> std::io::Result<UdpSocket> {
    let v4 = service.vip.is_ipv4();
    let socket = Socket::new(if v4 { Domain::IPV4 } else { Domain::IPV6 }, Type::DGRAM, None)?;
    match (checksum, v4) {
        (true, _) => {}
        (false, true) => set(&socket, libc::SOL_SOCKET, libc::SO_NO_CHECK)?,
        (false, false) => set(&socket, libc::IPPROTO_UDP, NO_CHECK6_TX)?,
    }
    let socket = UdpSocket::from(socket);
    socket.set_read_timeout(Some(TIMEOUT))?;
    socket.connect(service.at())?;
    Ok(socket)
}

/// Switches an option of a socket on.
fn set(socket: &impl AsRawFd, level: libc::c_int, option: libc::c_int) -> std::io::Result<()> {
    let (on, len): (libc::c_int, _) = (1, size_of::<libc::c_int>() as libc::socklen_t);
    // SAFETY: the value is as long as is said, and lives until the call returns.
    match unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const on).cast(), len) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

fn comes_back(socket: &UdpSocket, sent: &[u8]) -> Result<(), String> {
    let mut buffer = [0; 2048];
    let received = socket.recv(&mut buffer).map_err(failed("receive"))?;
    if buffer[..received] == *sent { Ok(()) } else { Err("other bytes came back".to_owned()) }
}

fn datagram(service: &Service, len: usize, checksum: bool) -> Result<(), String> {
    let socket = connected(service, checksum).map_err(failed("open"))?;
    let sent = payload(len, seed(service));
    socket.send(&sent).map_err(failed("send"))?;
    comes_back(&socket, &sent)
}

/// A datagram of one byte in a frame that is filled up behind it, as a real wire does. No kernel's stack sends one on a veth:
/// it is put on the balancer's link as it is.
fn runt(lab: &Lab, service: &Service, padded: usize) -> Result<(), String> {
    let socket = connected(service, true).map_err(failed("open"))?;
    let client = socket.local_addr().map_err(failed("look"))?;
    let sent = payload(1, seed(service));
    let mut frame = Vec::new();
    addressed(lab, client.ip(), service.vip)
        .udp(client.port(), service.at().port())
        .write(&mut frame, &sent)
        .expect("a Vec takes everything");
    on_the_balancers_link(lab, frame, padded)?;
    comes_back(&socket, &sent)
}

/// The least TCP segment in a padded frame. It belongs to no connection: who looks at the real's link must find it.
fn bare_segment(lab: &Lab, service: &Service, padded: usize) -> Result<(), String> {
    let client = lab.link(Host::Client).expect("a link").address_like(service.vip);
    let mut frame = Vec::new();
    addressed(lab, client, service.vip)
        .tcp(60_999, service.at().port(), 7, 64_000)
        .ack(9)
        .write(&mut frame, &[])
        .expect("a Vec takes everything");
    on_the_balancers_link(lab, frame, padded)
}

fn addressed(lab: &Lab, client: IpAddr, vip: IpAddr) -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
    let lb = lab.link(Host::Lb).expect("a link");
    let eth = PacketBuilder::ethernet2(lb.router.gateway_mac.0, lb.mac.0);
    match (client, vip) {
        (IpAddr::V4(client), IpAddr::V4(vip)) => eth.ipv4(client.octets(), vip.octets(), 63),
        (IpAddr::V6(client), IpAddr::V6(vip)) => eth.ipv6(client.octets(), vip.octets(), 63),
        _ => unreachable!("families agree"),
    }
}

fn on_the_balancers_link(lab: &Lab, mut frame: Vec<u8>, padded: usize) -> Result<(), String> {
    // Not zeros: who sums them up must notice.
    frame.resize(frame.len().max(padded), 0xa5);
    let port = lab.link(Host::Lb).expect("a link").router.index;
    lab.enter(Host::Router, || put(port, &frame)).expect("the router's namespace").map_err(failed("put on the link"))
}

/// Sends a frame as it is out of an interface of this thread's namespace.
pub fn put(interface: u32, frame: &[u8]) -> std::io::Result<()> {
    let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
    socket.send_to(frame, &on_interface(interface, 0)).map(drop)
}

/// Everything that does not work, from the client's namespace.
pub fn failures(lab: &Lab, services: &[Service]) -> Vec<String> {
    let mut failures = Vec::new();
    for service in services {
        let mut note = |what: String, result: Result<(), String>| {
            if let Err(error) = result {
                failures.push(format!("{service}: {what}: {error}"));
            }
        };
        for len in STREAMS {
            note(format!("TCP, {len} bytes"), stream(service, len));
        }
        for len in datagrams(service) {
            note(format!("UDP, {len} bytes"), datagram(service, len, true));
            note(format!("UDP without checksum, {len} bytes"), datagram(service, len, false));
        }
        for len in PADDED {
            note(format!("UDP padded to {len} bytes"), runt(lab, service, len));
            note(format!("TCP padded to {len} bytes"), bare_segment(lab, service, len));
        }
    }
    failures
}
