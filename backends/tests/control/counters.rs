//! The committed reference of the counters.

use tandem_backends::control::{Counters, counters_reference};
use tandem_backends::memory::{Sizes, Tables};

#[test]
fn the_reference_is_the_committed_one() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/counters.md");
    if std::env::var_os("TANDEM_BLESS").is_some() {
        std::fs::write(path, counters_reference()).unwrap();
    }
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        committed == counters_reference(),
        "docs/counters.md differs from the code; to regenerate: TANDEM_BLESS=1 cargo test -p tandem-backends --test control"
    );
}

/// What `--counters` writes has a row in the reference, and the other way round.
#[test]
fn the_reference_has_every_name_once() {
    let plan = tandem_backends::config::parse("", "none").unwrap().plan;
    let tables = Tables::plain(Sizes { flow_sets: 1, ..Sizes::for_plan(&plan, 1) }).unwrap();
    let counters = Counters::read(&tables, 0..1);
    let text = counters_reference();
    let rows = |section: &str| -> Vec<String> {
        let part = text.split(&format!("\n## `{section}`\n")).nth(1).unwrap().split("\n## ").next().unwrap();
        part.lines().filter_map(|line| Some(line.strip_prefix("| `")?.split('`').next()?.to_owned())).collect()
    };
    for (section, names) in [("reasons", &counters.reasons), ("events", &counters.events), ("seat", &counters.seat)] {
        let mut rows = rows(section);
        rows.sort_unstable();
        assert!(rows.iter().eq(names.keys()), "{section}: {rows:?}");
    }
}
