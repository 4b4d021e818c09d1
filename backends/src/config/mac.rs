//! Ethernet addresses.

use std::fmt;
use std::str::FromStr;

/// An Ethernet address, in the order of the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Whether a frame can be meant for one station with this address: neither a group address (lowest bit of the first octet,
    /// IEEE 802 section 8.2) nor all zero.
    #[must_use]
    pub fn is_station(self) -> bool {
        self.0[0] & 1 == 0 && self.0 != [0; 6]
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// The text is not an Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an Ethernet address; write six pairs of hexadecimal digits such as 02:00:00:00:00:01")]
pub struct MacError;

impl FromStr for Mac {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Self, MacError> {
        let mut octets = [0; 6];
        let mut pairs = text.split(':');
        for octet in &mut octets {
            let pair = pairs.next().ok_or(MacError)?;
            // `from_str_radix` alone would take `+1`.
            if pair.len() != 2 || !pair.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(MacError);
            }
            *octet = u8::from_str_radix(pair, 16).map_err(|_| MacError)?;
        }
        match pairs.next() {
            None => Ok(Self(octets)),
            Some(_) => Err(MacError),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        let mac: Mac = "00:00:DE:ad:be:af".parse().unwrap();
        assert_eq!(mac, Mac([0, 0, 0xde, 0xad, 0xbe, 0xaf]));
        assert_eq!(mac.to_string(), "00:00:de:ad:be:af");
        assert!(mac.is_station());
    }

    #[test]
    fn refuses_what_is_not_six_pairs() {
        for text in [
            "",
            "00",
            "00:00:de:ad:be",
            "00:00:de:ad:be:af:00",
            "00:00:de:ad:be:a",
            "00:00:de:ad:be:0af",
            "00:00:de:ad:be:+1",
            "00-00-de-ad-be-af",
            "00:00:de:ad:be:g0",
            "00:00:de:ad:be:é",
        ] {
            assert_eq!(text.parse::<Mac>(), Err(MacError), "{text}");
        }
    }

    #[test]
    fn groups_and_zero_are_no_stations() {
        for text in ["00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:01"] {
            assert!(!text.parse::<Mac>().unwrap().is_station(), "{text}");
        }
    }
}
