//! `tandem demo` and `tandem lab`, really run: traffic through both seats, live switches, and nothing left behind however it
//! ends. Each test has a lab of its own, so that they can run side by side.

#[allow(dead_code, reason = "the demo reads what it is told by itself")]
mod common;

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Output, Stdio};
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tandem_lab::{MARKER, own_mounts};

use common::{permitted, tandem};

fn run(arguments: &[&str]) -> Output {
    tandem(arguments).output().expect("tandem starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What is left of the lab of this prefix: files, mounts of namespaces, pins, sockets, processes.
fn left(prefix: &str) -> Vec<String> {
    let mut paths: Vec<PathBuf> = [
        format!("/run/tandem-lab/{prefix}"),
        format!("/run/tandem/lab-{prefix}.sock"),
        format!("/sys/fs/bpf/tandem-lab/{prefix}"),
        format!("/sys/fs/bpf/tandem/lab-{prefix}"),
    ]
    .map(PathBuf::from)
    .to_vec();
    let namespaces = std::fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let own = format!("{prefix}-");
    paths.extend(namespaces.filter(|entry| entry.file_name().to_string_lossy().starts_with(&own)).map(|e| e.path()));
    let mut left: Vec<_> = paths.iter().filter(|path| path.exists()).map(|path| path.display().to_string()).collect();
    let mark = format!("{MARKER}={prefix}");
    for entry in std::fs::read_dir("/proc").expect("a /proc").flatten() {
        let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        if environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes()) {
            left.push(entry.path().display().to_string());
        }
    }
    left
}

/// A demo that runs, and its progress.
struct Demo {
    child: Child,
    progress: BufReader<std::process::ChildStderr>,
}

impl Demo {
    fn start(prefix: &str) -> Self {
        let arguments = ["demo", "--prefix", prefix, "--requests", "200", "--seconds", "1"];
        let mut child = tandem(&arguments).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("tandem starts");
        let progress = BufReader::new(child.stderr.take().expect("a pipe"));
        Self { child, progress }
    }

    /// Reads on until a line begins with these words.
    #[track_caller]
    fn until(&mut self, words: &str) {
        let mut seen = String::new();
        while self.progress.read_line(&mut seen).expect("text") > 0 {
            if seen.lines().last().is_some_and(|line| line.starts_with(words)) {
                return;
            }
        }
        panic!("it ended before {words:?}: {seen}");
    }

    /// Sends a signal and waits for the end; the exit status, `None` if the signal ended it.
    fn end(mut self, signal: Signal) -> Option<i32> {
        let pid = i32::try_from(self.child.id()).expect("a pid");
        kill(Pid::from_raw(pid), signal).expect("it runs");
        // What it still has to say must not block it.
        let _ = std::io::copy(&mut self.progress, &mut std::io::sink());
        self.child.wait().expect("its status").code()
    }
}

/// The number in front of these words in the only line that has them.
#[track_caller]
fn number_before(report: &str, words: &str) -> u64 {
    let (before, _) = report.split_once(words).unwrap_or_else(|| panic!("no {words:?} in {report}"));
    let digits: String = before.chars().rev().take_while(char::is_ascii_digit).collect();
    digits.chars().rev().collect::<String>().parse().unwrap_or_else(|_| panic!("no number before {words:?}: {report}"))
}

#[test]
fn the_demo_keeps_its_promises_and_leaves_nothing() {
    if !permitted() {
        return;
    }
    let prefix = "t-demo-whole";
    let output = run(&["demo", "--prefix", prefix, "--requests", "400", "--seconds", "1", "--switches", "10"]);
    let (report, progress) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(left(prefix), [""; 0], "{report}");
    assert_eq!(output.status.code(), Some(0), "{report}\n{progress}");
    assert!(!report.contains("FAIL") && report.matches("PASS").count() == 17, "{report}");
    for seat in ["xdp", "afxdp"] {
        assert!(report.contains(&format!("\nPASS  {seat}: 400 of 400 HTTP requests answered\n")), "{report}");
        assert!(report.contains(&format!("\nPASS  {seat}: 400 of 400 connections reached the real")), "{report}");
        let forwarded = format!("{seat}: this seat forwarded ");
        let (_, count) = report.split_once(&forwarded).expect("its frames");
        let frames = count.split(' ').next().and_then(|n| n.parse::<u64>().ok()).expect("a number");
        // Each connection has a SYN, an ACK, a request and a FIN.
        assert!(frames >= 4 * 400, "{report}");
    }
    assert!(number_before(&report, " switches while all of them ran") >= 10, "{report}");
    assert!(report.contains("6 of 6 transfers arrived whole"), "{report}");
    let parts = report.lines().find(|line| line.contains("more than 10 %")).expect("a line about the parts");
    let shares = ["xdp ", "afxdp "].map(|seat| {
        let (_, share) = parts.rsplit_once(&format!(" {seat}")).expect("a share");
        share.split(' ').next().and_then(|n| n.parse::<u64>().ok()).expect("a number")
    });
    assert!(shares.iter().all(|share| *share > 10) && (99..=101).contains(&shares.iter().sum::<u64>()), "{parts}");
    assert!(report.contains("defect 0, no-socket 0"), "{report}");
}

#[test]
fn sigint_leaves_nothing_wherever_it_comes() {
    if !permitted() {
        return;
    }
    for (prefix, moment) in [
        ("t-demo-int-1", "Building"),
        ("t-demo-int-2", "Starting the balancer"),
        ("t-demo-int-3", "afxdp: 200 HTTP"),
        ("t-demo-int-4", "Live switches"),
    ] {
        let mut demo = Demo::start(prefix);
        demo.until(moment);
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(demo.end(Signal::SIGINT), Some(1), "{moment}");
        assert_eq!(left(prefix), [""; 0], "{moment}");
    }
}

#[test]
fn lab_down_removes_what_a_killed_demo_leaves() {
    if !permitted() {
        return;
    }
    let prefix = "t-demo-kill";
    let mut demo = Demo::start(prefix);
    demo.until("Live switches");
    std::thread::sleep(Duration::from_secs(1));
    // It is in use, which protects it.
    let refused = run(&["lab", "down", "--prefix", prefix]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("is in use by process"), "{}", text(&refused.stderr));
    assert_eq!(demo.end(Signal::SIGKILL), None);
    assert!(!left(prefix).is_empty(), "a killed process cannot clean up: this test shows nothing");
    let again = run(&["demo", "--prefix", prefix]);
    assert_eq!(again.status.code(), Some(1));
    assert!(text(&again.stderr).contains(&format!("tandem lab down --prefix {prefix}")), "{}", text(&again.stderr));
    let down = run(&["lab", "down", "--prefix", prefix]);
    assert_eq!(down.status.code(), Some(0), "{}", text(&down.stderr));
    assert_eq!(left(prefix), [""; 0], "{}", text(&down.stdout));
    let down = run(&["lab", "down", "--prefix", prefix]);
    assert_eq!(down.status.code(), Some(0));
    assert!(text(&down.stdout).contains("nothing to remove"), "{}", text(&down.stdout));
}

#[test]
fn lab_down_without_a_prefix_removes_what_was_killed_and_nothing_else() {
    if !permitted() {
        return;
    }
    // A /run of this thread and its children, so that no other lab of this host is taken for one of this test's.
    own_mounts().expect("mounts of its own");
    mount(Some("none"), "/run", Some("tmpfs"), MsFlags::empty(), None::<&str>).expect("an empty /run");
    let (killed, kept, in_use) = ("t-down-killed", "t-down-kept", "t-down-in-use");
    let down = run(&["lab", "down"]);
    assert_eq!(text(&down.stdout), "there is no lab `tandem`: nothing to remove\n");
    let [mut first, mut second] = [killed, in_use].map(Demo::start);
    first.until("xdp: 200 HTTP");
    second.until("Building");
    assert_eq!(run(&["lab", "up", "--prefix", kept, "--reals", "1"]).status.code(), Some(0));
    assert_eq!(first.end(Signal::SIGKILL), None);
    assert!(!left(killed).is_empty(), "a killed process cannot clean up: this test shows nothing");

    let down = run(&["lab", "down"]);
    assert_eq!(down.status.code(), Some(0), "{}", text(&down.stderr));
    let said = text(&down.stdout);
    assert!(said.starts_with(&format!("lab `{killed}` removed: 6 namespaces, ")), "{said}");
    assert_eq!(left(killed), [""; 0], "{said}");
    let again = text(&run(&["lab", "down"]).stdout);
    let other = |prefix: &str| format!("there is a lab `{prefix}`: `tandem lab down --prefix {prefix}` removes it\n");
    assert_eq!(again, format!("there is no lab `tandem`: nothing to remove\n{}{}", other(in_use), other(kept)));
    assert_eq!(second.end(Signal::SIGINT), Some(1), "it still ran");
    assert_eq!(run(&["lab", "down", "--prefix", kept]).status.code(), Some(0));
    assert_eq!([left(kept), left(in_use)].concat(), [""; 0]);
}

#[test]
fn a_kept_lab_can_be_used_and_taken_down() {
    if !permitted() {
        return;
    }
    let prefix = "t-demo-kept";
    let up = run(&["lab", "up", "--prefix", prefix, "--layout", "classic", "--reals", "2"]);
    let said = text(&up.stdout);
    assert_eq!(up.status.code(), Some(0), "{}", text(&up.stderr));
    let line = said.lines().find(|line| line.contains("tandem run -c")).expect("how to start the balancer");
    let words: Vec<_> = line.split_whitespace().collect();
    let at = words.iter().position(|word| *word == "run").expect("a verb");
    let mut balancer = tandem(&["lab", "exec", "--prefix", prefix, "lb", "--", env!("CARGO_BIN_EXE_tandem")]);
    let mut balancer = balancer.args(&words[at..]).stderr(Stdio::piped()).spawn().expect("it starts");
    let mut progress = BufReader::new(balancer.stderr.take().expect("a pipe")).lines();
    let ready = progress.any(|line| line.is_ok_and(|line| line.ends_with("ready")));
    let exec = |host: &str, command: &[&str]| run(&[&["lab", "exec", "--prefix", prefix, host, "--"], command].concat());
    let curl = exec("client", &["curl", "-sS", "-m", "5", "http://192.168.1.13/"]);
    let status = exec("client", &["sh", "-c", "exit 7"]).status.code();
    let unknown = exec("real3", &["true"]).status.code();
    let shown = run(&["lab", "status", "--prefix", prefix, "--json"]).stdout;
    let down = run(&["lab", "down", "--prefix", prefix]);
    let _ = balancer.wait();
    assert_eq!(down.status.code(), Some(0), "{}", text(&down.stderr));
    assert_eq!(left(prefix), [""; 0]);
    assert!(ready, "the balancer said so");
    assert!(["real1\n", "real2\n"].contains(&text(&curl.stdout).as_str()), "{}", text(&curl.stderr));
    assert_eq!((status, unknown), (Some(7), Some(2)));
    let shown: serde_json::Value = serde_json::from_slice(&shown).expect("JSON");
    assert_eq!((&shown["kept"], &shown["layout"]), (&true.into(), &"classic".into()));
}

#[test]
fn without_privileges_there_is_one_clear_error() {
    if !permitted() {
        return;
    }
    for arguments in [&["demo"][..], &["lab", "up", "--prefix", "t-demo-none"]] {
        // Nobody's; the programs of the build must be readable for all.
        let output = match tandem(arguments).uid(65_534).gid(65_534).output() {
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                eprintln!("skipped: nobody cannot reach the binary: {error}");
                return;
            }
            other => other.expect("tandem starts"),
        };
        let message = text(&output.stderr);
        assert_eq!((output.status.code(), message.lines().count()), (Some(1), 1), "{message}");
        assert!(message.contains("CAP_NET_ADMIN") && message.contains("run it as root"), "{message}");
    }
}
