//! What the tests share.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::Path,
    time::Duration,
};

use tandem_lab::{Host, Lab, Topology};

/// May this test make namespaces? If not, says so; with `TANDEM_REQUIRE_KERNEL=1` that is a failure.
pub fn permitted() -> bool {
    match tandem_lab::check_permitted() {
        Ok(()) => true,
        Err(why) => {
            assert!(std::env::var_os("TANDEM_REQUIRE_KERNEL").is_none_or(|v| v != "1"), "{why}");
            eprintln!("skipped: {why}");
            false
        }
    }
}

/// Panics unless nothing is left of a lab.
pub fn assert_gone(topology: &Topology) {
    for namespace in topology.namespaces() {
        let path = Path::new("/run/netns").join(&namespace);
        assert!(!path.exists(), "{} is left", path.display());
    }
    let prefix = &topology.spec.prefix;
    let state = Path::new("/run/tandem-lab").join(prefix);
    assert!(!state.exists(), "{} is left", state.display());
    let mark = format!("{}={prefix}\0", tandem_lab::MARKER);
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        let marked = environment.windows(mark.len()).any(|part| part == mark.as_bytes());
        assert!(!marked, "process {} is left", entry.path().display());
    }
}

/// A TCP connection from the client to `at` in the namespace of `host`, with something said in both directions, and a
/// UDP datagram there and back.
#[allow(dead_code, reason = "not every test file talks")]
pub fn assert_talks(lab: &Lab, host: Host, at: IpAddr) {
    let (tcp, udp) = lab
        .enter(host, || {
            let udp = UdpSocket::bind((at, 0)).unwrap();
            udp.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            (TcpListener::bind((at, 0)).unwrap(), udp)
        })
        .unwrap();
    let (to_tcp, to_udp) = (tcp.local_addr().unwrap(), udp.local_addr().unwrap());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut stream, _) = tcp.accept().unwrap();
            let mut question = [0; 4];
            stream.read_exact(&mut question).unwrap();
            stream.write_all(&question).unwrap();
        });
        scope.spawn(|| {
            let mut question = [0; 1400];
            let (len, from) = udp.recv_from(&mut question).unwrap();
            udp.send_to(&question[..len], from).unwrap();
        });
        lab.enter(Host::Client, || ask(to_tcp, to_udp)).unwrap();
    });
}

#[allow(dead_code, reason = "not every test file talks")]
fn ask(tcp: SocketAddr, udp: SocketAddr) {
    let mut stream = TcpStream::connect_timeout(&tcp, Duration::from_secs(5)).unwrap_or_else(|e| panic!("{tcp}: {e}"));
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream.write_all(b"ping").unwrap();
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"ping");
    let any: IpAddr = if udp.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let socket = UdpSocket::bind((any, 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket.send_to(&[7; 1400], udp).unwrap();
    let mut answer = [0; 1500];
    assert_eq!(socket.recv_from(&mut answer).unwrap(), (1400, udp));
}
