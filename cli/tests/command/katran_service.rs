//! Katran's gRPC service, driven by a Python client that is generated from a proto file of the same shape: what a client
//! that was written for Katran does in its life, and the same numbers as those of our own API.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tandem_backends::run::Paths;

use super::python::python;
use super::shell::{Balancer, Scratch, assert_gone, tandem};
use super::wire::{NEAR, VIP, VIP_NAME, config, in_namespace, send};

/// The client's process, connected to a balancer.
struct Client {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Client {
    fn start(python: &Path, balancer: &Balancer) -> Self {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let target = format!("unix:{}", Paths::katran(&Paths::of(&balancer.name).socket).display());
        let mut command = Command::new(python);
        command.arg(here.join("tests/command/katran_client.py")).arg(here.join("../api/proto")).arg(target);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("python starts");
        let stdin = child.stdin.take().expect("piped");
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, stdin, stdout }
    }

    #[track_caller]
    fn call(&mut self, method: &str, request: &Value) -> Value {
        writeln!(self.stdin, "{method} {request}").expect("it reads");
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("it answers");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{method}: {error}: {line:?}"))
    }

    /// A call that is answered by whether it was done.
    #[track_caller]
    fn is_done(&mut self, method: &str, request: &Value) -> bool {
        let answer = self.call(method, request);
        answer["success"].as_bool().unwrap_or_else(|| panic!("{method}: {answer}"))
    }

