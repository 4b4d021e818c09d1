//! Capabilities that a mode takes, and what happens when nobody controls the tables any more.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use super::shell::{Answer, Balancer, Scratch, TANDEM, balancer_name, finish};
use super::wire::{NEAR, config, in_namespace, send};

pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}

/// `tandem run` without one of the capabilities.
pub fn run_without(capability: &str, name: &str, file: &Path) -> Command {
    let mut command = Command::new("setpriv");
    let less = format!("-{capability}");
    let words = ["--bounding-set", &less, "--inh-caps", &less, TANDEM, "run", "--name", name, "-c"];
    command.args(words.map(OsStr::new)).arg(file);
    command
}

#[test]
fn a_capability_that_a_mode_needs() {
    in_namespace(|links| {
        links.veth();
        let scratch = Scratch::new();
        let name = balancer_name();
        let demanded = scratch.file("afxdp.toml", config(NEAR, "mode = \"afxdp\""));
        let answer: Answer = finish(&mut run_without("net_raw", &name, &demanded));
        answer.refused(1, &["CAP_NET_RAW", "setcap", "AmbientCapabilities"]);
        links.assert_bare(NEAR);
        // Whoever does not need it goes without, and is told what it would be for.
        let auto = scratch.file("auto.toml", config(NEAR, "mode = \"auto\""));
        let balancer = Balancer::start_by(run_without("net_raw", &name, &auto), &name);
        let report = balancer.ask(&["mode"]);
        assert_eq!(report["mode"], "xdp");
        assert!(text(&report["why"]).contains("lacks CAP_NET_RAW; give it"), "{report}");
        send(5000..5010, 1);
        assert_eq!(balancer.ask(&["counters"])["xdp"]["reasons"]["forwarded"], 10);
        drop(balancer);
        let answer = finish(&mut run_without("bpf,-sys_admin", &name, &auto));
        assert_eq!(answer.status.code(), Some(1), "{answer:?}");
        assert!(answer.err.contains("CAP_BPF"), "{answer:?}");
        links.assert_bare(NEAR);
    });
}

/// A process that hangs is as good as none; one that goes on is believed again.
#[test]
fn without_control() {
    in_namespace(|links| {
        links.veth();
        let scratch = Scratch::new();
        for (policy, reason) in [("keep", "forwarded"), ("drop", "control-lost-dropped")] {
            let node = format!("mode = \"xdp\"\non_control_loss = \"{policy}\"\ncontrol_loss_after = \"1s\"");
            let balancer = Balancer::start(&scratch.file("t.toml", config(NEAR, &node)));
            let frames = |reason: &str| balancer.ask(&["counters"])["xdp"]["reasons"][reason].as_u64().expect("a number");
            send(5000..5010, 1);
            assert_eq!(frames("forwarded"), 10);
            balancer.signal(Signal::SIGSTOP);
            std::thread::sleep(Duration::from_millis(2200));
            send(5000..5010, 1);
            balancer.signal(Signal::SIGCONT);
            let expected = if policy == "keep" { 20 } else { 10 };
            assert_eq!(frames(reason), expected, "{policy}");
            send(5000..5010, 1);
            assert_eq!(frames("forwarded"), if policy == "keep" { 30 } else { 20 }, "{policy}");
        }
    });
}
