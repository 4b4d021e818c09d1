//! Health checks in a lab: a server that stops answering, one whose tunnel alone is broken, and what is announced by BGP.

#[path = "common/mod.rs"]
mod common;

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{output, permitted, tandem};
use serde_json::Value;
use tandem_lab::{Host, Lab, Process, find_program};

const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 200, 1, 1));
const AT: SocketAddr = SocketAddr::new(VIP, 8099);
const INTERVAL: Duration = Duration::from_millis(400);
const FALL: u32 = 3;
/// The routes' protocol and table.
const ROUTES: u8 = 213;

/// A server of HTTP that can be told to stop.
struct Server(Arc<AtomicBool>);

impl Server {
    /// In a host, on the VIP.
    fn start(lab: &Lab, host: Host) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let until = stop.clone();
        let serve = move || {
            let listener = TcpListener::bind(AT).expect("the VIP is the real's");
            listener.set_nonblocking(true).expect("a socket");
            std::thread::spawn(move || {
                while !until.load(Ordering::Relaxed) {
                    match listener.accept() {
                        Ok((mut stream, _)) => drop(write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK")),
                        Err(_) => std::thread::sleep(Duration::from_millis(5)),
                    }
                }
            });
        };
        lab.enter(host, serve).expect("a namespace");
        Self(stop)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A lab with two reals and a balancer, which goes with the test.
struct Stand {
    prefix: String,
    lab: Lab,
    balancer: Option<Process>,
}

impl Stand {
    fn new() -> Self {
        let prefix = format!("ap-{}", std::process::id() % 10_000);
        output(&["lab", "up", "--prefix", &prefix, "--reals", "2", "--vip", &VIP.to_string()]);
        let lab = Lab::open(&prefix).expect("the lab just made");
        let mut stand = Self { prefix, lab, balancer: None };
        let (lb, reals) = (stand.lab.link(Host::Lb).expect("a link"), [1, 2].map(|n| stand.real(n)));
        let text = format!(
            "[node]\ninterface = \"{}\"\nmode = \"xdp\"\n[tunnel]\nsource_v4 = \"{}\"\n[flows]\ncapacity = 10_000\n[announce]\n\
             [[vip]]\naddress = \"{VIP}\"\nport = 8099\nprotocol = \"tcp\"\nring_size = 1009\n\
             [vip.health]\ncheck = \"http\"\nbody = \"OK\"\ninterval = \"{}ms\"\ntimeout = \"300ms\"\nrise = 2\nfall = {FALL}\nmin_healthy = 1\n\
             [[vip.real]]\naddress = \"{}\"\n[[vip.real]]\naddress = \"{}\"\n",
            lb.interface,
            lb.v4,
            INTERVAL.as_millis(),
            reals[0],
            reals[1]
        );
        let file = stand.lab.directory().join("tandem.toml");
        std::fs::write(&file, text).expect("a file");
        let command = tandem(&["run", "-c", &file.display().to_string(), "--name", &stand.name()]);
        stand.balancer = Some(stand.lab.spawn(Host::Lb, command).expect("started"));
        stand.until("it answers", Duration::from_secs(60), |stand| {
            tandem(&["mode", "show", "--name", &stand.name()]).output().is_ok_and(|output| output.status.success())
        });
        stand
    }

    fn real(&self, n: u16) -> Ipv4Addr {
        self.lab.link(Host::Real(n)).expect("a link").v4
    }

    fn name(&self) -> String {
        format!("lab-{}", self.prefix)
    }

    fn log(&self) -> String {
        self.balancer.as_ref().and_then(|process| std::fs::read_to_string(process.log()).ok()).unwrap_or_default()
    }

    fn ask(&self, verb: &[&str]) -> Value {
        let name = self.name();
        let words: Vec<&str> = verb.iter().copied().chain(["--name", &name, "--json"]).collect();
        serde_json::from_str(&output(&words)).expect("JSON")
    }

    /// What health checks say about both reals.
    fn health(&self) -> [String; 2] {
        let vips = self.ask(&["vip", "list"]);
        [0, 1].map(|i| vips["vips"][0]["reals"][i]["health"].as_str().unwrap_or_default().to_owned())
    }

    /// Waits until something is so, and says how long it took.
    #[track_caller]
    fn until(&self, what: &str, limit: Duration, is_so: impl Fn(&Self) -> bool) -> Duration {
        let start = Instant::now();
        while !is_so(self) {
            assert!(start.elapsed() < limit, "{what}: not within {limit:?}: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        start.elapsed()
    }

    /// Routes of a host, as `ip route` prints them.
    fn routes(&self, host: Host, arguments: &str) -> String {
        let list = || Command::new("ip").arg("route").arg("show").args(arguments.split_whitespace()).output();
        let output = self.lab.enter(host, list).expect("a namespace").expect("iproute2");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn announced(&self) -> bool {
        self.routes(Host::Lb, &format!("table {ROUTES} proto {ROUTES}")).contains(&VIP.to_string())
    }

    /// Connects from the client; which share of many connections is answered.
    fn answered(&self, tries: u32) -> u32 {
        let connect = || {
            let answered = |_: &u32| {
                let stream = std::net::TcpStream::connect_timeout(&AT, Duration::from_secs(2));
                stream.is_ok_and(|mut stream| std::io::Read::read(&mut stream, &mut [0; 8]).is_ok_and(|n| n > 0))
            };
            u32::try_from((0..tries).filter(answered).count()).expect("a count")
        };
        self.lab.enter(Host::Client, connect).expect("a namespace")
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
        let _ = tandem(&["lab", "down", "--prefix", &self.prefix]).output();
    }
}

/// `bird` in a host, with this configuration; `None`: it is not installed.
fn bird(lab: &Lab, host: Host, configuration: &str) -> Option<Process> {
    let program = find_program("bird", "bird2").ok()?;
    let file = |suffix: &str| lab.directory().join(format!("bird-{host}.{suffix}"));
    std::fs::write(file("conf"), configuration).expect("a file");
    let mut command = Command::new(program);
    command.arg("-f").arg("-c").arg(file("conf")).arg("-s").arg(file("ctl")).arg("-P").arg(file("pid"));
    Some(lab.spawn(host, command).expect("bird starts"))
}

/// One BGP session between the balancer and its router: the balancer exports our routes, the router takes them.
fn speak_bgp(stand: &Stand) -> Option<[Process; 2]> {
    let lb = stand.lab.link(Host::Lb).expect("a link");
    let (own, router) = (lb.v4, lb.router.gateway_v4);
    let at_lb = format!(
        "router id {own};\nipv4 table vips;\nprotocol device {{ scan time 1; }}\n\
         protocol kernel {{ kernel table {ROUTES}; learn; scan time 1; ipv4 {{ table vips; import where krt_source = {ROUTES}; export none; }}; }}\n\
         protocol bgp {{ local {own} as 65001; neighbor {router} as 65000; connect retry time 1; connect delay time 1; \
         ipv4 {{ table vips; import none; export all; next hop self; }}; }}\n"
    );
    let at_router = format!(
        "router id {router};\nprotocol device {{ scan time 1; }}\nprotocol kernel {{ ipv4 {{ import none; export all; }}; }}\n\
         protocol bgp {{ local {router} as 65000; neighbor {own} as 65001; passive; ipv4 {{ import all; export none; }}; }}\n"
    );
    Some([bird(&stand.lab, Host::Router, &at_router)?, bird(&stand.lab, Host::Lb, &at_lb)?])
}

#[test]
fn a_real_that_fails_is_out_and_comes_back() {
    if !permitted() {
        return;
    }
    let stand = Stand::new();
    let soon = Duration::from_secs(20);
    // Nobody serves yet: both are found out, and nothing is announced.
    stand.until("both are out", soon, |stand| stand.health() == ["failed", "failed"]);
    assert!(!stand.announced());
    let mut servers = [1, 2].map(|n| Some(Server::start(&stand.lab, Host::Real(n))));
    stand.until("both are in", soon, |stand| stand.health() == ["healthy", "healthy"]);
    stand.until("the VIP is announced", soon, Stand::announced);
    assert_eq!(stand.answered(20), 20, "{}", stand.log());

    // The router hears of it by BGP, and only so.
    let _ = stand.lab.exec(Host::Router, {
        let mut ip = Command::new("ip");
        ip.args(["route", "del", &VIP.to_string()]);
        ip
    });
    let bgp = speak_bgp(&stand);
    let learned = |stand: &Stand| stand.routes(Host::Router, "proto bird").contains(&VIP.to_string());
    match &bgp {
        Some(_) => {
            stand.until("the router knows the VIP", Duration::from_secs(30), learned);
            assert_eq!(stand.answered(10), 10, "{}", stand.log());
        }
        None => eprintln!("SKIPPED: no bird (Debian: bird2): whether a routing daemon exports the routes was not tried"),
    }

    // A server that stops: out within interval x fall (and as many timeouts), which leaves the other one alone.
    servers[0] = None;
    let bound = (INTERVAL * 11 / 10 + Duration::from_millis(300)) * (FALL + 1) + Duration::from_secs(1);
    let out = stand.until("it is out", bound, |stand| stand.health() == ["failed", "healthy"]);
    println!("a server that stopped was out after {out:?}");
    let taken = Duration::from_secs(2);
    stand.until("the ring is without it", taken, |stand| stand.log().contains("is out"));
    if bgp.is_some() {
        assert_eq!(stand.answered(20), 20, "{}", stand.log());
    }
    servers[0] = Some(Server::start(&stand.lab, Host::Real(1)));
    let back = stand.until("it is back", bound, |stand| stand.health() == ["healthy", "healthy"]);
    println!("and back after {back:?}");

    // A tunnel that is not opened any more, in front of a server that is well.
    let pin = Path::new("/sys/fs/bpf/tandem-lab").join(&stand.prefix).join("real2");
    std::fs::remove_file(&pin).expect("the decapsulation's pin");
    let out = stand.until("its tunnel is found out", bound, |stand| stand.health() == ["healthy", "failed"]);
    println!("a broken tunnel was found out after {out:?}");

    // Below the minimum nothing is announced.
    servers[0] = None;
    stand.until("the other is out", bound, |stand| stand.health() == ["failed", "failed"]);
    stand.until("it is withdrawn", Duration::from_secs(2), |stand| !stand.announced());
    if bgp.is_some() {
        stand.until("the router forgets the VIP", Duration::from_secs(10), |stand| !learned(stand));
    }
    servers[0] = Some(Server::start(&stand.lab, Host::Real(1)));
    stand.until("it is announced again", bound + Duration::from_secs(2), Stand::announced);
    drop(servers);
}
