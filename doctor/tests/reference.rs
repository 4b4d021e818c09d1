//! `docs/doctor.md` is what the checks themselves say.

use std::path::Path;

use tandem_doctor::checks::{Proof, all, by_id};
use tandem_doctor::explain::{explain, reference};

#[test]
fn the_page_is_generated() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/doctor.md");
    let page = reference();
    if std::env::var_os("TANDEM_BLESS").is_some_and(|bless| bless == "1") {
        std::fs::write(&path, &page).expect("written");
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == page, "docs/doctor.md is old: TANDEM_BLESS=1 cargo test -p tandem-doctor --test reference");
}

#[test]
fn every_check_is_whole() {
    let mut last = "";
    for check in all() {
        assert!(check.id > last, "{} is out of order", check.id);
        last = check.id;
        assert!(!check.roles.is_empty() && !check.proof.is_empty(), "{}", check.id);
        for text in [check.title, check.looks_at, check.rule, check.explanation, check.cure] {
            assert!(!text.is_empty(), "{}", check.id);
        }
        assert!(check.proof.iter().all(|proof| !matches!(proof, Proof::Untried(""))), "{}", check.id);
        let text = explain(check);
        assert!(text.contains(check.rule) && text.contains(check.explanation), "{text}");
    }
}

/// What explains another check is a check, and nothing explains itself in a circle.
#[test]
fn causes_end() {
    fn depth(id: &str, left: usize) {
        assert!(left > 0, "{id}: its causes go in a circle");
        let check = by_id(id).unwrap_or_else(|| panic!("{id} is no check"));
        check.after.iter().for_each(|cause| depth(cause, left - 1));
    }
    all().for_each(|check| depth(check.id, 8));
}
