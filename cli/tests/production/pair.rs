//! Two balancers behind equal-cost routes of the router, and one dies.
//!
//! The second one runs where the lab has a further real: on its link, whose frames XDP takes before that host's stack sees them.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use tandem_backends::config::Attach;
use tandem_backends::xdp::{Companion, attach_companion};
use tandem_lab::{BPFFS, Host, Lab, Process};

use super::common::{output, permitted, tandem};
use super::load::{self, Load};
use super::stand::{REALS, VIPS};
use super::until;

/// Connections that stay, and new ones a second.
fn extent() -> (usize, u32) {
    if std::env::var_os("TANDEM_LONG").is_some() { (2000, 200) } else { (200, 20) }
}

/// The balancers, and their addresses' hosts.
const HOSTS: [Host; 2] = [Host::Lb, Host::Real(REALS + 1)];
/// Longer than TCP takes to get over what was lost while one of them was dead and the router did not know it yet.
const MEND: Duration = Duration::from_secs(4);

/// The lab with both; it goes with the test, however it ends.
struct Pair {
    prefix: String,
    lab: Lab,
    balancers: [Option<Process>; 2],
}

impl Pair {
    fn new() -> Self {
        let prefix = format!("pair{}", std::process::id() % 10_000);
        let reals = (REALS + 1).to_string();
        let vips = VIPS.map(|vip| vip.ip().to_string());
        output(&["lab", "up", "--prefix", &prefix, "--reals", &reals, "--vip", &vips[0], &vips[1]]);
        let lab = Lab::open(&prefix).expect("the lab just made");
        let mut pair = Self { prefix, lab, balancers: [None, None] };
        pair.make_room();
        let mut key = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(pair.key()).expect("a new file");
        std::io::Write::write_all(&mut key, "0123456789abcdef".repeat(8).as_bytes()).expect("written");
        (0..2).for_each(|at| pair.start(at));
        for address in ["ipv4", "ipv6"] {
            // By the whole tuple: all connections have the same addresses.
            let file = format!("/proc/sys/net/{address}/fib_multipath_hash_policy");
            pair.lab.enter(Host::Router, || fs::write(&file, "1")).expect("the namespace").expect(&file);
        }
        pair
    }

    fn key(&self) -> PathBuf {
        self.lab.directory().join("flows.key")
    }

    /// The second balancer's host becomes like the first one's: no VIPs of its own, and the programs of its link.
    fn make_room(&self) {
        for vip in VIPS {
            let mut command = Command::new("ip");
            command.args(["address", "delete", &format!("{}/{}", vip.ip(), if vip.is_ipv4() { 32 } else { 128 }), "dev", "lo"]);
            let status = self.lab.exec(HOSTS[1], command).expect("ip");
            assert!(status.success(), "{vip} of the second balancer's host: {status}");
        }
        let pins = Path::new(BPFFS).join("tandem-lab").join(&self.prefix);
        let link = self.lab.link(HOSTS[1]).expect("a link");
        fs::remove_file(pins.join(HOSTS[1].to_string())).expect("the pin of its decapsulation");
        let port = &link.router.interface;
        let attach = || attach_companion(Companion::Pass, port, Attach::Native, &pins.join("pass"));
        self.lab.enter(Host::Router, attach).expect("the namespace").expect("attached");
    }

    fn name(&self, at: usize) -> String {
        format!("lab-{}-{at}", self.prefix)
    }

    fn start(&mut self, at: usize) {
        let link = self.lab.link(HOSTS[at]).expect("a link");
        let key = self.key();
        let mut text = format!(
            "[node]\ninterface = \"{}\"\nmode = \"xdp\"\n[tunnel]\nsource_v4 = \"{}\"\nsource_v6 = \"{}\"\n[flows]\ncapacity = 100_000\nkey_file = \"{}\"\n",
            link.interface,
            link.v4,
            link.v6,
            key.display()
        );
        for vip in VIPS {
            let (address, port) = (vip.ip(), vip.port());
            writeln!(text, "[[vip]]\naddress = \"{address}\"\nport = {port}\nprotocol = \"tcp\"\nring_size = 4099")
                .expect("text");
            for real in 1..=REALS {
                let address = self.lab.link(Host::Real(real)).expect("a link").address_like(vip.ip());
                writeln!(text, "[[vip.real]]\naddress = \"{address}\"").expect("text");
            }
        }
        let file = self.lab.directory().join(format!("tandem-{at}.toml"));
        fs::write(&file, text).expect("a file");
        let mut command = Command::new(env!("CARGO_BIN_EXE_tandem"));
        command.args(["run", "--name", &self.name(at), "-c"]).arg(&file);
        let mut new = self.lab.spawn(HOSTS[at], command).expect("started");
        let end = Instant::now() + Duration::from_secs(60);
        while !fs::read_to_string(new.log()).is_ok_and(|log| log.contains("ready")) {
            let ended = new.try_wait().expect("a child");
            assert!(ended.is_none() && Instant::now() < end, "{ended:?}: {}", new.last_words());
            std::thread::sleep(Duration::from_millis(20));
        }
        self.balancers[at] = Some(new);
    }

    /// The machine is gone: process, program and tables.
    fn kill(&mut self, at: usize) {
        let mut dead = self.balancers[at].take().expect("it runs");
        dead.kill();
        dead.wait().expect("a child");
        output(&["detach", &self.name(at)]);
    }

