//! The page of metrics: it parses, counts what was forwarded, and has every metric that the dashboard and the alerts name.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::python::python;
use super::shell::{Balancer, Scratch};
use super::wire::{NEAR, VIP_NAME, config, in_namespace, send};

/// `GET path`: the head, and the body.
fn get(path: &str) -> (String, String) {
    let mut stream = TcpStream::connect("127.0.0.1:9469").expect("it listens");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: lb\r\nConnection: close\r\n\r\n").expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer}"));
    (head.to_owned(), body.to_owned())
}

/// The value of a sample.
#[track_caller]
fn sample(page: &str, name: &str) -> f64 {
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name} in {page}"))
}

/// Names of metrics in a document.
fn named(document: &str) -> BTreeSet<String> {
    let words = document.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("tandem_")).map(str::to_owned).collect()
}

#[test]
fn a_scrape_has_what_dashboard_and_alerts_name() {
    in_namespace(|links| {
        links.veth();
        links.loopback();
        let scratch = Scratch::new();
        let balancer = Balancer::start(&scratch.file("t.toml", format!("{}[metrics]\n", config(NEAR, "mode = \"xdp\""))));
        send(5000..5010, 3);
        let (head, page) = get("/metrics");
        assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("application/openmetrics-text; version=1.0.0"), "{head}");
        assert_eq!(sample(&page, &format!("tandem_vip_packets_total{{seat=\"xdp\",vip=\"{VIP_NAME}\"}}")), 30.0);
        assert_eq!(sample(&page, "tandem_frames_total{seat=\"xdp\",action=\"tx\",reason=\"forwarded\"}"), 30.0);
        assert_eq!(sample(&page, "tandem_mode{mode=\"xdp\"}"), 1.0);
        assert_eq!(sample(&page, &format!("tandem_vip_reals_up{{vip=\"{VIP_NAME}\"}}")), 2.0);
        let real = |state: &str| format!("tandem_real_state{{vip=\"{VIP_NAME}\",real=\"10.0.0.1\",state=\"{state}\"}}");
        assert_eq!((sample(&page, &real("up")), sample(&page, &real("drain"))), (1.0, 0.0));
        assert_eq!((sample(&page, "tandem_flows"), sample(&page, "tandem_flows_depending_on_state")), (10.0, 0.0));
        balancer.ask(&["drain", "10.0.0.1"]);
        let (_, page) = get("/metrics");
        assert_eq!((sample(&page, &real("up")), sample(&page, &real("drain"))), (0.0, 1.0));
        assert_eq!(sample(&page, &format!("tandem_vip_reals_up{{vip=\"{VIP_NAME}\"}}")), 1.0);
        assert_eq!(sample(&page, "tandem_configuration_unsaved"), 1.0);
        let on_state = balancer.ask(&["mode", "show"])["flows"]["on_state"].as_f64().expect("a number");
        assert!(on_state > 0.0 && sample(&page, "tandem_flows_depending_on_state") == on_state, "{on_state}: {page}");
        assert!(get("/").0.starts_with("HTTP/1.1 404 "));
        // A worker, for the metric about it.
        balancer.ask(&["mode", "set", "afxdp"]);
        let (_, page) = get("/metrics");
        assert_eq!(sample(&page, "tandem_mode{mode=\"afxdp\"}"), 1.0);

        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
        let read = |name: &str| std::fs::read_to_string(docs.join(name)).expect(name);
        let dashboard: Value = serde_json::from_str(&read("grafana.json")).expect("JSON");
        let expressions: Vec<&str> = dashboard["panels"]
            .as_array()
            .expect("panels")
            .iter()
            .flat_map(|panel| panel["targets"].as_array().expect("targets"))
            .map(|target| target["expr"].as_str().expect("an expression"))
            .collect();
        assert!(expressions.len() > 15, "{expressions:?}");
        let samples: BTreeSet<String> =
            page.lines().filter_map(|line| named(line.split(['{', ' ']).next()?).pop_first()).collect();
        for name in named(&expressions.join(" ")).union(&named(&read("alerts.yml"))) {
            assert!(samples.contains(name), "{name} is in no scrape; there are {samples:?}");
        }
        let listed = named(&read("api.md"));
        for name in &samples {
            assert!(listed.contains(name), "docs/api.md does not list {name}");
        }
        judged(&page, samples.len());
    });
}

/// The reference parser takes every line.
fn judged(page: &str, samples: usize) {
    let Some(python) = python() else { return };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/command/openmetrics.py");
    let mut child = Command::new(python)
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    child.stdin.take().expect("piped").write_all(page.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{}\n{page}", String::from_utf8_lossy(&output.stderr));
    let families: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(families.as_object().map(serde_json::Map::len), Some(samples), "{families}");
    assert_eq!((&families["tandem_frames"], &families["tandem_mode"]), (&"counter".into(), &"gauge".into()));
}
