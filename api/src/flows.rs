//! Flows on the wire: to another balancer, and from one.

use tandem_backends::control::{FlowExport, FlowRecord, Imported, RealName};
use tonic::Status;

use crate::provision::{Provision, ProvisionError};
use crate::wire;

/// Flows of one message: far less than the 4 MiB that a client takes, and milliseconds of the balancer's loop to enter.
pub(crate) const PART: usize = 16_384;

impl From<&FlowExport> for wire::Flows {
    fn from(export: &FlowExport) -> Self {
        let reals = export.reals.iter().map(|name| wire::FlowReal {
            vip: name.vip.clone(),
            vip_id: name.vip_id,
            real: name.real.to_string(),
        });
        let flows = export.flows.iter().map(|flow| wire::Flow {
            real: flow.real,
            print: flow.print,
            set: flow.set,
            hash: flow.hash,
            age: flow.age.into(),
            again: flow.again,
        });
        let FlowExport { version, key, mask, tick_ms, .. } = *export;
        Self { version, key, mask, tick_ms, reals: reals.collect(), flows: flows.collect() }
    }
}

/// What is no flow of any balancer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum NotFlows {
    #[error("the real of exported flows is no IP address (found {0:?})")]
    Real(String),
    #[error("the age of an exported flow is more than 65535 ticks (found {0})")]
    Age(u32),
}

/// From the wire.
pub(crate) fn from_wire(part: wire::Flows) -> Result<FlowExport, NotFlows> {
    let name = |name: wire::FlowReal| match name.real.parse() {
        Ok(real) => Ok(RealName { vip: name.vip, vip_id: name.vip_id, real }),
        Err(_) => Err(NotFlows::Real(name.real)),
    };
    let record = |flow: wire::Flow| {
        let wire::Flow { real, print, set, hash, age, again } = flow;
        let age = u16::try_from(age).map_err(|_| NotFlows::Age(age));
        age.map(|age| FlowRecord { real, print, set, hash, age, again })
    };
    Ok(FlowExport {
        version: part.version,
        key: part.key,
        mask: part.mask,
        tick_ms: part.tick_ms,
        reals: part.reals.into_iter().map(name).collect::<Result<_, _>>()?,
        flows: part.flows.into_iter().map(record).collect::<Result<_, _>>()?,
    })
}

impl From<Imported> for wire::Imported {
    fn from(done: Imported) -> Self {
        let Imported { entered, known, no_real, other_id, too_old } = done;
        Self { entered, known, no_real, other_id, too_old }
    }
}

/// Adds what became of another part.
pub(crate) fn add(sum: &mut Imported, part: Imported) {
    sum.entered += part.entered;
    sum.known += part.known;
    sum.no_real += part.no_real;
    sum.other_id += part.other_id;
    sum.too_old += part.too_old;
}

/// The refusal of a part, with what is done already.
pub(crate) fn refused(error: Status, before: &Imported) -> Status {
    match before.entered {
        0 => error,
        entered => Status::new(error.code(), format!("{}; {entered} flows of the parts before it were entered", error.message())),
    }
}

/// How many flows each real has.
pub(crate) fn sums(provision: &Provision) -> Result<wire::FlowSums, ProvisionError> {
    let rows = provision.flow_rows()?.into_iter().map(|row| wire::FlowSum {
        vip: row.vip,
        real: row.real.to_string(),
        flows: row.flows.flows,
        on_state: row.flows.on_state,
    });
    Ok(wire::FlowSums { rows: rows.collect() })
}

/// What the rings say.
pub(crate) fn rings(provision: &Provision) -> Result<wire::Rings, ProvisionError> {
    let rows = provision.rings()?.into_iter();
    let rings = rows.map(|row| wire::Ring { vip: row.vip, slots: row.slots, digest: row.digest });
    Ok(wire::Rings { rings: rings.collect() })
}

#[cfg(test)]
mod tests {
    use tandem_backends::control::FLOWS_VERSION;

    use super::*;

    fn export(flows: u32) -> FlowExport {
        let name = |n: u8| RealName { vip: "10.200.1.1:80/tcp".to_owned(), vip_id: 3, real: [10, 0, 0, n].into() };
        let record = |n: u32| FlowRecord {
            real: n % 2,
            print: u64::from(n) << 30,
            set: n,
            hash: n + 1,
            age: 7,
            again: n.is_multiple_of(3),
        };
        FlowExport {
            version: FLOWS_VERSION,
            key: u64::MAX,
            mask: 4095,
            tick_ms: 256,
            reals: vec![name(1), name(2)],
            flows: (0..flows).map(record).collect(),
        }
    }

    #[test]
    fn flows_come_back_from_the_wire() {
        let export = export(10);
        assert_eq!(from_wire(wire::Flows::from(&export)), Ok(export));
    }

    #[test]
    fn parts_have_all_flows_and_their_reals() {
        let whole = export(10);
        let parts = whole.clone().parts(4);
        assert_eq!(parts.iter().map(|part| part.flows.len()).collect::<Vec<_>>(), [4, 4, 2]);
        let named = |export: &FlowExport| -> Vec<_> {
            export.flows.iter().map(|flow| (flow.print, export.reals[flow.real as usize].real)).collect()
        };
        assert_eq!(parts.iter().flat_map(named).collect::<Vec<_>>(), named(&whole));
        assert_eq!(whole.clone().parts(1)[0].reals, whole.reals[..1]);
        assert_eq!(export(0).parts(4), [FlowExport { reals: Vec::new(), ..export(0) }], "whose key it is, at least");
    }

    #[test]
    fn what_is_no_flow_is_said() {
        let wrong = |spoil: fn(&mut wire::Flows)| {
            let mut part = wire::Flows::from(&export(1));
            spoil(&mut part);
            from_wire(part)
        };
        assert_eq!(wrong(|part| part.flows[0].age = 65_536), Err(NotFlows::Age(65_536)));
        assert_eq!(wrong(|part| part.reals[1].real = "lb".to_owned()), Err(NotFlows::Real("lb".to_owned())));
    }
}
