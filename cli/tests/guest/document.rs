//! `docs/kernels.md`, and a table of README.md, from what the kernels have said.

use std::fmt::Write as _;

use super::cases::services;
use super::generic;
use super::service::Service;
use super::setups::{SETUPS, method, pair};

const PAIRS: [&str; 4] = ["4in4", "4in6", "6in4", "6in6"];

/// What is asked for by its name.
pub fn writer(verb: &str) -> Option<fn(&[String]) -> String> {
    match verb {
        "document" => Some(document),
        "readme" => Some(readme),
        _ => None,
    }
}

fn read(results: &[String]) -> Vec<String> {
    results.iter().map(|file| std::fs::read_to_string(file).expect(file)).collect()
}

/// The kernel's release, and how many results there were of each kind.
fn summary(text: &str) -> (&str, &str) {
    let summary = text.lines().rev().find(|line| line.contains(" passed, ")).expect("a summary");
    summary.split_once(": ").expect("a summary")
}

/// The sizes that were told in results whose names begin like this.
fn sizes(text: &str, begin: &str) -> String {
    let said = text.lines().filter(|line| line.starts_with(begin)).filter_map(|line| line.rsplit_once(": "));
    let sizes: Vec<&str> = said.map(|(_, said)| said.split_once(';').map_or(said, |(size, _)| size)).collect();
    match sizes.iter().all(|size| size.contains("verified")) {
        true => sizes.join("; "),
        false => "loaded; this kernel does not tell what it verified".to_owned(),
    }
}

/// Kernels, results and the time it took.
fn readme(results: &[String]) -> String {
    let mut table = String::from("| kernel | results | seconds |\n|---|---|---|\n");
    for text in read(results) {
        let (release, counts) = summary(&text);
        let seconds = text.lines().find_map(|line| line.strip_suffix(" seconds")).expect("the time");
        writeln!(table, "| {release} | {counts} | {seconds} |").expect("a String takes everything");
    }
    table
}

/// The page; `results` are files with the lines of a kernel each.
fn document(results: &[String]) -> String {
    let texts = read(results);
    let mut page = String::from(
        "<!-- Generated. To regenerate: TANDEM_BLESS=1 make test-kernels, with every kernel fetched -->\n\n# Kernels\n\n\
         `make test-kernels` boots stock kernels of Debian under QEMU, without acceleration, and runs the same program in each: our own \
         programs against the engine, on 2,000 generated frames for each of four configurations and on the vectors of profile katran, \
         byte for byte; both modes, the live switch and a restart on devices of this kernel; and frames of every forwarding method into \
         Linux's own tunnel devices. A frame counts as delivered when its payload is read from a socket bound to the VIP, or its SYN is \
         answered.\n\n## What ran\n\n\
         | kernel | results | the balancer without any feature, with every method, with everything in profile standard and in profile katran |\n|---|---|---|\n",
    );
    let mut notes = Vec::new();
    for text in &texts {
        let (release, counts) = summary(text);
        writeln!(page, "| {release} | {counts} | {} |", sizes(text, "ok balancer, ")).expect("a String takes everything");
        let skips = text.lines().filter_map(|line| line.strip_prefix("skip "));
        notes.extend(skips.map(|skip| format!("- Linux {release}: {skip}\n")));
    }
    page.push_str(
        "\nThe object is built for the instruction set v3. What the kernels say to one that is built for the generic set, which has \
         64-bit arithmetic alone:\n\n\
         | kernel | without any feature | everything, profile standard | everything, profile katran |\n|---|---|---|---|\n",
    );
    for text in &texts {
        let said = generic::BALANCERS.map(|balancer| {
            let begin = format!("ok {}{balancer}: ", generic::NAME);
            text.lines().find_map(|line| line.strip_prefix(&begin)).unwrap_or("refused, see below")
        });
        writeln!(page, "| {} | {} |", summary(text).0, said.join(" | ")).expect("a String takes everything");
    }
    if !notes.is_empty() {
        page.push_str("\nNot there:\n\n");
        notes.iter().for_each(|note| page.push_str(note));
    }
    page.push_str(
        "\n## What stock Linux takes\n\nThe same on every kernel above, but for what is said. ✓ all were delivered: datagrams of 1 byte \
         to a full frame, odd and even, padded, with and without a checksum of their own, with outer UDP checksums `always` and \
         `where-cheap`; SYNs. – none was. `4in6`: an IPv4 client's packet to the IPv6 address of a real.\n",
    );
    let services = services();
    for setup in &SETUPS {
        write!(page, "\n### {}\n\n", first_upper(setup.name)).expect("a String takes everything");
        for line in setup.lines() {
            let line = line.strip_prefix("-6 ").map_or_else(|| format!("ip {line}"), |line| format!("ip -6 {line}"));
            writeln!(page, "    {line}").expect("a String takes everything");
        }
        for (key, value) in setup.sysctls {
            writeln!(page, "    sysctl net.{}={value}", key.replace('/', ".")).expect("a String takes everything");
        }
        if !setup.commands.is_empty() {
            page.push('\n');
        }
        page.push_str(&table(&services, setup.delivers));
        if !setup.why.is_empty() {
            write!(page, "\n–: {}.\n", setup.why).expect("a String takes everything");
        }
        for (kernels, _, why) in setup.otherwise {
            writeln!(page, "\nLinux {kernels}x {why}.").expect("a String takes everything");
        }
    }
    page.push_str(
        "\n## What is dropped\n\nFrames with one bit of the outer IPv4 checksum, of the outer UDP checksum or of the payload changed, and \
         frames to other tunnel ports: none was delivered.\n",
    );
    page
}

fn table(services: &[Service], delivers: fn(&Service) -> bool) -> String {
    let mut table = format!("| | {} |\n|---|---|---|---|---|\n", PAIRS.join(" | "));
    let mut methods: Vec<String> = services.iter().map(method).collect();
    methods.dedup();
    for name in methods {
        let cell = |wanted: &&str| {
            let service = services.iter().find(|service| method(service) == name && pair(service) == **wanted);
            service.map_or("", |service| if delivers(service) { "✓" } else { "–" })
        };
        let cells: Vec<&str> = PAIRS.iter().map(cell).collect();
        writeln!(table, "| {name} | {} |", cells.join(" | ")).expect("a String takes everything");
    }
    table
}

fn first_upper(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}
