//! `tandem replay`: what it writes, and captures that are broken, hostile or odd.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use etherparse::{NetSlice, SlicedPacket};
use pcap_file::DataLink;
use serde_json::Value;
use tandem_backends::replay::Tuple;

use super::captures::{frames, pcap, pcap_of, pcapng};
use super::shell::{Answer, Scratch, is_privileged, tandem};

/// A VIP of each kind: its own port, every port, no flow table, IPv6; reals of both families.
pub const CONFIG: &str = r#"[node]
next_hop_mac = "00:00:de:ad:be:af"
local_mac = "00:ff:de:ad:be:af"
[tunnel]
source_v4 = "10.0.13.37"
source_v6 = "fc00:2307::1337"
[flows]
capacity = 100_000
[[vip]]
address = "10.200.1.1"
port = 80
protocol = "udp"
real = [{ address = "10.0.0.1" }]
[[vip]]
address = "10.200.1.2"
port = 0
protocol = "tcp"
real = [{ address = "10.0.0.1" }, { address = "10.0.0.2" }, { address = "fc00::3" }]
[[vip]]
address = "fc00:1::1"
port = 443
protocol = "udp"
flags = ["bypass-flow-table"]
real = [{ address = "fc00::1" }, { address = "10.0.0.2" }]
[[vip]]
address = "fc00:1::2"
port = 443
protocol = "tcp"
flags = ["no-source-port"]
real = [{ address = "fc00::1" }, { address = "fc00::2", weight = 3 }]
"#;

/// The first frame of a flow.
pub fn frame(tuple: &str) -> Vec<u8> {
    tuple.parse::<Tuple>().expect("a tuple").frame()
}

/// The backends that this process may use.
pub fn backends() -> &'static [&'static str] {
    if is_privileged() { &["engine", "xdp"] } else { &["engine"] }
}

/// One replay's files.
pub struct Replay<'a> {
    pub scratch: &'a Scratch,
    pub backend: &'a str,
    pub config: &'a Path,
    pub input: &'a Path,
}

/// What a replay wrote.
#[derive(PartialEq, Eq, Debug)]
pub struct Written {
    pub frames: Vec<Vec<u8>>,
    pub verdicts: String,
    pub counters: Value,
}

impl Written {
    /// The verdicts, line by line.
    pub fn rows(&self) -> Vec<Value> {
        self.verdicts.lines().map(|line| serde_json::from_str(line).expect("a JSON object")).collect()
    }
}

impl Replay<'_> {
    fn file(&self, name: &str) -> PathBuf {
        self.scratch.path(&format!("{}-{name}", self.backend))
    }

    /// Runs it with more options.
    #[track_caller]
    pub fn run(&self, options: &[&str]) -> Answer {
        let mut words: Vec<OsString> = ["replay", "--backend", self.backend].map(OsString::from).into();
        let files = [
            ("-c", self.config.to_owned()),
            ("--input", self.input.to_owned()),
            ("--output", self.file("out.pcap")),
            ("--verdicts", self.file("verdicts.jsonl")),
            ("--counters", self.file("counters.json")),
        ];
        for (option, file) in files {
            words.extend([option.into(), file.into()]);
        }
        words.extend(options.iter().map(OsString::from));
        tandem(words)
    }

    /// Runs it, and reads what it wrote.
    #[track_caller]
    pub fn written(&self, options: &[&str]) -> Written {
        self.run(options).done();
        let text = |name| std::fs::read_to_string(self.file(name)).expect("a file");
        Written {
            frames: frames(&self.file("out.pcap")),
            verdicts: text("verdicts.jsonl"),
            counters: serde_json::from_str(&text("counters.json")).expect("JSON"),
        }
    }
}

