//! D-57: two balancers behind equal-cost routes of the router.
//!
//! The second one runs where the lab has a further real: on its link, whose frames XDP takes before that host's stack sees them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use tandem_backends::config::Attach;
use tandem_backends::xdp::{Companion, attach_companion};
use tandem_doctor::{Report, Status};
use tandem_lab::{BPFFS, Host, Lab, Process};

use super::common::{output, permitted, tandem};
use super::{REAL, bad};

const VIP: Ipv4Addr = Ipv4Addr::new(10, 200, 1, 1);
const PORT: u16 = 7000;
const HOSTS: [Host; 2] = [Host::Lb, Host::Real(2)];
/// All of them by one balancer, if ports do not count: by chance once in 2^31 times, if they do.
const FLOWS: usize = 32;

struct Two {
    prefix: String,
    lab: Lab,
    balancers: Vec<Process>,
}

impl Two {
    fn new() -> Self {
        let prefix = format!("dw{}", std::process::id() % 10_000);
        output(&["lab", "up", "--prefix", &prefix, "--reals", "2", "--vip", &VIP.to_string()]);
        let lab = Lab::open(&prefix).expect("the lab just made");
        let mut two = Self { prefix, lab, balancers: Vec::new() };
        // The second balancer's host becomes like the first one's: no VIP of its own, and the programs of its link.
        two.run(HOSTS[1], &format!("ip addr del {VIP}/32 dev lo"));
        let pins = Path::new(BPFFS).join("tandem-lab").join(&two.prefix);
        std::fs::remove_file(pins.join(HOSTS[1].to_string())).expect("the pin of its decapsulation");
        let port = two.lab.link(HOSTS[1]).expect("a link").router.interface.clone();
        let attach = || attach_companion(Companion::Pass, &port, Attach::Native, &pins.join("pass"));
        two.lab.enter(Host::Router, attach).expect("the namespace").expect("attached");
        two.lab.enter(REAL, echo).expect("the real's namespace");
        (0..2).for_each(|at| two.start(at));
        let ways = HOSTS.map(|host| format!("nexthop via {}", two.lab.link(host).expect("a link").v4));
        two.run(Host::Router, &format!("ip route replace {VIP} {}", ways.join(" ")));
        two
    }

    fn run(&self, host: Host, text: &str) {
        let mut command = Command::new("sh");
        command.args(["-ec", text]);
        let status = self.lab.exec(host, command).expect("a shell");
        assert!(status.success(), "{host}: `{text}`: {status}");
    }

    fn name(&self, at: usize) -> String {
        format!("lab-{}-{at}", self.prefix)
    }

    fn file(&self, at: usize) -> PathBuf {
        self.lab.directory().join(format!("tandem-{at}.toml"))
    }

    fn start(&mut self, at: usize) {
        let (link, real) = (self.lab.link(HOSTS[at]).expect("a link"), self.lab.link(REAL).expect("a link").v4);
        let text = format!(
            "[node]\ninterface = \"{}\"\nmode = \"xdp\"\n[tunnel]\nsource_v4 = \"{}\"\n[flows]\ncapacity = 10_000\n[[vip]]\naddress = \"{VIP}\"\n\
             port = {PORT}\nprotocol = \"udp\"\nring_size = 127\nreal = [{{ address = \"{real}\" }}]\n",
            link.interface, link.v4
        );
        std::fs::write(self.file(at), text).expect("a file");
        let mut command = tandem(&["run", "--name", &self.name(at), "-c"]);
        command.arg(self.file(at));
        let mut new = self.lab.spawn(HOSTS[at], command).expect("started");
        let end = Instant::now() + Duration::from_secs(60);
        while !std::fs::read_to_string(new.log()).is_ok_and(|log| log.contains("ready")) {
            let ended = new.try_wait().expect("a child");
            assert!(ended.is_none() && Instant::now() < end, "{ended:?}: {}", new.last_words());
            std::thread::sleep(Duration::from_millis(20));
        }
        self.balancers.push(new);
    }

    /// Frames that each has forwarded.
    fn forwarded(&self) -> [u64; 2] {
        [0, 1].map(|at| {
            let text = output(&["counters", "--json", "--name", &self.name(at)]);
            let counters: Value = serde_json::from_str(&text).expect("JSON");
            counters["xdp"]["reasons"]["forwarded"].as_u64().unwrap_or(0)
        })
    }

