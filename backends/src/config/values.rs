//! The forms a value can have as text: addresses, prefixes, durations, names of interfaces; and prime numbers.
//!
//! Every function answers with what is wrong, in a few words, and leaves the place and the cure to its caller.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use super::finding::Kind;
use super::mac::Mac;
use super::prefix::Prefix;

/// What is wrong with a value.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    /// [`Kind::Value`], or [`Kind::NotYet`].
    pub(super) kind: Kind,
    /// In a few words.
    pub(super) problem: String,
}

impl<T: Into<String>> From<T> for Wrong {
    fn from(problem: T) -> Self {
        Self { kind: Kind::Value, problem: problem.into() }
    }
}

/// Longest name of an interface: `IFNAMSIZ` less its terminating zero.
const INTERFACE_NAME: usize = 15;
/// A UDP flow lives at least this long: the clock of flows ticks up to 640 ms apart (64 jiffies at 100 Hz).
const UDP_IDLE_LEAST: Duration = Duration::from_secs(1);
/// And at most this long: the clock of flows has 15 bits and wraps after 35 minutes at 1,000 Hz.
const UDP_IDLE_MOST: Duration = Duration::from_secs(15 * 60);

/// An address that packets can be sent to, other than this host's own loopback.
pub(super) fn address(text: &str) -> Result<IpAddr, Wrong> {
    let address: IpAddr = text.parse().map_err(|_| "not an IP address")?;
    unicast(address)?;
    Ok(address)
}

/// As [`address`], or a prefix of such addresses with its length.
pub(super) fn vip_address(text: &str) -> Result<(IpAddr, Option<u8>), Wrong> {
    if !text.contains('/') {
        return Ok((address(text)?, None));
    }
    let prefix = network(text)?;
    if !prefix.network().is_unspecified() {
        unicast(prefix.network())?;
    }
    Ok((prefix.network(), Some(prefix.bits())))
}

/// A network of either family, also the whole of it (length 0).
pub(super) fn network(text: &str) -> Result<Prefix, Wrong> {
    let (address, length) = text.split_once('/').ok_or("not a prefix: no `/`")?;
    let address: IpAddr = address.parse().map_err(|_| "not an IP address before the `/`")?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let covering = digits(length).and_then(|length| Prefix::covering(address, u8::try_from(length).ok()?));
    match covering {
        Some(prefix) if prefix.network() == address => Ok(prefix),
        Some(prefix) => Err(format!("bits behind the prefix are set, the network is {prefix}").into()),
        None => Err(format!("the length of the prefix is not 0 to {most}").into()),
    }
}

/// As [`address`], of IPv4.
pub(super) fn address_v4(text: &str) -> Result<Ipv4Addr, Wrong> {
    match address(text)? {
        IpAddr::V4(address) => Ok(address),
        IpAddr::V6(_) => Err("an IPv6 address where IPv4 is needed".into()),
    }
}

/// As [`address`], of IPv6.
pub(super) fn address_v6(text: &str) -> Result<Ipv6Addr, Wrong> {
    match address(text)? {
        IpAddr::V6(address) => Ok(address),
        IpAddr::V4(_) => Err("an IPv4 address where IPv6 is needed".into()),
    }
}

fn unicast(address: IpAddr) -> Result<(), Wrong> {
    let problem = match address {
        _ if address.is_unspecified() => "the unspecified address",
        _ if address.is_loopback() => "a loopback address",
        _ if address.is_multicast() => "a multicast address",
        IpAddr::V4(v4) if v4.is_broadcast() => "the broadcast address",
        // Never on a wire, and it would hide a second VIP for the same IPv4 address.
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => "an IPv4-mapped IPv6 address",
        IpAddr::V4(_) | IpAddr::V6(_) => return Ok(()),
    };
    Err(problem.into())
}

/// `192.0.2.0/24`: the network and its length, 1 to 32.
pub(super) fn prefix_v4(text: &str) -> Result<(Ipv4Addr, u8), Wrong> {
    let (address, length) = prefix(text, 32)?;
    let address = address_v4(address)?;
    let mask = u32::MAX << (32 - u32::from(length));
    let network = Ipv4Addr::from(u32::from(address) & mask);
    if network == address {
        Ok((address, length))
    } else {
        Err(format!("bits behind the prefix are set, the network is {network}/{length}").into())
    }
}

/// `2001:db8::/64`: the network and its length, 1 to 128.
pub(super) fn prefix_v6(text: &str) -> Result<(Ipv6Addr, u8), Wrong> {
    let (address, length) = prefix(text, 128)?;
    let address = address_v6(address)?;
    let mask = u128::MAX << (128 - u32::from(length));
    let network = Ipv6Addr::from(u128::from(address) & mask);
    if network == address {
        Ok((address, length))
    } else {
        Err(format!("bits behind the prefix are set, the network is {network}/{length}").into())
    }
}

/// The part before the slash, and the length behind it: 1 to `most`.
fn prefix(text: &str, most: u8) -> Result<(&str, u8), Wrong> {
    let (address, length) = text.split_once('/').ok_or("not a prefix: no `/`")?;
    match digits(length) {
        Some(length) if (1..=u64::from(most)).contains(&length) => Ok((address, u8::try_from(length).unwrap_or(most))),
        _ => Err(format!("the length of the prefix is not 1 to {most}").into()),
    }
}

