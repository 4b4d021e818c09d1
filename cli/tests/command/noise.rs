//! Messages of random contents to every method of both services, as reflection tells them: each is answered, and nothing panics.

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tandem_backends::run::Paths;

use super::python::python;
use super::shell::{Balancer, Scratch};
use super::wire::{NEAR, config, in_namespace, send};

/// Calls of each service, in a short run and in a long one.
const ROUNDS: [&str; 2] = ["300", "10000"];
const SEED: &str = "7";

/// What the client of `api_noise.py` says of a socket.
fn noise(python: &Path, socket: &Path) -> Value {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/command/api_noise.py");
    let target = format!("unix:{}", socket.display());
    let rounds = ROUNDS[usize::from(std::env::var_os("TANDEM_LONG").is_some())];
    let output = Command::new(python).arg(script).args([&target, SEED, rounds]).output().expect("python starts");
    let said = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}{}", String::from_utf8_lossy(&output.stderr)))
}

#[test]
fn every_method_answers_whatever_is_sent() {
    let Some(python) = python() else { return };
    in_namespace(|links| {
        links.veth();
        let scratch = Scratch::new();
        let text = config(NEAR, "mode = \"xdp\"\n[api]\nkatran = true");
        let file = scratch.file("t.toml", &text);
        let balancer = Balancer::start(&file);
        send(5000..5010, 1);
        let own = Paths::of(&balancer.name).socket;
        let services = [(own.clone(), "tandem.v1.Balancer.", 15), (Paths::katran(&own), "lb.katran.KatranService.", 20)];
        for (socket, service, least) in services {
            let said = noise(python, &socket);
            let methods: Vec<&str> = said["methods"].as_array().expect("methods").iter().filter_map(Value::as_str).collect();
            assert!(methods.len() >= least && methods.iter().all(|method| method.starts_with(service)), "{methods:?}");
            let codes = said["codes"].as_object().expect("codes");
            let done = codes.get("OK").and_then(Value::as_u64).unwrap_or(0);
            assert!(done > 20, "hardly anything made sense: {codes:?}");
            // A handler that panics leaves its caller without an answer.
            for bad in ["UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED", "UNIMPLEMENTED", "DATA_LOSS"] {
                assert!(!codes.contains_key(bad), "{service}: {codes:?}\n{}", balancer.log());
            }
        }
        assert!(!balancer.log().contains("panicked"), "{}", balancer.log());
        // The file, if nobody saved what is in force now, makes the same balancer as before.
        std::fs::write(&file, &text).expect("the file");
        balancer.ask(&["reload"]);
        balancer.ask(&["mode", "set", "xdp"]);
        send(5000..5010, 1);
    });
}
