//! The known name that a mistyped one was probably meant to be.

/// Longer names are not compared: no key is that long, and the comparison is quadratic.
const LONGEST: usize = 32;

/// The candidate nearest to `name`, if it is near enough to be worth a suggestion: at most a third of its letters differ.
pub(super) fn nearest<'c>(name: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    let name: Vec<char> = name.to_lowercase().replace('-', "_").chars().take(LONGEST + 1).collect();
    if name.len() > LONGEST {
        return None;
    }
    candidates
        .into_iter()
        .map(|candidate| (distance(&name, &candidate.replace('-', "_")), candidate))
        .filter(|(distance, candidate)| *distance <= candidate.len().max(3) / 3)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Edits (insert, delete, replace, swap of neighbours) that turn `a` into `b`: optimal string alignment, three rows at a time.
fn distance(a: &[char], b: &str) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=a.len()).collect();
    let mut last = None;
    for (line, letter) in (1..).zip(b.chars()) {
        let mut row = vec![line];
        for (cell, &other) in a.iter().enumerate() {
            let at = |row: &[usize], cell: usize| row.get(cell).copied().unwrap_or(usize::MAX - 1);
            let mut edits =
                (at(&above, cell) + usize::from(letter != other)).min(at(&above, cell + 1) + 1).min(at(&row, cell) + 1);
            let previous = cell.checked_sub(1).and_then(|cell| Some((cell, *a.get(cell)?)));
            if let (Some(last), Some((two, previous))) = (last, previous)
                && (last, letter) == (other, previous)
            {
                edits = edits.min(at(&before, two) + 1);
            }
            row.push(edits);
        }
        before = std::mem::replace(&mut above, row);
        last = Some(letter);
    }
    above.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_those_of_the_textbook() {
        for (a, b, edits) in [
            ("kitten", "sitting", 3),
            ("", "abc", 3),
            ("abc", "", 3),
            ("flaw", "lawn", 2),
            ("same", "same", 0),
            ("prot", "port", 1),
            ("xpd", "xdp", 1),
            ("ca", "abc", 3),
        ] {
            let letters: Vec<char> = a.chars().collect();
            assert_eq!(distance(&letters, b), edits, "{a} {b}");
        }
    }

    #[test]
    fn suggests_only_what_is_near() {
        let known = ["address", "port", "protocol", "ring_size", "no-source-port"];
        for (typed, meant) in [
            ("adress", Some("address")),
            ("ring-size", Some("ring_size")),
            ("RingSize", Some("ring_size")),
            ("no_source_port", Some("no-source-port")),
            ("prot", Some("port")),
            ("rael", None),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(nearest(typed, known), meant, "{typed}");
        }
        assert_eq!(nearest(&"address".repeat(1000), known), None);
    }
}
