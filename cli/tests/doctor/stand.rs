//! A lab with a balancer, servers, and somebody who asks.

use std::io::{Read, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tandem_doctor::Report;
use tandem_lab::{Host, Lab, Process};

use super::REAL;
use super::breaks::{Step, Traffic};
use super::common::{output, tandem};

const VIP_V4: Ipv4Addr = Ipv4Addr::new(10, 200, 1, 1);
const VIP_V6: Ipv6Addr = Ipv6Addr::new(0xfc00, 0x200, 0, 0, 0, 0, 0, 1);
/// Hosts with a role of their own, in the order in which they are looked at.
pub const HOSTS: [Host; 4] = [Host::Lb, REAL, Host::Router, Host::Client];
const ECHO: u16 = 7000;
const STREAMS: u16 = 7100;
const OTHER: u16 = 7200;
const MARK: u32 = 1;
/// Until something that was cured works: neighbours are asked again within a second or two.
const PATIENCE: Duration = Duration::from_secs(8);
/// As long as this nothing may come that is broken.
const SILENCE: Duration = Duration::from_millis(400);

/// A lab that goes with the test, however it ends.
pub struct Stand {
    prefix: String,
    pub lab: Lab,
    balancer: Option<Process>,
    other: Arc<AtomicBool>,
    options: String,
    /// Something was cured here.
    cured: bool,
}

impl Stand {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let prefix = format!("dr{}-{}", std::process::id() % 10_000, NEXT.fetch_add(1, Ordering::Relaxed));
        output(&["lab", "up", "--prefix", &prefix, "--reals", "1", "--vip", &VIP_V4.to_string(), &VIP_V6.to_string()]);
        let lab = Lab::open(&prefix).expect("the lab just made");
        let mut stand = Self { prefix, lab, balancer: None, other: Arc::default(), options: String::new(), cured: false };
        std::fs::write(stand.file(), configuration(&stand.lab)).expect("a file");
        stand.lab.enter(REAL, serve).expect("the real's namespace");
        stand.listen(true);
        stand.start().expect("the balancer");
        for traffic in [Traffic::Udp, Traffic::Udp6, Traffic::Other, Traffic::Upload, Traffic::Probe] {
            assert!(stand.flows(traffic), "{traffic:?} in a lab that nobody has broken: {}", stand.log());
        }
        stand.options = stand.options();
        stand
    }

    fn file(&self) -> PathBuf {
        self.lab.directory().join("tandem.toml")
    }

    fn name(&self) -> String {
        format!("lab-{}", self.prefix)
    }

    pub fn log(&self) -> String {
        let log = self.balancer.as_ref().map(|balancer| balancer.log().to_owned());
        log.and_then(|log| std::fs::read_to_string(log).ok()).unwrap_or_default()
    }

    /// A command for the shell; `tandem` is the one under test.
    fn shell(&self, text: &str) -> Command {
        let mut command = Command::new("sh");
        let own = Path::new(env!("CARGO_BIN_EXE_tandem")).parent().expect("a directory").to_owned();
        let paths = std::env::var_os("PATH").unwrap_or_default();
        let paths = std::iter::once(own).chain(std::env::split_paths(&paths));
        command.args(["-ec", &self.filled(text)]).env("PATH", std::env::join_paths(paths).expect("paths without colons"));
        command
    }

    pub fn run(&self, host: Host, text: &str) -> Result<String, String> {
        let mut command = self.shell(text);
        let output = self.lab.enter(host, || command.output()).expect("a namespace").map_err(|error| error.to_string())?;
        let errors = String::from_utf8_lossy(&output.stderr);
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(format!("{host}: `{}`: {}: {errors}", self.filled(text), output.status))
        }
    }

    fn filled(&self, text: &str) -> String {
        let link = |host| self.lab.link(host).expect("a link");
        let (lb, real, client) = (link(Host::Lb), link(REAL), link(Host::Client));
        [
            ("{vip}", VIP_V4.to_string()),
            ("{vip6}", VIP_V6.to_string()),
            ("{lb}", lb.v4.to_string()),
            ("{real}", real.v4.to_string()),
            ("{client}", client.v4.to_string()),
            ("{client6}", client.v6.to_string()),
            ("{lb6}", lb.v6.to_string()),
            ("{gw}", lb.router.gateway_v4.to_string()),
            ("{gw6}", lb.router.gateway_v6.to_string()),
            ("{rgw}", real.router.gateway_v4.to_string()),
            ("{mac}", lb.mac.to_string()),
            ("{conf}", self.file().display().to_string()),
            ("{pins}", format!("/sys/fs/bpf/tandem-lab/{}", self.prefix)),
            ("{real_ns}", real.namespace.clone()),
        ]
        .into_iter()
        .fold(text.to_owned(), |text, (name, value)| text.replace(name, &value))
    }

    pub fn step(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Sh(host, text) => drop(self.run(*host, text)?),
            Step::Reconfigured(text) => {
                self.run(Host::Lb, text)?;
                self.stop();
                self.start()?;
            }
            Step::Stopped => self.stop(),
            Step::Killed => {
                if let Some(mut balancer) = self.balancer.take() {
                    balancer.kill();
                    let _ = balancer.wait();
                }
            }
            Step::Started => self.start()?,
            Step::Refused => {
                if self.start().is_ok() {
                    return Err("the balancer started".to_owned());
                }
            }
            Step::Listening(on_vip) => self.listen(*on_vip),
        }
        Ok(())
    }

    /// Runs a cure as it is printed. What does not end by itself is the balancer.
    pub fn cure(&mut self, host: Host, cure: &str) -> Result<(), String> {
        self.cured = true;
        if cure.starts_with("tandem run ") {
            let command = self.shell(&format!("exec {cure}"));
            return self.started(command);
        }
        self.run(host, cure).map(drop)
    }

    fn start(&mut self) -> Result<(), String> {
        let file = self.file().display().to_string();
        self.started(tandem(&["run", "-c", &file, "--name", &self.name()]))
    }

    fn started(&mut self, command: Command) -> Result<(), String> {
        // One whose place is taken ends by itself, and answers until then.
        let mut before = self.balancer.take();
        let mut balancer = self.lab.spawn(Host::Lb, command).expect("started");
        let until = Instant::now() + Duration::from_secs(30);
        let mut answers = || {
            let is_alone = before.as_mut().is_none_or(|before| before.try_wait().is_ok_and(|ended| ended.is_some()));
            let asked = || tandem(&["mode", "show", "--name", &self.name()]).output();
            is_alone && asked().is_ok_and(|output| output.status.success())
        };
        while !answers() {
            let ended = balancer.try_wait().expect("a child");
            if ended.is_some() || Instant::now() > until {
                return Err(format!("the balancer did not start: {ended:?}: {}", balancer.last_words()));
            }
            std::thread::sleep(Duration::from_millis(30));
        }
        self.balancer = Some(balancer);
        Ok(())
    }

    fn stop(&mut self) {
        if let Some(mut balancer) = self.balancer.take() {
            let _ = balancer.stop();
        }
    }

    /// The server of [`Traffic::Other`]: on the VIP or on the real's own address.
    fn listen(&mut self, on_vip: bool) {
        self.other.store(true, Ordering::Relaxed);
        let stop = Arc::new(AtomicBool::new(false));
        self.other = stop.clone();
        let own = self.lab.link(REAL).expect("a link").v4;
        let at = SocketAddr::new(if on_vip { VIP_V4.into() } else { own.into() }, OTHER);
        let work = move || {
            let socket = UdpSocket::bind(at).expect("a port of the real's");
            socket.set_read_timeout(Some(Duration::from_millis(20))).expect("a limit");
            std::thread::spawn(move || {
                let mut buffer = [0; 64];
                while !stop.load(Ordering::Relaxed) {
                    if let Ok((len, from)) = socket.recv_from(&mut buffer) {
                        let _ = socket.send_to(&buffer[..len], from);
                    }
                }
            });
        };
        self.lab.enter(REAL, work).expect("the real's namespace");
        // The one before has noticed by then.
        std::thread::sleep(Duration::from_millis(30));
    }

    /// The options for other hosts, as the balancer prints them.
    fn options(&self) -> String {
        let link = |host| self.lab.link(host).expect("a link");
        let (real, client) = (link(REAL), link(Host::Client));
        let line = format!(
            "tandem doctor -c {{conf}} --for-host {} --role router --client {} --client {}",
            real.v4, client.v4, client.v6
        );
        let text = self.run(Host::Lb, &line).expect("a command line");
        text.trim().to_owned()
    }

    /// What the doctor says on a host: by the configuration on the balancer, elsewhere by the line that the balancer printed.
    pub fn doctor(&self, host: Host) -> Result<Report, String> {
        let role = match host {
            Host::Lb => "lb",
            Host::Router => "router",
            Host::Client => "client",
            Host::Real(_) => "real",
        };
        let line = match host {
            Host::Lb => self.own_line(),
            _ => self.line(role),
        };
        let mut command = self.shell(&format!("{line} --json"));
        let output = self.lab.enter(host, || command.output()).expect("a namespace").map_err(|error| error.to_string())?;
        let text = String::from_utf8_lossy(&output.stdout);
        let report: Report = serde_json::from_str(&text)
            .map_err(|error| format!("{line}: {error}: {text}{}", String::from_utf8_lossy(&output.stderr)))?;
        let expected = i32::from(report.status == tandem_doctor::Status::Fail);
        if output.status.code() == Some(expected) { Ok(report) } else { Err(format!("{line}: {}", output.status)) }
    }

    /// The command line of a host that is not the balancer.
    fn line(&self, role: &str) -> String {
        self.options.replace("--role router", &format!("--role {role}"))
    }

    /// Has probes to the IPv4 VIP, or from it, sent while the others listen, with the router broken and repaired by these
    /// commands; what the notes of all say of the small ones, and of the large ones.
    pub fn probed(&self, from: Host, broken: Option<(&str, &str)>) -> [String; 2] {
        if let Some((breaks, _)) = broken {
            self.run(Host::Router, breaks).expect("broken");
        }
        let first = if from == Host::Lb { (Host::Lb, "lb") } else { (Host::Client, "client") };
        let roles = [first, (Host::Router, "router"), (REAL, "real")];
        let listening = roles.map(|(host, role)| {
            let command = self.shell(&format!("exec {} --listen --seconds 2", self.line(role)));
            self.lab.spawn(host, command).expect("started")
        });
        // They say when they listen.
        for process in &listening {
            let until = Instant::now() + PATIENCE;
            while !std::fs::read_to_string(process.log()).is_ok_and(|log| log.contains("listening for")) {
                assert!(Instant::now() < until, "{}", process.last_words());
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        std::thread::sleep(Duration::from_millis(200));
        let role = match from {
            Host::Lb => "lb",
            REAL => "real",
            _ => "client",
        };
        // One service is enough: every other one is noted under the same nonce.
        let line = format!("{} --probe", if from == Host::Lb { self.own_line() } else { self.line(role) });
        let only =
            line.split(" --service ").enumerate().filter(|(at, part)| *at == 0 || part.contains(&format!("{VIP_V4}:{ECHO}")));
        let only: Vec<&str> = only.map(|(_, part)| part).collect();
        let line = format!(
            "{} {}",
            only.join(" --service "),
            if only.last().is_some_and(|last| last.contains("--probe")) { "" } else { "--probe" }
        );
        let clients = self.lab.link(Host::Client).expect("a link").v4;
        let nonces = self.run(from, &format!("{line} --client {clients}")).expect("probes are sent");
        let files: Vec<String> = listening
            .into_iter()
            .map(|mut process| {
                process.wait().expect("a child");
                process.log().display().to_string()
            })
            .collect();
        if let Some((_, repair)) = broken {
            self.run(Host::Router, repair).expect("repaired");
        }
        let output = tandem(&["doctor", "--correlate"]).args(&files).output().expect("tandem starts");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let nonces: Vec<&str> = nonces.split_whitespace().collect();
        let [small, large] = nonces[..] else { panic!("two nonces: {nonces:?}") };
        [small, large].map(|nonce| {
            let of_it = said.split("\n\n").find(|part| part.starts_with(&format!("probe {nonce}")));
            of_it.map_or_else(|| format!("nothing of {nonce}: {said}"), |part| format!("{}\n", part.trim_end()))
        })
    }

    /// The balancer's own command line.
    fn own_line(&self) -> String {
        format!("tandem doctor -c {{conf}} --name {}", self.name())
    }

    /// Who says on a host's links that he has the VIPs: the answers, and whether none of them was wrong.
    pub fn who_has(&self, host: Host, role: &str) -> (String, bool) {
        let mut command = self.shell(&format!("{} --who-has", self.line(role)));
        let output = self.lab.enter(host, || command.output()).expect("a namespace").expect("tandem starts");
        (String::from_utf8_lossy(&output.stdout).into_owned(), output.status.success())
    }

    /// Counters and neighbours, for who wants to know why nothing flows.
    pub fn state(&self) -> String {
        let looks = [
            (Host::Lb, format!("tandem counters --name {} --json; ip neigh", self.name())),
            (Host::Router, "ip neigh; ip route".to_owned()),
            (REAL, "ip neigh".to_owned()),
        ];
        let looks = looks.map(|(host, text)| format!("{host}: {}", self.run(host, &text).unwrap_or_else(|why| why)));
        format!("{}\n{}", looks.join("\n"), self.log())
    }

    /// Whether traffic flows, soon.
    pub fn flows(&self, traffic: Traffic) -> bool {
        self.tries(traffic, PATIENCE)
    }

    /// Whether it still flows after a while: a running balancer has to notice first what was broken.
    pub fn flows_still(&self, traffic: Traffic) -> bool {
        (0..10).all(|_| {
            let flows = self.tries(traffic, SILENCE);
            std::thread::sleep(Duration::from_millis(100));
            flows
        })
    }

    fn tries(&self, traffic: Traffic, most: Duration) -> bool {
        let (host, to) = match traffic {
            Traffic::Udp => (Host::Client, SocketAddr::new(VIP_V4.into(), ECHO)),
            Traffic::Udp6 => (Host::Client, SocketAddr::new(VIP_V6.into(), ECHO)),
            Traffic::Other => (Host::Client, SocketAddr::new(VIP_V4.into(), OTHER)),
            Traffic::Probe => (Host::Lb, SocketAddr::new(VIP_V4.into(), ECHO)),
            Traffic::Upload => {
                let most = most.max(Duration::from_secs(2));
                let to = SocketAddr::new(VIP_V4.into(), STREAMS);
                return self.lab.enter(Host::Client, || upload(to, most).is_ok()).expect("the client's namespace");
            }
        };
        let mark = matches!(traffic, Traffic::Probe).then_some(MARK);
        self.lab.enter(host, || echoed(to, mark, most)).expect("a namespace")
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        self.other.store(true, Ordering::Relaxed);
        self.stop();
        // What cures may have left, whose pins no lab knows of: their names are those of links, which another stand's may have, too.
        if self.cured {
            let _ = self.shell("tandem root detach lb; tandem decap detach eth0").output();
        }
        let _ = tandem(&["lab", "down", "--prefix", &self.prefix]).output();
    }
}

fn configuration(lab: &Lab) -> String {
    let (lb, real) = (lab.link(Host::Lb).expect("a link"), lab.link(REAL).expect("a link"));
    let mut text = format!(
        "[node]\ninterface = \"{}\"\nmode = \"xdp\"\n[tunnel]\nsource_v4 = \"{}\"\nsource_v6 = \"{}\"\n[flows]\ncapacity = 10_000\n\
         [[health_encap]]\nmark = {MARK}\nreal = \"{}\"\n",
        lb.interface, lb.v4, lb.v6, real.v4
    );
    let services: [(IpAddr, u16, &str, IpAddr); 4] = [
        (VIP_V4.into(), ECHO, "udp", real.v4.into()),
        (VIP_V6.into(), ECHO, "udp", real.v6.into()),
        (VIP_V4.into(), STREAMS, "tcp", real.v4.into()),
        (VIP_V4.into(), OTHER, "udp", real.v4.into()),
    ];
    for (vip, port, protocol, real) in services {
        text += &format!(
            "[[vip]]\naddress = \"{vip}\"\nport = {port}\nprotocol = \"{protocol}\"\nring_size = 127\nencap = \"ipip\"\n[[vip.real]]\naddress = \"{real}\"\n"
        );
    }
    text
}

/// Echo on both VIPs, and a reader of streams that says how much it read. End with the test.
fn serve() {
    for vip in [IpAddr::from(VIP_V4), VIP_V6.into()] {
        let socket = UdpSocket::bind((vip, ECHO)).expect("a port of the real's");
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            loop {
                match socket.recv_from(&mut buffer) {
                    Ok((len, from)) => drop(socket.send_to(&buffer[..len], from)),
                    // Nothing that is broken on the way is an error of this socket.
                    Err(error) => eprintln!("the echo on {vip}: {error}"),
                }
            }
        });
    }
    let listener = TcpListener::bind((VIP_V4, STREAMS)).expect("a port of the real's");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut bytes = Vec::new();
                let _ = (&stream).read_to_end(&mut bytes);
                let _ = (&stream).write_all(&(bytes.len() as u64).to_be_bytes());
            });
        }
    });
}

