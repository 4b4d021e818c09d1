//! Sections 1.7 to 1.9, 2 and 3: from the VIP to the real, and off.

use std::net::IpAddr;

use super::hash;
use super::{End, Entry, Packet, Rule, Walk};

impl Walk<'_> {
    /// 1.7 to 1.9.
    pub(super) fn forward(&mut self, mut packet: Packet, vip: usize) -> Rule<&'static str> {
        self.event("vip-packets", 1);
        if self.flag(vip, "no-source-port") {
            packet.sport = [0; 2];
        }
        let port = packet.sport;
        let real = self.choose(&mut packet, vip)?;
        self.real = Some(real);
        let bytes = u64::from(packet.bytes);
        self.vip_event(vip, "packets", 1);
        self.vip_event(vip, "bytes", bytes);
        self.real_event(real, "packets", 1);
        self.real_event(real, "bytes", bytes);
        if self.flag(vip, "local") && self.model.rules.local.contains(&real) {
            return Err(End::Pass("local-delivery"));
        }
        let gue = self.model.rules.vips[vip].encap == "gue";
        self.encapsulate(&packet, port, real, gue);
        Ok("forwarded")
    }

    pub(super) fn flag(&self, vip: usize, flag: &str) -> bool {
        self.model.rules.has(vip, flag)
    }

    /// 1.8, in its order.
    fn choose(&mut self, packet: &mut Packet, vip: usize) -> Rule<IpAddr> {
        let mut chosen = None;
        if self.flag(vip, "quic") {
            chosen = self.quic(packet, vip);
        }
        if packet.proto == 17 && self.flag(vip, "udp-stable-routing") {
            chosen = self.stable(packet).or(chosen);
        }
        if chosen.is_none() && packet.proto == 6 && self.model.rules.tunnel.tcp_server_id {
            chosen = self.tcp_server_id(packet, vip);
        }
        if let Some(real) = chosen {
            self.from = "server-id";
            return Ok(real);
        }
        if let Some(real) = self.known(packet, vip) {
            self.from = "flow";
            return Ok(real);
        }
        self.anew(packet, vip)
    }

    /// 1.8, rules 4 to 6: the tables, and what migration makes of their choice.
    fn known(&mut self, packet: &Packet, vip: usize) -> Option<IpAddr> {
        let mut chosen = None;
        if !packet.syn && !self.flag(vip, "bypass-flow-table") {
            chosen = self.lookup_flow(packet);
        }
        // 2.4: the global table is there and empty, since nobody fills one here: it neither counts nor chooses.
        // 2.5: the guard is asked whether something was chosen or not.
        if packet.proto == 17 && self.flag(vip, "udp-flow-migration") && !self.flood() {
            let is_down = |real: &IpAddr| self.model.rules.vips[vip].down.contains(real);
            if chosen.as_ref().is_some_and(is_down) {
                self.event("udp-migrated", 1);
                chosen = None;
            }
        }
        chosen
    }

    /// 2.1. A UDP entry without a time is older than 30 s.
    fn lookup_flow(&self, packet: &Packet) -> Option<IpAddr> {
        let entry = self.model.table.get(&packet.key())?;
        (packet.proto != 17 || entry.has_time).then_some(entry.real)
    }

    /// 1.8, rule 7.
    fn anew(&mut self, packet: &mut Packet, vip: usize) -> Rule<IpAddr> {
        if packet.proto == 6 {
            self.event(if packet.syn { "miss-tcp-syn" } else { "miss-tcp-other" }, 1);
        }
        // 3.1
        let flood = self.flood();
        if flood {
            self.event("guarded", 1);
        }
        let routed = if self.flag(vip, "source-routing") && !flood { self.source_route(packet) } else { None };
        let (real, from) = match routed {
            Some(real) => (real, "source-route"),
            None => (self.ring(packet, vip)?, "ring"),
        };
        self.from = from;
        // 2.2
        if !self.flag(vip, "bypass-flow-table") && !flood && !packet.rst {
            self.model.table.insert(packet.key(), Entry { real, has_time: packet.proto == 17 });
            self.vip_event(vip, "entered", 1);
        }
        // 2.6
        self.vip_event(vip, "ring", 1);
        self.real_event(real, "ring", 1);
        self.event("ring-decisions", 1);
        Ok(real)
    }

    /// 3.2
    fn source_route(&mut self, packet: &Packet) -> Option<IpAddr> {
        let real = self.model.rules.source_route(packet.v6, &packet.src);
        self.event(if real.is_some() { "source-route-hit" } else { "source-route-miss" }, 1);
        real
    }

    /// 3.3 to 3.5. Changes the flow itself, so that the insertion and the outer source see it.
    fn ring(&self, packet: &mut Packet, vip: usize) -> Rule<IpAddr> {
        if self.flag(vip, "hash-dport-only") {
            packet.sport = packet.dport;
            packet.src = [0; 16];
        }
        let (_, _, ports, _) = packet.key();
        let hash = hash::packet(packet.v6, &packet.src, ports);
        self.model.rules.vips[vip].ring.real(hash).ok_or(End::Drop("no-ring"))
    }

    /// 2.7: counts, and says whether there are too many.
    pub(super) fn flood(&mut self) -> bool {
        self.model.window += 1;
        self.model.window > self.model.rules.new_flows
    }
}
