//! A balancer from its start to its end: however it ends, the host is as it was, or the next one takes over.

use std::time::Duration;

use nix::sys::signal::Signal;
use rtnetlink::packet_route::link::XdpAttached;
use serde_json::Value;
use tandem_backends::run::Paths;

use super::shell::{Balancer, Scratch, assert_gone, balancer_name, tandem, was_ended_by};
use super::wire::{FAR, NEAR, VIP_NAME, config, in_namespace, send};

const KERNEL: &str = "mode = \"xdp\"";

/// One counter of the VIP in the kernel seat.
#[track_caller]
fn count(balancer: &Balancer, counter: &str) -> u64 {
    let counters: Value = balancer.ask(&["counters"]);
    counters["xdp"]["vips"][VIP_NAME][counter].as_u64().unwrap_or_else(|| panic!("{counters}"))
}

#[test]
fn a_signal_ends_it_and_nothing_is_left() {
    in_namespace(|links| {
        links.veth();
        let scratch = Scratch::new();
        for (signal, node) in [(Signal::SIGINT, KERNEL), (Signal::SIGTERM, KERNEL), (Signal::SIGTERM, "mode = \"afxdp\"")] {
            let mut balancer = Balancer::start(&scratch.file("t.toml", config(NEAR, node)));
            let paths = Paths::of(&balancer.name);
            assert!(paths.pins.join("link").exists() && paths.socket.exists());
            assert_eq!(links.xdp(NEAR).0, XdpAttached::Driver);
            balancer.signal(signal);
            balancer.end().done();
            assert_gone(&balancer.name);
            links.assert_bare(NEAR);
        }
    });
}

#[test]
fn the_interface_vanishes() {
    in_namespace(|links| {
        for (node, mode) in [(KERNEL, "xdp"), ("mode = \"afxdp\"", "afxdp")] {
            links.veth();
            let scratch = Scratch::new();
            let mut balancer = Balancer::start(&scratch.file("t.toml", config(NEAR, node)));
            assert_eq!(balancer.ask(&["mode"])["mode"], mode);
            links.delete(FAR);
            let parts = ["near: the interface vanished while the balancer was running", "Start again when it is back"];
            balancer.end().refused(1, &parts);
            assert_gone(&balancer.name);
        }
    });
}

#[test]
fn a_killed_one_is_taken_over_with_its_flows() {
    in_namespace(|links| {
        links.veth();
        let scratch = Scratch::new();
        let file = scratch.file("t.toml", config(NEAR, KERNEL));
        let mut first = Balancer::start(&file);
        send(5000..5010, 4);
        assert_eq!((count(&first, "packets"), count(&first, "ring")), (40, 10));
        let before = links.xdp(NEAR);
        first.signal(Signal::SIGKILL);
        assert!(was_ended_by(first.end().status, Signal::SIGKILL));
        // Without a process, the kernel goes on forwarding.
        assert!(Paths::of(&first.name).pins.join("link").exists());
        assert_eq!(links.xdp(NEAR), before);
        send(5000..5010, 1);

        let mut second = Balancer::start_as(&first.name, &file, &[]);
        let log = second.log();
        for part in ["taking over the tables", "took the place of the program that was attached"] {
            assert!(log.contains(part), "no {part:?} in {log}");
        }
        assert_eq!(links.xdp(NEAR).0, XdpAttached::Driver);
        assert_ne!(links.xdp(NEAR).1, before.1, "it is still the old program");
        send(5000..5010, 1);
        assert_eq!((count(&second, "packets"), count(&second, "ring")), (60, 10), "a flow was lost");
        send(6000..6001, 1);
        assert_eq!(count(&second, "ring"), 11, "a new flow is no old one");
        second.signal(Signal::SIGTERM);
        second.end().done();
        assert_gone(&second.name);
        links.assert_bare(NEAR);
    });
}

#[test]
fn a_killed_one_can_be_detached() {
    in_namespace(|links| {
        links.veth();
        let scratch = Scratch::new();
        // In mode afxdp the workers go with the process; until it is detached the kernel serves their queues.
        let mut balancer = Balancer::start(&scratch.file("t.toml", config(NEAR, "mode = \"afxdp\"")));
        let name = balancer.name.clone();
        balancer.signal(Signal::SIGKILL);
        balancer.end();
        assert_eq!(links.xdp(NEAR).0, XdpAttached::Driver);
        let answer = tandem(["detach", &name]).done();
        assert_eq!(answer.out, format!("{name}: detached, pins removed\n"));
        links.assert_bare(NEAR);
        assert!(!Paths::of(&name).pins.exists());
        let answer = tandem(["detach", &name]).done();
        assert!(answer.out.contains("nothing is left of it"), "{answer:?}");
        assert_gone(&name);
    });
}