/// Replays a capture with the engine.
#[track_caller]
fn replay(capture: impl AsRef<[u8]>, options: &[&str]) -> Answer {
    let scratch = Scratch::new();
    let (config, input) = (scratch.file("t.toml", CONFIG), scratch.file("in.pcap", capture));
    Replay { scratch: &scratch, backend: "engine", config: &config, input: &input }.run(options)
}

/// A frame of every kind that the contract's text names.
fn one_of_each() -> Vec<Vec<u8>> {
    let udp = frame("udp 198.51.100.7:41000 > 10.200.1.1:80");
    let mut expired = udp.clone();
    expired[22] = 1;
    let arp = [&[0xff; 12][..], &[8, 6], &[1; 28]].concat();
    let short = vec![0xab; 13];
    let other = frame("udp 198.51.100.7:41000 > 10.200.1.1:81");
    let v6 = frame("udp [2001:db8::7]:41000 > [fc00:1::1]:443");
    vec![udp.clone(), udp, arp, short, expired, other, Vec::new(), v6]
}

#[test]
fn verdicts_are_those_of_the_contract() {
    let scratch = Scratch::new();
    let config = scratch.file("t.toml", CONFIG);
    let input = scratch.file("in.pcap", pcap(&one_of_each()));
    for backend in backends() {
        let written = Replay { scratch: &scratch, backend, config: &config, input: &input }.written(&[]);
        let last = &written.rows()[7];
        assert_eq!((&last["vip"], &last["from"]), (&"[fc00:1::1]:443/udp".into(), &"ring".into()));
        let lines: Vec<&str> = written.verdicts.lines().take(7).collect();
        assert_eq!(
            lines.join("\n"),
            r#"{"frame":0,"action":"tx","reason":"forwarded","vip":"10.200.1.1:80/udp","real":"10.0.0.1","from":"ring"}
{"frame":1,"action":"tx","reason":"forwarded","vip":"10.200.1.1:80/udp","real":"10.0.0.1","from":"flow"}
{"frame":2,"action":"pass","reason":"not-ip","vip":null,"real":null,"from":"none"}
{"frame":3,"action":"drop","reason":"frame-too-short","vip":null,"real":null,"from":"none"}
{"frame":4,"action":"drop","reason":"ttl-expired","vip":"10.200.1.1:80/udp","real":null,"from":"none"}
{"frame":5,"action":"pass","reason":"not-a-vip","vip":null,"real":null,"from":"none"}
{"frame":6,"action":"drop","reason":"frame-too-short","vip":null,"real":null,"from":"none"}"#,
            "{backend}"
        );
        let reasons = &written.counters["reasons"];
        let count = |name: &str| reasons[name].as_u64().expect("a count");
        assert_eq!(count("forwarded"), 3);
        assert_eq!(count("frame-too-short"), 2);
        assert_eq!([count("not-ip"), count("ttl-expired"), count("not-a-vip")], [1, 1, 1]);
        let all: u64 = reasons.as_object().expect("an object").values().filter_map(Value::as_u64).sum();
        assert_eq!(all, 8, "each frame moves exactly one counter");
        let vip = &written.counters["vips"]["10.200.1.1:80/udp"];
        assert_eq!((&vip["packets"], &vip["ring"]), (&2.into(), &1.into()));
    }
}

#[test]
fn the_output_has_one_frame_for_each() {
    let scratch = Scratch::new();
    let config = scratch.file("t.toml", CONFIG);
    let sent = one_of_each();
    let input = scratch.file("in.pcap", pcap(&sent));
    for backend in backends() {
        let left = Replay { scratch: &scratch, backend, config: &config, input: &input }.written(&[]).frames;
        assert_eq!(left.len(), sent.len());
        for unchanged in 2..7 {
            assert_eq!(left[unchanged], sent[unchanged], "{backend}: frame {unchanged}");
        }
        let (outer, inner) = (SlicedPacket::from_ethernet(&left[0]).expect("a packet"), &left[0][34..]);
        let Some(NetSlice::Ipv4(ip)) = outer.net else { panic!("{outer:?}") };
        assert_eq!(left[0][..12], [0, 0, 0xde, 0xad, 0xbe, 0xaf, 0, 0xff, 0xde, 0xad, 0xbe, 0xaf]);
        assert_eq!((ip.header().source(), ip.header().destination()), ([10, 0, 13, 37], [10, 0, 0, 1]));
        assert_eq!(inner.len(), sent[0].len() - 14);
        assert_eq!(inner[8], sent[0][22] - 1, "the inner TTL is decremented");
        assert_eq!(inner[12..], sent[0][26..], "addresses and all behind them stay");
    }
}

