//! Somebody else's eyes: tshark's dissectors read what is on the real's link, and say which checksums are wrong and what is
//! malformed. Nothing of Tandem's takes part in that.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tandem_lab::{Host, Lab, Process, find_program};

use super::service::{REAL, Service};

/// Ports of the services: their payload is payload, whatever Wireshark believes of the numbers.
const SERVICES: &str = "7000-7099";
/// Columns that are asked of tshark; most of them are lists, a value for each header.
const FIELDS: [&str; 12] = [
    "frame.number",
    "frame.protocols",
    "ip.checksum.status",
    "udp.checksum.status",
    "tcp.checksum.status",
    "ip.dst",
    "ipv6.dst",
    "udp.dstport",
    "tcp.dstport",
    "_ws.expert.severity",
    "_ws.expert.group",
    "_ws.expert.message",
];
/// Of `*.checksum.status`: the names Wireshark has for 1 and 3.
const GOOD: &str = "1";
const NOT_PRESENT: &str = "3";

/// One frame in tshark's eyes.
#[derive(Debug)]
pub struct Judged {
    pub number: String,
    /// The layers up to TCP or UDP, or all of them.
    pub layers: String,
    /// The last of its IP destinations and ports, as `ADDRESS|PORT`.
    pub to: String,
    /// Checksums that were found right, by layer.
    pub good: BTreeMap<&'static str, usize>,
    /// What is wrong.
    pub complaints: Vec<String>,
}

/// tshark, if it is installed.
pub fn program() -> Option<PathBuf> {
    match find_program("tshark", "tshark") {
        Ok(program) => Some(program),
        Err(error) => {
            let required = std::env::var_os("TANDEM_REQUIRE_KERNEL").is_some_and(|v| v == "1");
            assert!(!required, "{error}");
            eprintln!("SKIPPED: nobody judges the checksums: {error}");
            None
        }
    }
}

