//! Several XDP programs on one interface: the order of the slots, who may enter them, and that nothing is left in them.

use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use rtnetlink::packet_route::link::XdpAttached;
use serde_json::{Value, json};
use tandem_lab::BPFFS;

use super::shell::{Answer, Balancer, Scratch, assert_gone, balancer_name, tandem};
use super::wire::{FAR, NEAR, VIP_NAME, config, in_namespace, send};

const KERNEL: &str = "mode = \"xdp\"";

/// A root's array at a place of the test's own; it goes with the value.
struct Root {
    interface: &'static str,
    pin: PathBuf,
}

impl Root {
    fn attach(interface: &'static str) -> Self {
        let root = Self { interface, pin: Path::new(BPFFS).join(balancer_name()) };
        root.ask("attach", &[]).done();
        root
    }

    fn pin(&self) -> &str {
        self.pin.to_str().expect("plain text")
    }

    #[track_caller]
    fn ask(&self, verb: &str, more: &[&str]) -> Answer {
        tandem([&["root", verb, self.interface, "--pin", self.pin()], more].concat())
    }

    /// What `root show` says of a slot.
    #[track_caller]
    fn slot(&self, slot: usize) -> Value {
        let shown: Value = serde_json::from_str(&self.ask("show", &["--json"]).done().out).expect("JSON");
        assert_eq!(shown.as_array().map(Vec::len), Some(4));
        shown[slot].clone()
    }

    fn options<'a>(&'a self, slot: &'a str) -> [&'a str; 4] {
        ["--xdp-root", self.pin(), "--xdp-slot", slot]
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        // Not by `tandem()`, which asserts: this may be while a failed test unwinds.
        let _ = std::process::Command::new(env!("CARGO_BIN_EXE_tandem"))
            .args(["root", "detach", self.interface, "--pin", self.pin()])
            .output();
    }
}

#[track_caller]
fn count(balancer: &Balancer, counter: &str) -> u64 {
    let counters: Value = balancer.ask(&["counters"]);
    counters["xdp"]["vips"][VIP_NAME][counter].as_u64().unwrap_or_else(|| panic!("{counters}"))
}

#[test]
fn the_first_slot_sees_each_frame_before_the_balancer() {
    in_namespace(|links| {
        links.veth();
        let scratch = Scratch::new();
        let root = Root::attach(NEAR);
        let attached = links.xdp(NEAR);
        assert_eq!(attached.0, XdpAttached::Driver);
        root.ask("tap", &[]).done();
        let file = scratch.file("t.toml", config(NEAR, KERNEL));
        let mut balancer = Balancer::start_as(&balancer_name(), &file, &root.options("2"));
        assert_eq!(links.xdp(NEAR), attached, "the root is what is attached");
        let before = root.slot(0)["frames"].as_u64().expect("a tap");
        send(5000..5010, 2);
        assert_eq!((count(&balancer, "packets"), count(&balancer, "ring")), (20, 10));
        let seen = root.slot(0)["frames"].as_u64().expect("a tap") - before;
        assert!(seen >= 20, "{seen} frames before the balancer");
        assert_eq!((&root.slot(1)["program"], &root.slot(2)["name"]), (&Value::Null, &"balancer".into()));
        balancer.signal(Signal::SIGTERM);
        balancer.end().done();
        assert_gone(&balancer.name);
        assert_eq!(root.slot(2), json!({"slot": 2, "program": null, "name": null, "frames": null}));
        assert_eq!(root.slot(0)["name"], "tap");
        root.ask("detach", &[]).done();
        links.assert_bare(NEAR);
        assert!(!root.pin.exists());
    });
}

#[test]
fn a_killed_one_stays_in_its_slot_and_is_taken_over() {
    in_namespace(|links| {
        links.veth();
        let scratch = Scratch::new();
        let root = Root::attach(NEAR);
        let file = scratch.file("t.toml", config(NEAR, KERNEL));
        let mut first = Balancer::start_as(&balancer_name(), &file, &root.options("3"));
        send(5000..5010, 1);
        first.signal(Signal::SIGKILL);
        first.end();
        let left = root.slot(3)["program"].clone();
        assert!(left.is_u64(), "{left}");
        send(5000..5010, 1);
        let second = Balancer::start_as(&first.name, &file, &root.options("3"));
        assert_ne!(root.slot(3)["program"], left, "it is still the old program");
        send(5000..5010, 1);
        assert_eq!((count(&second, "packets"), count(&second, "ring")), (30, 10), "a flow was lost");
        second.signal(Signal::SIGKILL);
        drop(second);
        assert_gone(&first.name);
        assert_eq!(root.slot(3)["program"], Value::Null, "`detach` leaves the slot as it was");
    });
}

#[test]
fn what_cannot_be_entered_is_refused() {
    in_namespace(|links| {
        links.veth();
        let scratch = Scratch::new();
        let file = scratch.file("t.toml", config(NEAR, KERNEL));
        let name = balancer_name();
        let run = |options: &[&str]| {
            let file = file.to_str().expect("plain text");
            tandem([&["run", "--name", &name, "-c", file], options].concat())
        };
        let nothing = Path::new(BPFFS).join("nothing-of-tandem");
        run(&["--xdp-root", nothing.to_str().expect("plain text"), "--xdp-slot", "2"])
            .refused(1, &["nothing-of-tandem: slot 2: nothing is pinned there; ", "`tandem root attach`"]);
        assert_eq!(run(&["--xdp-slot", "2"]).status.code(), Some(2));

        let other = Root::attach(FAR);
        run(&other.options("2")).refused(1, &["slot 2: no XDP program is attached to near", "`tandem root attach`"]);
        let root = Root::attach(NEAR);
        run(&root.options("4")).refused(1, &["slot 4: the array has slots 0 to 3"]);
        run(&other.options("2")).refused(1, &["the XDP program on near (number ", "does not call this array"]);
        root.ask("tap", &["--slot", "2"]).done();
        run(&root.options("2")).refused(1, &["slot 2: another program (number ", "name another slot"]);
        // Without a slot it would have to be attached where the root is.
        run(&[]).refused(1, &["near: cannot attach balancer (native): ", "another XDP program is attached"]);
        root.ask("attach", &[]).refused(1, &["something is pinned there already", "`tandem root detach`"]);
        assert_eq!(root.slot(2)["name"], "tap", "a refused balancer changed the slot");
        assert_gone(&name);
    });
}

#[test]
fn what_was_left_in_another_way_is_not_taken_over() {
    in_namespace(|links| {
        links.veth();
        let scratch = Scratch::new();
        let root = Root::attach(NEAR);
        let file = scratch.file("t.toml", config(NEAR, KERNEL));
        let mut first = Balancer::start_as(&balancer_name(), &file, &root.options("1"));
        first.signal(Signal::SIGKILL);
        first.end();
        let run = |options: &[&str]| {
            let file = file.to_str().expect("plain text");
            tandem([&["run", "--name", &first.name, "-c", file], options].concat())
        };
        run(&root.options("2")).refused(1, &["slot 2: a balancer before was left in another slot", "`tandem detach`"]);
        run(&[]).refused(1, &["a balancer before was left in a slot of a root", "`tandem detach`"]);
        assert_eq!(root.slot(1)["name"], "balancer", "what was left is gone");
    });
}
