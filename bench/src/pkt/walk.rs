//! Pktgen's stepping: all fields together, from its template on.

use super::{Range, Traffic};

/// Where the walk of source ports begins, whatever `start` says.
pub const TEMPLATE_SRC_PORT: u32 = 1234;
/// Where the walk of destination ports begins, whatever `start` says.
pub const TEMPLATE_DST_PORT: u32 = 5678;
/// The template's frame size with FCS.
const TEMPLATE_SIZE: u32 = 64;
/// The template's time to live.
const TEMPLATE_TTL: u32 = 64;

/// The fields of one frame.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Step {
    /// Frame size with FCS.
    pub size: u32,
    /// Time to live.
    pub ttl: u8,
    /// Source MAC.
    pub src_mac: u64,
    /// Destination MAC.
    pub dst_mac: u64,
    /// Source address.
    pub src_ip: u128,
    /// Destination address.
    pub dst_ip: u128,
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
}

/// One field on its way. Numbers of `bits` bits wrap before they are compared, as the C type in Pktgen does.
#[derive(Clone, Copy, Debug)]
struct Field {
    value: u128,
    range: Range<u128>,
    mask: u128,
}

impl Field {
    /// A field whose walk begins at `template`, stepped once; `start` counts only where nothing is added.
    fn from_template(template: u128, range: Range<u128>, bits: u32) -> Self {
        let mut field = Self { value: template, range, mask: u128::MAX >> (128 - bits) };
        field.step();
        field
    }

    /// A field that begins at `start`.
    fn from_start(range: Range<u128>, bits: u32) -> Self {
        Self { value: range.start, range, mask: u128::MAX >> (128 - bits) }
    }

    /// `v = previous + inc; if v < min: max, else if v > max: min`. Not modular: an overshoot goes to the end itself.
    fn step(&mut self) {
        let Range { start, min, max, inc } = self.range;
        if inc == 0 {
            self.value = start;
            return;
        }
        let next = self.value.wrapping_add(inc) & self.mask;
        self.value = if next < min {
            max
        } else if next > max {
            min
        } else {
            next
        };
    }
}

fn wide<T: Into<u128> + Copy>(range: Range<T>) -> Range<u128> {
    Range { start: range.start.into(), min: range.min.into(), max: range.max.into(), inc: range.inc.into() }
}

/// The endless sequence of a traffic's frames. All fields step together: two ranges of equal length stay in pairs.
#[derive(Clone, Debug)]
pub struct Walk {
    size: Field,
    ttl: Field,
    src_mac: Field,
    dst_mac: Field,
    src_ip: Field,
    dst_ip: Field,
    src_port: Field,
    dst_port: Field,
}

impl Walk {
    pub(super) fn new(traffic: &Traffic) -> Self {
        // The template's addresses are those of Pktgen's single mode: the port's own defaults.
        let defaults = Traffic::pktgen_default(0);
        let address_bits = if traffic.v6 { 128 } else { 32 };
        // Ports are calculated in 32 bits for IPv4 and in 16 for IPv6.
        let port_bits = if traffic.v6 { 16 } else { 32 };
        let from = |template: u32, range: Range<u32>, bits| Field::from_template(template.into(), wide(range), bits);
        Self {
            size: from(TEMPLATE_SIZE, traffic.size, 32),
            ttl: from(TEMPLATE_TTL, traffic.ttl, 32),
            src_mac: Field::from_start(wide(traffic.src_mac), 48),
            dst_mac: Field::from_start(wide(traffic.dst_mac), 48),
            src_ip: Field::from_template(defaults.src_ip.start, traffic.src_ip, address_bits),
            dst_ip: Field::from_template(defaults.dst_ip.start, traffic.dst_ip, address_bits),
            src_port: from(TEMPLATE_SRC_PORT, traffic.src_port, port_bits),
            dst_port: from(TEMPLATE_DST_PORT, traffic.dst_port, port_bits),
        }
    }
}

impl Iterator for Walk {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        let step = Step {
            size: self.size.value as u32,
            ttl: self.ttl.value as u8,
            src_mac: self.src_mac.value as u64,
            dst_mac: self.dst_mac.value as u64,
            src_ip: self.src_ip.value,
            dst_ip: self.dst_ip.value,
            src_port: self.src_port.value as u16,
            dst_port: self.dst_port.value as u16,
        };
        let fields = [
            &mut self.size,
            &mut self.ttl,
            &mut self.src_mac,
            &mut self.dst_mac,
            &mut self.src_ip,
            &mut self.dst_ip,
            &mut self.src_port,
            &mut self.dst_port,
        ];
        fields.into_iter().for_each(Field::step);
        Some(step)
    }
}
