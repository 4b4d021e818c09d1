//! Every key of the configuration file, once: its name, type, default, meaning, values, and since when it works.
//!
//! The reader takes from here which keys and values are known, which of them a later version brings, and what to suggest for a
//! mistyped one; [`reference`](super::reference()) prints it as `docs/configuration.md`.

mod health;
mod once;
mod repeated;
mod served;

pub use health::{ANNOUNCE, HEALTH};
pub use once::{FLOWS, NAT, NODE, SERVER_IDS, TUNNEL};
pub use repeated::{DECAP, HEALTH_ENCAP, REAL, SOURCE_ROUTE, VIP};
pub use served::{API, METRICS};

/// Since when a section, key or value works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// This version and later ones.
    Version(&'static str),
    /// A later version; until then it is refused by name.
    Later,
}

impl Since {
    /// Whether it works now.
    #[must_use]
    pub const fn is_now(self) -> bool {
        matches!(self, Self::Version(_))
    }
}

/// A table of the file, or each of an array of tables.
#[derive(Debug)]
pub struct Section {
    /// Its name without indices: `node`, `vip`, `vip.real`.
    pub name: &'static str,
    /// Whether there can be several: `[[vip]]` and not `[node]`.
    pub repeated: bool,
    /// What it is for.
    pub meaning: &'static str,
    /// If [`Since::Later`], so are all its keys.
    pub since: Since,
    /// Its keys in the order of the reference.
    pub keys: &'static [Key],
}

impl Section {
    /// How it is opened in the file.
    #[must_use]
    pub fn header(&self) -> String {
        if self.repeated { format!("[[{}]]", self.name) } else { format!("[{}]", self.name) }
    }

    /// The key of that name; a section whose names are numbers has one key for all of them.
    #[must_use]
    pub fn key(&self, name: &str) -> Option<&'static Key> {
        let any = |key: &&Key| key.name == NUMBER && is_number(name);
        self.keys.iter().find(|key| key.name == name).or_else(|| self.keys.iter().find(any))
    }
}

/// One key of a section.
#[derive(Debug)]
pub struct Key {
    /// Its name in the section.
    pub name: &'static str,
    /// Type, unit and range, in words.
    pub kind: &'static str,
    /// Its default as TOML, or in words; empty: the key is required.
    pub default: &'static str,
    /// A good value, as TOML.
    pub example: &'static str,
    /// What it does.
    pub meaning: &'static str,
    /// Since when it works.
    pub since: Since,
    /// The values it chooses from; empty if it is not a choice.
    pub values: &'static [Value],
}

impl Key {
    const fn of(mut self, values: &'static [Value]) -> Self {
        self.values = values;
        self
    }

    /// The values that work now, as an enumeration.
    #[must_use]
    pub fn accepted(&self) -> String {
        let now = self.values.iter().filter(|value| value.since.is_now());
        now.map(|value| value.name).collect::<Vec<_>>().join(", ")
    }
}

/// One value of a choice.
#[derive(Debug)]
pub struct Value {
    /// As it is written in the file.
    pub name: &'static str,
    /// Since when it works.
    pub since: Since,
}

/// The name of the key that stands for every number.
pub const NUMBER: &str = "<number>";

fn is_number(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|digit| digit.is_ascii_digit())
}

const NOW: Since = Since::Version("0.1");

const fn now(name: &'static str) -> Value {
    Value { name, since: NOW }
}

const fn key(name: &'static str, kind: &'static str, default: &'static str, example: &'static str, meaning: &'static str) -> Key {
    Key { name, kind, default, example, meaning, since: NOW, values: &[] }
}

/// Every section, in the order of the reference.
pub static SECTIONS: &[&Section] = &[
    &NODE,
    &TUNNEL,
    &FLOWS,
    &NAT,
    &SERVER_IDS,
    &SOURCE_ROUTE,
    &DECAP,
    &HEALTH_ENCAP,
    &VIP,
    &REAL,
    &HEALTH,
    &ANNOUNCE,
    &API,
    &METRICS,
];

/// The forwarding methods; shared by three keys.
const ENCAPS: &[Value] = &[now("ipip"), now("gue"), now("gue0"), now("gre"), now("fou"), now("geneve"), now("l2"), now("nat")];
