//! `tandem decap`: a real server's tunnels, taken off while it is attached and not before or after.

use std::net::UdpSocket;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;
use tandem_lab::BPFFS;

use super::shell::{Answer, balancer_name, tandem};
use super::wire::{CLIENT, NEAR, VIP, in_namespace};

/// Pins with a name of the test's own; they go with the value.
struct Pins(String);

impl Pins {
    #[track_caller]
    fn ask(&self, verb: &str, more: &[&str]) -> Answer {
        tandem([&["decap", verb, NEAR, "--name", &self.0], more].concat())
    }

    fn count(&self, counter: &str) -> u64 {
        let shown: Value = serde_json::from_str(&self.ask("show", &["--json"]).done().out).expect("JSON");
        shown[counter].as_u64().unwrap_or_else(|| panic!("no {counter}: {shown}"))
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        // Not by `tandem()`, which asserts: this may be while a failed test unwinds.
        let _ =
            std::process::Command::new(env!("CARGO_BIN_EXE_tandem")).args(["decap", "detach", NEAR, "--name", &self.0]).output();
    }
}

/// Sends an IPv4 packet inside UDP: FOU, without its sender knowing.
fn send_tunnelled() {
    let mut packet = Vec::new();
    let inner = etherparse::PacketBuilder::ipv4([192, 0, 2, 1], [10, 200, 1, 1], 63).udp(5000, 80);
    inner.write(&mut packet, b"inside").expect("a Vec takes everything");
    let socket = UdpSocket::bind((CLIENT, 0)).expect("a client");
    socket.send_to(&packet, (VIP, 5555)).expect("sent");
}

#[test]
fn attached_shown_and_detached() {
    in_namespace(|links| {
        links.veth();
        let pins = Pins(balancer_name());
        let directory = Path::new(BPFFS).join("tandem-decap").join(&pins.0);
        pins.ask("show", &[]).refused(1, &["cannot read the counters", "tandem decap attach"]);
        pins.ask("attach", &["--gue-port", "9886"]).done();
        assert!(directory.join("link").exists());
        send_tunnelled();
        let until = Instant::now() + Duration::from_secs(10);
        while pins.count("fou") == 0 && Instant::now() < until {}
        assert_eq!((pins.count("fou"), pins.count("decapsulated"), pins.count("inner-v4")), (1, 1, 1));
        pins.ask("attach", &[]).refused(1, &["something is pinned there already", "tandem decap detach"]);
        pins.ask("attach", &["--gue-port", "0"]).refused(2, &["--gue-port"]);
        assert!(pins.ask("detach", &[]).done().out.contains("not taken off any more"));
        assert!(!directory.exists(), "pins are left");
        assert!(pins.ask("detach", &[]).done().out.contains("nothing is pinned"));
    });
}