#[test]
fn pcapng_is_the_same() {
    let scratch = Scratch::new();
    let config = scratch.file("t.toml", CONFIG);
    let [old, new] = [pcap(&one_of_each()), pcapng(DataLink::ETHERNET, &one_of_each())];
    let [old, new] = [scratch.file("in.pcap", old), scratch.file("in.pcapng", new)]
        .map(|input| Replay { scratch: &scratch, backend: "engine", config: &config, input: &input }.written(&[]));
    assert_eq!(old, new);
}

#[test]
fn an_empty_capture_is_one() {
    let scratch = Scratch::new();
    let (config, input) = (scratch.file("t.toml", CONFIG), scratch.file("in.pcap", pcap(&[])));
    for backend in backends() {
        let written = Replay { scratch: &scratch, backend, config: &config, input: &input }.written(&[]);
        assert_eq!((written.frames.len(), written.verdicts.as_str()), (0, ""));
        assert_eq!(written.counters["reasons"]["forwarded"], 0);
    }
}

#[test]
fn a_capture_that_ends_too_early() {
    let whole = pcap(&one_of_each()[..3]);
    let last = whole.len() - 42;
    // Inside the file's header, a record's header and a record's data.
    for (end, frame) in [(0, 0), (3, 0), (10, 0), (23, 0), (25, 0), (45, 0), (last - 1, 2), (last + 1, 2), (whole.len() - 1, 2)] {
        let parts = [&format!("in.pcap: frame {frame}: "), "; expected a pcap or pcapng file, complete to its end"];
        replay(&whole[..end], &[]).refused(2, &parts.map(AsRef::as_ref));
    }
    let whole = pcapng(DataLink::ETHERNET, &one_of_each()[..3]);
    for end in [4, 20, whole.len() - 1, whole.len() - 30] {
        replay(&whole[..end], &[]).refused(2, &["; expected a pcap or pcapng file, complete to its end"]);
    }
}

#[test]
fn what_is_no_capture() {
    let parts = ["in.pcap: frame 0: ", "; expected a pcap or pcapng file"];
    replay(CONFIG, &[]).refused(2, &parts);
    replay([0x5a; 4096], &[]).refused(2, &parts);
    // The first four bytes of pcapng, and nothing sensible after them.
    let mut garbage = vec![0x0a, 0x0d, 0x0d, 0x0a];
    garbage.extend((0..4096_u32).map(|i| ((i * 7919) >> 3) as u8));
    replay(&garbage, &[]).refused(2, &parts);
}

#[test]
fn a_hostile_capture() {
    // A record that claims 4 GiB, and one that claims more than was on the wire.
    for (captured, wire) in [(u32::MAX, u32::MAX), (0x7fff_ffff, 60), (60, 59)] {
        let mut bytes = pcap(&[]);
        bytes.extend([0; 8]);
        bytes.extend(captured.to_le_bytes().into_iter().chain(wire.to_le_bytes()));
        bytes.extend([0; 60]);
        replay(&bytes, &[]).refused(2, &["in.pcap: frame 0: "]);
    }
    // A block that claims 4 GiB.
    let mut bytes = pcapng(DataLink::ETHERNET, &[]);
    let at = bytes.len();
    bytes.extend(pcapng(DataLink::ETHERNET, &one_of_each()[..1]).split_off(at));
    bytes[at + 4..at + 8].fill(0xff);
    replay(&bytes, &[]).refused(2, &["in.pcap: frame 0: "]);
}

