//! Frames with a VLAN tag, made by hand, through a running balancer in both seats.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use etherparse::PacketBuilder;
use nix::libc;
use tandem_backends::config::Attach;
use tandem_backends::xdp::{Companion, attach_companion};
use tandem_lab::BPFFS;

use super::shell::{Balancer, Scratch, balancer_name};
use super::wire::{CLIENT, FAR, NEAR, VIP, config, in_namespace};

/// Priority 5, VLAN 100.
const TAG: [u8; 4] = [0x81, 0, 0xa0, 100];

/// A packet socket that sees tags as they are on the wire: the kernel takes them off, and tells of them beside the frame.
struct Tap(OwnedFd);

impl Tap {
    fn open(interface: &str) -> Self {
        let protocol = i32::from((libc::ETH_P_ALL as u16).to_be());
        // SAFETY: no pointers.
        let socket = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol) };
        assert!(socket >= 0, "a packet socket: {}", io::Error::last_os_error());
        // SAFETY: new, and nobody else's.
        let tap = Self(unsafe { OwnedFd::from_raw_fd(socket) });
        let index = nix::net::if_::if_nametoindex(interface).expect("an interface");
        // SAFETY: an address of zeros is one.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = protocol as u16;
        address.sll_ifindex = index as i32;
        let size = size_of_val(&address) as libc::socklen_t;
        // SAFETY: `address` is a sockaddr_ll of that size.
        let done = unsafe { libc::bind(socket, (&raw const address).cast(), size) };
        assert_eq!(done, 0, "bind: {}", io::Error::last_os_error());
        for option in [libc::PACKET_AUXDATA, libc::PACKET_IGNORE_OUTGOING] {
            let (on, size) = (1_i32, size_of::<i32>() as libc::socklen_t);
            // SAFETY: the value is as long as is said.
            let done = unsafe { libc::setsockopt(socket, libc::SOL_PACKET, option, (&raw const on).cast(), size) };
            assert_eq!(done, 0, "setsockopt: {}", io::Error::last_os_error());
        }
        tap
    }

    fn send(&self, frame: &[u8]) {
        // SAFETY: the buffer is as long as is said.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        assert_eq!(sent, frame.len() as isize, "{}", io::Error::last_os_error());
    }

    /// The next frame, if one comes in time, with its tag.
    fn receive(&self) -> Option<Vec<u8>> {
        let mut poll = libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one valid pollfd.
        let ready = unsafe { libc::poll(&raw mut poll, 1, 2000) };
        if ready <= 0 {
            return None;
        }
        let (mut frame, mut control) = (vec![0_u8; 4096], [0_u64; 16]);
        let mut part = libc::iovec { iov_base: frame.as_mut_ptr().cast(), iov_len: frame.len() };
        // SAFETY: a message of zeros is one.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        (message.msg_iov, message.msg_iovlen) = (&raw mut part, 1);
        (message.msg_control, message.msg_controllen) = (control.as_mut_ptr().cast(), size_of_val(&control));
        // SAFETY: both buffers are as long as is said, and live on.
        let length = unsafe { libc::recvmsg(self.0.as_raw_fd(), &raw mut message, 0) };
        frame.truncate(usize::try_from(length).ok()?);
        // SAFETY: the kernel filled the message.
        let first = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
        if !first.is_null() {
            // SAFETY: the only kind that was asked for.
            let data = unsafe { libc::CMSG_DATA(first) }.cast::<libc::tpacket_auxdata>();
            // SAFETY: it is as long as that kind says.
            let aux = unsafe { data.read_unaligned() };
            if aux.tp_status & libc::TP_STATUS_VLAN_VALID != 0 {
                let [a, b] = aux.tp_vlan_tci.to_be_bytes();
                frame.splice(12..12, [0x81, 0, a, b]);
            }
        }
        Some(frame)
    }

    /// The next frame that a test is after: others, the host's own, do not count.
    fn expect(&self, mut is: impl FnMut(&[u8]) -> bool) -> Vec<u8> {
        for _ in 0..100 {
            let Some(frame) = self.receive() else { break };
            if is(&frame) {
                return frame;
            }
        }
        panic!("nothing came");
    }
}

