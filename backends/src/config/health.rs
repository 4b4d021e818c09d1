//! `[vip.health]` and `[announce]`.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::finding::Kind;
use super::reader::Reader;
use super::sections::narrow;
use super::served;
use super::service::Real;
use super::tables::Table;
use super::values::{self, Wrong};

/// The first of the socket marks that probes of health checks get, one for each real. `[[health_encap]]` has the others.
pub const FIRST_MARK: u32 = 0x7a00_0000;

/// How the reals of a VIP are checked: through the VIP, each in its turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// What is asked.
    pub check: Check,
    /// The port that is asked, not 0.
    pub port: u16,
    /// From one probe of a real to the next.
    pub interval: Duration,
    /// How long an answer may take; less than the interval.
    pub timeout: Duration,
    /// Answers in a row until a real that was out is in.
    pub rise: u32,
    /// Failures in a row until a real is out.
    pub fall: u32,
    /// By how much intervals differ, in per cent, so that many balancers do not ask at once.
    pub jitter: u32,
    /// With fewer healthy reals the VIP is not announced.
    pub min_healthy: u32,
}

/// What a probe asks, and what it takes for an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// A TCP connection is accepted.
    Tcp,
    /// An HTTP request is answered.
    Http {
        /// The request's target.
        path: String,
        /// Its `Host`; `None`: the VIP.
        host: Option<String>,
        /// The status of a good answer.
        status: RangeInclusive<u16>,
        /// What its body contains.
        body: Option<String>,
        /// By HTTPS.
        tls: Option<HealthTls>,
    },
    /// A DNS query for addresses is answered without an error.
    Dns {
        /// The name.
        name: String,
    },
    /// A datagram is answered.
    Udp {
        /// Its payload.
        send: String,
        /// What the answer contains.
        expect: Option<String>,
    },
    /// A program ends with status 0. It finds VIP, real, port and mark in its environment.
    Exec {
        /// The program and its arguments, never none.
        command: Vec<String>,
    },
}

/// How a server's certificate is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthTls {
    /// The certificates (PEM) that it has to come from; `None`: any will do.
    pub ca: Option<PathBuf>,
}

/// `[announce]`: routes for VIPs with enough healthy reals, for a routing daemon to export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announce {
    /// The routes' protocol number.
    pub protocol: u8,
    /// The table that they are in.
    pub table: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Tcp,
    Http,
    Https,
    Dns,
    Udp,
    Exec,
}

const WHATS: &[(&str, What)] = &[
    ("tcp", What::Tcp),
    ("http", What::Http),
    ("https", What::Https),
    ("dns", What::Dns),
    ("udp", What::Udp),
    ("exec", What::Exec),
];

/// The checks of a VIP with this port; `None`: something about them was not understood.
pub(super) fn read(reader: &mut Reader<'_>, table: &Table<'_>, vip_port: Option<u16>, reals: &[Real]) -> Option<Health> {
    let what = reader.choice(table, "check", WHATS);
    let interval = reader.text(table, "interval", interval).unwrap_or(Duration::from_secs(2));
    let timeout = reader.text(table, "timeout", interval_or_less).unwrap_or(Duration::from_secs(1).min(interval));
    let rise = narrow(reader.number(table, "rise", 1..101)).unwrap_or(2);
    let fall = narrow(reader.number(table, "fall", 1..101)).unwrap_or(3);
    let jitter = narrow(reader.number(table, "jitter", 0..51)).unwrap_or(10);
    let min_healthy = narrow(reader.number(table, "min_healthy", 1..65_536)).unwrap_or(1);
    let port: Option<u16> = narrow(reader.number(table, "port", 1..65_536));
    let check = check(reader, table, what?);
    note_foreign(reader, table, what?);
    if timeout > interval
        && let Some(item) = reader.any(table, "timeout").or_else(|| reader.any(table, "interval"))
    {
        let problem = format!("a timeout of {timeout:?} with a probe every {interval:?}");
        reader.mistake(Kind::Conflict, &item.place, problem, "make it no longer than the interval".to_owned());
    }
    if u32::try_from(reals.len()).is_ok_and(|reals| reals < min_healthy)
        && let Some(item) = reader.any(table, "min_healthy")
    {
        let problem = format!("more than the {} reals of the VIP: it is never announced", reals.len());
        reader.warn(&item.place, problem, "lower it, or add reals".to_owned());
    }
    let port = port.or(vip_port)?;
    if port == 0 {
        let problem = "the VIP takes every port, and which one is asked is not known".to_owned();
        reader.mistake(Kind::Missing, &table.place, problem, "add `port`".to_owned());
    }
    Some(Health { check: check?, port, interval, timeout, rise, fall, jitter, min_healthy })
}

