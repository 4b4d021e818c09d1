//! Changes of a running balancer over its API: what is in force, what is refused, what the file gets, and who may ask at all.

use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;

use nix::unistd::{Uid, setfsuid};
use serde_json::Value;
use tandem_api::client::{Client, ClientError};
use tandem_api::wire;
use tandem_backends::run::Paths;

use super::shell::{Answer, Balancer, Scratch, tandem};
use super::wire::{NEAR, VIP, VIP_NAME, client, config, in_namespace, send};

const KERNEL: &str = "mode = \"xdp\" # for now";
/// A VIP that the file has not.
const OTHER: &str = "192.0.2.100:81/udp";

/// Datagrams to the VIP that the file has not, one for each flow.
fn send_other(ports: std::ops::Range<u16>) {
    for port in ports {
        client(port).send_to(b"tandem", (VIP, 81)).expect("sent");
    }
}

/// `tandem VERB… --name NAME`.
fn run(balancer: &Balancer, verb: &[&str]) -> Answer {
    tandem(verb.iter().copied().chain(["--name", &balancer.name]))
}

/// The states of the reals of the VIP at `index`.
fn states(balancer: &Balancer, index: usize) -> Vec<String> {
    let vips = balancer.ask(&["vip", "list"]);
    let reals = vips["vips"][index]["reals"].as_array().unwrap_or_else(|| panic!("{vips}")).clone();
    reals.iter().map(|real| format!("{} {} {}", real["address"], real["weight"], real["state"]).replace('"', "")).collect()
}

fn stats_of(balancer: &Balancer, vip: &str) -> Value {
    let stats = balancer.ask(&["stats", vip]);
    stats["vips"][0].clone()
}

#[test]
fn vips_and_reals_come_change_and_go() {
    in_namespace(|links| {
        links.veth();
        let scratch = Scratch::new();
        let file = scratch.file("t.toml", config(NEAR, KERNEL));
        let balancer = Balancer::start(&file);
        send(5000..5010, 1);

        let added = balancer.ask(&["vip", "add", OTHER, "--real", "10.0.0.5=2", "--real", "10.0.0.6", "--ring-size", "1009"]);
        assert_eq!((&added["vips_added"], &added["reals_added"], &added["rings"]), (&1.into(), &2.into(), &1.into()), "{added}");
        assert_eq!(states(&balancer, 1), ["10.0.0.5 2 up", "10.0.0.6 1 up"]);
        send_other(6000..6020);
        let stats = stats_of(&balancer, OTHER);
        assert_eq!((&stats["packets"], &stats["ring"]), (&20.into(), &20.into()), "{stats}");
        let by_real: u64 = (0..2).map(|i| stats["reals"][i]["packets"].as_u64().expect("a count")).sum();
        assert_eq!(by_real, 20, "{stats}");

        // A drained real keeps its flows and gets no others.
        let kept = stats["reals"][0]["packets"].as_u64().expect("a count");
        assert!(kept > 0 && kept < 20, "{stats}");
        run(&balancer, &["drain", "10.0.0.5"]).done();
        assert_eq!(states(&balancer, 1), ["10.0.0.5 2 drain", "10.0.0.6 1 up"]);
        send_other(6000..6020);
        send_other(7000..7020);
        let stats = stats_of(&balancer, OTHER);
        assert_eq!(stats["reals"][0]["packets"], 2 * kept, "{stats}");
        assert_eq!(stats["reals"][1]["packets"], 60 - 2 * kept, "{stats}");
        run(&balancer, &["drain", "10.0.0.5", "--undo", "--vip", OTHER]).done();
        run(&balancer, &["real", "set", OTHER, "10.0.0.6", "--weight", "0"]).done();
        run(&balancer, &["real", "add", VIP_NAME, "10.0.0.3", "--weight", "5", "--state", "down"]).done();
        assert_eq!(states(&balancer, 0), ["10.0.0.1 1 up", "10.0.0.2 1 up", "10.0.0.3 5 down"]);

        // The flows of the VIP that was there all the time stayed.
        send(5000..5010, 1);
        let first = stats_of(&balancer, VIP_NAME);
        assert_eq!((&first["packets"], &first["ring"]), (&20.into(), &10.into()), "{first}");
        let listed = run(&balancer, &["vip", "list"]).done().out;
        assert!(listed.contains(OTHER) && listed.contains("not in the file"), "{listed}");

        // Saved: what is in force, and the comment. The file alone makes the same balancer.
        let before = balancer.ask(&["vip", "list"]);
        run(&balancer, &["save"]).done();
        let text = std::fs::read_to_string(&file).expect("the file");
        assert!(text.contains("# for now") && text.contains("10.0.0.6"), "{text}");
        assert_eq!(balancer.ask(&["vip", "list"])["unsaved"], false);
        let changes = balancer.ask(&["reload"]);
        assert_eq!((&changes["vips_added"], &changes["vips_removed"], &changes["rings"]), (&0.into(), &0.into(), &0.into()));
        assert_eq!(balancer.ask(&["vip", "list"])["vips"], before["vips"]);

        // What is not saved is lost by a reload.
        run(&balancer, &["real", "remove", VIP_NAME, "10.0.0.3"]).done();
        run(&balancer, &["vip", "remove", OTHER]).done();
        assert_eq!(balancer.ask(&["vip", "list"])["vips"].as_array().map(Vec::len), Some(1));
        run(&balancer, &["reload"]).done();
        assert_eq!(balancer.ask(&["vip", "list"])["vips"], before["vips"]);
    });
}

