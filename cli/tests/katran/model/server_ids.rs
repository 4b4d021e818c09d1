//! Section 4: routing by server id, and what it does to the connection table (2.3).

use std::net::IpAddr;

use super::{Entry, Packet, Walk};

/// What the table said to a server id's choice.
#[derive(PartialEq)]
enum Found {
    Match,
    Mismatch,
    Nothing,
}

/// What a QUIC header holds.
enum Quic {
    NoId,
    Initial,
    /// Version of the connection id, and the server id.
    Id(u8, u32),
}

impl Walk<'_> {
    /// 4.1
    pub(super) fn quic(&mut self, packet: &Packet, vip: usize) -> Option<IpAddr> {
        if packet.icmp {
            let code = self.frame[if packet.v6 { 55 } else { 35 }];
            self.event("quic-icmp", 1);
            if if packet.v6 { [3, 4] } else { [3, 1] }.contains(&code) {
                self.event("quic-icmp-ignorable", 1);
            }
            return None;
        }
        let (version, id) = match self.quic_header(packet) {
            Quic::NoId => {
                self.event("quic-ring", 1);
                return None;
            }
            Quic::Initial => {
                self.event("quic-initial", 1);
                self.vip_event(vip, "server-id-new", 1);
                return None;
            }
            Quic::Id(version, id) => (version, id),
        };
        self.event(["quic-v1", "quic-v2", "quic-v3"][usize::from(version) - 1], 1);
        let Some(real) = self.model.rules.server_ids.get(&id).copied() else {
            self.event("quic-invalid-id", 1);
            self.event("quic-ring", 1);
            return None;
        };
        match self.check_flow(packet, vip, real) {
            Found::Match => self.event("quic-match", 1),
            Found::Nothing => self.event("quic-not-found", 1),
            Found::Mismatch => {
                self.event("quic-mismatch", 1);
                self.vip_event(vip, "server-id-mismatch", 1);
            }
        }
        self.event("quic-routed", 1);
        Some(real)
    }

    /// Read at the place behind a UDP header, whatever the protocol.
    fn quic_header(&self, packet: &Packet) -> Quic {
        let at = packet.l4() + 8;
        let Some([first]) = self.at(at, 1) else { return Quic::NoId };
        let id_at = if first & 0x80 != 0 {
            let Some(long) = self.at(at, 14) else { return Quic::NoId };
            if first & 0x30 < 0x20 {
                return Quic::Initial;
            }
            if long[5] < 8 {
                return Quic::NoId;
            }
            at + 6
        } else if self.at(at, 9).is_some() {
            at + 1
        } else {
            return Quic::NoId;
        };
        let c = self.at(id_at, 8).expect("within what was asked for above");
        let c = |n: usize| u32::from(c[n]);
        let version = c(0) >> 6;
        let id = match version {
            1 => (c(0) & 0x3f) << 10 | c(1) << 2 | c(2) >> 6,
            2 => c(1) << 16 | c(2) << 8 | c(3),
            3 => c(1) << 24 | c(2) << 16 | c(3) << 8 | c(4),
            _ => 0,
        };
        // Kept as a signed number: one with the top bit set is none.
        if id.cast_signed() > 0 { Quic::Id(version as u8, id) } else { Quic::NoId }
    }

    /// 4.2. In a quoted packet it is looked for behind the quoted header.
    pub(super) fn stable(&mut self, packet: &Packet) -> Option<IpAddr> {
        let header = self.at(packet.l4() + 8, 8).filter(|header| header[0] == 0x52);
        let id = header.map(|h| u32::from(h[1]) << 16 | u32::from(h[2]) << 8 | u32::from(h[3]));
        match id {
            None | Some(0) => {
                self.event("stable-ring", 1);
                if id.is_none() {
                    self.event("stable-invalid-type", 1);
                }
                None
            }
            Some(id) => match self.model.rules.server_ids.get(&id).copied() {
                Some(real) => {
                    self.event("stable-routed", 1);
                    Some(real)
                }
                None => {
                    self.event("stable-invalid-id", 1);
                    self.event("stable-ring", 1);
                    None
                }
            },
        }
    }

    /// 4.3
    pub(super) fn tcp_server_id(&mut self, packet: &Packet, vip: usize) -> Option<IpAddr> {
        if packet.syn {
            self.event("tcp-id-syn", 1);
            self.vip_event(vip, "server-id-new", 1);
            return None;
        }
        // Where a plain packet has its TCP header, also if the flow is a quoted one.
        let at = if packet.v6 { 54 } else { 34 };
        let id = self.tcp_option(at).unwrap_or(0);
        let Some(real) = self.model.rules.server_ids.get(&id).copied().filter(|_| id != 0) else {
            self.event("tcp-id-ring", 1);
            return None;
        };
        if !self.flag(vip, "bypass-flow-table") && self.check_flow(packet, vip, real) == Found::Mismatch {
            self.event("tcp-id-mismatch", 1);
            self.vip_event(vip, "server-id-mismatch", 1);
        }
        self.event("tcp-id-routed", 1);
        Some(real)
    }

    fn tcp_option(&self, tcp: usize) -> Option<u32> {
        let data_offset = self.at(tcp + 12, 1)?[0] >> 4;
        let mut left = (data_offset * 4).wrapping_sub(20);
        if left < 6 {
            return None;
        }
        let mut at = tcp + 20;
        for _ in 0..15 {
            if left == 0 {
                return None;
            }
            let length = match self.at(at, 1)?[0] {
                0 => return None,
                1 => 1,
                kind => {
                    let length = self.at(at, 2)?[1];
                    if length > left {
                        return None;
                    }
                    if kind == 0xb7 {
                        let option = self.at(at, 6).filter(|_| length == 6)?;
                        return Some(u32::from_le_bytes([option[2], option[3], option[4], option[5]]));
                    }
                    length
                }
            };
            at += usize::from(length);
            left -= length;
        }
        None
    }

    /// 2.3
    fn check_flow(&mut self, packet: &Packet, vip: usize, real: IpAddr) -> Found {
        if let Some(entry) = self.model.table.get_mut(&packet.key()) {
            if entry.real == real {
                return Found::Match;
            }
            entry.real = real;
            return Found::Mismatch;
        }
        if !self.flood() {
            self.model.table.insert(packet.key(), Entry { real, has_time: false });
            self.vip_event(vip, "entered", 1);
        }
        Found::Nothing
    }
}