fn udp(payload: usize) -> Vec<u8> {
    let mut frame = Vec::new();
    let eth = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 8]);
    eth.ipv4(CLIENT.octets(), VIP.octets(), 64).udp(5000, 80).write(&mut frame, &vec![7; payload]).expect("a frame");
    frame
}

fn tagged(frame: &[u8], tag: &[u8]) -> Vec<u8> {
    [&frame[..12], tag, &frame[12..]].concat()
}

fn ping() -> Vec<u8> {
    let mut frame = Vec::new();
    let eth = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 8]);
    let ip = eth.ipv4(CLIENT.octets(), VIP.octets(), 64);
    ip.icmpv4_echo_request(1, 2).write(&mut frame, b"ping").expect("a frame");
    frame
}

#[test]
fn a_tagged_frame_keeps_its_vlan_in_both_seats() {
    in_namespace(|links| {
        links.veth();
        // XDP_TX gets to a peer with a program, or not at all.
        let pin = Path::new(BPFFS).join(balancer_name());
        attach_companion(Companion::Pass, FAR, Attach::Native, &pin).expect("attached");
        let outcome = std::panic::catch_unwind(both_seats);
        std::fs::remove_file(&pin).expect("the pin");
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

fn both_seats() {
    let scratch = Scratch::new();
    let balancer = Balancer::start(&scratch.file("t.toml", config(NEAR, "mode = \"xdp\"")));
    let (client, host) = (Tap::open(FAR), Tap::open(NEAR));
    for seat in ["xdp", "afxdp"] {
        balancer.ask(&["mode", "set", seat]);
        for payload in [4, 1400] {
            // From the balancer's MAC to the next hop, in IPIP.
            let is_sent = |frame: &[u8]| frame[6..12] == [2, 0, 0, 0, 0, 8] && frame.len() > payload + 60;
            client.send(&udp(payload));
            let plain = client.expect(is_sent);
            assert_eq!((&plain[..6], &plain[12..14]), (&[2, 0, 0, 0, 0, 9][..], &[8, 0][..]), "{seat}");
            client.send(&tagged(&udp(payload), &TAG));
            assert_eq!(client.expect(is_sent), tagged(&plain, &TAG), "{seat}: the same, in its VLAN");
        }
        client.send(&tagged(&ping(), &TAG));
        let answer = client.expect(|frame| frame[..6] == [2, 0, 0, 0, 0, 1]);
        assert_eq!((&answer[12..18], answer[38]), (&[0x81, 0, 0xa0, 100, 8, 0][..], 0), "{seat}: an echo reply in the VLAN");
        // What is the host's own, and what has two tags, gets there as it was.
        let mut other = udp(11);
        other[36..38].copy_from_slice(&[0, 81]);
        for frame in [tagged(&other, &TAG), tagged(&tagged(&other, &TAG), &[0x81, 0, 0, 7])] {
            client.send(&frame);
            let passed = host.expect(|passed| passed[..12] == frame[..12]);
            assert_eq!(passed, frame, "{seat}");
        }
        let counters = balancer.ask(&["counters"]);
        let (packets, stacked) =
            (&counters[seat]["vips"][super::wire::VIP_NAME]["packets"], &counters["xdp"]["reasons"]["vlan-stacked"]);
        assert_eq!(packets, 4, "{counters}");
        assert!(stacked.as_u64().is_some_and(|n| n >= 1), "{counters}");
        assert_eq!(counters["afxdp"]["seat"]["defect"], 0, "{counters}");
    }
    // Let the workers' last frames come home before the link goes.
    std::thread::sleep(Duration::from_millis(20));
}
