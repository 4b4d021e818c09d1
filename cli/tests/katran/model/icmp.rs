//! Section 1.2, ICMP before any VIP lookup, and section 5.1, the answer to a frame that is too big.

use super::parse::padded;
use super::sums::{checksum, fold, words};
use super::{End, Packet, Rule, Walk};

const TRUNCATED: End = End::Drop("truncated-dropped");

impl Walk<'_> {
    pub(super) fn icmpv4(&mut self, packet: &mut Packet) -> Rule<()> {
        let at = packet.l4();
        let icmp = self.at(at, 8).ok_or(TRUNCATED)?.to_vec();
        match icmp[0] {
            8 => return Err(self.echo(false, 0, 0x0008)),
            3 => {}
            _ => return Err(End::Pass("icmp")),
        }
        if icmp[1] == 4 {
            self.event("ptb-v4", 1);
            if u16::from_be_bytes([icmp[6], icmp[7]]) < 1280 {
                self.event("ptb-v4-low", 1);
            }
        }
        let quoted = self.at(at + 8, 20).ok_or(TRUNCATED)?;
        if quoted[0] & 0x0f != 5 {
            return Err(TRUNCATED);
        }
        packet.proto = quoted[9];
        (packet.src, packet.dst) = (padded(&quoted[16..20]), padded(&quoted[12..16]));
        packet.icmp = true;
        Ok(())
    }

    pub(super) fn icmpv6(&mut self, packet: &mut Packet) -> Rule<()> {
        let at = packet.l4();
        let icmp = self.at(at, 8).ok_or(TRUNCATED)?.to_vec();
        match icmp[0] {
            128 => return Err(self.echo(true, 129, 0xffff)),
            1 | 2 => {}
            _ => return Err(End::Pass("icmp")),
        }
        if icmp[0] == 2 {
            self.event("ptb-v6", 1);
            if u32::from_be_bytes([icmp[4], icmp[5], icmp[6], icmp[7]]) < 1280 {
                self.event("ptb-v6-low", 1);
            }
        }
        let quoted = self.at(at + 8, 40).ok_or(TRUNCATED)?;
        packet.proto = quoted[6];
        (packet.src, packet.dst) = (padded(&quoted[24..40]), padded(&quoted[8..24]));
        packet.icmp = true;
        Ok(())
    }

    /// The answer to a ping, in place. `add` goes to the little-endian checksum without end-around carry.
    ///
    /// The text does not say how a handler answers within the other version of IP; here each takes the frame for its own.
    fn echo(&mut self, v6: bool, answer: u8, add: u16) -> End {
        let at = if v6 { 54 } else { 34 };
        if self.at(at, 8).is_none() {
            return TRUNCATED;
        }
        let frame = &mut self.frame;
        swap(frame, 0, 6, 6);
        if v6 {
            swap(frame, 22, 38, 16);
            frame[21] = 64;
        } else {
            swap(frame, 26, 30, 4);
            frame[22] = 64;
            frame[24..26].fill(0);
            let sum = checksum(&frame[14..34]);
            frame[24..26].copy_from_slice(&sum);
        }
        frame[at] = answer;
        let sum = u16::from_le_bytes([frame[at + 2], frame[at + 3]]).wrapping_add(add);
        frame[at + 2..at + 4].copy_from_slice(&sum.to_le_bytes());
        End::Tx("echo-reply")
    }
}

/// Swaps two ranges of `len` bytes.
pub(super) fn swap(frame: &mut [u8], one: usize, two: usize, len: usize) {
    (0..len).for_each(|n| frame.swap(one + n, two + n));
}

/// Section 5.1.
pub(super) fn too_big(frame: &[u8], v6: bool, mtu: usize) -> Vec<u8> {
    let kept = if v6 { 262 } else { 98 };
    let original = &frame[..frame.len().min(kept)];
    let mtu = u16::try_from(mtu).expect("max_frame is below 65536").to_be_bytes();
    let ethernet = [&original[6..12], &original[..6], &original[12..14]].concat();
    let quote = &original[14..];
    let (ip, icmp) = if v6 { too_big_v6(quote, mtu) } else { too_big_v4(quote, mtu) };
    [ethernet, ip, icmp].concat()
}

fn too_big_v4(quote: &[u8], mtu: [u8; 2]) -> (Vec<u8>, Vec<u8>) {
    let mut icmp = [&[3, 4, 0, 0, 0, 0, mtu[0], mtu[1]], quote].concat();
    let sum = checksum(&icmp);
    icmp[2..4].copy_from_slice(&sum);
    let (client, vip) = (&quote[12..16], &quote[16..20]);
    let mut ip = [&[0x45, 0, 0, 112, 0, 0, 0, 0, 64, 1, 0, 0], vip, client].concat();
    let sum = checksum(&ip);
    ip[10..12].copy_from_slice(&sum);
    (ip, icmp)
}

fn too_big_v6(quote: &[u8], mtu: [u8; 2]) -> (Vec<u8>, Vec<u8>) {
    let (client, vip) = (&quote[8..24], &quote[24..40]);
    let mut icmp = [&[2, 0, 0, 0, 0, 0, mtu[0], mtu[1]], quote].concat();
    let pseudo = words(vip) + words(client) + 256 + 58;
    let sum = !fold(pseudo + words(&icmp));
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    (([&[0x60, 0, 0, 0, 1, 0, 58, 64], vip, client].concat()), icmp)
}
