//! What each command means, and which of them a scenario may use.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::read::{Found, Mistake, Words};
use super::{Protocol, Range, Traffic};

const VERBS: &str = "set, range, enable, disable, start, stop, str, stp, clr, rst, cls, on or off";
const RANGES: &str = "size, type, proto, ttl, src or dst";
const WHERE: &str = "start, min, max or inc";
const SINGLE: &str = "a setting of single mode, which leaves range frames alone; use the `range` command of this name";
const PORTS: &str = "list of Pktgen ports (0, 0,2, 0-3 or all)";
const MAC: &str = "link-layer address, like 02:00:00:00:00:01";
/// Pktgen caps the increment of ports without a word.
const MOST_PORT_INC: u32 = 64;

/// A file being read.
pub(super) struct Reader {
    traffic: Traffic,
    /// The transmitting port, as the first command names it.
    port: Option<String>,
    is_range: bool,
    is_started: bool,
    /// Addresses as they were written: their family is known only at the end.
    v6: Option<bool>,
    has_src_ip: bool,
    has_dst_ip: bool,
}

impl Default for Reader {
    fn default() -> Self {
        let traffic = Traffic::pktgen_default(0);
        Self { traffic, port: None, is_range: false, is_started: false, v6: None, has_src_ip: false, has_dst_ip: false }
    }
}

/// A value that a word stands for.
trait Value: Sized + Copy {
    const EXPECTED: &'static str;
    fn read(word: &str) -> Option<Self>;
}

impl Value for u32 {
    const EXPECTED: &'static str = "number (decimal digits)";
    fn read(word: &str) -> Option<Self> {
        word.bytes().all(|b| b.is_ascii_digit()).then(|| word.parse().ok())?
    }
}

/// A link-layer address, as a number.
#[derive(Clone, Copy)]
struct MacNumber(u64);

impl Value for MacNumber {
    const EXPECTED: &'static str = MAC;
    fn read(word: &str) -> Option<Self> {
        let octets: Vec<&str> = word.split(':').collect();
        if octets.len() != 6 || octets.iter().any(|octet| octet.len() != 2) {
            return None;
        }
        octets.iter().try_fold(0, |sum, octet| Some(sum << 8 | u64::from(u8::from_str_radix(octet, 16).ok()?))).map(Self)
    }
}

/// An address of either family, as a number.
#[derive(Clone, Copy)]
struct Address {
    number: u128,
    v6: bool,
}

impl Value for Address {
    const EXPECTED: &'static str = "address";
    fn read(word: &str) -> Option<Self> {
        if let Ok(v4) = word.parse::<Ipv4Addr>() {
            return Some(Self { number: u32::from(v4).into(), v6: false });
        }
        Some(Self { number: word.parse::<Ipv6Addr>().ok()?.into(), v6: true })
    }
}

fn value<T: Value>(word: (usize, &str)) -> Result<T, Found> {
    let wrong = || (word.0, Mistake::Value { found: word.1.to_owned(), expected: T::EXPECTED });
    T::read(word.1).ok_or_else(wrong)
}

fn unknown<T>((column, word): (usize, &str), expected: &'static str) -> Result<T, Found> {
    Err((column, Mistake::Unknown { found: word.to_owned(), expected }))
}

fn unsupported<T>(column: usize, found: String, why: &'static str) -> Result<T, Found> {
    Err((column, Mistake::Unsupported { found, why }))
}

/// Which of the four, and the values that follow: all four, or one.
enum Given<T> {
    All(Range<T>),
    One(&'static str, T, usize),
}

fn given<T: Value>(words: &mut Words<'_>) -> Result<Given<T>, Found> {
    let first = words.take("start, min, max, inc, or four values")?;
    let which = match first.1 {
        "start" => "start",
        "min" | "minimum" => "min",
        "max" | "maximum" => "max",
        "inc" => "inc",
        "increment" => "increment",
        word if word.starts_with(|c: char| c.is_ascii_alphabetic()) && T::read(word).is_none() => return unknown(first, WHERE),
        _ => {
            let start = value(first)?;
            let min = value(words.take("the minimum")?)?;
            let max = value(words.take("the maximum")?)?;
            let inc = value(words.take("the increment")?)?;
            return Ok(Given::All(Range { start, min, max, inc }));
        }
    };
    Ok(Given::One(which, value(words.take("a value")?)?, first.0))
}

fn put<T: Copy>(range: &mut Range<T>, given: Given<T>) {
    match given {
        Given::All(all) => *range = all,
        Given::One("start", value, _) => range.start = value,
        Given::One("min", value, _) => range.min = value,
        Given::One("max", value, _) => range.max = value,
        Given::One(_, value, _) => range.inc = value,
    }
}

impl<T> Given<T> {
    fn map<U>(self, f: impl Fn(T) -> U) -> Given<U> {
        match self {
            Self::All(Range { start, min, max, inc }) => {
                Given::All(Range { start: f(start), min: f(min), max: f(max), inc: f(inc) })
            }
            Self::One(which, value, column) => Given::One(which, f(value), column),
        }
    }
}

impl Reader {
    /// One command.
    pub fn command(&mut self, mut words: Words<'_>) -> Result<(), Found> {
        let verb = words.take("a command")?;
        if self.is_started && !matches!(verb.1, "stop" | "stp") {
            let what = "a command behind `start` would change traffic that is already sent; put `start` last".to_owned();
            return Err((verb.0, Mistake::Contradiction(what)));
        }
        match verb.1 {
            "set" => self.set(&mut words)?,
            "range" => self.range(&mut words)?,
            "enable" | "disable" => self.enable(verb.1 == "enable", &mut words)?,
            "start" => {
                self.port(&mut words)?;
                self.is_started = true;
            }
            "stop" => {
                self.port(&mut words)?;
                self.is_started = false;
            }
            "str" => self.is_started = true,
            "stp" => self.is_started = false,
            "clr" | "rst" | "cls" | "on" | "off" => {}
            _ => return unknown(verb, VERBS),
        }
        words.finish()
    }

