//! Section 6: inline decapsulation.

use super::icmp::swap;
use super::rules::key_bytes;
use super::{End, Packet, Rule, Walk};

/// What the destination check says.
struct Destination {
    /// For the kernel, once stripped.
    pass: bool,
    egress: bool,
}

impl Walk<'_> {
    /// Protocol 4 or 41. Anything else than the end means that it is not decapsulated.
    pub(super) fn ipip(&mut self, packet: &Packet) -> Rule<()> {
        if !self.opens("ipip") {
            return Ok(());
        }
        let destination = self.destination(packet)?;
        let inner_v6 = packet.proto == 41;
        // Protocol 41 takes the outer header for an IPv6 one, also under IPv4.
        let outer = if packet.v6 || inner_v6 { 40 } else { 20 };
        let alive = self.strip(outer, inner_v6)?;
        // A pointer is tested, so it always counts as v6.
        self.event("decap-v6", 1);
        if !alive {
            return Err(End::Drop("decap-ttl-expired"));
        }
        if destination.pass {
            return Err(End::Pass("decapsulated"));
        }
        Err(self.once_more(inner_v6))
    }

    /// A UDP packet to the port of GUE, to any address.
    pub(super) fn gue(&mut self, packet: &Packet) -> Rule<()> {
        let port = self.model.rules.tunnel.gue_port.to_be_bytes();
        if !self.opens("gue") || packet.icmp || packet.proto != 17 || packet.dport != port {
            return Ok(());
        }
        let destination = self.destination(packet)?;
        let outer = if packet.v6 { 48 } else { 28 };
        // Under IPv4 the inner packet is taken for IPv4.
        let first = self.at(14 + outer, 1).ok_or(End::Drop("truncated-dropped"))?[0];
        let inner_v6 = packet.v6 && first & 0x30 != 0;
        let alive = self.strip(outer, inner_v6)?;
        self.event(if packet.v6 { "decap-v6" } else { "decap-v4" }, 1);
        if !alive {
            return Err(End::Drop("decap-ttl-expired"));
        }
        if destination.pass {
            self.count_inner_vip();
            return Err(End::Pass("decapsulated"));
        }
        if destination.egress {
            swap(&mut self.frame, 0, 6, 6);
            self.event(if inner_v6 { "egress-decap-v6" } else { "egress-decap-v4" }, 1);
            return Err(End::Tx("egress-decap"));
        }
        Err(self.once_more(inner_v6))
    }

    fn opens(&self, kind: &str) -> bool {
        self.model.rules.tunnel.decap.iter().any(|k| k == kind)
    }

    fn destination(&mut self, packet: &Packet) -> Rule<Destination> {
        if let Some(egress) = self.model.rules.decap.get(&packet.dst).copied() {
            self.event("decap-destination", 1);
            return Ok(Destination { pass: false, egress });
        }
        let tunnel = &self.model.rules.tunnel;
        let own = if packet.v6 { tunnel.source_v6.into() } else { tunnel.source_v4.into() };
        if tunnel.decap_strict && packet.dst != key_bytes(own) {
            return Err(End::Pass("not-our-tunnel"));
        }
        Ok(Destination { pass: true, egress: false })
    }

    /// Decrements the inner TTL, then takes the outer header away; `false`: that was its last hop.
    fn strip(&mut self, outer: usize, inner_v6: bool) -> Rule<bool> {
        let inner = 14 + outer;
        let length = if inner_v6 { 40 } else { 20 };
        self.at(inner, length).ok_or(End::Drop("truncated-dropped"))?;
        let frame = &mut self.frame;
        let ttl = inner + if inner_v6 { 7 } else { 8 };
        if !inner_v6 {
            let sum = u32::from(u16::from_le_bytes([frame[inner + 10], frame[inner + 11]])) + 1;
            let sum = (sum & 0xffff) + (sum >> 16);
            frame[inner + 10..inner + 12].copy_from_slice(&(sum as u16).to_le_bytes());
        }
        frame[ttl] = frame[ttl].wrapping_sub(1);
        let alive = frame[ttl] != 0;
        frame.drain(12..12 + outer);
        frame[12..14].copy_from_slice(if inner_v6 { &[0x86, 0xdd] } else { &[0x08, 0x00] });
        Ok(alive)
    }

    fn once_more(&mut self, inner_v6: bool) -> End {
        self.event(if inner_v6 { "decap-balanced-v6" } else { "decap-balanced-v4" }, 1);
        End::Again
    }

    /// The inner packet of what goes to the kernel is looked up, exactly; on the way there its pings are answered in
    /// place, and the verdict is thrown away.
    fn count_inner_vip(&mut self) {
        let Some(packet) = self.inner_packet() else { return };
        if let Some(vip) = self.model.rules.exact(&packet.dst, packet.dport, packet.proto) {
            self.vip_event(vip, "decap", 1);
        }
    }

    fn inner_packet(&mut self) -> Option<Packet> {
        let opened = std::mem::take(&mut self.model.rules.tunnel.decap);
        let parsed = self.parse();
        self.model.rules.tunnel.decap = opened;
        parsed.ok()
    }
}