#[test]
fn what_makes_no_sense_changes_nothing() {
    in_namespace(|links| {
        links.veth();
        let scratch = Scratch::new();
        let text = config(NEAR, KERNEL);
        let file = scratch.file("t.toml", &text);
        let balancer = Balancer::start(&file);
        let before = balancer.ask(&["vip", "list"]);
        let refused = |verb: &[&str], status: i32, parts: &[&str]| run(&balancer, verb).refused(status, parts);
        refused(&["vip", "add", "192.0.2.7:80/sctp"], 2, &["/tcp"]);
        refused(&["vip", "add", VIP_NAME], 1, &[VIP_NAME, "is there already"]);
        refused(&["vip", "add", OTHER, "--encap", "vxlan"], 2, &["vip[1].encap", "vxlan", "ipip"]);
        refused(&["vip", "add", OTHER, "--ring-size", "1000"], 2, &["vip[1].ring_size", "not prime"]);
        refused(&["vip", "set", OTHER, "--ring", "maglev-v1"], 1, &["no VIP", OTHER]);
        refused(&["vip", "remove", OTHER], 1, &["no VIP", OTHER]);
        refused(&["real", "add", VIP_NAME, "10.0.0.1"], 1, &["10.0.0.1 already"]);
        refused(&["real", "set", VIP_NAME, "10.0.0.1", "--weight", "70000"], 2, &["vip[0].real[0].weight", "70000"]);
        refused(&["real", "remove", VIP_NAME, "10.0.0.1", "10.0.0.9"], 1, &["no real 10.0.0.9"]);
        refused(&["drain", "10.0.0.9"], 1, &["no VIP has a real 10.0.0.9"]);
        refused(&["stats", OTHER], 1, &["no VIP", OTHER]);
        assert_eq!(balancer.ask(&["vip", "list"]), before, "something changed");

        // Two clients, one configuration: who comes second is told.
        let mut client = Client::unix(&Paths::of(&balancer.name).socket).expect("it answers");
        let generation = before["generation"].as_u64().expect("a number");
        let mut weight = |real: &str| {
            let vip = VIP_NAME.parse::<tandem_api::Service>().expect("a VIP").to_wire();
            let request =
                wire::SetRealRequest { vip: Some(vip), real: real.to_owned(), weight: Some(7), state: None, generation };
            client.ask(async |balancer| balancer.set_real(request).await)
        };
        assert_eq!(weight("10.0.0.1").expect("the first").generation, generation + 1);
        let error = weight("10.0.0.2").expect_err("the second").to_string();
        assert!(error.contains("another change came first"), "{error}");
        assert_eq!(states(&balancer, 0), ["10.0.0.1 7 up", "10.0.0.2 1 up"]);

        // A file that is no more what was started from is not overwritten.
        run(&balancer, &["reload"]).done();
        let other = text.replace("10.0.0.2", "10.0.0.4");
        // With a mistake, so that who watches the file does not put it in force first.
        let mistaken = format!("{other}nonsense = 1\n");
        scratch.file("t.toml", &mistaken);
        run(&balancer, &["drain", "10.0.0.1"]).done();
        refused(&["save"], 1, &["another one than the configuration in force", "tandem reload"]);
        assert_eq!(std::fs::read_to_string(&file).expect("the file"), mistaken);
        scratch.file("t.toml", &other);
        run(&balancer, &["reload"]).done();
        run(&balancer, &["drain", "10.0.0.4"]).done();
        assert_eq!(states(&balancer, 0), ["10.0.0.1 1 up", "10.0.0.4 1 drain"]);
    });
}

