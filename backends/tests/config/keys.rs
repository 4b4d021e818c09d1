//! The table of keys against the reader and the committed reference.

use tandem_backends::config::keys::{Key, NUMBER, SECTIONS, Section};
use tandem_backends::config::{Kind, reference};

use super::{accepts, findings, good};

/// The file of the interface contract, whole.
#[test]
fn the_example_of_the_contract_is_accepted() {
    let warnings = good(include_str!("contract.toml")).warnings;
    let keys: Vec<&str> = warnings.iter().map(|warning| warning.key.as_str()).collect();
    let crafted = ["tunnel.source_prefix_v4", "tunnel.source_prefix_v6"];
    assert_eq!(keys.iter().filter(|key| !crafted.contains(key)).collect::<Vec<_>>(), [&"decap[0]"], "{warnings:?}");
}

/// A file in which `key` of `section` has `value`, and the keys that its section requires have theirs.
fn with(section: &Section, key: &Key, value: &str) -> String {
    let required = section.keys.iter().filter(|other| other.default.is_empty());
    let others: String = required
        .filter(|other| other.name != key.name)
        .map(|other| format!("\"{}\" = {}\n", other.name, other.example))
        .collect();
    let vip = "[[vip]]\naddress = \"192.0.2.1\"\nport = 1\nprotocol = \"tcp\"\n";
    let above = if section.name.starts_with("vip.") { vip } else { "" };
    let name = if key.name == NUMBER { "1022" } else { key.name };
    // A port of the API is refused without the identity that it shows there.
    let identity = "tls_cert = \"a\"\ntls_key = \"b\"\nclient_ca = \"c\"\n";
    let others = match (section.name, key.name) {
        ("api", "listen") => identity.to_owned(),
        ("vip.health", "check") => "command = [\"/bin/true\"]\n".to_owned(),
        ("api", "katran_listen") => format!("{identity}katran = true\n"),
        _ => others,
    };
    format!("{above}{}\n{others}\"{name}\" = {value}\n", section.header())
}

#[test]
fn every_key_of_the_reference_is_accepted_or_of_a_later_version() {
    for section in SECTIONS {
        for key in section.keys {
            let text = with(section, key, key.example);
            if key.since.is_now() && section.since.is_now() {
                accepts(&text);
                continue;
            }
            let found = findings(&text);
            let [finding] = found.as_slice() else {
                panic!("{text}{found:?}");
            };
            assert_eq!(finding.kind, Kind::NotYet, "{finding}");
        }
    }
}

#[test]
fn every_value_of_the_reference_is_accepted_or_of_a_later_version() {
    let mut values = 0;
    for section in SECTIONS.iter().filter(|section| section.since.is_now()) {
        for key in section.keys.iter().filter(|key| key.since.is_now()) {
            for value in key.values {
                values += 1;
                let array = key.kind.starts_with("array");
                let (open, close) = if array { ("[", "]") } else { ("", "") };
                let text = with(section, key, &format!("{open}\"{}\"{close}", value.name));
                if value.since.is_now() {
                    accepts(&text);
                    continue;
                }
                let found = findings(&text);
                let [finding] = found.as_slice() else {
                    panic!("{text}{found:?}");
                };
                assert_eq!(finding.kind, Kind::NotYet, "{finding}");
            }
        }
    }
    assert!(values > 40, "{values}");
}

/// A key that the reader does not look at would take a date.
#[test]
fn no_key_is_ignored() {
    for section in SECTIONS.iter().filter(|section| section.since.is_now()) {
        for key in section.keys.iter().filter(|key| key.since.is_now()) {
            let text = with(section, key, "1979-05-27");
            let found = findings(&text);
            let [finding] = found.as_slice() else {
                panic!("{text}{found:?}");
            };
            assert_eq!(finding.kind, Kind::Value, "{finding}");
            let name = if key.name == NUMBER { "server_ids.1022" } else { key.name };
            assert!(finding.key.ends_with(name), "{finding}");
            assert!(finding.problem.contains("found a date"), "{finding}");
        }
    }
}

#[test]
fn the_reference_is_the_committed_one() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");
    if std::env::var_os("TANDEM_BLESS").is_some() {
        std::fs::write(path, reference()).unwrap();
    }
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        committed == reference(),
        "docs/configuration.md differs from backends/src/config/keys.rs; to regenerate: TANDEM_BLESS=1 cargo test -p tandem-backends --test config"
    );
}

/// The example of the reference is a good file.
#[test]
fn the_example_of_the_reference_is_accepted() {
    let text = reference();
    let example = text.split("```toml").nth(1).unwrap().split("```").next().unwrap();
    assert_eq!(good(example).warnings, []);
}