    /// As many flows as are said, each answered: how many went by each balancer.
    fn flows(&self) -> [u64; 2] {
        let before = self.forwarded();
        self.lab.enter(Host::Client, ask).expect("the client's namespace");
        let after = self.forwarded();
        [after[0] - before[0], after[1] - before[1]]
    }

    /// What the doctor says on the router, by the line that one balancer printed, and the address of the other.
    fn doctor(&self) -> Report {
        let [real, client] = [REAL, Host::Client].map(|host| self.lab.link(host).expect("a link").v4.to_string());
        let mut command = tandem(&["doctor", "--for-host", &real, "--role", "router", "--client", &client, "-c"]);
        command.arg(self.file(0));
        let printed = self.lab.enter(Host::Lb, || command.output()).expect("a namespace").expect("tandem starts");
        let line = String::from_utf8_lossy(&printed.stdout).into_owned();
        let other = self.lab.link(HOSTS[1]).expect("a link").v4;
        let own = Path::new(env!("CARGO_BIN_EXE_tandem")).display();
        let line = line.trim().replacen("tandem", &own.to_string(), 1);
        let mut command = Command::new("sh");
        command.args(["-ec", &format!("{line} --source {other} --balancer {other} --json || [ $? = 1 ]")]);
        let said = self.lab.enter(Host::Router, || command.output()).expect("a namespace").expect("a shell");
        let text = String::from_utf8_lossy(&said.stdout);
        serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("{line}: {error}: {text}{}", String::from_utf8_lossy(&said.stderr)))
    }
}

impl Drop for Two {
    fn drop(&mut self) {
        for balancer in &self.balancers {
            if std::thread::panicking() {
                eprintln!("{}", balancer.last_words());
            }
        }
        self.balancers.clear();
        let _ = tandem(&["lab", "down", "--prefix", &self.prefix]).output();
        for at in 0..2 {
            let _ = tandem(&["detach", &self.name(at)]).output();
        }
    }
}

/// Ends with the test.
fn echo() {
    let socket = UdpSocket::bind((VIP, PORT)).expect("a port of the real's");
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        loop {
            if let Ok((len, from)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(&buffer[..len], from);
            }
        }
    });
}

/// Each flow is a port of its own, asked until it answers.
fn ask() {
    for flow in 0..FLOWS {
        let socket = UdpSocket::bind((IpAddr::from(Ipv4Addr::UNSPECIFIED), 0)).expect("a port");
        socket.set_read_timeout(Some(Duration::from_millis(200))).expect("a limit");
        socket.connect(SocketAddr::new(VIP.into(), PORT)).expect("a way");
        let answered = (0..40).any(|_| socket.send(b"tandem").is_ok() && socket.recv(&mut [0; 8]).is_ok());
        assert!(answered, "flow {flow} is not answered");
    }
}

#[test]
fn flows_of_one_client_are_spread_over_two_balancers() {
    if !permitted() {
        return;
    }
    let two = Two::new();
    two.run(Host::Router, "sysctl -qw net.ipv4.fib_multipath_hash_policy=1");
    let spread = two.flows();
    assert!(spread[0] > 0 && spread[1] > 0, "by the ports: {spread:?}");
    let report = two.doctor();
    assert!(bad(&report).is_empty(), "the healthy lab: {report}");
    two.run(Host::Router, "sysctl -qw net.ipv4.fib_multipath_hash_policy=0");
    let alone = two.flows();
    assert!(alone[0] == 0 || alone[1] == 0, "by the addresses alone: {alone:?}");
    let report = two.doctor();
    assert_eq!(bad(&report), ["D-57"], "{report}");
    assert_eq!(report.row("D-57").map(|row| row.status), Some(Status::Warn), "{report}");
    for cure in report.cures("D-57") {
        two.run(Host::Router, &cure);
    }
    let spread = two.flows();
    assert!(spread[0] > 0 && spread[1] > 0, "cured: {spread:?}");
    let report = two.doctor();
    assert!(bad(&report).is_empty(), "cured: {report}");
}