/// Whether one of many datagrams comes back.
fn echoed(to: SocketAddr, mark: Option<u32>, most: Duration) -> bool {
    let (until, mut sent) = (Instant::now() + most, 0_u64);
    while Instant::now() < until {
        // A socket each time: a new flow, and nothing that an error left.
        let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind((any, 0)).expect("a port");
        if let Some(mark) = mark {
            socket2::SockRef::from(&socket).set_mark(mark).expect("a mark");
        }
        socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a limit");
        sent += 1;
        let (is_sent, mut buffer) = (socket.connect(to).and_then(|()| socket.send(&sent.to_be_bytes())).is_ok(), [0; 16]);
        if is_sent && socket.recv(&mut buffer).is_ok_and(|len| buffer[..len] == sent.to_be_bytes()) {
            return true;
        }
        if !is_sent {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    false
}

/// A stream of full segments, confirmed.
fn upload(to: SocketAddr, most: Duration) -> std::io::Result<()> {
    let stream = TcpStream::connect_timeout(&to, most)?;
    stream.set_write_timeout(Some(most))?;
    stream.set_read_timeout(Some(most))?;
    (&stream).write_all(&[7; 60_000])?;
    stream.shutdown(Shutdown::Write)?;
    let mut confirmed = [0; 8];
    (&stream).read_exact(&mut confirmed)?;
    if u64::from_be_bytes(confirmed) == 60_000 { Ok(()) } else { Err(std::io::ErrorKind::InvalidData.into()) }
}
