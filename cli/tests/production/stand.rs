//! A lab with three reals and a balancer that is reloaded, restarted, replaced and killed.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tandem_lab::{Host, Lab, Process};

use super::common::{output, tandem};

/// Reals of the lab.
pub const REALS: u16 = 3;
/// The VIPs that traffic goes to.
pub const VIPS: [SocketAddr; 2] = [
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 200, 1, 1)), 8000),
    SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0xfc00, 0x200, 0, 0, 0, 0, 0, 1)), 8000),
];
/// VIPs that are always there: each of these for TCP and for UDP.
pub const SERVED: usize = 2 * VIPS.len();

/// What the configuration says.
#[derive(Clone, Debug)]
pub struct Wish {
    pub mode: &'static str,
    /// Weight and state of each real; `None`: it is not among them.
    pub reals: [Option<(u32, &'static str)>; REALS as usize],
    /// Further VIPs, which nobody asks.
    pub others: u16,
    /// A real that is removed keeps its flows.
    pub keep: bool,
}

impl Wish {
    pub fn new(mode: &'static str) -> Self {
        Self { mode, reals: [Some((1, "up")); REALS as usize], others: 0, keep: false }
    }
}

/// The lab; it goes with the test, however it ends.
pub struct Stand {
    prefix: String,
    pub lab: Lab,
    balancer: Option<Process>,
    file: PathBuf,
    program: PathBuf,
    /// What those that ended said of errors.
    errors: Vec<String>,
}

impl Stand {
    /// The lab's name begins with `kind`.
    pub fn new(kind: &str, wish: &Wish) -> Self {
        let prefix = format!("{kind}{}", std::process::id() % 10_000);
        let reals = REALS.to_string();
        let vips = VIPS.map(|vip| vip.ip().to_string());
        output(&["lab", "up", "--prefix", &prefix, "--reals", &reals, "--vip", &vips[0], &vips[1]]);
        let lab = Lab::open(&prefix).expect("the lab just made");
        let file = lab.directory().join("tandem.toml");
        let program = PathBuf::from(env!("CARGO_BIN_EXE_tandem"));
        let mut stand = Self { prefix, lab, balancer: None, file, program, errors: Vec::new() };
        stand.queues(1);
        stand.write(wish);
        stand.start(&[]);
        stand
    }

    pub fn name(&self) -> String {
        format!("lab-{}", self.prefix)
    }

    /// Sets the number of the balancer's receive queues in use, and of what the router sends to them by.
    pub fn queues(&self, number: u32) {
        let link = self.lab.link(Host::Lb).expect("a link");
        // A veth whose peer sends by more queues than it receives by takes no XDP program.
        let mut ends = [(Host::Lb, &link.interface, "rx"), (Host::Router, &link.router.interface, "tx")];
        if number == 1 {
            ends.reverse();
        }
        for (host, interface, kind) in ends {
            let mut command = Command::new("ethtool");
            command.args(["-L", interface, kind, &number.to_string()]);
            let status = self.lab.exec(host, command).expect("ethtool");
            assert!(status.success(), "{host}: ethtool -L {interface} {kind} {number}: {status}");
        }
    }

    /// Another configuration in the place of the one before, as editors do it.
    pub fn write(&self, wish: &Wish) {
        let lb = self.lab.link(Host::Lb).expect("a link");
        let mut text = format!(
            "[node]\ninterface = \"{}\"\nmode = \"{}\"\n[tunnel]\nsource_v4 = \"{}\"\nsource_v6 = \"{}\"\n[flows]\ncapacity = 100_000\n",
            lb.interface, wish.mode, lb.v4, lb.v6
        );
        let mut vip = |at: SocketAddr, protocol: &str, size: u32, encap: &str, wish: &Wish| {
            let address = at.ip();
            let port = at.port();
            writeln!(text, "[[vip]]\naddress = \"{address}\"\nport = {port}\nprotocol = \"{protocol}\"\nring_size = {size}")
                .expect("text");
            let policy = if wish.keep { "keep" } else { "reselect" };
            writeln!(text, "encap = \"{encap}\"\non_removal = \"{policy}\"").expect("text");
            for (n, real) in wish.reals.iter().enumerate() {
                let Some((weight, state)) = real else { continue };
                let link = self.lab.link(Host::Real(n as u16 + 1)).expect("a link");
                let address = link.address_like(at.ip());
                writeln!(text, "[[vip.real]]\naddress = \"{address}\"\nweight = {weight}\nstate = \"{state}\"").expect("text");
            }
        };
        for at in VIPS {
            vip(at, "tcp", 4099, "ipip", wish);
            vip(at, "udp", 1009, "ipip", wish);
        }
        for other in 0..wish.others {
            let plain = Wish { reals: [Some((1, "up")), None, None], ..wish.clone() };
            vip(SocketAddr::new(VIPS[0].ip(), 9000 + other), "tcp", 1009, if other % 2 == 0 { "ipip" } else { "gre" }, &plain);
        }
        let new = self.file.with_extension("new");
        std::fs::write(&new, text).expect("a file");
        std::fs::rename(&new, &self.file).expect("the same directory");
    }

    /// Starts a balancer from the current program, and waits until it answers; the one before, if any, has to be gone or to go.
    pub fn start(&mut self, more: &[&str]) {
        let mut command = Command::new(&self.program);
        let file = self.file.display().to_string();
        command.args(["run", "-c", &file, "--name", &self.name(), "--leave-attached"]).args(more);
        let mut new = self.lab.spawn(Host::Lb, command).expect("started");
        let until = Instant::now() + Duration::from_secs(60);
        while !std::fs::read_to_string(new.log()).is_ok_and(|log| log.contains("ready")) {
            let ended = new.try_wait().expect("a child");
            assert!(ended.is_none() && Instant::now() < until, "{ended:?}: {}", new.last_words());
            std::thread::sleep(Duration::from_millis(20));
        }
        if let Some(mut old) = self.balancer.replace(new) {
            let status = old.wait().expect("a child");
            let was_killed = std::os::unix::process::ExitStatusExt::signal(&status) == Some(Signal::SIGKILL as i32);
            assert!(status.success() || was_killed, "{status}: {}", old.last_words());
            self.note(&old);
        }
    }

    /// The program from here on is another file with the same contents.
    pub fn other_program(&mut self) {
        let copy = self.lab.directory().join("tandem-new");
        std::fs::copy(&self.program, &copy).expect("a copy");
        self.program = copy;
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.pid()).expect("a process id")), signal).expect("it runs");
    }

    /// Waits until it has ended.
    pub fn ended(&mut self) {
        let mut old = self.balancer.take().expect("it runs");
        let status = old.wait().expect("a child");
        assert!(status.success(), "{status}: {}", old.last_words());
        self.note(&old);
    }

    fn note(&mut self, ended: &Process) {
        let log = std::fs::read_to_string(ended.log()).unwrap_or_default();
        self.errors.extend(log.lines().filter(|line| line.contains("ERROR")).map(str::to_owned));
    }

    /// What the processes that ended said of errors.
    pub fn errors(&self) -> &[String] {
        &self.errors
    }

    pub fn pid(&self) -> u32 {
        self.balancer.as_ref().expect("it runs").pid()
    }

    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    pub fn tell(&self, words: &[&str]) -> Value {
        let name = self.name();
        let words: Vec<&str> = words.iter().copied().chain(["--name", &name, "--json"]).collect();
        serde_json::from_str(&output(&words)).expect("JSON")
    }

    pub fn log(&self) -> String {
        self.balancer.as_ref().map(|balancer| std::fs::read_to_string(balancer.log()).unwrap_or_default()).unwrap_or_default()
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
        drop(self.balancer.take());
        let _ = tandem(&["lab", "down", "--prefix", &self.prefix]).output();
        let _ = tandem(&["detach", &self.name()]).output();
    }
}
