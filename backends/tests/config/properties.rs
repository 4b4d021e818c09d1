//! Any text at all: no panic, and every finding names a place.

use proptest::prelude::*;
use tandem_backends::config::{Kind, parse};

use super::FULL;

/// One change of a text: what is between two places, replaced.
#[derive(Clone, Debug)]
struct Change {
    at: prop::sample::Index,
    length: usize,
    by: String,
}

fn change() -> impl Strategy<Value = Change> {
    const PIECES: &[&str] = &[
        "",
        "\"",
        "[",
        "]",
        "[[",
        "]]",
        "{",
        "}",
        "=",
        ".",
        ",",
        "\n",
        "#",
        "'",
        "-",
        "0",
        "99999999999999999999",
        "é",
        "\0",
        "\\u0000",
        "::",
        "[[vip]]\n",
        "[[vip.real]]\n",
        "[vip]\n",
        "[node]\n",
        "x = 1\n",
        "\"icmp\"",
        "1979-05-27",
        "nan",
        "true",
        "/96",
        "ring_size = 0\n",
    ];
    let piece = prop_oneof![prop::sample::select(PIECES).prop_map(str::to_owned), "\\PC{0,8}"];
    (any::<prop::sample::Index>(), 0..12_usize, piece).prop_map(|(at, length, by)| Change { at, length, by })
}

fn apply(text: &str, changes: &[Change]) -> String {
    let mut letters: Vec<char> = text.chars().collect();
    for change in changes {
        let start = change.at.index(letters.len() + 1);
        let end = (start + change.length).min(letters.len());
        letters.splice(start..end, change.by.chars());
    }
    letters.into_iter().collect()
}

/// Every finding names a place that is in the text, a problem and a cure, on one line.
fn check_places(text: &str) -> Result<(), TestCaseError> {
    let found = match parse(text, "t.toml") {
        Ok(loaded) => loaded.warnings,
        Err(error) => {
            prop_assert!(!error.findings().is_empty());
            error.findings().to_vec()
        }
    };
    let lines: Vec<&str> = text.split('\n').collect();
    for finding in found {
        let line = finding.line.checked_sub(1).and_then(|index| lines.get(index));
        let line = line.ok_or_else(|| TestCaseError::fail(finding.to_string()))?;
        prop_assert!((1..=line.chars().count() + 1).contains(&finding.column), "{}", finding);
        prop_assert!(!finding.problem.is_empty() && !finding.cure.is_empty());
        prop_assert!(finding.key.is_empty() == (finding.kind == Kind::Syntax));
        let prefix = format!("t.toml:{}:{}: ", finding.line, finding.column);
        let shown = finding.to_string();
        prop_assert!(shown.starts_with(&prefix) && !shown.contains(char::is_control), "{:?}", shown);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn no_change_of_a_good_file_panics(changes in prop::collection::vec(change(), 1..6)) {
        check_places(&apply(FULL, &changes))?;
    }

    /// One value replaced: mostly still TOML, so that the checks behind the parser are reached.
    #[test]
    fn no_value_panics(line in any::<prop::sample::Index>(), value in "[0-9a-f:./]{0,24}|-?[0-9]{1,22}|\\PC{0,12}", quoted: bool) {
        let lines: Vec<&str> = FULL.lines().collect();
        let chosen = line.index(lines.len());
        let value = if quoted { format!("{value:?}") } else { value };
        let text: Vec<String> = lines.iter().enumerate().map(|(index, line)| match line.split_once(" = ") {
            Some((key, _)) if index == chosen => format!("{key} = {value}"),
            _ => (*line).to_owned(),
        }).collect();
        check_places(&text.join("\n"))?;
    }

    #[test]
    fn no_text_panics(text in "\\PC{0,200}|[\\[\\]{}=\"'a-z.,\n#0-9_-]{0,200}") {
        check_places(&text)?;
    }
}