#[test]
fn left_attached_on_request() {
    in_namespace(|links| {
        links.veth();
        let scratch = Scratch::new();
        let file = scratch.file("t.toml", config(NEAR, "mode = \"afxdp\""));
        let mut first = Balancer::start_as(&balancer_name(), &file, &["--leave-attached"]);
        first.signal(Signal::SIGTERM);
        let answer = first.end().done();
        assert!(answer.err.contains("left attached; the next run takes over"), "{answer:?}");
        let paths = Paths::of(&first.name);
        assert!(paths.pins.join("link").exists() && !paths.socket.exists());
        assert_eq!(links.xdp(NEAR).0, XdpAttached::Driver);
        send(5000..5010, 2);

        let mut second = Balancer::start_as(&first.name, &file, &["--leave-attached"]);
        assert_eq!((count(&second, "packets"), count(&second, "ring")), (20, 10), "the kernel did not forward alone");
        second.signal(Signal::SIGINT);
        second.end().done();
        tandem(["detach", &first.name]).done();
        assert_gone(&first.name);
        links.assert_bare(NEAR);
    });
}

#[test]
fn an_interface_that_came_back_is_attached_anew() {
    in_namespace(|links| {
        links.veth();
        let scratch = Scratch::new();
        let file = scratch.file("t.toml", config(NEAR, KERNEL));
        let mut first = Balancer::start(&file);
        first.signal(Signal::SIGKILL);
        first.end();
        links.delete(NEAR);
        links.veth();
        links.assert_bare(NEAR);
        let second = Balancer::start_as(&first.name, &file, &[]);
        assert_eq!(links.xdp(NEAR).0, XdpAttached::Driver);
        send(5000..5001, 3);
        assert_eq!(count(&second, "packets"), 3);
    });
}

#[test]
fn what_is_left_on_another_interface_is_not_taken_for_this_one() {
    in_namespace(|links| {
        links.veth();
        let scratch = Scratch::new();
        let mut first = Balancer::start(&scratch.file("t.toml", config(NEAR, KERNEL)));
        first.signal(Signal::SIGKILL);
        first.end();
        let left = links.xdp(NEAR);
        let other = scratch.file("other.toml", config(FAR, KERNEL));
        let answer = tandem(["run".as_ref(), "--name".as_ref(), first.name.as_ref(), "-c".as_ref(), other.as_os_str()]);
        answer.refused(1, &[&first.name, "another interface", "`tandem detach"]);
        links.assert_bare(FAR);
        assert_eq!(links.xdp(NEAR), left, "what was left has changed");
    });
}

#[test]
fn what_is_left_in_another_mode_is_attached_anew() {
    in_namespace(|links| {
        links.veth();
        let scratch = Scratch::new();
        let generic = scratch.file("t.toml", config(NEAR, "attach = \"generic\"\nmode = \"xdp\""));
        let mut first = Balancer::start(&generic);
        send(5000..5010, 1);
        first.signal(Signal::SIGKILL);
        first.end();
        assert_eq!(links.xdp(NEAR).0, XdpAttached::SocketBuffer);
        let native = scratch.file("native.toml", config(NEAR, KERNEL));
        let second = Balancer::start_as(&first.name, &native, &[]);
        assert_eq!(links.xdp(NEAR).0, XdpAttached::Driver, "native was asked for");
        assert!(second.log().contains("attaching it anew"), "{}", second.log());
        send(5000..5010, 1);
        assert_eq!((count(&second, "packets"), count(&second, "ring")), (20, 10), "a flow was lost");
    });
}

#[test]
fn the_mode_is_switched_while_it_runs() {
    in_namespace(|links| {
        links.veth();
        let scratch = Scratch::new();
        let balancer = Balancer::start(&scratch.file("t.toml", config(NEAR, KERNEL)));
        let seen = |seat: &str| {
            let counters = balancer.ask(&["counters"]);
            counters[seat]["vips"][VIP_NAME]["packets"].as_u64().unwrap_or_else(|| panic!("{counters}"))
        };
        send(5000..5010, 1);
        assert_eq!(balancer.ask(&["mode", "set", "afxdp"])["mode"], "afxdp");
        send(5000..5010, 1);
        let end = std::time::Instant::now() + Duration::from_secs(10);
        while seen("afxdp") < 10 && std::time::Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!((seen("xdp"), seen("afxdp")), (10, 10));
        assert_eq!(balancer.ask(&["mode", "set", "xdp"])["mode"], "xdp");
        send(5000..5010, 1);
        assert_eq!((seen("xdp"), seen("afxdp")), (20, 10));
        let counters = balancer.ask(&["counters"]);
        assert_eq!(counters["xdp"]["vips"][VIP_NAME]["ring"], 10);
        assert_eq!(counters["afxdp"]["vips"][VIP_NAME]["ring"], 0, "the flows are not shared");
        assert_eq!(counters["afxdp"]["seat"]["defect"], 0);
    });
}

/// An interface with the usual MTU, and full frames that get an outer header: said, with the cure, not lost in silence.
#[test]
fn frames_that_will_not_fit_are_warned_of() {
    in_namespace(|links| {
        links.veth();
        let scratch = Scratch::new();
        let balancer = Balancer::start(&scratch.file("t.toml", config(NEAR, "mode = \"xdp\"")));
        let log = balancer.log();
        for part in ["has MTU 1500", "need 1520 with 20 bytes", "mtu 1520", "tunnel.max_frame = 1494"] {
            assert!(log.contains(part), "no {part:?} in {log}");
        }
        drop(balancer);
        let small = config(NEAR, "mode = \"xdp\"").replace("[tunnel]\n", "[tunnel]\nmax_frame = 1494\n");
        let balancer = Balancer::start(&scratch.file("small.toml", small));
        assert!(!balancer.log().contains("has MTU"), "{}", balancer.log());
    });
}