#[test]
fn a_frame_that_was_cut_when_it_was_captured() {
    let mut bytes = pcap(&one_of_each()[..1]);
    let length = one_of_each()[0].len();
    let wire = length as u32 + 100;
    bytes[36..40].copy_from_slice(&wire.to_le_bytes());
    let cut = format!("frame 0: only {length} of its {wire} bytes were captured; capture with a larger snap length");
    replay(&bytes, &[]).refused(2, &[&cut]);
}

#[test]
fn another_link_type() {
    let parts = ["in.pcap: link type LINUX_SLL; expected Ethernet (capture on an Ethernet interface, not on `any`)"];
    replay(pcap_of(DataLink::LINUX_SLL, &one_of_each()), &[]).refused(2, &parts);
    replay(pcapng(DataLink::LINUX_SLL, &one_of_each()), &[]).refused(2, &parts);
}

#[test]
fn a_frame_that_is_too_large() {
    let [fits, large] = [3498, 3499].map(|length| {
        let mut frame = frame("udp 198.51.100.7:41000 > 10.200.1.1:80");
        frame.resize(length, 0);
        pcap(&[frame])
    });
    replay(fits, &[]).done();
    let parts = ["in.pcap: frame 0: a frame of 3499 bytes: ", "at most 3498 bytes here; leave it out of the capture"];
    replay(large, &[]).refused(1, &parts);
}

#[test]
fn a_configuration_without_macs_and_sources() {
    for (key, line) in [
        ("node.next_hop_mac", "next_hop_mac = \"00:00:de:ad:be:af\"\n"),
        ("node.local_mac", "local_mac = \"00:ff:de:ad:be:af\"\n"),
        ("tunnel.source_v4", "source_v4 = \"10.0.13.37\"\n"),
        ("tunnel.source_v6", "source_v6 = \"fc00:2307::1337\"\n"),
    ] {
        let scratch = Scratch::new();
        let config = scratch.file("t.toml", CONFIG.replace(line, ""));
        let input = scratch.file("in.pcap", pcap(&[]));
        let replay = Replay { scratch: &scratch, backend: "engine", config: &config, input: &input };
        let cure = format!("{key} is not set; without an interface it has to come from the configuration");
        replay.run(&[]).refused(1, &[&cure]);
        assert!(!scratch.path("engine-out.pcap").exists(), "it wrote before it knew that it could");
    }
}

#[test]
fn files_that_are_not_there() {
    let scratch = Scratch::new();
    let (config, input) = (scratch.file("t.toml", CONFIG), scratch.path("absent.pcap"));
    let replay = Replay { scratch: &scratch, backend: "engine", config: &config, input: &input };
    replay.run(&[]).refused(2, &["absent.pcap: No such file"]);
    let input = scratch.file("in.pcap", pcap(&[]));
    let output = scratch.path("no/such/out.pcap");
    straight(&config, &input, &output).refused(1, &["no/such/out.pcap: No such file"]);
}

/// A replay with the engine, without the files that may be left out.
#[track_caller]
fn straight(config: &Path, input: &Path, output: &Path) -> Answer {
    let words = ["replay", "--backend", "engine", "-c"].map(OsString::from).into_iter();
    let files = [config.into(), "--input".into(), input.into(), "--output".into(), output.into()];
    tandem(words.chain(files))
}

#[test]
fn the_output_is_not_the_input() {
    let scratch = Scratch::new();
    let capture = pcap(&one_of_each());
    let (config, input) = (scratch.file("t.toml", CONFIG), scratch.file("in.pcap", &capture));
    straight(&config, &input, &input).refused(2, &["in.pcap: ", "both the input and the output"]);
    assert_eq!(std::fs::read(&input).expect("still there"), capture);
}
