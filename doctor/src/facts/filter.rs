//! The packet filter, as nf_tables keeps it: base chains, chains, rules as the small programs that they are, and sets. Numbers
//! and attributes of `nf_tables.h`.

use std::io;

use serde::{Deserialize, Serialize};

use super::exchange::{Attributes, Exchange, put};

/// `NETLINK_NETFILTER`, and `NFNL_SUBSYS_NFTABLES` in the upper byte of its message types.
const PROTOCOL: isize = 12;
const SUBSYSTEM: u16 = 10 << 8;
const GET_CHAIN: u16 = SUBSYSTEM | 4;
const GET_RULE: u16 = SUBSYSTEM | 7;
const GET_SET: u16 = SUBSYSTEM | 10;
const GET_ELEMENTS: u16 = SUBSYSTEM | 13;
/// Length of `struct nfgenmsg`.
const HEADER: usize = 4;
/// Elements that are kept of one set.
const MOST_ELEMENTS: usize = 4096;

/// What a rule does at its end, or a chain by default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Into the next chain.
    Accept,
    /// Lost.
    Drop,
    /// On with the next rule.
    Continue,
    /// Back to where the chain was called.
    Return,
    /// Calls a chain.
    Jump(String),
    /// Goes on in a chain, and does not come back.
    Goto(String),
}

/// A step of a rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// Loads what the kernel knows of the packet (`NFT_META_*`).
    Meta {
        /// Which fact.
        key: u32,
        /// Into which register.
        to: u32,
    },
    /// Loads what connection tracking knows of the packet (`NFT_CT_*`).
    Ct {
        /// Which fact.
        key: u32,
        /// Into which register.
        to: u32,
    },
    /// Loads bytes of the packet.
    Payload {
        /// From which header (`NFT_PAYLOAD_*`).
        base: u32,
        /// Bytes before.
        offset: u32,
        /// Bytes loaded.
        len: u32,
        /// Into which register.
        to: u32,
    },
    /// Masks and flips bits.
    Bits {
        /// From this register.
        from: u32,
        /// Into this one.
        to: u32,
        /// What stays.
        mask: Vec<u8>,
        /// What is flipped.
        flip: Vec<u8>,
    },
    /// Ends the rule unless the comparison holds (`NFT_CMP_*`).
    Compare {
        /// The register.
        from: u32,
        /// How.
        how: u32,
        /// With what.
        value: Vec<u8>,
    },
    /// Ends the rule unless the register is in the set; or takes the verdict that stands there.
    Lookup {
        /// The register.
        from: u32,
        /// The set.
        set: String,
        /// Unless it is not in the set.
        inverted: bool,
        /// A map of verdicts.
        verdicts: bool,
    },
    /// The verdict.
    Verdict(Verdict),
    /// Counts; packets so far.
    Counter(u64),
    /// Anything else, by its name.
    Other(String),
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilterRule {
    /// Its number, for `nft delete rule`.
    pub handle: u64,
    /// What it does.
    pub steps: Vec<Step>,
}

/// A chain with its rules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chain {
    /// `inet`, `ip`, `ip6`, `bridge`, `arp` or `netdev`.
    pub family: String,
    /// The table.
    pub table: String,
    /// The name.
    pub name: String,
    /// Of a base chain: the hook (`NF_INET_*`) and its place among others.
    pub hook: Option<(u32, i32)>,
    /// Of a base chain: whether it drops what no rule decides about.
    pub drops: bool,
    /// In their order.
    pub rules: Vec<FilterRule>,
}

/// An element of a set or map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Element {
    /// The key.
    pub key: Vec<u8>,
    /// It ends the interval before it.
    pub end: bool,
    /// What a map has for it.
    pub verdict: Option<Verdict>,
}

/// A set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Set {
    /// As of [`Chain`].
    pub family: String,
    /// The table.
    pub table: String,
    /// The name.
    pub name: String,
    /// Its elements are intervals.
    pub intervals: bool,
    /// Its elements.
    pub elements: Vec<Element>,
}

/// The packet filter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Filter {
    /// All chains with their rules.
    pub chains: Vec<Chain>,
    /// All sets.
    pub sets: Vec<Set>,
    /// Tables of the older `iptables` that are loaded; their rules are not read.
    pub legacy: Vec<String>,
}

fn family_name(number: u8) -> &'static str {
    match number {
        1 => "inet",
        2 => "ip",
        3 => "arp",
        5 => "netdev",
        7 => "bridge",
        10 => "ip6",
        _ => "unknown",
    }
}

