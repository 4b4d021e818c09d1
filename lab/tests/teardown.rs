//! Nothing is left of a lab, however it ends. Each test has a prefix of its own.

mod support;

use std::{
    env,
    io::{BufRead, BufReader},
    net::IpAddr,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use support::{assert_gone, permitted};
use tandem_lab::{Host, Interrupt, Lab, LabError, ProcessId, Spec, Topology, ensure_bpffs};

fn vips() -> [IpAddr; 2] {
    [[10, 200, 1, 1].into(), [0xfc00, 0x200, 0, 0, 0, 0, 0, 1].into()]
}

fn sleeper() -> Command {
    let mut command = Command::new("sleep");
    command.arg("600");
    command
}

#[test]
fn a_panic_leaves_nothing() {
    if !permitted() {
        return;
    }
    let spec = Spec::routed("t-panic", &vips());
    let topology = Topology::new(spec.clone()).unwrap();
    let result = std::panic::catch_unwind(|| {
        let lab = Lab::up(spec).unwrap();
        let sleeper = lab.spawn(Host::Real(1), sleeper()).unwrap();
        assert!(sleeper.alive() && Path::new("/run/netns/t-panic-lb").exists());
        lab.enter(Host::Client, || panic!("in the client")).unwrap();
    });
    assert_eq!(result.unwrap_err().downcast_ref(), Some(&"in the client"));
    assert_gone(&topology);
}

#[test]
fn a_lab_that_cannot_be_finished_leaves_nothing() {
    if !permitted() {
        return;
    }
    // Somebody takes the name of the last namespace while the first ones are made.
    let spec = Spec { reals: 40, ..Spec::routed("t-half", &vips()) };
    let topology = Topology::new(spec.clone()).unwrap();
    let obstacle = std::thread::spawn(|| {
        let until = Instant::now() + Duration::from_secs(10);
        while !Path::new("/run/netns/t-half-router").exists() && Instant::now() < until {
            std::thread::yield_now();
        }
        std::fs::File::create_new("/run/netns/t-half-real40").unwrap();
    });
    let error = Lab::up(spec).unwrap_err();
    obstacle.join().unwrap();
    assert!(matches!(&error, LabError::Namespace { namespace, .. } if namespace == "t-half-real40"), "{error}");
    assert_gone(&topology);
}

#[test]
fn a_process_ends_with_its_value_and_with_its_lab() {
    if !permitted() {
        return;
    }
    let lab = Lab::up(Spec::routed("t-process", &vips())).unwrap();
    let topology = lab.topology().clone();
    let mut short = Command::new("sh");
    short.args(["-c", "echo said; echo cried >&2; exit 3"]);
    let mut short = lab.spawn(Host::Client, short).unwrap();
    assert_eq!(short.wait().unwrap().code(), Some(3));
    assert_eq!(short.last_words(), "said\ncried");
    // Ignores SIGTERM, and has a child that does.
    let mut deaf = Command::new("sh");
    deaf.args(["-c", "trap '' TERM; echo ready; sleep 600 & wait; sleep 600"]);
    let deaf = lab.spawn(Host::Real(1), deaf).unwrap();
    let until = Instant::now() + Duration::from_secs(5);
    while deaf.last_words() != "ready" && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!((deaf.name(), deaf.last_words().as_str()), ("real1-sh", "ready"));
    let pid = deaf.pid();
    drop(deaf);
    assert!(!Path::new("/proc").join(pid.to_string()).exists());
    let second = lab.spawn(Host::Real(1), sleeper()).unwrap();
    let third = lab.spawn(Host::Real(1), sleeper()).unwrap();
    assert_eq!((second.name(), third.name()), ("real1-sleep", "real1-sleep-2"));
    let missing = lab.spawn(Host::Real(1), Command::new("no-such-program")).unwrap_err();
    assert!(missing.to_string().contains("no-such-program in t-process-real1"), "{missing}");
    // The lab goes before the values do.
    let removed = lab.tear_down().unwrap();
    assert_eq!(removed.processes, ["real1-sleep", "real1-sleep-2"]);
    assert!(!second.alive() && !third.alive());
    drop((second, third, short));
    assert_gone(&topology);
}

/// A child that starts the test program again for one test, which then holds a lab: the child, and the process that it
/// started in the lab.
fn hold(test: &str) -> (Child, ProcessId) {
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env("TANDEM_LAB_TEST_HOLD", "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.starts_with("holding ") {
        line.clear();
        assert_ne!(said.read_line(&mut line).unwrap(), 0, "the child holds a lab");
    }
    // Kept open: it says more at its end.
    child.stdout = Some(said.into_inner());
    let sleeper = line["holding ".len()..].trim().parse().unwrap();
    (child, ProcessId::of(sleeper).unwrap())
}

/// In the child: a lab with a process, until a signal comes.
fn held(spec: Spec) {
    let interrupt = Interrupt::catch().unwrap();
    let lab = Lab::up(spec).unwrap();
    let process = lab.spawn(Host::Real(1), sleeper()).unwrap();
    println!("\nholding {}", process.pid());
    assert!(interrupt.wait(Duration::from_secs(60)), "no signal came");
    assert_eq!(interrupt.raised(), Some(2));
}

fn is_held() -> bool {
    env::var_os("TANDEM_LAB_TEST_HOLD").is_some()
}

#[test]
fn what_a_killed_process_left_is_removed() {
    if !permitted() {
        return;
    }
    let spec = Spec::classic("t-killed");
    if is_held() {
        return held(spec);
    }
    let topology = Topology::new(spec).unwrap();
    let (mut child, sleeper) = hold("what_a_killed_process_left_is_removed");
    assert!(matches!(Lab::down("t-killed"), Err(LabError::InUse { pid, .. }) if pid == child.id()));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(sleeper.alive());
    assert!(!Lab::status("t-killed").unwrap().owner_alive);
    let error = Lab::up(topology.spec.clone()).unwrap_err().to_string();
    assert!(error.contains("which has ended") && error.contains("tandem lab down --prefix t-killed"), "{error}");
    let removed = Lab::down("t-killed").unwrap();
    assert_eq!((removed.namespaces.len(), removed.processes.as_slice()), (6, &["real1-sleep".to_owned()][..]));
    assert!(!sleeper.alive());
    assert_gone(&topology);
}

#[test]
fn an_interrupt_leaves_nothing() {
    if !permitted() {
        return;
    }
    let spec = Spec::routed("t-interrupt", &vips());
    if is_held() {
        return held(spec);
    }
    let topology = Topology::new(spec).unwrap();
    let (mut child, sleeper) = hold("an_interrupt_leaves_nothing");
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(!sleeper.alive());
    assert_gone(&topology);
}

#[test]
fn a_bpf_file_system_is_mounted_once_and_goes_when_nothing_is_pinned() {
    if !permitted() {
        return;
    }
    let mut lab = Lab::up(Spec::routed("t-bpffs", &vips())).unwrap();
    let topology = lab.topology().clone();
    let path = lab.directory().join("bpf");
    let found = |mounts: &Path| {
        let mounts = std::fs::read_to_string(mounts).unwrap();
        mounts.lines().filter(|line| line.contains("t-bpffs/bpf bpf ")).count()
    };
    let mounts = Path::new("/proc/mounts");
    assert!(lab.ensure_bpffs(&path).unwrap().mounted_here());
    let again = ensure_bpffs(&path).unwrap();
    assert!(!again.mounted_here() && !again.undo().unwrap());
    assert_eq!(found(mounts), 1);
    assert_eq!(lab.tear_down().unwrap().bpffs, Some(path.clone()));
    assert_eq!(found(mounts), 0);
    assert_gone(&topology);

    let path = env::temp_dir().join("tandem-lab-t-bpffs").join("bpf");
    let mounted = ensure_bpffs(&path).unwrap();
    std::fs::create_dir(path.join("pins")).unwrap();
    assert!(!mounted.undo().unwrap(), "something is in it");
    std::fs::remove_dir(path.join("pins")).unwrap();
    assert_eq!(found(mounts), 1);
    nix::mount::umount(&path).unwrap();
    assert!(ensure_bpffs(&path).unwrap().undo().unwrap());
    assert_eq!(found(mounts), 0);
    std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
}

#[test]
fn what_programs_make_outside_goes_with_the_lab() {
    if !permitted() {
        return;
    }
    let base = env::temp_dir().join(format!("t-outside-{}", std::process::id()));
    let (alone, shared) = (base.join("alone"), base.join("shared"));
    let (pins, socket, others) = (alone.join("pins"), shared.join("a.sock"), shared.join("b.sock"));
    let mut lab = Lab::up(Spec::routed("t-outside", &vips())).unwrap();
    let never = base.join("never-made");
    lab.remove_with_it([pins.clone(), socket.clone(), never]).unwrap();
    std::fs::create_dir_all(&pins).unwrap();
    std::fs::create_dir_all(&shared).unwrap();
    for file in [&pins.join("link"), &socket, &others] {
        std::fs::write(file, "").unwrap();
    }
    let removed = lab.tear_down().unwrap();
    let (gone, kept) = (!alone.exists() && !socket.exists(), others.exists());
    std::fs::remove_dir_all(&base).unwrap();
    assert_eq!(removed.outside, [pins, socket]);
    assert!(gone && kept);
}