    /// Both numbers of a call for statistics.
    #[track_caller]
    fn stats(&mut self, method: &str, request: &Value) -> [u64; 2] {
        let answer = self.call(method, request);
        // JSON has 64-bit numbers as texts.
        ["v1", "v2"]
            .map(|name| answer[name].as_str().and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{method}: {answer}")))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn vip(port: u16) -> Value {
    json!({"address": VIP.to_string(), "port": port, "protocol": 17})
}

fn addresses(reals: &Value) -> Vec<String> {
    let row = |real: &Value| format!("{} {} {}", real["address"], real["weight"], real["flags"]).replace('"', "");
    reals["reals"].as_array().unwrap_or_else(|| panic!("{reals}")).iter().map(row).collect()
}

#[test]
fn the_life_of_a_service_as_katrans_client_sees_it() {
    let Some(python) = python() else { return };
    in_namespace(|links| {
        links.veth();
        let scratch = Scratch::new();
        let profile = "mode = \"xdp\"\nprofile = \"katran\"";
        let file = scratch.file("t.toml", format!("{}[api]\nkatran = true\n", config(NEAR, profile)));
        let mut balancer = Balancer::start(&file);
        let mut client = Client::start(python, &balancer);

        // VIPs.
        assert_eq!(client.call("getAllVips", &json!({}))["vips"], json!([vip(80)]));
        assert!(client.is_done("addVip", &json!({"vip": vip(81), "flags": 1})));
        assert!(!client.is_done("addVip", &json!({"vip": vip(81), "flags": 1})), "it is there");
        assert!(!client.is_done("addVip", &json!({"vip": {"address": "nowhere", "port": 1, "protocol": 6}})));
        assert!(!client.is_done("addVip", &json!({"vip": {"address": "10.1.1.1", "port": 1, "protocol": 1}})));
        assert!(!client.is_done("addVip", &json!({"vip": vip(82), "flags": 1 << 30})));
        assert_eq!(client.call("getAllVips", &json!({}))["vips"], json!([vip(80), vip(81)]));
        assert_eq!(client.call("getVipFlags", &vip(81))["flags"], "1");
        assert!(client.is_done("modifyVip", &json!({"vip": vip(81), "flags": 4, "setFlag": true})));
        assert_eq!(client.call("getVipFlags", &vip(81))["flags"], "5");
        assert!(client.is_done("modifyVip", &json!({"vip": vip(81), "flags": 5, "setFlag": false})));
        assert_eq!(client.call("getVipFlags", &vip(81))["flags"], "0");
        assert_eq!(client.call("getVipFlags", &vip(99))["error"], "NOT_FOUND");

        // Reals.
        let real = |address: &str, weight: i32| json!({"real": {"address": address, "weight": weight}, "vip": vip(81)});
        assert!(client.is_done("addRealForVip", &real("10.0.0.7", 3)));
        assert!(client.is_done("addRealForVip", &real("10.0.0.7", 4)), "another weight");
        let several = json!({"reals": [
            {"address": "10.0.0.8", "weight": 0}, {"address": "no address", "weight": 1}, {"address": "fc00::9", "weight": 2, "flags": 2},
        ]});
        assert!(client.is_done("modifyRealsForVip", &json!({"action": "ADD", "real": several, "vip": vip(81)})));
        assert_eq!(addresses(&client.call("getRealsForVip", &vip(81))), ["10.0.0.7 4 0", "10.0.0.8 0 0", "fc00::9 2 3"]);
        assert!(client.is_done("modifyReal", &json!({"address": "fc00::9", "flags": 2, "setFlag": false})));
        assert_eq!(client.call("getRealFlags", &json!({"address": "fc00::9"}))["flags"], "1");
        assert!(!client.is_done("modifyReal", &json!({"address": "10.9.9.9", "flags": 2, "setFlag": true})));
        assert!(client.is_done("delRealForVip", &real("10.0.0.8", 0)));
        assert!(client.is_done("delRealForVip", &real("10.0.0.8", 0)), "one that is not there is no mistake");
        let both = json!({"reals": [{"address": "fc00::9"}, {"address": "10.0.0.7"}]});
        assert!(client.is_done("modifyRealsForVip", &json!({"action": "DEL", "real": both, "vip": vip(81)})));
        assert_eq!(addresses(&client.call("getRealsForVip", &vip(81))), [""; 0]);
        assert!(!client.is_done("addRealForVip", &json!({"real": {"address": "10.0.0.7", "weight": 1}, "vip": vip(99)})));

        // Server ids, marks, the router's MAC.
        let ids = |action: &str, reals: Value| json!({"action": action, "reals": {"qreals": reals}});
        let mapped = json!([{"address": "10.0.0.1", "id": 1022}, {"address": "fc00::1", "id": 1024}]);
        assert!(client.is_done("modifyQuicRealsMapping", &ids("ADD", mapped.clone())));
        assert_eq!(client.call("getQuicRealsMapping", &json!({}))["qreals"], mapped);
        assert!(client.is_done("modifyQuicRealsMapping", &ids("DEL", json!([{"address": "10.0.0.1", "id": 1022}]))));
        assert_eq!(client.call("getQuicRealsMapping", &json!({}))["qreals"], json!([{"address": "fc00::1", "id": 1024}]));
        assert!(client.is_done("addHealthcheckerDst", &json!({"somark": 1, "address": "10.0.0.1"})));
        assert!(client.is_done("addHealthcheckerDst", &json!({"somark": 2, "address": "10.0.0.2"})));
        assert!(client.is_done("delHealthcheckerDst", &json!({"somark": 1})));
        assert!(!client.is_done("delHealthcheckerDst", &json!({"somark": 1})), "it is gone");
        assert!(!client.is_done("addHealthcheckerDst", &json!({"somark": 3, "address": "nowhere"})));
        assert_eq!(client.call("getHealthcheckersDst", &json!({}))["healthchecks"], json!({"2": "10.0.0.2"}));
        assert_eq!(client.call("getMac", &json!({}))["mac"], "02:00:00:00:00:09");
        assert!(client.is_done("changeMac", &json!({"mac": "02:00:00:00:00:0a"})));
        assert!(!client.is_done("changeMac", &json!({"mac": "no MAC"})));
        assert_eq!(client.call("getMac", &json!({}))["mac"], "02:00:00:00:00:0a");

        // Statistics, beside those of our own API.
        send(5000..5010, 3);
        let native = balancer.ask(&["stats", VIP_NAME])["vips"][0].clone();
        let counters = balancer.ask(&["counters"]);
        let of_vip = client.stats("getStatsForVip", &vip(80));
        assert_eq!(of_vip[0], 30);
        assert_eq!(json!(of_vip), json!([native["packets"], native["bytes"]]));
        let event = |name: &str| {
            counters["xdp"]["events"][name].as_u64().expect("a count")
                + counters["afxdp"]["events"][name].as_u64().expect("a count")
        };
        let lru = client.stats("getLruStats", &json!({}));
        assert_eq!(lru, [30, 10], "packets to VIPs, and those whose real the ring chose");
        assert_eq!(lru, ["vip-packets", "ring-decisions"].map(event));
        assert_eq!(client.stats("getLruMissStats", &json!({})), ["miss-tcp-syn", "miss-tcp-other"].map(event));
        assert_eq!(client.stats("getLruFallbackStats", &json!({})), [0, 0]);
        assert_eq!(client.stats("getIcmpTooBigStats", &json!({})), ["too-big-v4", "too-big-v6"].map(event));

        assert!(client.is_done("delVip", &vip(81)));
        assert!(!client.is_done("delVip", &vip(81)), "it is gone");
        assert_eq!(balancer.ask(&["vip", "list"])["vips"].as_array().map(Vec::len), Some(1));
        send(5000..5010, 1);
        assert_eq!(client.stats("getStatsForVip", &vip(80))[0], 40);

        // Killed, it leaves both sockets.
        balancer.signal(Signal::SIGKILL);
        balancer.end();
        assert!(Paths::katran(&Paths::of(&balancer.name).socket).exists());
        tandem(["detach", &balancer.name]).done();
        assert_gone(&balancer.name);
    });
}
