//! Another configuration for a running balancer: all of it or nothing, and no flow notices.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use super::shell::{Balancer, Scratch, tandem};
use super::wire::{NEAR, VIP_NAME, config, in_namespace, send};

const KERNEL: &str = "mode = \"xdp\"";
/// Another VIP, which takes a feature that the first program was not loaded for.
const QUIC: &str = "[[vip]]\naddress = \"192.0.2.101\"\nport = 443\nprotocol = \"udp\"\nflags = [\"quic\"]\nencap = \"gue\"\n\
                    real = [{ address = \"10.0.0.3\" }]\n";

fn vips(balancer: &Balancer) -> Vec<String> {
    let counters = balancer.ask(&["counters"]);
    counters["xdp"]["vips"].as_object().expect("VIPs").keys().cloned().collect()
}

fn count(balancer: &Balancer, counter: &str) -> u64 {
    let counters: Value = balancer.ask(&["counters"]);
    counters["xdp"]["vips"][VIP_NAME][counter].as_u64().unwrap_or_else(|| panic!("{counters}"))
}

#[track_caller]
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < end, "{what}: not within 20 s");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn by_command_and_by_signal() {
    in_namespace(|links| {
        links.veth();
        let scratch = Scratch::new();
        let first = config(NEAR, KERNEL);
        let file = scratch.file("t.toml", &first);
        let balancer = Balancer::start(&file);
        send(5000..5010, 1);
        let before = links.xdp(NEAR);
        scratch.file("t.toml", format!("{first}{QUIC}"));
        balancer.ask(&["reload"]);
        assert_eq!(vips(&balancer), ["192.0.2.100:80/udp", "192.0.2.101:443/udp"]);
        // What it uses takes another program, in the place of the first.
        assert_eq!(links.xdp(NEAR).0, before.0);
        assert_ne!(links.xdp(NEAR).1, before.1, "it is still the old program");
        send(5000..5010, 1);
        assert_eq!((count(&balancer, "packets"), count(&balancer, "ring")), (20, 10), "a flow was lost");
        scratch.file("t.toml", &first);
        balancer.signal(Signal::SIGHUP);
        until("the VIP goes", || vips(&balancer) == ["192.0.2.100:80/udp"]);
        send(5000..5010, 1);
        assert_eq!((count(&balancer, "packets"), count(&balancer, "ring")), (30, 10), "a flow was lost");
    });
}

/// The file is written in place, or replaced, or a link to it leads elsewhere.
#[test]
fn by_the_file_itself() {
    in_namespace(|links| {
        links.veth();
        let scratch = Scratch::new();
        let (one, two) = (config(NEAR, KERNEL), format!("{}{QUIC}", config(NEAR, KERNEL)));
        scratch.file("one.toml", &one);
        let file = scratch.path("t.toml");
        std::os::unix::fs::symlink("one.toml", &file).expect("a link");
        let balancer = Balancer::start(&file);
        scratch.file("one.toml", &two);
        until("it is written in place", || vips(&balancer).len() == 2);
        std::fs::rename(scratch.file("new", &one), scratch.path("one.toml")).expect("the same directory");
        until("it is replaced", || vips(&balancer).len() == 1);
        scratch.file("two.toml", &two);
        std::os::unix::fs::symlink("two.toml", scratch.path("link")).expect("a link");
        std::fs::rename(scratch.path("link"), &file).expect("the same directory");
        until("the link leads elsewhere", || vips(&balancer).len() == 2);
        scratch.file("two.toml", "[node");
        until("the refusal is logged", || balancer.log().contains("the configuration stays as it was"));
        assert_eq!(vips(&balancer).len(), 2);
    });
}

/// A file with a mistake, one that takes a restart, and one with a real that the tables cannot hold: nothing changes.
#[test]
fn a_bad_one_changes_nothing() {
    in_namespace(|links| {
        links.veth();
        let scratch = Scratch::new();
        let first = config(NEAR, KERNEL);
        let balancer = Balancer::start(&scratch.file("t.toml", &first));
        let before = links.xdp(NEAR);
        let large = format!("{first}{}", QUIC.replace("encap = \"gue\"", "ring_size = 1_000_003\n"));
        let many = (1..130).fold(first.clone(), |text, n| {
            // With a real of its own: VIPs with the same reals share a ring.
            let vip = QUIC.replace("192.0.2.101", &format!("192.0.2.{}", 101 + n)).replace("10.0.0.3", &format!("10.0.1.{n}"));
            text + &vip.replace("encap = \"gue\"", "ring_size = 1_000_003")
        });
        let bad = [
            (first.replace("[tunnel]", "[tunel]"), "tunel"),
            (first.replace("capacity = 10_000", "capacity = 20_000"), "flows.capacity"),
            (first.replace(KERNEL, "profile = \"katran\""), "node.profile"),
            (many, "does not fit into the ring memory"),
        ];
        for (text, why) in bad {
            scratch.file("t.toml", text);
            let answer = tandem(["reload", "--name", &balancer.name]);
            answer.refused(1, &[why]);
            balancer.signal(Signal::SIGHUP);
            until("the refusal is logged", || balancer.log().contains("the configuration stays as it was"));
            assert_eq!(vips(&balancer), [VIP_NAME]);
            assert_eq!(links.xdp(NEAR), before, "another program");
        }
        scratch.file("t.toml", large);
        balancer.ask(&["reload"]);
        assert_eq!(vips(&balancer).len(), 2);
    });
}
