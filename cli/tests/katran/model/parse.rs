//! Sections 1.1 and 1.4: the headers, with ICMP (1.2) and inline decapsulation (1.3) at their places in between.

use super::{End, Packet, Rule, Walk};

const TRUNCATED: End = End::Drop("truncated-dropped");

impl Walk<'_> {
    /// Up to the VIP lookup.
    pub(super) fn parse(&mut self) -> Rule<Packet> {
        let mut packet = match self.frame[12..14] {
            [0x08, 0x00] => self.ipv4()?,
            [0x86, 0xdd] => self.ipv6()?,
            _ => return Err(End::Pass("not-ip")),
        };
        // 1.2: by the protocol number alone, whatever the IP version.
        match packet.proto {
            1 => self.icmpv4(&mut packet)?,
            58 => self.icmpv6(&mut packet)?,
            // 1.3
            4 | 41 => self.ipip(&packet)?,
            _ => {}
        }
        self.transport(&mut packet)?;
        self.gue(&packet)?;
        Ok(packet)
    }

    fn ipv4(&self) -> Rule<Packet> {
        let ip = self.at(14, 20).ok_or(TRUNCATED)?;
        if ip[0] & 0x0f != 5 {
            return Err(End::Drop("ipv4-options-dropped"));
        }
        if u16::from_be_bytes([ip[6], ip[7]]) & 0x3fff != 0 {
            return Err(End::Drop("fragment-dropped"));
        }
        Ok(Packet {
            src: padded(&ip[12..16]),
            dst: padded(&ip[16..20]),
            proto: ip[9],
            tos: ip[1],
            bytes: u16::from_be_bytes([ip[2], ip[3]]),
            ..Packet::default()
        })
    }

    fn ipv6(&self) -> Rule<Packet> {
        let ip = self.at(14, 40).ok_or(TRUNCATED)?;
        if ip[6] == 44 {
            return Err(End::Drop("fragment-dropped"));
        }
        Ok(Packet {
            v6: true,
            src: padded(&ip[8..24]),
            dst: padded(&ip[24..40]),
            proto: ip[6],
            // The priority, and the first nibble of what Katran takes for the flow label.
            tos: (ip[0] & 0x0f) << 4 | ip[1] >> 4,
            bytes: u16::from_be_bytes([ip[4], ip[5]]),
            ..Packet::default()
        })
    }

    /// 1.4, and for a quoted packet the end of 1.2: its ports are swapped.
    fn transport(&self, packet: &mut Packet) -> Rule<()> {
        let l4 = packet.l4();
        let ports = match packet.proto {
            6 => {
                let tcp = self.at(l4, 20).ok_or(TRUNCATED)?;
                (packet.syn, packet.rst) = (tcp[13] & 2 != 0, tcp[13] & 4 != 0);
                &tcp[..4]
            }
            17 => &self.at(l4, 8).ok_or(TRUNCATED)?[..4],
            _ => return Err(End::Pass("not-tcp-udp")),
        };
        let (one, two) = ([ports[0], ports[1]], [ports[2], ports[3]]);
        (packet.sport, packet.dport) = if packet.icmp { (two, one) } else { (one, two) };
        Ok(())
    }
}

/// Section 0: the address in the first bytes, the rest 0.
pub(super) fn padded(address: &[u8]) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..address.len()].copy_from_slice(address);
    bytes
}
