//! NAT into stock Linux: what a server's socket gets of a client's packet, and what the client gets of its answer.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use tandem_backends::config::parse;
use tandem_backends::replay::{Action, Backend, Instance};

use super::bed::Bed;
use super::cases::{BALANCER, BALANCER_MAC, CLIENT, REAL, REAL_MAC};
use super::report::Report;
use super::service::{VIP_V4, VIP_V6};
use super::setups::SETUPS;
use super::start::is_init;

/// The VIP's port, and the server's: they differ, as NAT allows.
const PORTS: [u16; 2] = [80, 8080];
const WAIT: Duration = Duration::from_secs(5);
/// Of datagrams: odd and even, and a full frame between IPv6 hosts.
const LENGTHS: [usize; 5] = [1, 17, 18, 333, 1452];

/// Who talks to whom, and whether the client's address is replaced.
struct Way {
    vip: IpAddr,
    v6_real: bool,
    sources: bool,
}

const WAYS: [Way; 6] = [
    Way { vip: VIP_V4, v6_real: false, sources: false },
    Way { vip: VIP_V6, v6_real: true, sources: false },
    Way { vip: VIP_V4, v6_real: false, sources: true },
    Way { vip: VIP_V6, v6_real: true, sources: true },
    Way { vip: VIP_V4, v6_real: true, sources: true },
    Way { vip: VIP_V6, v6_real: false, sources: true },
];

pub fn run(report: &mut Report) {
    let setup = SETUPS.iter().find(|setup| setup.name == "no device").expect("a set-up");
    for way in &WAYS {
        let name = way.name();
        match Bed::new(setup, &[]) {
            Ok(bed) => report.result(&name, way.both_directions(bed)),
            Err(why) if !is_init() => report.skip(&name, &why),
            Err(why) => report.fail(&name, &why),
        }
    }
}

impl Way {
    fn name(&self) -> String {
        let family = |v6| if v6 { "IPv6" } else { "IPv4" };
        let source = if self.sources { "replaced" } else { "kept" };
        let lengths = LENGTHS.len();
        let (client, server) = (family(self.vip.is_ipv6()), family(self.v6_real));
        format!("NAT, {client} client to {server} server, its address {source}: {lengths} datagrams and a SYN, and their answers")
    }

    fn server(&self) -> SocketAddr {
        SocketAddr::new(address(REAL[usize::from(self.v6_real)]), PORTS[1])
    }

    fn client(&self, port: u16) -> SocketAddr {
        SocketAddr::new(address(CLIENT[usize::from(self.vip.is_ipv6())]), port)
    }

    fn balancer(&self) -> Result<Instance, String> {
        let [v4, v6] = BALANCER;
        let nat = if self.sources { format!("[nat]\nsources_v4 = [\"{v4}\"]\nsources_v6 = [\"{v6}\"]\n") } else { String::new() };
        let mut text = format!(
            "[node]\nnext_hop_mac = \"{REAL_MAC}\"\nlocal_mac = \"{BALANCER_MAC}\"\n[tunnel]\nsource_v4 = \"{v4}\"\n\
             source_v6 = \"{v6}\"\n[flows]\ncapacity = 1000\n{nat}"
        );
        for protocol in ["tcp", "udp"] {
            text.push_str(&format!(
                "[[vip]]\naddress = \"{}\"\nport = {}\nprotocol = \"{protocol}\"\nencap = \"nat\"\n\
                 [[vip.real]]\naddress = \"{}\"\nport = {}\n",
                self.vip,
                PORTS[0],
                self.server().ip(),
                PORTS[1]
            ));
        }
        let plan = parse(&text, "guest").map_err(|error| format!("{error:?}"))?.plan;
        Instance::new(Backend::Engine, &plan, 3).map_err(|error| format!("{error:#}"))
    }