    /// The router sends the VIPs to these.
    fn route(&self, to: &[usize]) {
        for vip in VIPS {
            let mut command = Command::new("ip");
            command.args(if vip.is_ipv4() { ["-4", "route"] } else { ["-6", "route"] });
            command.args(["replace", &vip.ip().to_string()]);
            for at in to {
                let way = self.lab.link(HOSTS[*at]).expect("a link").address_like(vip.ip()).to_string();
                command.args(["nexthop", "via", &way]);
            }
            let status = self.lab.exec(Host::Router, command).expect("ip");
            assert!(status.success(), "the router's way to {vip}: {status}");
        }
    }

    fn ask(&self, at: usize, words: &[&str]) -> Value {
        let name = self.name(at);
        let words: Vec<&str> = words.iter().copied().chain(["--name", &name, "--json"]).collect();
        serde_json::from_str(&output(&words)).expect("JSON")
    }

    /// Flows in the table of one, and how many of them depend on it.
    fn flows(&self, at: usize) -> (u64, u64) {
        let flows = self.ask(at, &["mode", "show"])["flows"].clone();
        (flows["flows"].as_u64().expect("a number"), flows["on_state"].as_u64().expect("a number"))
    }

    /// What both send new flows by is the same.
    fn same_rings(&self) {
        let rings = [0, 1].map(|at| self.ask(at, &["vip", "rings"])["rings"].clone());
        assert_eq!(rings[0], rings[1], "the rings of the two");
        for ring in rings[0].as_array().expect("rings") {
            eprintln!("  both: {} {} slots, digest {}", ring["vip"], ring["slots"], ring["digest"]);
        }
    }

    /// A real takes no new flows any more.
    fn drain(&self, at: usize, more: &[&str]) {
        for vip in VIPS {
            let real = self.lab.link(Host::Real(2)).expect("a link").address_like(vip.ip()).to_string();
            self.ask(at, &[&["drain", &real][..], more].concat());
        }
    }

    fn drain_both(&self) {
        (0..2).for_each(|at| self.drain(at, &[]));
        self.same_rings();
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for balancer in &mut self.balancers {
            if let (true, Some(balancer)) = (std::thread::panicking(), &*balancer) {
                eprintln!("{}", balancer.last_words());
            }
            drop(balancer.take());
        }
        let _ = tandem(&["lab", "down", "--prefix", &self.prefix]).output();
        for at in 0..2 {
            let _ = tandem(&["detach", &self.name(at)]).output();
        }
    }
}

/// Ends the first balancer; gives the number of long connections that broke.
fn fail_over(pair: &mut Pair, load: &Load) -> u64 {
    let broken = || load.events.broken.lock().expect("no panic").len() as u64;
    let before = broken();
    pair.kill(0);
    pair.route(&[1]);
    std::thread::sleep(MEND);
    broken() - before
}

/// As many break as depended on the state of the one that died, at most; none if their flows were carried over.
#[test]
fn one_of_two_balancers_dies() {
    if !permitted() {
        return;
    }
    let mut pair = Pair::new();
    pair.route(&[0, 1]);
    for real in 1..=REALS {
        load::serve(&pair.lab, real, &VIPS);
    }
    std::thread::sleep(Duration::from_millis(200));
    let (long, rate) = extent();
    let mut load = Load::start(&pair.lab, &VIPS, long, rate);
    let open = || (1..=REALS).map(|real| load.events.with(real as u8)).sum::<u32>() as usize;
    until("all connections are open", Duration::from_secs(60), || open() == long);
    let shares = [0, 1].map(|at| pair.flows(at).0);
    eprintln!("{long} connections that stay, {rate} new ones a second; flows of the two balancers: {shares:?}");
    assert!(shares.iter().all(|share| *share > long as u64 / 5), "the router does not share them out: {shares:?}");
    pair.same_rings();
    pair.drain_both();

    // With the flows that depend on state carried over, nothing breaks.
    let carried = pair.lab.directory().join("flows.json").display().to_string();
    let (all, on_state) = pair.flows(0);
    pair.ask(0, &["flow", "export", &carried, "--depending"]);
    let done = pair.ask(1, &["flow", "import", &carried]);
    let broken = fail_over(&mut pair, &load);
    eprintln!("  dead, flows carried over: of {all} flows {on_state} depended on state, {done}; broken: {broken}");
    assert!(on_state > 0 && broken == 0, "{:?}", load.events.broken);

    // It comes back when nothing depends on state, and the other one starts anew, too, which had all flows for a while.
    pair.drain(1, &["--undo"]);
    pair.start(0);
    pair.route(&[0]);
    std::thread::sleep(MEND);
    pair.kill(1);
    pair.start(1);
    pair.route(&[0, 1]);
    std::thread::sleep(MEND);
    assert_eq!(load.events.broken.lock().expect("no panic").len(), 0, "{:?}", load.events.broken);
    pair.drain_both();

    let (all, on_state) = pair.flows(0);
    let broken = fail_over(&mut pair, &load);
    eprintln!("  dead, nothing carried over: of {all} flows {on_state} depended on state; broken: {broken}");
    assert!(broken > 0 && broken <= on_state, "{broken} of {on_state}: {:?}", load.events.broken);
    assert!(load.events.failed.lock().expect("no panic").is_empty(), "{:?}", load.events.failed);
    load.end();
}