    /// The port list: one transmitting port, the same in every command.
    fn port(&mut self, words: &mut Words<'_>) -> Result<(), Found> {
        let (column, word) = words.take(PORTS)?;
        let is_port = |part: &str| part.parse::<u8>().is_ok();
        let is_list = word == "all"
            || word.split(',').all(|part| part.split_once('-').map_or(is_port(part), |(a, b)| is_port(a) && is_port(b)));
        if !is_list {
            return Err((column, Mistake::Value { found: word.to_owned(), expected: PORTS }));
        }
        match &self.port {
            None => self.port = Some(word.to_owned()),
            Some(port) if port != word => {
                let what = format!("port list `{word}`, but `{port}` before: a scenario is the traffic of one port");
                return Err((column, Mistake::Contradiction(what)));
            }
            Some(_) => {}
        }
        Ok(())
    }

    fn set(&mut self, words: &mut Words<'_>) -> Result<(), Found> {
        self.port(words)?;
        let (column, what) = words.take("count, rate, size, burst, txburst or rxburst")?;
        match what {
            "count" => self.traffic.count = value::<u32>(words.take("a number of frames")?)?.into(),
            "size" => self.traffic.rate_size = size(words.take("a frame size")?)?,
            "rate" => {
                let (column, word) = words.take("per cent of the link's speed")?;
                let digits = word.starts_with(|c: char| c.is_ascii_digit());
                let rate = word.parse::<f64>().ok().filter(|rate| digits && (0.0..=100.0).contains(rate));
                let wrong = || (column, Mistake::Value { found: word.to_owned(), expected: "per cent from 0 to 100" });
                self.traffic.rate = rate.ok_or_else(wrong)?.max(0.01);
            }
            // How many frames go to the driver at a time: no matter of ours, and no harm.
            "burst" | "txburst" | "rxburst" => {
                value::<u32>(words.take("a number of frames")?)?;
            }
            "sport" | "dport" | "ttl" | "proto" | "type" | "src" | "dst" | "vlan" | "tcp" | "tos" | "cos" => {
                return unsupported(column, format!("set {what}"), SINGLE);
            }
            other => return unknown((column, other), "count, rate, size, burst, txburst or rxburst"),
        }
        Ok(())
    }

    fn range(&mut self, words: &mut Words<'_>) -> Result<(), Found> {
        self.port(words)?;
        let (column, what) = words.take(RANGES)?;
        match what {
            "size" => {
                let given = given::<u32>(words)?;
                if let Given::One("inc", ..) = given {
                    let why = "Pktgen sets 0 for this word; write `increment`, or all four values";
                    return unsupported(column, "range size inc".to_owned(), why);
                }
                put(&mut self.traffic.size, given);
            }
            "ttl" => put(&mut self.traffic.ttl, given(words)?),
            "proto" => {
                self.traffic.protocol = match words.take("tcp or udp")? {
                    (_, "tcp") => Protocol::Tcp,
                    (_, "udp") => Protocol::Udp,
                    other => return unknown(other, "tcp or udp"),
                }
            }
            "type" => {
                self.traffic.v6 = match words.take("ipv4 or ipv6")? {
                    (_, "ipv4") => false,
                    (_, "ipv6") => true,
                    other => return unknown(other, "ipv4 or ipv6"),
                }
            }
            "src" | "dst" => return self.end(what == "src", words),
            "vlan" | "cos" | "tos" | "gtpu" | "qinqid" | "traffic_class" => {
                return unsupported(column, format!("range {what}"), "no part of these scenarios; leave it out");
            }
            "tcp" => {
                let why = "its grammar changed between versions of Pktgen (24.05 and 24.10); the share of SYNs is in the sidecar";
                return unsupported(column, "range tcp".to_owned(), why);
            }
            other => return unknown((column, other), RANGES),
        }
        Ok(())
    }

