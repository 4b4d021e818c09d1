//! `tandem run` where it cannot run: one message with cause and cure, exit status 1, and nothing left behind.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use nix::mount::{MntFlags, umount2};
use rtnetlink::packet_route::link::XdpAttached;
use tandem_backends::config::Attach;
use tandem_backends::xdp::{Companion, attach_companion};
use tandem_lab::{BPFFS, own_mounts};

use super::shell::{Answer, Balancer, Scratch, TANDEM, assert_gone, balancer_name, finish, is_privileged, tandem};
use super::wire::{NEAR, config, in_namespace};

/// What mode auto finds out first is not the topic.
const KERNEL: &str = "mode = \"xdp\"";

/// `tandem run` with this configuration, which has to be refused and leave nothing.
#[track_caller]
fn refused(text: &str, parts: &[&str]) {
    let (scratch, name) = (Scratch::new(), balancer_name());
    let file = scratch.file("t.toml", text);
    run(&name, &file).refused(1, parts);
    assert_gone(&name);
}

#[track_caller]
fn run(name: &str, config: &Path) -> Answer {
    tandem(["run".as_ref(), "--name".as_ref(), name.as_ref(), "-c".as_ref(), config.as_os_str()])
}

#[test]
fn without_privileges() {
    if !is_privileged() {
        return;
    }
    let (scratch, name) = (Scratch::new(), balancer_name());
    let file = scratch.file("t.toml", config("lo", KERNEL));
    // Where another user may execute it.
    let binary = scratch.path("tandem");
    fs::hard_link(TANDEM, &binary).or_else(|_| fs::copy(TANDEM, &binary).map(|_| ())).expect("a link or a copy");
    let mut command = Command::new(binary);
    command.uid(65534).gid(65534).args(["run", "--name", &name, "-c"]).arg(file);
    let parts = ["this needs CAP_NET_ADMIN, CAP_BPF, which this process does not have; run it as root"];
    finish(&mut command).refused(1, &parts);
    assert_gone(&name);
}

#[test]
fn no_interface_named() {
    if !is_privileged() {
        return;
    }
    let text = config("lo", KERNEL).replace("interface = \"lo\"", "");
    refused(&text, &["node.interface is not set; name the interface"]);
}

#[test]
fn no_such_interface() {
    in_namespace(|_| {
        let text = config("nosuch0", KERNEL);
        refused(&text, &["there is no interface \"nosuch0\" in this network namespace; `ip link` lists them: lo"]);
    });
}

#[test]
fn no_bpf_file_system() {
    in_namespace(|_| {
        // Mounts of this thread and its children alone.
        own_mounts().expect("private mounts");
        umount2(BPFFS, MntFlags::MNT_DETACH).expect("unmounted");
        let parts = ["/sys/fs/bpf: no BPF file system is mounted there; `mount -t bpf bpf /sys/fs/bpf`"];
        refused(&config("lo", KERNEL), &parts);
    });
}

#[test]
fn native_xdp_that_the_driver_lacks() {
    in_namespace(|links| {
        let parts = ["lo: cannot attach balancer (native): ", "; the driver has no native XDP", "node.attach = \"generic\""];
        refused(&config("lo", "mode = \"xdp\"\nattach = \"native\""), &parts);
        links.assert_bare("lo");
        let scratch = Scratch::new();
        let file = scratch.file("t.toml", config("lo", "attach = \"generic\"\nmode = \"xdp\""));
        let mut balancer = Balancer::start(&file);
        assert_eq!(links.xdp("lo").0, XdpAttached::SocketBuffer);
        assert_eq!(balancer.ask(&["mode"])["attach"], "generic");
        balancer.signal(nix::sys::signal::Signal::SIGTERM);
        balancer.end().done();
        links.assert_bare("lo");
    });
}

#[test]
fn another_program_is_attached() {
    in_namespace(|links| {
        links.veth();
        let pin = Path::new(BPFFS).join(balancer_name());
        attach_companion(Companion::Pass, NEAR, Attach::Native, &pin).expect("attached");
        let other = links.xdp(NEAR);
        let parts = ["near: cannot attach balancer (native): ", "; another XDP program is attached; `ip link show` names it"];
        let outcome = std::panic::catch_unwind(|| refused(&config(NEAR, KERNEL), &parts));
        let after = links.xdp(NEAR);
        fs::remove_file(&pin).expect("the pin");
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        assert_eq!(after, other, "the other program is not the one it was");
        assert_eq!(other.0, XdpAttached::Driver);
    });
}

#[test]
fn another_balancer_of_the_name() {
    in_namespace(|links| {
        links.veth();
        let scratch = Scratch::new();
        let first = Balancer::start(&scratch.file("t.toml", config(NEAR, "mode = \"xdp\"")));
        let attached = links.xdp(NEAR);
        let second = scratch.file("second.toml", config("lo", "mode = \"xdp\"\nattach = \"generic\""));
        let parts = ["a balancer is running already: /run/tandem/", "is locked by process", "or give this one another --name"];
        run(&first.name, &second).refused(1, &parts);
        tandem(["detach", &first.name]).refused(1, &["the balancer is running; stop it first"]);
        // The first one has noticed nothing.
        assert_eq!(first.ask(&["mode"])["mode"], "xdp");
        assert_eq!(links.xdp(NEAR), attached);
        links.assert_bare("lo");
    });
}

#[test]
fn a_second_balancer_of_the_interface() {
    in_namespace(|links| {
        links.veth();
        let scratch = Scratch::new();
        let file = scratch.file("t.toml", config(NEAR, "mode = \"xdp\""));
        let first = Balancer::start(&file);
        let (attached, name) = (links.xdp(NEAR), balancer_name());
        run(&name, &file).refused(1, &["near: cannot attach balancer (native): ", "another XDP program is attached"]);
        assert_gone(&name);
        assert_eq!(links.xdp(NEAR), attached);
        assert_eq!(first.ask(&["mode"])["interface"], NEAR);
    });
}

#[test]
fn a_core_that_is_not_there() {
    in_namespace(|links| {
        links.veth();
        let node = "mode = \"afxdp\"\ncores = [1023]";
        refused(&config(NEAR, node), &["near queue 0: cannot pin its worker to core 1023; `taskset -pc $$` lists"]);
        links.assert_bare(NEAR);
    });
}

#[test]
fn nobody_to_talk_to() {
    let name = balancer_name();
    for verb in [&["mode", "show"][..], &["mode", "set", "afxdp"], &["counters"]] {
        let words = verb.iter().copied().chain(["--name", &name]);
        tandem(words).refused(1, &[&format!("/run/tandem/{name}.sock: no balancer answers: "), "is `tandem run` running?"]);
    }
    tandem(["mode", "set", "xpd", "--name", &name]).refused(2, &["invalid value 'xpd'", "xdp, afxdp"]);
}

#[test]
fn a_name_that_is_no_name() {
    if !is_privileged() {
        return;
    }
    let scratch = Scratch::new();
    let file = scratch.file("t.toml", config("lo", KERNEL));
    for name in ["", ".", "..", "a/b", "../../etc"] {
        run(name, &file).refused(2, &["name of a balancer"]);
        tandem(["detach", name]).refused(2, &["name of a balancer"]);
    }
}