    fn both_directions(&self, mut bed: Bed) -> Result<(), String> {
        let mut balancer = self.balancer()?;
        let at = self.server();
        let (udp, _listener) = bed
            .inside(|| Ok::<_, std::io::Error>((UdpSocket::bind(at)?, TcpListener::bind(at)?)))
            .map_err(|error| format!("{at}: {error}"))?;
        udp.set_read_timeout(Some(WAIT)).map_err(|error| error.to_string())?;
        for (n, len) in (0_u16..).zip(LENGTHS) {
            let client = self.client(40_000 + n);
            let payload: Vec<u8> = (0..len).map(|at| (at * 31 + at / 256) as u8 ^ n as u8).collect();
            self.datagram(&mut bed, &mut balancer, &udp, client, &payload).map_err(|why| format!("{len} bytes: {why}"))?;
        }
        self.first_segment(&mut bed, &mut balancer, self.client(50_000)).map_err(|why| format!("SYN: {why}"))
    }

    /// There, and back again.
    fn datagram(
        &self,
        bed: &mut Bed,
        balancer: &mut Instance,
        socket: &UdpSocket,
        client: SocketAddr,
        payload: &[u8],
    ) -> Result<(), String> {
        let mut frame = Vec::new();
        let vip = SocketAddr::new(self.vip, PORTS[0]);
        builder(client, vip).udp(client.port(), vip.port()).write(&mut frame, payload).expect("a Vec takes everything");
        bed.send(&sent_on(balancer, &frame)?);
        let mut buffer = [0; 2048];
        let (len, from) = socket.recv_from(&mut buffer).map_err(|error| format!("the server gets nothing: {error}"))?;
        if buffer[..len] != *payload {
            return Err(format!("the server gets other bytes: {:02x?}", &buffer[..len]));
        }
        let source = if self.sources { address(BALANCER[usize::from(self.v6_real)]) } else { client.ip() };
        if from.ip() != source {
            return Err(format!("the server is asked by {from}"));
        }
        let answer: Vec<u8> = payload.iter().rev().copied().collect();
        socket.send_to(&answer, from).map_err(|error| format!("the server's answer: {error}"))?;
        let back = sent_on(balancer, &heard(bed, |frame| has_udp(frame, from.port()))?)?;
        match ends(&back)? {
            (ends, TransportSlice::Udp(udp)) if ends == [vip, client] && udp.payload() == answer => Ok(()),
            (ends, _) => Err(format!("the client gets {ends:?}: {back:02x?}")),
        }
    }

    fn first_segment(&self, bed: &mut Bed, balancer: &mut Instance, client: SocketAddr) -> Result<(), String> {
        let mut frame = Vec::new();
        let vip = SocketAddr::new(self.vip, PORTS[0]);
        let syn = builder(client, vip).tcp(client.port(), vip.port(), 77, 64_000).syn();
        syn.write(&mut frame, &[]).expect("a Vec takes everything");
        bed.send(&sent_on(balancer, &frame)?);
        let back = sent_on(balancer, &heard(bed, is_accepting)?)?;
        match ends(&back)? {
            (ends, TransportSlice::Tcp(tcp)) if ends == [vip, client] && tcp.acknowledgment_number() == 78 => Ok(()),
            (ends, _) => Err(format!("the client gets {ends:?}: {back:02x?}")),
        }
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn builder(from: SocketAddr, to: SocketAddr) -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
    let eth = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], [2, 0, 0, 0, 7, 2]);
    match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => eth.ipv4(from.octets(), to.octets(), 63),
        (IpAddr::V6(from), IpAddr::V6(to)) => eth.ipv6(from.octets(), to.octets(), 63),
        _ => unreachable!("families agree"),
    }
}

/// As the balancer sends a frame on.
fn sent_on(balancer: &mut Instance, frame: &[u8]) -> Result<Vec<u8>, String> {
    let (decision, out) = balancer.frame(frame).map_err(|error| error.to_string())?;
    if decision.action == Action::Tx { Ok(out.to_vec()) } else { Err(format!("the balancer: {decision:?} of {frame:02x?}")) }
}

