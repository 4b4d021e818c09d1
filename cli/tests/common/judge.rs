//! Somebody else's eyes: tshark's dissectors read what is on a host's link, and say which checksums are wrong and what is
//! malformed. Nothing of Tandem's takes part in that.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tandem_lab::{Host, Lab, Process, find_program};

/// Ports of the services: their payload is payload, whatever Wireshark believes of the numbers.
const SERVICES: [&str; 2] = ["7000-7099", "8080"];
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

/// What a sender's kernel does on purpose (`skb_checksum_help` of Linux writes the other zero, for UDP's sake, in TCP, too), and
/// no receiver minds: both zeros are the same to it (RFC 1071).
const OTHER_ZERO: &str = "TCP Checksum 0xffff instead of 0x0000 (see RFC 1624)";

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
    for (protocol, ports) in ["udp", "tcp"].into_iter().flat_map(|protocol| SERVICES.map(|ports| (protocol, ports))) {
        command.args(["-d", &format!("{protocol}.port=={ports},data")]);
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
                _ if layer == "tcp" && column[11].contains(OTHER_ZERO) => *judged.good.entry(layer).or_default() += 1,
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
    let (mut severities, mut groups) = (list(9), list(10));
    if column[11].contains(OTHER_ZERO)
        && let Some(at) = groups.iter().position(|group| group.parse() == Ok(CHECKSUM))
    {
        severities.remove(at);
        groups.remove(at);
    }
    experts(&severities, &groups, column[11], &mut judged.complaints);
    judged
}

/// `PI_ERROR`, and the groups `PI_CHECKSUM`, `PI_MALFORMED`, `PI_REASSEMBLE` and `PI_PROTOCOL` of Wireshark's `proto.h`. (What it
/// notes about TCP's way of working, a repeated segment for one, is in other groups.)
const ERROR: u32 = 0x0080_0000;
const CHECKSUM: u32 = 0x0100_0000;
const GROUPS: [u32; 4] = [CHECKSUM, 0x0700_0000, 0x0800_0000, 0x0900_0000];

fn experts(severities: &[&str], groups: &[&str], messages: &str, complaints: &mut Vec<String>) {
    let number = |text: &&str| text.parse::<u32>().unwrap_or_else(|_| panic!("{text:?} of {messages:?}"));
    let severe = severities.iter().map(number).any(|severity| severity >= ERROR);
    let of_a_group = groups.iter().map(number).any(|group| GROUPS.contains(&group));
    if severe || of_a_group {
        complaints.push(messages.to_owned());
    }
}

/// A capture of what the router sends to a host, before the host's XDP program sees it.
pub struct Capturing {
    process: Process,
    file: PathBuf,
}

impl Capturing {
    pub fn start(lab: &Lab, host: Host, name: &str) -> Self {
        let link = lab.link(host).expect("a link");
        let file = lab.directory().join(format!("{name}.pcapng"));
        let mut command = Command::new(find_program("dumpcap", "wireshark-common").expect("it comes with tshark"));
        // In megabytes of the ring; what the host sends has another destination.
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
