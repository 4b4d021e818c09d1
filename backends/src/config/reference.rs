//! The reference of the configuration file, printed from the table of its keys.

use super::keys::{Key, SECTIONS, Section, Since};

const HEAD: &str = "\
<!-- Generated from backends/src/config/keys.rs. To regenerate: TANDEM_BLESS=1 cargo test -p tandem-backends --test config -->

# Configuration

The configuration is one TOML file, given with `-c FILE`. `tandem check -c FILE` validates it without touching the host and names
every mistake at once, with its file, line, column, key and the accepted values. Indices in the names of keys count from 0:
`vip[2].real[0].address` is the address of the first real of the third VIP.

A small one:

```toml
[node]
interface = \"eth0\"

[tunnel]
source_v4 = \"10.0.13.37\"

[[vip]]
address = \"10.200.1.1\"
port = 80
protocol = \"tcp\"

[[vip.real]]
address = \"10.0.0.1\"

[[vip.real]]
address = \"10.0.0.2\"
weight = 2
```

Rules:

- An unknown key is an error. A section, key or value that is marked *not yet* is one of a later version: it is refused by name,
  never ignored. Remove it.
- A key without a default is required.
- Addresses are unicast: no unspecified, loopback, multicast, broadcast or IPv4-mapped one.
- A duration is a whole number and a unit: `ms`, `s`, `m` or `h`.
- What is allowed but probably not meant is a warning: no VIP, a VIP without reals, only weights of 0, every real drained or
  down, no interface, an outer source that only the host can supply. Profile katran accepts what Katran accepts, and warns of
  what would be a mistake in profile standard.
- A file is at most 512 MiB long.
";

/// The whole text of `docs/configuration.md`.
#[must_use]
pub fn reference() -> String {
    let mut text = HEAD.to_owned();
    for section in SECTIONS {
        text.push_str(&of_section(section));
    }
    text
}

fn of_section(section: &Section) -> String {
    let later = if section.since.is_now() { "" } else { " *Not yet.*" };
    let rows: String = section.keys.iter().map(of_key).collect();
    format!(
        "\n## `{}`\n\n{}{later}\n\n| key | type | default | meaning | since |\n|---|---|---|---|---|\n{rows}",
        section.header(),
        section.meaning,
    )
}

fn of_key(key: &Key) -> String {
    format!("| `{}` | {} | {} | {} | {} |\n", key.name, of_type(key), of_default(key.default), key.meaning, of_since(key.since),)
}

/// The type, and for a choice its values: those of now, then those of later versions.
fn of_type(key: &Key) -> String {
    let names = |now: bool| {
        let values = key.values.iter().filter(|value| value.since.is_now() == now);
        let names: Vec<String> = values.map(|value| format!("`{}`", value.name)).collect();
        names.join(", ")
    };
    let (now, later) = (names(true), names(false));
    match (now.is_empty(), later.is_empty()) {
        (true, true) => key.kind.to_owned(),
        (false, true) => format!("{} {now}", key.kind),
        (true, false) => format!("{}: not yet {later}", key.kind),
        (false, false) => format!("{} {now}; not yet {later}", key.kind),
    }
}

/// A default that is TOML is set as code, one in words is not.
fn of_default(default: &str) -> String {
    let is_toml = |first: char| first == '"' || first == '[' || first.is_ascii_digit();
    match default {
        "" => "required".to_owned(),
        "true" | "false" => format!("`{default}`"),
        _ if default.starts_with(is_toml) => format!("`{default}`"),
        _ => default.to_owned(),
    }
}

fn of_since(since: Since) -> &'static str {
    match since {
        Since::Version(version) => version,
        Since::Later => "not yet",
    }
}