    /// `range P src|dst mac|ip|port`.
    fn end(&mut self, is_src: bool, words: &mut Words<'_>) -> Result<(), Found> {
        let traffic = &mut self.traffic;
        match words.take("mac, ip or port")? {
            (_, "mac") => {
                let given = given::<MacNumber>(words)?.map(|mac| mac.0);
                put(if is_src { &mut traffic.src_mac } else { &mut traffic.dst_mac }, given);
            }
            (column, "ip") => {
                let given = given::<Address>(words)?;
                let family = match &given {
                    Given::All(range) => range.start.v6,
                    Given::One(_, address, _) => address.v6,
                };
                if self.v6.is_some_and(|v6| v6 != family) {
                    let what = "addresses of both families in one scenario".to_owned();
                    return Err((column, Mistake::Contradiction(what)));
                }
                self.v6 = Some(family);
                *(if is_src { &mut self.has_src_ip } else { &mut self.has_dst_ip }) = true;
                put(if is_src { &mut traffic.src_ip } else { &mut traffic.dst_ip }, given.map(|address| address.number));
            }
            (column, "port") => {
                let given = given::<u32>(words)?;
                let (inc, most) = match &given {
                    Given::All(range) => (range.inc, range.start.max(range.min).max(range.max)),
                    Given::One("inc" | "increment", inc, _) => (*inc, 0),
                    Given::One(_, value, _) => (0, *value),
                };
                let found = inc.max(most).to_string();
                if inc > MOST_PORT_INC {
                    return Err((
                        column,
                        Mistake::Value { found, expected: "increment of ports: Pktgen makes 64 of any larger one" },
                    ));
                }
                if most > u32::from(u16::MAX) {
                    return Err((column, Mistake::Value { found, expected: "port (0 to 65535)" }));
                }
                put(if is_src { &mut traffic.src_port } else { &mut traffic.dst_port }, given);
            }
            other => return unknown(other, "mac, ip or port"),
        }
        Ok(())
    }

    fn enable(&mut self, on: bool, words: &mut Words<'_>) -> Result<(), Found> {
        self.port(words)?;
        match words.take("range")? {
            (_, "range") => self.is_range = on,
            // Switched off is what they are anyway.
            (_, "pcap" | "random" | "vlan" | "rnd_s_pt") if !on => {}
            (column, mode @ ("pcap" | "random" | "rate" | "vlan" | "rnd_s_pt" | "latency" | "capture")) => {
                return unsupported(column, format!("enable {mode}"), "scenarios are range mode alone; leave it out");
            }
            other => return unknown(other, "range"),
        }
        Ok(())
    }

    /// Looks at the whole file.
    pub fn finish(self) -> Result<Traffic, Mistake> {
        let contradiction = |what: String| Err(Mistake::Contradiction(what));
        let traffic = self.traffic;
        if !self.is_range {
            return contradiction("no `enable P range`: Pktgen would send single-mode frames".to_owned());
        }
        if !self.is_started {
            return contradiction("no `start P`: Pktgen would send nothing".to_owned());
        }
        if self.v6.unwrap_or(false) != traffic.v6 {
            let (found, asked) = if traffic.v6 { ("IPv4", "ipv6") } else { ("IPv6", "ipv4") };
            return contradiction(format!("`range type {asked}` with {found} addresses"));
        }
        if traffic.v6 && !(self.has_src_ip && self.has_dst_ip) {
            return contradiction("an IPv6 scenario needs `range src ip` and `range dst ip`".to_owned());
        }
        let Range { start, min, max, inc } = traffic.size;
        let sizes = if inc == 0 { vec![start] } else { vec![min, max] };
        let least = least_size(&traffic);
        if let Some(wrong) = sizes.iter().find(|size| !(least..=1518).contains(*size)) {
            return contradiction(format!("frame size {wrong} (with FCS); such frames have {least} to 1518 bytes"));
        }
        if traffic.size.inc == 0 && traffic.rate_size != traffic.size.start {
            let (rate, size) = (traffic.rate_size, traffic.size.start);
            return contradiction(format!(
                "`set size {rate}` with `range size {size}`: the rate would be computed from another size"
            ));
        }
        Ok(traffic)
    }
}

fn size(word: (usize, &str)) -> Result<u32, Found> {
    let size: u32 = value(word)?;
    if (64..=1518).contains(&size) {
        return Ok(size);
    }
    Err((word.0, Mistake::Value { found: word.1.to_owned(), expected: "frame size with FCS (64 to 1518)" }))
}

/// Headers and FCS of the smallest frame.
fn least_size(traffic: &Traffic) -> u32 {
    let transport = if traffic.protocol == Protocol::Udp { 8 } else { 20 };
    (14 + if traffic.v6 { 40 } else { 20 } + transport + 4).max(64)
}
