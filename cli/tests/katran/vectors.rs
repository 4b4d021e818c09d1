//! `vectors/`: frames in, verdicts, frames out and counters as data; at least one for each rule of the reference text.
//!
//! Each is held against the model here, and against both backends in [`crate::replayed`].

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::json;

use crate::compare::{hex, moved};
use crate::model::{Model, Outcome};
use crate::settings::Settings;

/// One file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// Configurations by name.
    config: BTreeMap<String, String>,
    vector: Vec<Row>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    name: String,
    rule: String,
    shows: String,
    config: String,
    step: Vec<StepRow>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StepRow {
    /// Another configuration from here on.
    config: Option<String>,
    frame: Vec<String>,
    action: String,
    reason: String,
    vip: Option<String>,
    real: Option<IpAddr>,
    from: String,
    /// The frame as it is left, unless it is left as it was.
    out: Option<Vec<String>>,
    moves: BTreeMap<String, u64>,
}

/// One vector.
pub struct Vector {
    pub file: String,
    pub name: String,
    pub rule: String,
    pub settings: Settings,
    pub steps: Vec<Step>,
}

/// A frame, and what must become of it.
pub struct Step {
    /// Another configuration from here on.
    pub settings: Option<Settings>,
    pub frame: Vec<u8>,
    expected: StepRow,
}

impl Step {
    /// The frame as it must be left.
    pub fn out(&self) -> Vec<u8> {
        self.expected.out.as_deref().map_or_else(|| self.frame.clone(), bytes)
    }

    /// Whether this is what must become of the frame.
    pub fn is(&self, found: &Outcome) -> bool {
        let e = &self.expected;
        let verdict = (e.action.as_str(), e.reason.as_str(), e.from.as_str()) == (found.action, found.reason, found.from);
        verdict && e.vip == found.vip && e.real == found.real && self.out() == found.frame
    }

    /// A verdict's row, as `tandem replay` writes it.
    pub fn row(&self, number: usize) -> serde_json::Value {
        let e = &self.expected;
        json!({
            "frame": number, "action": e.action, "reason": e.reason, "vip": e.vip, "real": e.real, "from": e.from,
        })
    }

    /// Counters that must move, and by how much.
    pub fn moves(&self) -> &BTreeMap<String, u64> {
        &self.expected.moves
    }
}

/// Whether a vector lists this counter. The others follow from the verdict and the frame's length.
pub fn is_listed(row: &str) -> bool {
    let is_total = row == "event.frames" || row.starts_with("event.") && row.ends_with("bytes");
    !row.starts_with("reason.") && !is_total
}

/// Every vector of the directory, file by file.
pub fn all() -> Vec<Vector> {
    let directory = directory();
    texts(&directory).iter().flat_map(|(file, text)| read(file, text)).collect()
}

/// Where they are: in the checkout, or where a machine without one has them.
pub fn directory() -> PathBuf {
    let ours = || Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/katran/vectors");
    std::env::var_os("TANDEM_VECTORS").map_or_else(ours, PathBuf::from)
}

/// The TOML files of a directory: name and text.
pub fn texts(directory: &Path) -> Vec<(String, String)> {
    let entries = std::fs::read_dir(directory).expect("the vectors").map(|entry| entry.expect("a file").path());
    let mut paths: Vec<_> = entries.filter(|path| path.extension().is_some_and(|e| e == "toml")).collect();
    paths.sort();
    let name = |path: &Path| path.file_stem().expect("a name").to_string_lossy().into_owned();
    paths.iter().map(|path| (name(path), std::fs::read_to_string(path).expect("a text"))).collect()
}

fn read(file: &str, text: &str) -> Vec<Vector> {
    let File { config, vector } = toml::from_str(text).unwrap_or_else(|error| panic!("{file}: {error}"));
    let named = |name: &String| Settings::parse(config.get(name).unwrap_or_else(|| panic!("{file}: no configuration {name}")));
    let vectors = vector.into_iter().map(|row| {
        assert!(!row.shows.is_empty(), "{file}: {} does not say what it shows", row.name);
        let step = |row: StepRow| Step { settings: row.config.as_ref().map(named), frame: bytes(&row.frame), expected: row };
        let steps = row.step.into_iter().map(step).collect();
        Vector { file: file.to_owned(), name: row.name, rule: row.rule, settings: named(&row.config), steps }
    });
    vectors.collect()
}