fn check(reader: &mut Reader<'_>, table: &Table<'_>, what: What) -> Option<Check> {
    let text = |reader: &mut Reader<'_>, name| reader.text(table, name, |text| Ok(text.to_owned()));
    let path = reader.text(table, "path", path).unwrap_or_else(|| "/".to_owned());
    let host = reader.text(table, "host", line);
    let status = reader.text(table, "status", status).unwrap_or(200..=299);
    let body = text(reader, "body");
    let ca = reader.text(table, "ca", served::path);
    let name = reader.text(table, "query", name).unwrap_or_else(|| ".".to_owned());
    let (send, expect) = (text(reader, "send").unwrap_or_default(), text(reader, "expect"));
    let command = command(reader, table);
    Some(match what {
        What::Tcp => Check::Tcp,
        What::Http => Check::Http { path, host, status, body, tls: None },
        What::Https => Check::Http { path, host, status, body, tls: Some(HealthTls { ca }) },
        What::Dns => Check::Dns { name },
        What::Udp => Check::Udp { send, expect },
        What::Exec if command.is_empty() => {
            let problem = "`check = \"exec\"`, and no program to run".to_owned();
            reader.mistake(Kind::Missing, &table.place, problem, "add `command = [\"/path/of/it\"]`".to_owned());
            return None;
        }
        What::Exec => Check::Exec { command },
    })
}

/// Warns of keys of other checks.
fn note_foreign(reader: &mut Reader<'_>, table: &Table<'_>, what: What) {
    let of: [(&str, &[What]); 9] = [
        ("path", &[What::Http, What::Https]),
        ("host", &[What::Http, What::Https]),
        ("status", &[What::Http, What::Https]),
        ("body", &[What::Http, What::Https]),
        ("ca", &[What::Https]),
        ("query", &[What::Dns]),
        ("send", &[What::Udp]),
        ("expect", &[What::Udp]),
        ("command", &[What::Exec]),
    ];
    for (name, of) in of.iter().filter(|(_, of)| !of.contains(&what)) {
        if let Some(item) = reader.any(table, name) {
            let wanted = WHATS.iter().find(|(_, what)| of.contains(what)).map_or("", |(wanted, _)| wanted);
            let problem = "a key of another check: it does nothing here".to_owned();
            reader.warn(&item.place, problem, format!("remove it, or set check = \"{wanted}\""));
        }
    }
}

pub(super) fn announce(reader: &mut Reader<'_>, table: &Table<'_>) -> Announce {
    let protocol = narrow(reader.number(table, "protocol", 5..256)).unwrap_or(213);
    let routes = narrow(reader.number(table, "table", 1..1 << 32)).unwrap_or(213);
    Announce { protocol, table: routes }
}

fn command(reader: &mut Reader<'_>, table: &Table<'_>) -> Vec<String> {
    let Some(array) = reader.array(table, "command") else { return Vec::new() };
    array.value.iter().filter_map(|item| reader.text_of(table, "command", item, line)).collect()
}

fn interval(text: &str) -> Result<Duration, Wrong> {
    let duration = values::duration(text)?;
    let range = Duration::from_millis(100)..=Duration::from_secs(3600);
    if range.contains(&duration) { Ok(duration) } else { Err("out of range".into()) }
}

fn interval_or_less(text: &str) -> Result<Duration, Wrong> {
    let duration = values::duration(text)?;
    let range = Duration::from_millis(10)..=Duration::from_secs(3600);
    if range.contains(&duration) { Ok(duration) } else { Err("out of range".into()) }
}

/// A text that goes into one line of a request.
fn line(text: &str) -> Result<String, Wrong> {
    if text.is_empty() || text.contains(char::is_control) {
        Err("empty, or with control characters".into())
    } else {
        Ok(text.to_owned())
    }
}

fn path(text: &str) -> Result<String, Wrong> {
    if text.starts_with('/') && !text.contains([' ', '#']) { line(text) } else { Err("not the path of a request".into()) }
}

fn status(text: &str) -> Result<RangeInclusive<u16>, Wrong> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let number = |text| values::digits(text).and_then(|n| u16::try_from(n).ok()).filter(|n| (100..600).contains(n));
    match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => Ok(first..=last),
        _ => Err("not a status, nor a range of them".into()),
    }
}

/// A name whose labels fit into a query (RFC 1035 section 2.3.4).
fn name(text: &str) -> Result<String, Wrong> {
    let labels = text.strip_suffix('.').unwrap_or(text);
    let fits = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(|byte| byte.is_ascii_graphic());
    let is_name = labels.is_empty() && text == "." || labels.len() <= 253 && labels.split('.').all(fits);
    if is_name { Ok(text.to_owned()) } else { Err("not a name of the DNS".into()) }
}