/// The real's next frame of a kind, as it would be on a wire: a veth leaves the checksum of what Linux sends to a network
/// card that there is none of, and a packet socket gets half of it.
fn heard(bed: &mut Bed, is_it: impl Fn(&[u8]) -> bool) -> Result<Vec<u8>, String> {
    let kept = RefCell::new(Vec::new());
    let keep = |frame: &[u8]| {
        let found = is_it(frame);
        if found {
            *kept.borrow_mut() = frame.to_vec();
        }
        found
    };
    if !bed.hears(keep, WAIT) {
        return Err("the server's answer does not come".to_owned());
    }
    let mut frame = kept.into_inner();
    let (at, right) = checksum(&frame)?;
    frame[at..at + 2].copy_from_slice(&right.to_be_bytes());
    Ok(frame)
}

fn transport(frame: &[u8]) -> Option<TransportSlice<'_>> {
    SlicedPacket::from_ethernet(frame).ok()?.transport
}

fn has_udp(frame: &[u8], to: u16) -> bool {
    matches!(transport(frame), Some(TransportSlice::Udp(udp)) if udp.destination_port() == to && udp.source_port() == PORTS[1])
}

fn is_accepting(frame: &[u8]) -> bool {
    matches!(transport(frame), Some(TransportSlice::Tcp(tcp)) if tcp.syn() && tcp.ack())
}

/// Where the transport's checksum is, and what it has to be.
fn checksum(frame: &[u8]) -> Result<(usize, u16), String> {
    let sliced = SlicedPacket::from_ethernet(frame).map_err(|error| error.to_string())?;
    let (net, transport) = (sliced.net.ok_or("no IP")?, sliced.transport.ok_or("no transport")?);
    let wrong = |error: etherparse::err::ValueTooBigError<usize>| error.to_string();
    let sum = match (&net, &transport) {
        (NetSlice::Ipv4(ip), TransportSlice::Udp(udp)) => {
            udp.to_header().calc_checksum_ipv4(&ip.header().to_header(), udp.payload()).map_err(wrong)?
        }
        (NetSlice::Ipv6(ip), TransportSlice::Udp(udp)) => {
            udp.to_header().calc_checksum_ipv6(&ip.header().to_header(), udp.payload()).map_err(wrong)?
        }
        (NetSlice::Ipv4(ip), TransportSlice::Tcp(tcp)) => {
            tcp.to_header().calc_checksum_ipv4(&ip.header().to_header(), tcp.payload()).map_err(wrong)?
        }
        (NetSlice::Ipv6(ip), TransportSlice::Tcp(tcp)) => {
            tcp.to_header().calc_checksum_ipv6(&ip.header().to_header(), tcp.payload()).map_err(wrong)?
        }
        _ => return Err(format!("neither UDP nor TCP: {frame:02x?}")),
    };
    let header = 14 + if matches!(net, NetSlice::Ipv6(_)) { 40 } else { 20 };
    Ok((header + if matches!(transport, TransportSlice::Tcp(_)) { 16 } else { 6 }, sum))
}

/// Source and destination of a frame whose checksum is right, and its transport.
fn ends(frame: &[u8]) -> Result<([SocketAddr; 2], TransportSlice<'_>), String> {
    let (at, right) = checksum(frame)?;
    if frame[at..at + 2] != right.to_be_bytes() {
        return Err(format!("a wrong checksum, {right:04x} would be right: {frame:02x?}"));
    }
    let sliced = SlicedPacket::from_ethernet(frame).map_err(|error| error.to_string())?;
    let (net, transport) = (sliced.net.ok_or("no IP")?, sliced.transport.ok_or("no transport")?);
    let addresses: [IpAddr; 2] = match &net {
        NetSlice::Ipv4(ip) => [ip.header().source_addr().into(), ip.header().destination_addr().into()],
        NetSlice::Ipv6(ip) => [ip.header().source_addr().into(), ip.header().destination_addr().into()],
        NetSlice::Arp(_) => return Err("ARP".to_owned()),
    };
    let ports = match &transport {
        TransportSlice::Udp(udp) => [udp.source_port(), udp.destination_port()],
        TransportSlice::Tcp(tcp) => [tcp.source_port(), tcp.destination_port()],
        _ => return Err("neither UDP nor TCP".to_owned()),
    };
    Ok(([SocketAddr::new(addresses[0], ports[0]), SocketAddr::new(addresses[1], ports[1])], transport))
}