/// Sockets of this thread's network namespace that listen on TCP.
fn listening() -> Vec<String> {
    let table = |name: &str| std::fs::read_to_string(format!("/proc/thread-self/net/{name}")).unwrap_or_default();
    let lines = format!("{}{}", table("tcp"), table("tcp6"));
    lines.lines().filter(|line| line.split_whitespace().nth(3) == Some("0A")).map(str::to_owned).collect()
}

#[test]
fn nobody_but_root_on_this_host_may_ask() {
    in_namespace(|links| {
        links.veth();
        let scratch = Scratch::new();
        let (file, grouped) = (config(NEAR, KERNEL), "[api]\ngroup = \"daemon\"\nkatran = true\n");
        let balancer = Balancer::start(&scratch.file("t.toml", &file));
        let socket = Paths::of(&balancer.name).socket;
        assert_eq!(socket.metadata().expect("a socket").permissions().mode() & 0o777, 0o600);
        assert_eq!(listening(), [""; 0], "a TCP port is open");
        let as_nobody = |path: &std::path::Path| {
            std::thread::scope(|scope| {
                let thread = scope.spawn(|| {
                    setfsuid(Uid::from_raw(65_534));
                    let plain = UnixStream::connect(path).map(drop).map_err(|error| error.kind());
                    (plain, Client::unix(path).map(drop))
                });
                thread.join().expect("no panic")
            })
        };
        let (plain, client) = as_nobody(&socket);
        assert_eq!(plain, Err(std::io::ErrorKind::PermissionDenied));
        assert!(matches!(client, Err(ClientError::Denied { .. })), "{:?}", client.err());
        drop(balancer);

        let balancer = Balancer::start(&scratch.file("t.toml", format!("{file}{grouped}")));
        let socket = Paths::of(&balancer.name).socket;
        for path in [socket.clone(), Paths::katran(&socket)] {
            assert_eq!(path.metadata().expect("a socket").permissions().mode() & 0o777, 0o660, "{}", path.display());
            assert_eq!(as_nobody(&path).0, Err(std::io::ErrorKind::PermissionDenied));
        }
        assert_eq!(listening(), [""; 0], "a TCP port is open");
        // A listener with mutual TLS needs the files.
        let missing = "[api]\nlisten = \"127.0.0.1:9443\"\n";
        let bad = scratch.file("bad.toml", format!("{file}{missing}"));
        tandem(["check".as_ref(), "-c".as_ref(), bad.as_os_str()]).refused(1, &["api.listen", "without mutual TLS"]);
        let none = Ipv4Addr::LOCALHOST;
        let files = "tls_cert = \"/nonexistent/a\"\ntls_key = \"/nonexistent/b\"\nclient_ca = \"/nonexistent/c\"\n";
        let bad = scratch.file("bad.toml", format!("{file}[api]\nlisten = \"{none}:9443\"\n{files}"));
        let arguments = ["run".as_ref(), "--name".as_ref(), "api-none".as_ref(), "-c".as_ref(), bad.as_os_str()];
        drop(balancer);
        tandem(arguments).refused(1, &["/nonexistent/a", "api.tls_cert"]);
        links.assert_bare(NEAR);
    });
}