/// A path that means the same wherever the process was started.
pub(super) fn absolute_path(text: &str) -> Result<PathBuf, Wrong> {
    let path = PathBuf::from(text);
    if path.is_absolute() && !text.contains('\0') { Ok(path) } else { Err("not an absolute path".into()) }
}

/// `30s`, `1500ms`, `2m`, between one second and a quarter of an hour.
pub(super) fn udp_idle(text: &str) -> Result<Duration, Wrong> {
    let duration = duration(text)?;
    if (UDP_IDLE_LEAST..=UDP_IDLE_MOST).contains(&duration) { Ok(duration) } else { Err("out of range".into()) }
}

/// `30s`, `124m`, between one second and a day.
pub(super) fn up_to_a_day(text: &str) -> Result<Duration, Wrong> {
    let duration = duration(text)?;
    let range = Duration::from_secs(1)..=Duration::from_secs(86_400);
    if range.contains(&duration) { Ok(duration) } else { Err("out of range".into()) }
}

/// `30s`, `1500ms`, `2m`, `1h`.
pub(super) fn duration(text: &str) -> Result<Duration, Wrong> {
    let number = text.trim_end_matches(|unit: char| unit.is_ascii_lowercase());
    let unit = text.get(number.len()..).unwrap_or_default();
    let milliseconds = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err("not a duration: a whole number and a unit".into()),
    };
    digits(number)
        .and_then(|number| number.checked_mul(milliseconds))
        .map(Duration::from_millis)
        .ok_or_else(|| "not a duration: a whole number and a unit".into())
}

/// Decimal digits and nothing else (`parse` alone would take a sign).
pub(super) fn digits(text: &str) -> Option<u64> {
    text.bytes().all(|digit| digit.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// The address of one station.
pub(super) fn station(text: &str) -> Result<Mac, Wrong> {
    let mac: Mac = text.parse().map_err(|_| "not an Ethernet address")?;
    if mac.is_station() { Ok(mac) } else { Err("a group address or all zero".into()) }
}

/// A name that the kernel would give an interface (`dev_valid_name()` in net/core/dev.c).
pub(super) fn interface(text: &str) -> Result<String, Wrong> {
    let letter = |c: char| !c.is_whitespace() && !c.is_control() && c != '/' && c != ':';
    if matches!(text, "" | "." | "..") || text.len() > INTERFACE_NAME || !text.chars().all(letter) {
        return Err("not the name of an interface".into());
    }
    Ok(text.to_owned())
}

/// Whether `number` is prime, by trial division: at most a thousand steps for numbers of 20 bits.
pub(super) fn is_prime(number: u32) -> bool {
    let number = u64::from(number);
    number >= 2 && (2..).take_while(|divisor| divisor * divisor <= number).all(|divisor| number % divisor != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, milliseconds) in [
            ("30s", Some(30_000)),
            ("1500ms", Some(1500)),
            ("2m", Some(120_000)),
            ("1h", Some(3_600_000)),
            ("30", None),
            ("s", None),
            ("", None),
            ("-1s", None),
            ("+1s", None),
            ("1.5s", None),
            ("1 s", None),
            ("1S", None),
            ("18446744073709551615h", None),
            ("99999999999999999999s", None),
        ] {
            let expected = milliseconds.map(Duration::from_millis);
            assert_eq!(duration(text).ok(), expected, "{text}");
        }
        assert!(udp_idle("999ms").is_err());
        assert!(udp_idle("901s").is_err());
        assert_eq!(udp_idle("15m"), Ok(UDP_IDLE_MOST));
    }

    #[test]
    fn prefixes() {
        let network = Ipv4Addr::new(172, 16, 0, 0);
        assert_eq!(prefix_v4("172.16.0.0/16"), Ok((network, 16)));
        assert_eq!(prefix_v4("172.16.0.0/32"), Ok((network, 32)));
        assert_eq!(prefix_v6("100::/64"), Ok(("100::".parse().unwrap(), 64)));
        assert_eq!(prefix_v6("100::1/128"), Ok(("100::1".parse().unwrap(), 128)));
        for text in [
            "172.16.0.0",
            "172.16.0.0/0",
            "172.16.0.0/33",
            "172.16.0.0/+8",
            "172.16.0.0/",
            "172.16.0.0/999999999999999999999",
            "172.16.0.1/16",
            "100::/64",
        ] {
            assert!(prefix_v4(text).is_err(), "{text}");
        }
        assert!(prefix_v6("100::/129").is_err());
        assert!(prefix_v6("100::1/127").is_err());
        assert!(prefix_v6("172.16.0.0/16").is_err());
    }

    #[test]
    fn primes_are_those_of_a_sieve() {
        let mut composite = [false; 2000];
        for number in 2..2000 {
            if !composite[number] {
                for multiple in (2 * number..2000).step_by(number) {
                    composite[multiple] = true;
                }
            }
            assert_eq!(is_prime(u32::try_from(number).unwrap()), !composite[number], "{number}");
        }
        assert!(!is_prime(0));
        assert!(!is_prime(1));
        assert!(is_prime(65_537));
        assert!(is_prime(4_294_967_291));
        assert!(!is_prime(u32::MAX));
    }

    #[test]
    fn names_of_interfaces() {
        for good in ["eth0", "enp3s0f1np1", "veth-1.100", "a"] {
            assert_eq!(interface(good), Ok(good.to_owned()));
        }
        for bad in ["", ".", "..", "a/b", "a b", "eth0:1", "sixteen-letters-", "a\u{7f}"] {
            assert!(interface(bad).is_err(), "{bad}");
        }
    }
}
