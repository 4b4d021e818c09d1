//! `tandem capture`: frames of a running balancer, in both seats, as others read the file.

use std::fs::File;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use aya::programs::loaded_programs;
use etherparse::SlicedPacket;
use nix::sys::signal::Signal;
use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketOption;
use pcap_file::pcapng::blocks::interface_statistics::InterfaceStatisticsOption;
use pcap_file::pcapng::{Block, PcapNgReader};
use serde_json::Value;

use super::shell::{Answer, Balancer, Run, Scratch, TANDEM, assert_gone, skipped, tandem, was_ended_by};
use super::wire::{Links, NEAR, VIP, client, config, in_namespace, send};

const TIMEOUT: Duration = Duration::from_secs(60);
const KERNEL: &str = "mode = \"xdp\"";

/// The name of the program on a link.
fn program(links: &Links, on: &str) -> Option<String> {
    let (_, id) = links.xdp(on);
    let of = |id: u32| loaded_programs().filter_map(Result::ok).find(|program| program.id() == id);
    of(id?)?.name_as_str().map(str::to_owned)
}

#[track_caller]
fn wait_for_program(links: &Links, on: &str, name: &str) {
    let end = Instant::now() + TIMEOUT;
    while program(links, on).as_deref() != Some(name) {
        assert!(Instant::now() < end, "{:?}, not {name}", program(links, on));
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A capture that runs, from its first frame on, and a link of its balancer.
pub struct Capturing(Run, &'static str);

impl Capturing {
    #[track_caller]
    fn start(links: &Links, balancer: &Balancer, file: &Path, words: &[&str]) -> Self {
        Self::start_on(links, NEAR, balancer, file, words)
    }

    /// Of a balancer on another link.
    #[track_caller]
    pub fn start_on(links: &Links, on: &'static str, balancer: &Balancer, file: &Path, words: &[&str]) -> Self {
        let mut command = Command::new(TANDEM);
        command.args(["capture", "--json", "--name", &balancer.name, "-w"]).arg(file).args(words);
        let run = Run::start(&mut command);
        wait_for_program(links, on, "capturing");
        Self(run, on)
    }

    /// Ends it as Ctrl-C does, once all is told; gives its summary.
    #[track_caller]
    pub fn finish(self, links: &Links) -> Value {
        // Longer than anything is on its way.
        std::thread::sleep(Duration::from_millis(700));
        self.0.signal(Signal::SIGINT);
        let answer = self.0.end().done();
        wait_for_program(links, self.1, "balancer");
        summary(&answer)
    }
}

fn summary(answer: &Answer) -> Value {
    serde_json::from_str(&answer.out).unwrap_or_else(|error| panic!("{error}: {answer:?}"))
}

/// A frame of the file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    pub interface: u32,
    time: Duration,
    pub comment: String,
    pub is_out: bool,
    pub id: u64,
    len: u32,
    pub bytes: Vec<u8>,
}

/// Names of the interfaces, frames, and what the statistics say.
#[derive(Default)]
pub struct Contents {
    pub names: Vec<String>,
    pub frames: Vec<Frame>,
    /// Frames that the filter accepted, that were dropped, and that were written.
    statistics: [u64; 3],
}

pub fn read(file: &Path) -> Contents {
    use pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionOption::{IfName, IfTsResol};
    let mut reader = PcapNgReader::new(File::open(file).expect("a file")).expect("pcapng");
    let mut contents = Contents::default();
    while let Some(block) = reader.next_block() {
        match block.expect("a block") {
            Block::InterfaceDescription(block) => {
                assert!(block.options.contains(&IfTsResol(9)), "{block:?}");
                contents.names.extend(block.options.iter().find_map(|option| match option {
                    IfName(name) => Some(name.to_string()),
                    _ => None,
                }));
            }
            Block::EnhancedPacket(block) => {
                let mut frame = Frame {
                    interface: block.interface_id,
                    time: block.timestamp,
                    comment: String::new(),
                    is_out: false,
                    id: 0,
                    len: block.original_len,
                    bytes: block.data.to_vec(),
                };
                for option in &block.options {
                    match option {
                        EnhancedPacketOption::Comment(comment) => frame.comment = comment.to_string(),
                        EnhancedPacketOption::Flags(flags) => frame.is_out = *flags & 3 == 2,
                        EnhancedPacketOption::Unknown(option) if option.code == 5 => {
                            frame.id = u64::from_ne_bytes(option.value[..].try_into().expect("64 bits"));
                        }
                        _ => {}
                    }
                }
                contents.frames.push(frame);
            }
            Block::InterfaceStatistics(block) => {
                for option in &block.options {
                    match option {
                        InterfaceStatisticsOption::IsbFilterAccept(n) => contents.statistics[0] = *n,
                        InterfaceStatisticsOption::IsbOsDrop(n) => contents.statistics[1] = *n,
                        InterfaceStatisticsOption::IsbUsrDeliv(n) => contents.statistics[2] = *n,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    contents
}

/// Source port, destination and payload of a UDP packet behind `headers` bytes.
fn datagram(frame: &[u8], headers: usize) -> (u16, Ipv4Addr, Vec<u8>) {
    let packet = SlicedPacket::from_ip(&frame[headers..]).expect("an IP packet");
    let (Some(etherparse::NetSlice::Ipv4(ip)), Some(etherparse::TransportSlice::Udp(udp))) = (&packet.net, &packet.transport)
    else {
        panic!("no UDP over IPv4: {packet:?}");
    };
    (udp.source_port(), ip.header().destination_addr(), udp.payload().to_vec())
}

const ETHERNET: usize = 14;
const OUTER: usize = ETHERNET + 20;

/// That each frame is there twice, and that what leaves is what came, in a tunnel to the real that is named. Gives how many.
#[track_caller]
fn assert_pairs(contents: &Contents) -> usize {
    assert_eq!(contents.names, [NEAR]);
    let (out, came): (Vec<&Frame>, Vec<&Frame>) = contents.frames.iter().partition(|frame| frame.is_out);
    assert_eq!(came.len(), out.len());
    for came in &came {
        let with_id: Vec<_> = out.iter().filter(|out| out.id == came.id).collect();
        let [out] = with_id[..] else { panic!("{} frames left for {came:?}", with_id.len()) };
        assert!(came.time < out.time, "{came:?} {out:?}");
        let real = Ipv4Addr::from(<[u8; 4]>::try_from(&out.bytes[ETHERNET + 16..ETHERNET + 20]).expect("an address"));
        assert!([Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2)].contains(&real), "{out:?}");
        assert_eq!(out.bytes[ETHERNET + 9], 4, "IPIP");
        assert!(out.comment.starts_with(&format!("tx forwarded, real {real} (")), "{}", out.comment);
        assert_eq!(came.comment, out.comment);
        let before = datagram(&came.bytes, ETHERNET);
        assert_eq!(before, datagram(&out.bytes, OUTER));
        assert_eq!((before.1, before.2.as_slice()), (VIP, b"tandem".as_slice()));
        assert_eq!((came.len as usize, out.len as usize), (came.bytes.len(), out.bytes.len()));
    }
    came.len()
}

#[test]
fn both_sights_of_every_frame_in_both_seats() {
    in_namespace(|links| {
        links.veth();
        let scratch = Scratch::new();
        for mode in ["xdp", "afxdp"] {
            let balancer = Balancer::start(&scratch.file("t.toml", config(NEAR, &format!("mode = \"{mode}\""))));
            let file = scratch.path("both.pcapng");
            let capture = Capturing::start(links, &balancer, &file, &["udp", "port", "80"]);
            send(5000..5010, 3);
            let summary = capture.finish(links);
            let numbers = ["in", "out", "accepted", "limited", "captured", "lost"].map(|name| summary[name].as_u64());
            assert_eq!(numbers, [30, 30, 30, 0, 30, 0].map(Some), "{mode}: {summary}");
            let contents = read(&file);
            assert_eq!(assert_pairs(&contents), 30, "{mode}");
            assert_eq!(contents.statistics, [30, 0, 60]);
            assert!(contents.frames.is_sorted_by_key(|frame| frame.time));
            // They were forwarded as ever.
            let counters = balancer.ask(&["counters"]);
            assert_eq!(counters[mode]["reasons"]["forwarded"], 30, "{counters}");
            assert_eq!(counters[mode]["seat"]["defect"], 0, "{counters}");
            tshark(&file);
        }
    });
}

/// What Wireshark reads of the file.
fn tshark(file: &Path) {
    let Ok(tshark) = tandem_lab::find_program("tshark", "tshark") else { return skipped("there is no tshark to read the file") };
    let fields = ["frame.interface_name", "frame.comment", "udp.srcport", "ip.dst"];
    let mut command = Command::new(tshark);
    command.arg("-nr").arg(file).args(["-T", "fields", "-E", "separator=;"]);
    for field in fields {
        command.args(["-e", field]);
    }
    let output = command.output().expect("tshark starts");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{err}");
    assert_eq!(out.lines().count(), 60, "{out}{err}");
    for line in out.lines() {
        let columns: Vec<&str> = line.split(';').collect();
        assert_eq!(columns[0], NEAR, "{line}");
        assert!(columns[1].starts_with("tx forwarded, real 10.0.0."), "{line}");
        assert!(columns[3].ends_with(&VIP.to_string()), "{line}");
    }
    assert_eq!(out.lines().filter(|line| line.contains(&format!(",{VIP}"))).count(), 30, "those in a tunnel: {out}");
}

#[test]
fn a_filter_takes_what_comes_in() {
    in_namespace(|links| {
        links.veth();
        let scratch = Scratch::new();
        let balancer = Balancer::start(&scratch.file("t.toml", config(NEAR, KERNEL)));
        let file = scratch.path("some.pcapng");
        let capture =
            Capturing::start(links, &balancer, &file, &["--snap", "42", "udp src portrange 5003-5004 or udp dst port 81"]);
        send(5000..5010, 2);
        client(6000).send_to(b"elsewhere", (VIP, 81)).expect("sent");
        let summary = capture.finish(links);
        assert_eq!((&summary["in"], &summary["out"]), (&5.into(), &4.into()), "{summary}");
        let contents = read(&file);
        let (other, ours): (Vec<&Frame>, Vec<&Frame>) =
            contents.frames.iter().partition(|frame| frame.comment == "pass not-a-vip");
        assert_eq!((other.len(), ours.len()), (1, 8), "{:?}", contents.frames);
        for frame in &contents.frames {
            assert!(frame.bytes.len() == 42 && frame.len > 42, "{frame:?}");
        }
        let ports = ours.iter().filter(|frame| !frame.is_out).map(|frame| u16::from_be_bytes([frame.bytes[34], frame.bytes[35]]));
        assert_eq!(ports.collect::<Vec<_>>(), [5003, 5003, 5004, 5004]);

        let capture = Capturing::start(links, &balancer, &file, &["--direction", "out", "--count", "3"]);
        send(5000..5010, 1);
        let summary = summary_of_its_own_end(links, capture);
        assert_eq!((&summary["in"], &summary["out"]), (&0.into(), &3.into()), "{summary}");
        assert!(read(&file).frames.iter().all(|frame| frame.is_out));
    });
}

/// Of one that ends by itself.
#[track_caller]
fn summary_of_its_own_end(links: &Links, capture: Capturing) -> Value {
    let answer = capture.0.end().done();
    wait_for_program(links, NEAR, "balancer");
    summary(&answer)
}

#[test]
fn one_of_many_and_no_more_than_the_rate() {
    in_namespace(|links| {
        links.veth();
        let scratch = Scratch::new();
        let cpus = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
        let balancer = Balancer::start(&scratch.file("t.toml", config(NEAR, KERNEL)));
        let file = scratch.path("some.pcapng");
        let number = |summary: &Value, name: &str| summary[name].as_u64().unwrap_or_else(|| panic!("no {name} in {summary}"));

        let capture = Capturing::start(links, &balancer, &file, &["--sample", "10", "udp port 80"]);
        send(5000..5100, 1);
        let summary = capture.finish(links);
        assert_eq!((number(&summary, "accepted"), number(&summary, "limited")), (100, 0), "{summary}");
        assert!((10..=10 + cpus).contains(&number(&summary, "in")), "{summary}");
        assert_eq!(assert_pairs(&read(&file)) as u64, number(&summary, "in"));

        let began = Instant::now();
        let capture = Capturing::start(links, &balancer, &file, &["--rate", "5", "udp port 80"]);
        send(5000..5010, 50);
        let summary = capture.finish(links);
        let (captured, limited) = (number(&summary, "captured"), number(&summary, "limited"));
        assert_eq!((number(&summary, "accepted"), captured + limited), (500, 500), "{summary}");
        let most = cpus * (2 + 5 * began.elapsed().as_secs());
        assert!(limited > 0 && captured > 0 && captured <= most, "{summary}, at most {most}");
        let contents = read(&file);
        assert_eq!(assert_pairs(&contents) as u64, captured);
        assert_eq!(contents.statistics, [500, limited, 2 * captured]);
    });
}

#[test]
fn it_goes_on_while_everything_changes() {
    in_namespace(|links| {
        links.veth();
        let scratch = Scratch::new();
        let first = config(NEAR, KERNEL);
        let balancer = Balancer::start(&scratch.file("t.toml", &first));
        let file = scratch.path("all.pcapng");
        let capture = Capturing::start(links, &balancer, &file, &["udp port 80"]);
        send(5000..5005, 1);
        assert_eq!(balancer.ask(&["mode", "set", "afxdp"])["mode"], "afxdp");
        send(5000..5005, 1);
        // Another program, for a feature that the first one was not loaded for.
        let before = links.xdp(NEAR);
        scratch.file("t.toml", first.replace("port = 80\n", "port = 80\nflags = [\"quic\"]\n"));
        balancer.ask(&["reload"]);
        assert_ne!(links.xdp(NEAR), before);
        assert_eq!(program(links, NEAR).as_deref(), Some("capturing"));
        send(5000..5005, 1);
        assert_eq!(balancer.ask(&["mode", "set", "xdp"])["mode"], "xdp");
        send(5000..5005, 1);
        let summary = capture.finish(links);
        assert_eq!((&summary["in"], &summary["out"], &summary["lost"]), (&20.into(), &20.into(), &0.into()), "{summary}");
        assert_eq!(assert_pairs(&read(&file)), 20);
    });
}

#[test]
fn one_at_a_time_and_none_without_its_client() {
    in_namespace(|links| {
        links.veth();
        let scratch = Scratch::new();
        let mut balancer = Balancer::start(&scratch.file("t.toml", config(NEAR, KERNEL)));
        let plain = links.xdp(NEAR).1;
        let (first, second) = (scratch.path("first.pcapng"), scratch.path("second.pcapng"));
        let capture = Capturing::start(links, &balancer, &first, &[]);
        let of = |file: &Path, words: &[&str]| {
            let mut arguments = vec!["capture", "--name", &balancer.name, "-w", file.to_str().expect("text")];
            arguments.extend(words);
            tandem(arguments)
        };
        of(&second, &[]).refused(1, &["has been capturing for", "one capture at a time", "process"]);
        assert!(!second.exists(), "a file of nothing");
        // A loop, which the kernel seat does not take.
        of(&second, &["ip6 protochain 17"]).refused(2, &["instruction", "of the filter"]);
        capture.0.signal(Signal::SIGKILL);
        assert!(was_ended_by(capture.0.end().status, Signal::SIGKILL));
        wait_for_program(links, NEAR, "balancer");
        assert_ne!(links.xdp(NEAR).1, plain, "another program of that name");
        send(5000..5010, 1);
        assert_eq!(balancer.ask(&["counters"])["xdp"]["reasons"]["forwarded"], 10);
        // Who cannot write goes, too.
        of(Path::new("/nonexistent/frames"), &[]).refused(1, &["/nonexistent/frames", "cannot write"]);
        wait_for_program(links, NEAR, "balancer");
        let answer = of(&second, &["--seconds", "1", "udp port 9"]).done();
        assert!(answer.err.contains("0 frames: 0 in, 0 out"), "{answer:?}");
        wait_for_program(links, NEAR, "balancer");
        // And one that the balancer leaves has its file.
        let capture = Capturing::start(links, &balancer, &first, &["udp"]);
        send(5000..5010, 1);
        std::thread::sleep(Duration::from_millis(300));
        balancer.signal(Signal::SIGTERM);
        balancer.end().done();
        capture.0.end().refused(1, &["the balancer is stopping"]);
        assert_eq!(assert_pairs(&read(&first)), 10);
        links.assert_bare(NEAR);
    });
}

/// What it leaves tells nobody, and forwards.
#[test]
fn a_balancer_that_is_killed_meanwhile() {
    in_namespace(|links| {
        links.veth();
        let scratch = Scratch::new();
        let file = scratch.file("t.toml", config(NEAR, KERNEL));
        let mut balancer = Balancer::start(&file);
        let capture = Capturing::start(links, &balancer, &scratch.path("all.pcapng"), &[]);
        send(5000..5010, 1);
        balancer.signal(Signal::SIGKILL);
        assert!(was_ended_by(balancer.end().status, Signal::SIGKILL));
        assert_eq!(capture.0.end().status.code(), Some(1));
        assert_eq!(program(links, NEAR).as_deref(), Some("capturing"));
        send(5000..5010, 1);
        let mut second = Balancer::start_as(&balancer.name, &file, &[]);
        wait_for_program(links, NEAR, "balancer");
        send(5000..5010, 1);
        assert_eq!(second.ask(&["counters"])["xdp"]["reasons"]["forwarded"], 30);
        // Of another size than that which was left.
        let capture = Capturing::start(links, &second, &scratch.path("few.pcapng"), &["--rate", "100000", "udp port 80"]);
        send(5000..5010, 1);
        assert_eq!(capture.finish(links)["out"], 10);
        second.signal(Signal::SIGTERM);
        second.end().done();
        assert_gone(&second.name);
        links.assert_bare(NEAR);
    });
}

#[test]
fn what_is_wrong_is_said() {
    let scratch = Scratch::new();
    let file = scratch.path("frames.pcapng");
    let file = file.to_str().expect("text");
    tandem(["capture", "-w", file, "udp adn port 80"]).refused(2, &["udp adn port 80", "syntax error", "pcap-filter"]);
    tandem(["capture", "-w", "-", "--json"]).refused(2, &["name a file"]);
    tandem(["capture", "-w", file, "--name", "nobody", "udp"]).refused(1, &["no balancer answers"]);
    assert_eq!(tandem(["capture", "udp"]).status.code(), Some(2), "no file");
    assert!(!Path::new(file).exists());
}
