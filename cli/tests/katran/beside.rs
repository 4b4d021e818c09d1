//! The vectors of the programs beside the balancer.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Deserialize;
use serde_json::json;

use crate::compare::hex;
use crate::vectors::{bytes, directory, texts};

/// The vectors of one program.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// `--program`.
    pub program: String,
    /// Configurations by name.
    pub config: BTreeMap<String, String>,
    pub vector: Vec<Row>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    pub name: String,
    pub rule: String,
    pub shows: String,
    pub config: String,
    /// `--mark`.
    pub mark: Option<u32>,
    pub frame: Vec<String>,
    action: String,
    reason: String,
    real: Option<IpAddr>,
    /// Hexadecimal digits, `??` for any byte.
    out: Option<Vec<String>>,
}

/// The files by name.
pub fn all() -> Vec<(String, File)> {
    let texts = texts(&directory().join("companions"));
    assert_eq!(texts.len(), 2, "a file for each program");
    let read = |(file, text): (String, String)| {
        let read = toml::from_str(&text).unwrap_or_else(|error| panic!("{file}: {error}"));
        (file, read)
    };
    texts.into_iter().map(read).collect()
}

impl Row {
    /// The row of the verdict of frame `number`.
    pub fn verdict(&self, number: usize) -> serde_json::Value {
        json!({
            "frame": number, "action": self.action, "reason": self.reason, "vip": null, "real": self.real, "from": "none",
        })
    }

    /// Frames are left as written, but for a random source port, in which Katran sets a bit of the second byte.
    pub fn is_left(&self, left: &[u8]) -> Result<(), String> {
        let same = |left: &[u8], expected: &[u8]| match left == expected {
            true => Ok(()),
            false => Err(format!("left as {}, expected {}", hex(left), hex(expected))),
        };
        let Some(out) = &self.out else { return same(left, &bytes(&self.frame)) };
        let digits: String = out.iter().filter(|line| line.contains('?')).flat_map(|line| line.split_whitespace()).collect();
        let port_is_random = !digits.is_empty();
        let fixed: Vec<String> = out.iter().map(|line| line.replace('?', "0")).collect();
        let mut left = left.to_vec();
        if port_is_random && left.len() > 55 {
            let port = if left[12..14] == [0x86, 0xdd] { 54 } else { 34 };
            if left[port + 1] & 0x04 == 0 {
                return Err("the bit 0x0400 of the source port is not set".to_owned());
            }
            left[port..port + 2].fill(0);
        }
        same(&left, &bytes(&fixed))
    }
}
