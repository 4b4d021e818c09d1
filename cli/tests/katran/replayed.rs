//! The vectors through both backends, in the library and through `tandem replay`; and every frame of them damaged.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

#[allow(dead_code, reason = "the tests of the command use all of it")]
#[path = "../command/captures.rs"]
mod captures;

use crate::compare::{Bench, hex};
use crate::frozen::{differing, listed};
use crate::seats::{is_root, rows, skipped};
use crate::vectors::{Step, Vector, all};
use captures::{frames, pcap};

/// Verdict, bytes and counters of every vector, in both backends: as the model has them, and as they are frozen.
#[test]
fn both_backends_agree() {
    let vectors = all();
    let differing = differing(&mut Bench::new(&vectors[0].settings), &vectors);
    assert!(differing.is_empty(), "{} of {} vectors differ:\n{}", differing.len(), vectors.len(), differing.join("\n"));
}

/// Bytes of a frame that damage is done to: all headers of every vector.
const HEADERS: usize = 130;

/// Every frame cut at each byte: the model's verdict, and no other.
#[test]
fn every_frame_cut_at_each_byte() {
    damaged(|frame| (0..frame.len().min(HEADERS)).map(|len| frame[..len].to_vec()).collect());
}

/// Every byte of the headers one more and one less, and with it each length field.
#[test]
fn every_byte_off_by_one() {
    damaged(|frame| {
        let changed = |(at, by): (usize, u8)| {
            let mut frame = frame.to_vec();
            frame[at] = frame[at].wrapping_add(by);
            frame
        };
        (0..frame.len().min(HEADERS)).flat_map(|at| [(at, 1), (at, 0xff)]).map(changed).collect()
    });
}

/// Sends what `damage` makes of each frame; each kind of difference is told once.
#[track_caller]
fn damaged(damage: impl Fn(&[u8]) -> Vec<Vec<u8>>) {
    let vectors = all();
    let mut bench = Bench::new(&vectors[0].settings);
    let mut differing: BTreeMap<String, u64> = BTreeMap::new();
    for vector in &vectors {
        bench.restart(&vector.settings);
        let done = vector.steps.iter().flat_map(|step| damage(&step.frame)).try_for_each(|frame| bench.frame(&frame).map(|_| ()));
        if let Err(text) = done.and_then(|()| bench.counters()) {
            let brief = text.split("\nframes:").next().unwrap_or(&text);
            let last = text.split("\nconfiguration:").next().and_then(|text| text.lines().last()).unwrap_or("");
            *differing.entry(format!("{}: {}: {brief}\n  by {last}", vector.file, vector.name)).or_default() += 1;
        }
    }
    assert!(differing.is_empty(), "{} vectors differ: {:#?}", differing.len(), differing.keys());
}

/// A directory that goes with the value.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("tandem-katran-{}-{name}", std::process::id()));
        std::fs::create_dir(&path).expect("a new directory");
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What `tandem replay` wrote.
pub struct Written {
    pub frames: Vec<Vec<u8>>,
    pub verdicts: Vec<Value>,
    counters: Value,
}

/// Runs `tandem replay` on these frames.
#[track_caller]
pub fn replay(directory: &Path, backend: &str, settings: &str, sent: &[Vec<u8>], options: &[&str]) -> Written {
    let path = |name: &str| directory.join(name);
    std::fs::write(path("t.toml"), settings).expect("a file");
    std::fs::write(path("in.pcap"), pcap(sent)).expect("a file");
    let mut command = Command::new(env!("CARGO_BIN_EXE_tandem"));
    command.args(["replay", "--backend", backend, "-c"]).arg(path("t.toml"));
    for (option, name) in [("--input", "in.pcap"), ("--output", "out.pcap"), ("--verdicts", "v.jsonl"), ("--counters", "c.json")]
    {
        command.arg(option).arg(path(name));
    }
    let output = command.args(options).output().expect("the binary");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = |name| std::fs::read_to_string(path(name)).expect("a file");
    Written {
        frames: frames(&path("out.pcap")),
        verdicts: text("v.jsonl").lines().map(|line| serde_json::from_str(line).expect("JSON")).collect(),
        counters: serde_json::from_str(&text("c.json")).expect("JSON"),
    }
}

/// The backends that this process may use; the missing one is named.
pub fn backends() -> &'static [&'static str] {
    if is_root() {
        return &["engine", "xdp"];
    }
    skipped("the kernel's backend needs root");
    &["engine"]
}

#[track_caller]
fn assert_written(name: &str, steps: &[&Step], written: &Written) {
    for (number, step) in steps.iter().enumerate() {
        assert_eq!(written.verdicts[number], step.row(number), "{name}, frame {number}");
        assert_eq!(hex(&written.frames[number]), hex(&step.out()), "{name}, frame {number}");
    }
    assert_eq!((written.frames.len(), written.verdicts.len()), (steps.len(), steps.len()));
}

/// The longest vector of each file that keeps its configuration, with all counters.
#[test]
fn replay_of_rows_that_depend_on_each_other() {
    let vectors = all();
    let mut longest: BTreeMap<&str, &Vector> = BTreeMap::new();
    for vector in vectors.iter().filter(|vector| vector.steps.iter().all(|step| step.settings.is_none())) {
        let place = longest.entry(&vector.file).or_insert(vector);
        if vector.steps.len() > place.steps.len() {
            *place = vector;
        }
    }
    for (file, vector) in longest {
        let scratch = Scratch::new(&format!("rows-{file}"));
        let steps: Vec<&Step> = vector.steps.iter().collect();
        let sent: Vec<Vec<u8>> = steps.iter().map(|step| step.frame.clone()).collect();
        let mut moves: BTreeMap<String, u64> = BTreeMap::new();
        steps.iter().flat_map(|step| step.moves()).for_each(|(row, n)| *moves.entry(row.clone()).or_default() += n);
        for backend in backends() {
            let written = replay(&scratch.0, backend, &vector.settings.text(), &sent, &[]);
            assert_written(&format!("{file}: {}, {backend}", vector.name), &steps, &written);
            assert_eq!(listed(&rows(&written.counters), &BTreeMap::new()), moves, "{file}: {}, {backend}", vector.name);
        }
    }
}

/// Of each file, all vectors of a single frame under its most frequent configuration, each frame on its own.
#[test]
fn replay_of_frames_alone() {
    let vectors = all();
    let mut groups: BTreeMap<(&str, String), Vec<&Step>> = BTreeMap::new();
    for vector in &vectors {
        if let [only] = vector.steps.as_slice() {
            groups.entry((&vector.file, vector.settings.text())).or_default().push(only);
        }
    }
    let mut largest: BTreeMap<&str, (String, Vec<&Step>)> = BTreeMap::new();
    for ((file, settings), steps) in groups {
        if largest.get(file).is_none_or(|(_, known)| known.len() < steps.len()) {
            largest.insert(file, (settings, steps));
        }
    }
    for (file, (settings, steps)) in largest {
        let scratch = Scratch::new(&format!("alone-{file}"));
        let sent: Vec<Vec<u8>> = steps.iter().map(|step| step.frame.clone()).collect();
        for backend in backends() {
            let written = replay(&scratch.0, backend, &settings, &sent, &["--fresh-per-frame"]);
            assert_written(&format!("{file}, {backend}, frames alone"), &steps, &written);
            let reasons =
                rows(&written.counters).iter().filter(|(row, _)| row.starts_with("reason.")).map(|(_, n)| n).sum::<u64>();
            assert_eq!(reasons, 1, "{file}, {backend}: only the last frame counts");
        }
    }
}