/// Lines of hexadecimal digits, and of `5a x 1400`: a byte so many times.
pub fn bytes(lines: &[String]) -> Vec<u8> {
    let byte = |text: &str| u8::from_str_radix(text, 16).unwrap_or_else(|_| panic!("not a byte: {text:?}"));
    let line = |line: &String| match line.split_once(" x ") {
        Some((value, times)) => vec![byte(value); times.parse().expect("a number of times")],
        None => {
            let digits: String = line.split_whitespace().collect();
            (0..digits.len()).step_by(2).map(|at| byte(&digits[at..at + 2])).collect()
        }
    };
    lines.iter().flat_map(line).collect()
}

/// The frozen values are the model's; a difference is told as it would have to be written.
#[test]
fn the_model_agrees() {
    let mut differing = Vec::new();
    for vector in all() {
        let mut model = Model::new(&vector.settings);
        for (number, step) in vector.steps.iter().enumerate() {
            step.settings.iter().for_each(|settings| model.configure(settings));
            let before = model.tally().rows();
            let found = model.frame(&step.frame);
            let moves: BTreeMap<String, u64> = moved(&before, &model.tally().rows())
                .into_iter()
                .filter(|(row, _)| is_listed(row))
                .map(|(row, (before, after))| (row, after - before))
                .collect();
            if !step.is(&found) || *step.moves() != moves {
                let found = json!({
                    "file": vector.file, "vector": vector.name, "step": number, "action": found.action,
                    "reason": found.reason, "vip": found.vip, "real": found.real, "from": found.from,
                    "out": hex(&found.frame), "moves": moves,
                });
                differing.push(format!("FOUND {found}"));
            }
        }
    }
    assert!(differing.is_empty(), "{} steps differ:\n{}", differing.len(), differing.join("\n"));
}

/// Every rule has a vector, and every vector a name of its own in its file.
#[test]
fn every_rule_has_a_vector() {
    let vectors = all();
    let rules: Vec<&str> = vectors.iter().map(|vector| vector.rule.as_str()).collect();
    let missing: Vec<&str> = RULES.split_whitespace().filter(|rule| !rules.contains(rule)).collect();
    assert!(missing.is_empty(), "no vector for {missing:?}");
    let mut names: Vec<(&str, &str)> = vectors.iter().map(|vector| (vector.file.as_str(), vector.name.as_str())).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count, "two vectors of one name");
}

const RULES: &str = "1(1) 1(3) 1(4) 1.1 1.2 1.4 1.5 1.6 1.7 1.8 1.9 2 2.1 2.2 2.3 2.4 2.5 2.6 2.7
    3.1 3.2 3.3 3.5 3.6 3.7 4.1 4.2 4.3 5.1 5.2 6 7 7.1 7.2";

/// The document about quirks names vectors that are there, and has a row for each quirk of the reference text.
#[test]
fn the_document_names_vectors_that_are_there() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/katran-compat.md");
    let text = std::fs::read_to_string(path).expect("the document");
    let companions = texts(&directory().join("companions"));
    let companions = companions.iter().flat_map(|(file, text)| names(file, text));
    let known: Vec<String> = all().iter().map(|v| format!("{}/{}", v.file, v.name)).chain(companions).collect();
    let is_named = |word: &&str| word.contains('/') && word.starts_with(|c: char| c.is_ascii_digit());
    let named: Vec<&str> = text.split('`').skip(1).step_by(2).filter(is_named).collect();
    let missing: Vec<&&str> = named.iter().filter(|name| !known.iter().any(|known| known == **name)).collect();
    assert!(missing.is_empty(), "no such vectors: {missing:?}");
    assert!(named.len() > 30, "only {} vectors are named: was anything read?", named.len());
}

/// The names of a file's vectors.
fn names(file: &str, text: &str) -> Vec<String> {
    let table: toml::Table = text.parse().unwrap_or_else(|error| panic!("{file}: {error}"));
    let vectors = table["vector"].as_array().expect("vectors");
    vectors.iter().map(|vector| format!("{file}/{}", vector["name"].as_str().expect("a name"))).collect()
}