/// Certificates of one authority: a server's for 127.0.0.1, and clients'.
struct Authority(rcgen::Issuer<'static, rcgen::KeyPair>, String);

impl Authority {
    fn new(name: &str) -> Self {
        let mut parameters = rcgen::CertificateParams::default();
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        parameters.distinguished_name.push(rcgen::DnType::CommonName, name);
        let key = rcgen::KeyPair::generate().expect("a key");
        let pem = parameters.self_signed(&key).expect("a certificate").pem();
        Self(rcgen::Issuer::new(parameters, key), pem)
    }

    /// Writes a certificate for `name` and its key; their paths.
    fn issue(&self, scratch: &Scratch, name: &str) -> [std::path::PathBuf; 2] {
        let parameters = rcgen::CertificateParams::new([name.to_owned()]).expect("a name");
        let key = rcgen::KeyPair::generate().expect("a key");
        let certificate = parameters.signed_by(&key, &self.0).expect("signed");
        [scratch.file(&format!("{name}.crt"), certificate.pem()), scratch.file(&format!("{name}.key"), key.serialize_pem())]
    }
}

#[test]
fn over_tcp_only_with_a_certificate_of_the_right_authority() {
    in_namespace(|links| {
        links.veth();
        links.loopback();
        let scratch = Scratch::new();
        let (ours, others) = (Authority::new("ours"), Authority::new("others"));
        let [cert, key] = ours.issue(&scratch, "127.0.0.1");
        let [client_cert, client_key] = ours.issue(&scratch, "client");
        let [bad_cert, bad_key] = others.issue(&scratch, "stranger");
        let ca = scratch.file("ca.crt", &ours.1);
        let api = format!(
            "[api]\nlisten = \"127.0.0.1:9443\"\ntls_cert = \"{}\"\ntls_key = \"{}\"\nclient_ca = \"{}\"\n",
            cert.display(),
            key.display(),
            ca.display()
        );
        let _balancer = Balancer::start(&scratch.file("t.toml", format!("{}{api}", config(NEAR, KERNEL))));
        assert_eq!(listening().len(), 1, "{:?}", listening());
        let ask = |cert: &std::path::Path, key: &std::path::Path| {
            let [ca, cert, key] = [ca.as_path(), cert, key].map(|path| path.display().to_string());
            let server = ["--server", "https://127.0.0.1:9443", "--tls-ca", &ca, "--tls-cert", &cert, "--tls-key", &key];
            tandem(["vip", "list", "--json"].into_iter().chain(server))
        };
        let answer = ask(&client_cert, &client_key).done();
        assert!(answer.out.contains("192.0.2.100"), "{answer:?}");
        ask(&bad_cert, &bad_key).refused(1, &[]);
        ask(&scratch.path("none"), &client_key).refused(2, &["none", "--tls-cert"]);
        // Without a certificate at all, and without TLS.
        let mut plain = std::net::TcpStream::connect("127.0.0.1:9443").expect("it listens");
        let time = Some(std::time::Duration::from_secs(10));
        plain.set_read_timeout(time).expect("a time limit");
        std::io::Write::write_all(&mut plain, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").expect("sent");
        let mut answer = Vec::new();
        let _ = std::io::Read::read_to_end(&mut plain, &mut answer);
        // Nothing, or an alert of TLS (RFC 8446 section 6); no frame of HTTP/2.
        assert!(answer.is_empty() || answer[0] == 21, "{answer:?}");
    });
}
