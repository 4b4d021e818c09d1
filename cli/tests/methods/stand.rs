//! A lab with a balancer in it.

use std::time::{Duration, Instant};

use serde_json::Value;
use tandem_lab::{Host, Lab, Process};

use super::common::{output, tandem};
use super::service::{Service, VIP_V4, VIP_V6, configuration};

/// A lab that goes with the test, however it ends.
pub struct Stand {
    prefix: String,
    pub lab: Lab,
    balancer: Process,
}

impl Stand {
    /// `kind`: a letter, as the tests of a process run at once.
    pub fn new(kind: char, layout: &str, services: &[Service]) -> Self {
        let prefix = format!("{kind}{}", std::process::id() % 10_000);
        let (v4, v6) = (VIP_V4.to_string(), VIP_V6.to_string());
        output(&["lab", "up", "--prefix", &prefix, "--layout", layout, "--reals", "1", "--vip", &v4, &v6]);
        let lab = Lab::open(&prefix).expect("the lab just made");
        let file = lab.directory().join("tandem.toml");
        std::fs::write(&file, configuration(&lab, services)).expect("a file");
        let file = file.display().to_string();
        let balancer = lab.spawn(Host::Lb, tandem(&["run", "-c", &file, "--name", &format!("lab-{prefix}")])).expect("started");
        let mut stand = Self { prefix, lab, balancer };
        let until = Instant::now() + Duration::from_secs(30);
        while !tandem(&["mode", "show", "--name", &stand.name()]).output().is_ok_and(|output| output.status.success()) {
            let ended = stand.balancer.try_wait().expect("a child");
            assert!(ended.is_none() && Instant::now() < until, "{ended:?}: {}", stand.balancer.last_words());
            std::thread::sleep(Duration::from_millis(50));
        }
        stand
    }

    fn name(&self) -> String {
        format!("lab-{}", self.prefix)
    }

    /// Has this seat forward.
    pub fn seat(&self, seat: &str) {
        output(&["mode", "set", seat, "--name", &self.name()]);
    }

    /// Fails unless this seat has forwarded that many packets to each service, of each protocol.
    pub fn assert_carried(&self, seat: &str, services: &[Service], least: usize) {
        let text = output(&["counters", "--name", &self.name(), "--json"]);
        let counters: Value = serde_json::from_str(&text).expect("JSON");
        for service in services {
            for protocol in ["tcp", "udp"] {
                let vip = service.name(protocol);
                let packets = counters[seat]["vips"][&vip]["packets"].as_u64().unwrap_or(0);
                assert!(packets >= least as u64, "{seat}, {vip}: {packets} packets: who carried them?");
            }
        }
        assert_eq!(counters["afxdp"]["seat"]["defect"], 0, "{counters}");
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        let _ = tandem(&["lab", "down", "--prefix", &self.prefix]).output();
    }
}