/// Has all frames of a capture read.
pub fn judge(tshark: &Path, capture: &Path) -> Vec<Judged> {
    let mut command = Command::new(tshark);
    command.arg("-nr").arg(capture);
    command.arg("-X").arg(format!("lua_script:{}/tests/methods/tunnels.lua", env!("CARGO_MANIFEST_DIR")));
    for layer in ["ip", "udp", "tcp"] {
        command.args(["-o", &format!("{layer}.check_checksum:TRUE")]);
    }
    // What is in there is a fact to count, not an error to report: with IPv6, too, a tunnel may carry it (RFC 6936).
    command.args(["-o", "udp.ignore_ipv6_zero_checksum:TRUE"]);
    for protocol in ["udp", "tcp"] {
        command.args(["-d", &format!("{protocol}.port=={SERVICES},data")]);
    }
    command.args(["-T", "fields", "-E", "separator=/t", "-E", "occurrence=a", "-E", "aggregator=,"]);
    for field in FIELDS {
        command.args(["-e", field]);
    }
    let output = command.output().expect("tshark starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !said.contains("Lua:"), "{said}");
    String::from_utf8_lossy(&output.stdout).lines().map(read).collect()
}

fn read(line: &str) -> Judged {
    let column: Vec<&str> = line.split('\t').collect();
    assert_eq!(column.len(), FIELDS.len(), "{line:?}");
    let list = |at: usize| column[at].split(',').filter(|value| !value.is_empty()).collect::<Vec<_>>();
    let all: Vec<&str> = column[1].split(':').collect();
    let transport = all.iter().rposition(|layer| matches!(*layer, "tcp" | "udp"));
    let layers = &all[..transport.map_or(all.len(), |at| at + 1)];
    let mut judged = Judged {
        number: column[0].to_owned(),
        layers: layers.join(":"),
        to: String::new(),
        good: BTreeMap::new(),
        complaints: Vec::new(),
    };
    for (layer, at) in [("ip", 2), ("udp", 3), ("tcp", 4)] {
        let (statuses, headers) = (list(at), layers.iter().filter(|found| **found == layer).count());
        if statuses.len() != headers {
            judged.complaints.push(format!("{headers} headers of {layer}, and {} of them judged", statuses.len()));
        }
        for (n, status) in statuses.iter().enumerate() {
            // Only the client's own datagram may have none.
            let inner = layer == "udp" && n + 1 == headers && layers.last() == Some(&"udp");
            match *status {
                GOOD => *judged.good.entry(layer).or_default() += 1,
                NOT_PRESENT if inner => {}
                other => judged.complaints.push(format!("checksum of {layer} header {}: status {other}", n + 1)),
            }
        }
    }
    let inner_v6 = layers.iter().rev().find(|layer| matches!(**layer, "ip" | "ipv6")) == Some(&"ipv6");
    let address = list(if inner_v6 { 6 } else { 5 }).last().copied().unwrap_or("");
    let port = list(if layers.last() == Some(&"tcp") { 8 } else { 7 }).last().copied().unwrap_or("");
    judged.to = format!("{address}|{port}");
    experts(&list(9), &list(10), column[11], &mut judged.complaints);
    judged
}

/// `PI_ERROR`, and the groups `PI_CHECKSUM`, `PI_MALFORMED`, `PI_REASSEMBLE` and `PI_PROTOCOL` of Wireshark's `proto.h`. (What it
/// notes about TCP's way of working, a repeated segment for one, is in other groups.)
const ERROR: u32 = 0x0080_0000;
const GROUPS: [u32; 4] = [0x0100_0000, 0x0700_0000, 0x0800_0000, 0x0900_0000];

fn experts(severities: &[&str], groups: &[&str], messages: &str, complaints: &mut Vec<String>) {
    let number = |text: &&str| text.parse::<u32>().unwrap_or_else(|_| panic!("{text:?} of {messages:?}"));
    let severe = severities.iter().map(number).any(|severity| severity >= ERROR);
    let of_a_group = groups.iter().map(number).any(|group| GROUPS.contains(&group));
    if severe || of_a_group {
        complaints.push(messages.to_owned());
    }
}

/// A capture of what the router sends to the real, before the real's XDP program sees it.
pub struct Capturing {
    process: Process,
    file: PathBuf,
}

impl Capturing {
    pub fn start(lab: &Lab, name: &str) -> Self {
        let link = lab.link(REAL).expect("a link");
        let file = lab.directory().join(format!("{name}.pcapng"));
        let mut command = Command::new(find_program("dumpcap", "wireshark-common").expect("it comes with tshark"));
        // In kilobytes per block of the ring and in all; answers of the real have another destination.
        command.args(["-q", "-B", "32", "-i", &link.router.interface, "-f", &format!("ether dst {}", link.mac), "-w"]).arg(&file);
        let mut process = lab.spawn(Host::Router, command).expect("dumpcap starts");
        let until = Instant::now() + Duration::from_secs(10);
        // Said when the device is open and the file made.
        while !process.last_words().contains("File:") {
            let ended = process.try_wait().expect("a child");
            assert!(ended.is_none() && Instant::now() < until, "{ended:?}: {}", process.last_words());
            std::thread::sleep(Duration::from_millis(10));
        }
        Self { process, file }
    }

    /// Ends it; none of the frames may have been lost.
    pub fn finish(mut self) -> PathBuf {
        // The kernel hands its ring over in blocks, the last one when its time is up.
        std::thread::sleep(Duration::from_millis(300));
        self.process.terminate();
        self.process.wait().expect("a child");
        let words = self.process.last_words();
        let lost =
            words.split("dropped on interface").nth(1).and_then(|rest| rest.split('/').nth(1)).map(|n| n.split(' ').next());
        assert_eq!(lost, Some(Some("0")), "frames were lost, or nothing is said of that: {words}");
        self.file
    }
}

/// What is wrong with the frames of these services: complaints, and services that nothing was seen of. `least`: frames of each
/// protocol.
pub fn mistakes(frames: &[Judged], services: &[Service], least: usize) -> Vec<String> {
    let mut mistakes = Vec::new();
    for frame in frames.iter().filter(|frame| !frame.complaints.is_empty()) {
        mistakes.push(format!("frame {} ({} to {}): {}", frame.number, frame.layers, frame.to, frame.complaints.join("; ")));
    }
    for service in services {
        for protocol in ["tcp", "udp"] {
            let (to, layers) = (format!("{}|{}", service.vip, service.at().port()), service.layers(protocol));
            let of_it = frames.iter().filter(|frame| frame.to == to && frame.layers.ends_with(protocol));
            let (right, other): (Vec<_>, Vec<_>) = of_it.partition(|frame| frame.layers == layers);
            if let Some(frame) = other.first() {
                mistakes.push(format!("{service}: frame {} is {}, not {layers}", frame.number, frame.layers));
            }
            // Each header that has a checksum was judged, and found right.
            for layer in ["ip", "udp", "tcp"] {
                let headers = layers.split(':').filter(|found| *found == layer).count();
                let good: usize = right.iter().filter_map(|frame| frame.good.get(layer)).sum();
                if good < headers * least {
                    mistakes.push(format!("{service}, {protocol}: only {good} good checksums of {layer} in {layers}"));
                }
            }
        }
    }
    mistakes
}
