//! A file whose content is known at both ends of a transfer.

use std::{
    fmt,
    fs::File,
    io::{self, BufWriter, Read, Write},
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

use crate::{Lab, LabError};

/// A SHA-256 of some content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Digest([u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

/// The digest of a file's content, and its length in bytes.
///
/// # Errors
/// [`LabError::File`] if it cannot be read.
pub fn digest_of(path: &Path) -> Result<(Digest, u64), LabError> {
    let mut file = File::open(path).map_err(LabError::file("open", path))?;
    let (mut hash, mut len, mut buffer) = (Sha256::new(), 0, vec![0; 1 << 16]);
    loop {
        match file.read(&mut buffer).map_err(LabError::file("read", path))? {
            0 => return Ok((Digest(hash.finalize().into()), len)),
            read => {
                hash.update(&buffer[..read]);
                len += read as u64;
            }
        }
    }
}

/// A file that looks random and is the same in every lab: a byte that is lost, doubled or moved changes its digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob {
    /// Where it is.
    pub path: PathBuf,
    /// Its length in bytes.
    pub bytes: u64,
    /// The digest of its content.
    pub digest: Digest,
}

impl Blob {
    /// Writes the file `blob` in the lab's directory.
    pub(crate) fn make(lab: &Lab, bytes: u64) -> Result<Self, LabError> {
        let path = lab.directory().join("blob");
        let file = File::create(&path).map_err(LabError::file("make", &path))?;
        fill(BufWriter::with_capacity(1 << 16, file), bytes).map_err(LabError::file("write", &path))?;
        let (digest, bytes) = digest_of(&path)?;
        Ok(Self { path, bytes, digest })
    }
}

/// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014), little endian.
fn fill(mut to: impl Write, bytes: u64) -> io::Result<()> {
    let (mut state, mut left) = (0_u64, bytes);
    while left > 0 {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^= word >> 31;
        let word = word.to_le_bytes();
        let part = usize::try_from(left).unwrap_or(usize::MAX).min(word.len());
        to.write_all(&word[..part])?;
        left -= part as u64;
    }
    to.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_the_generators() {
        let mut content = Vec::new();
        fill(&mut content, 19).unwrap();
        // The first numbers of SplitMix64 seeded with 0, as its authors' C program prints them.
        let first = [0xe220_a839_7b1d_cdaf_u64, 0x6e78_9e6a_a1b9_65f4, 0x06c4_5d18_8009_454f];
        let expected: Vec<_> = first.iter().flat_map(|word| word.to_le_bytes()).collect();
        assert_eq!(content, expected[..19]);
    }

    #[test]
    fn a_digest_prints_as_sha256sum_does() {
        let empty = Digest(Sha256::digest(b"").into());
        assert_eq!(empty.to_string(), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }
}