/// Reads all of it. A kernel without nf_tables has none.
pub(super) fn filter() -> io::Result<Filter> {
    let mut exchange = Exchange::open(PROTOCOL)?;
    let everything = [0, 0, 0, 0];
    let chains = match exchange.dump(GET_CHAIN, &everything) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => return Ok(Filter::default()),
        other => other?,
    };
    let mut chains: Vec<Chain> = chains.iter().filter_map(|message| chain(message)).collect();
    for message in exchange.dump(GET_RULE, &everything)? {
        let of = Attributes::behind(&message, HEADER);
        let family = family_name(message.first().copied().unwrap_or(0));
        let (Some(table), Some(name), Some(handle)) = (of.text(1), of.text(2), of.be64(3)) else { continue };
        let steps = of.nested(4).each().flat_map(|(_, expression)| step(Attributes(expression))).collect();
        let its = |chain: &&mut Chain| chain.family == family && chain.table == table && chain.name == name;
        if let Some(chain) = chains.iter_mut().find(its) {
            chain.rules.push(FilterRule { handle, steps });
        }
    }
    let sets = exchange.dump(GET_SET, &everything)?;
    let sets = sets.iter().filter_map(|message| set(&mut exchange, message)).collect();
    let names = |file: &str| std::fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap_or_default();
    let of = |file: &str, program: &str| -> Vec<String> {
        names(file).split_whitespace().map(|table| format!("{program} {table}")).collect()
    };
    let legacy = [of("ip_tables_names", "iptables"), of("ip6_tables_names", "ip6tables")].concat();
    Ok(Filter { chains, sets, legacy })
}

/// `NFTA_CHAIN_*`, `NFTA_HOOK_*`.
fn chain(message: &[u8]) -> Option<Chain> {
    let of = Attributes::behind(message, HEADER);
    let hook = of.nested(4);
    let priority = hook.get(2).and_then(|bytes| Some(i32::from_be_bytes(*bytes.first_chunk()?)));
    Some(Chain {
        family: family_name(*message.first()?).to_owned(),
        table: of.text(1)?,
        name: of.text(3)?,
        hook: hook.be32(1).zip(priority),
        drops: of.be32(5) == Some(0),
        rules: Vec::new(),
    })
}

/// `NFTA_EXPR_*`, and the attributes of each kind of expression.
fn step(expression: Attributes<'_>) -> Option<Step> {
    let (name, of) = (expression.text(1)?, expression.nested(2));
    let number = |kind| of.be32(kind).unwrap_or(0);
    let value = |kind| of.nested(kind).get(1).unwrap_or_default().to_vec();
    Some(match name.as_str() {
        // Those that set something have no register to load into.
        "meta" if of.has(1) => Step::Meta { key: number(2), to: number(1) },
        "ct" if of.has(1) => Step::Ct { key: number(2), to: number(1) },
        "payload" if of.has(1) => Step::Payload { base: number(2), offset: number(3), len: number(4), to: number(1) },
        "bitwise" if of.has(4) => Step::Bits { from: number(1), to: number(2), mask: value(4), flip: value(5) },
        "cmp" => Step::Compare { from: number(1), how: number(2), value: value(3) },
        "lookup" => Step::Lookup {
            from: number(2),
            set: of.text(1)?,
            inverted: number(5) & 1 != 0,
            verdicts: of.has(3) && number(3) == 0,
        },
        "immediate" if number(1) == 0 => Step::Verdict(verdict(of.nested(2))?),
        "reject" => Step::Verdict(Verdict::Drop),
        "counter" => Step::Counter(of.be64(2).unwrap_or(0)),
        _ => Step::Other(name),
    })
}

/// `NFTA_DATA_VERDICT`, `NFTA_VERDICT_*`, and the codes of `netfilter.h` and `nf_tables.h`.
fn verdict(data: Attributes<'_>) -> Option<Verdict> {
    let of = data.nested(2);
    let chain = || of.text(2);
    Some(match of.be32(1)?.cast_signed() {
        0 => Verdict::Drop,
        1 => Verdict::Accept,
        -1 => Verdict::Continue,
        -3 => Verdict::Jump(chain()?),
        -4 => Verdict::Goto(chain()?),
        -5 => Verdict::Return,
        _ => return None,
    })
}

/// `NFTA_SET_*`, with its elements.
fn set(exchange: &mut Exchange, message: &[u8]) -> Option<Set> {
    let of = Attributes::behind(message, HEADER);
    let (number, table, name) = (*message.first()?, of.text(1)?, of.text(2)?);
    let mut body = vec![number, 0, 0, 0];
    put(&mut body, 1, &[table.as_bytes(), b"\0"].concat());
    put(&mut body, 2, &[name.as_bytes(), b"\0"].concat());
    let mut elements = Vec::new();
    for message in exchange.dump(GET_ELEMENTS, &body).unwrap_or_default() {
        let list = Attributes::behind(&message, HEADER).nested(3);
        elements.extend(list.each().filter_map(|(_, of)| element(Attributes(of))));
    }
    elements.truncate(MOST_ELEMENTS);
    Some(Set { family: family_name(number).to_owned(), table, name, intervals: of.be32(3)? & 4 != 0, elements })
}

/// `NFTA_SET_ELEM_*`.
fn element(of: Attributes<'_>) -> Option<Element> {
    let key = of.nested(1).get(1)?.to_vec();
    Some(Element { key, end: of.be32(3).unwrap_or(0) & 1 != 0, verdict: verdict(of.nested(2)) })
}
