//! The service `tandem.v1.Balancer`: wire to [`Provision`] and back.

use std::net::IpAddr;
use std::sync::Arc;

use tandem_backends::calibrate::Measured;
use tandem_backends::config::{Plan, Real, Vip};
use tandem_backends::control::{Counters, Imported};
use tandem_backends::decision::Decision;
use tandem_backends::run::{ModeName, ModeReport, ProbeWish, Refusal};
use tonic::{Request, Response, Status, Streaming};

use crate::capture;
use crate::document::{Draft, EditError, Pair, texts};
use crate::flows;
use crate::health::Board;
use crate::names::{self, Service};
use crate::provision::{Applied, Provision, ProvisionError};
use crate::stats;
use crate::wire;

/// The service over one balancer.
#[derive(Clone)]
pub(crate) struct Balancer(pub(crate) Arc<Provision>);

type Answer<T> = Result<Response<T>, Status>;

impl From<ProvisionError> for Status {
    fn from(error: ProvisionError) -> Self {
        let text = error.to_string();
        match error {
            ProvisionError::Edit(EditError::NoVip(_) | EditError::NoReal { .. } | EditError::RealNowhere(_)) => {
                Self::not_found(text)
            }
            ProvisionError::Edit(EditError::VipThere(_) | EditError::RealThere { .. }) => Self::already_exists(text),
            ProvisionError::Edit(EditError::Invalid(_)) => Self::invalid_argument(text),
            ProvisionError::Generation { .. } => Self::aborted(text),
            ProvisionError::Refused(Refusal::Stopping) => Self::unavailable(text),
            ProvisionError::Answer => Self::internal(text),
            _ => Self::failed_precondition(text),
        }
    }
}

/// Runs what waits for the balancer's loop on a thread that may wait.
pub(crate) async fn waiting<T: Send + 'static>(
    provision: &Arc<Provision>,
    ask: impl FnOnce(&Provision) -> Result<T, ProvisionError> + Send + 'static,
) -> Result<T, Status> {
    let provision = provision.clone();
    match tokio::task::spawn_blocking(move || ask(&provision)).await {
        Ok(answer) => answer.map_err(Status::from),
        Err(_) => Err(Status::internal("the request ended without an answer: a defect, please report it")),
    }
}

pub(crate) fn bad(error: impl std::fmt::Display) -> Status {
    Status::invalid_argument(error.to_string())
}

fn address(text: &str) -> Result<IpAddr, Status> {
    text.parse()
        .map_err(|_| bad(format!("the address of a real is no IP address (found {text:?}); write it as 10.0.0.1 or fc00::1")))
}

/// A text that is set, as a value of the configuration.
fn some_text(text: &str) -> Option<toml_edit::Value> {
    (!text.is_empty()).then(|| text.into())
}

fn some_number(number: u32) -> Option<toml_edit::Value> {
    (number != 0).then(|| i64::from(number).into())
}

fn state_value(state: i32) -> Result<Option<toml_edit::Value>, Status> {
    match wire::RealState::try_from(state) {
        Ok(wire::RealState::Unspecified) => Ok(None),
        Ok(state) => Ok(Some(names::state_name(state).into())),
        Err(_) => Err(bad(format!("no state of a real (found {state}); up is 1, drain 2, down 3"))),
    }
}

fn real_pairs(real: &wire::Real) -> Result<(IpAddr, Vec<Pair>), Status> {
    let pairs = vec![
        ("weight", real.weight.map(|weight| i64::from(weight).into())),
        ("state", state_value(real.state)?),
        ("local", real.local.then(|| true.into())),
        ("encap", some_text(&real.encap)),
        ("port", some_number(real.port)),
        ("inner_mac", some_text(&real.inner_mac)),
    ];
    Ok((address(&real.address)?, pairs))
}

fn vip_pairs(vip: &wire::Vip) -> Vec<Pair> {
    vec![
        ("encap", some_text(&vip.encap)),
        ("ring", some_text(&vip.ring)),
        ("ring_size", some_number(vip.ring_size)),
        ("flags", (!vip.flags.is_empty()).then(|| texts(&vip.flags))),
        ("vni", some_number(vip.vni)),
    ]
}

fn real_to_wire(real: &Real, health: Option<&str>) -> wire::Real {
    wire::Real {
        address: real.address.to_string(),
        weight: Some(real.weight),
        state: names::state_to_wire(real.state).into(),
        local: real.local,
        encap: real.encap.name().to_owned(),
        port: real.port.unwrap_or(0).into(),
        inner_mac: real.inner_mac.map(|mac| mac.to_string()).unwrap_or_default(),
        health: health.unwrap_or_default().to_owned(),
    }
}

fn vip_to_wire(vip: &Vip, board: &Board) -> wire::Vip {
    let name = vip.to_string();
    wire::Vip {
        key: Some(Service::of(vip).to_wire()),
        encap: vip.encap.name().to_owned(),
        ring: vip.weighting.name().to_owned(),
        ring_size: vip.ring_size,
        flags: vip.flags.names().into_iter().map(str::to_owned).collect(),
        vni: vip.vni,
        reals: vip.reals.iter().map(|real| real_to_wire(real, board.of(&name, real.address))).collect(),
    }
}

fn mode_to_wire(report: &ModeReport) -> wire::Mode {
    let workers = report.workers.iter().map(|worker| wire::Worker {
        queue: worker.queue,
        core: u32::try_from(worker.core).unwrap_or(u32::MAX),
        bound: worker.bound.clone(),
        interface: worker.interface.clone(),
    });
    let unreachable = report.unreachable.iter().map(|row| wire::Unreachable { real: row.real.clone(), why: row.why.clone() });
    wire::Mode {
        mode: names::seat_to_wire(report.mode).into(),
        why: report.why.clone(),
        interface: report.interface.clone(),
        attach: report.attach.clone(),
        workers: workers.collect(),
        unreachable: unreachable.collect(),
        decision: report.decision.as_ref().map(decision_to_wire),
        flows: report.flows.map(|flows| wire::FlowsOnState { flows: flows.flows, on_state: flows.on_state }),
    }
}

fn measured_to_wire(found: Measured) -> wire::Measured {
    let Measured { ns, queue_ns, worker_ns, spread_ns, pps, forwarded, lost, rounds } = found;
    wire::Measured { ns, queue_ns, worker_ns, spread_ns, pps, forwarded, lost, rounds }
}

/// A decision, as it is shown.
pub fn decision_to_wire(decision: &Decision) -> wire::Decision {
    let candidates = decision.candidates.iter().map(|candidate| wire::Candidate {
        mode: names::seat_to_wire(candidate.mode).into(),
        bound: candidate.bound.clone(),
        ns: candidate.ns,
        impossible: candidate.impossible.clone(),
        how: candidate.how.clone(),
        measured: candidate.measured.map(measured_to_wire),
    });
    wire::Decision {
        driver: decision.driver.clone(),
        xdp_features: decision.xdp_features.clone().unwrap_or_default(),
        queues: decision.queues,
        cores: u32::try_from(decision.cores).unwrap_or(u32::MAX),
        candidates: candidates.collect(),
        chosen: names::seat_to_wire(decision.chosen).into(),
        reason: decision.reason.clone(),
        bound: decision.bound.clone(),
        bounce: decision.bounce.map(measured_to_wire),
    }
}

fn counters_to_wire(counters: &Counters) -> wire::SeatCounters {
    let owned =
        |row: &std::collections::BTreeMap<&'static str, u64>| row.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect();
    let reals = counters.reals.iter().map(|row| wire::RealCounts {
        vip: row.vip.clone(),
        real: row.real.clone(),
        packets: row.packets,
        bytes: row.bytes,
        ring: row.ring,
        refused: row.refused,
    });
    wire::SeatCounters {
        reasons: owned(&counters.reasons),
        events: owned(&counters.events),
        vips: counters.vips.iter().map(|(vip, row)| (vip.clone(), wire::Counts { counts: owned(row) })).collect(),
        reals: reals.collect(),
        seat: owned(&counters.seat),
    }
}

fn applied(applied: Applied) -> Response<wire::Applied> {
    let changes = applied.changes;
    Response::new(wire::Applied {
        generation: applied.generation,
        vips_added: changes.vips_added,
        vips_removed: changes.vips_removed,
        reals_added: changes.reals_added,
        reals_removed: changes.reals_removed,
        rings: changes.rings,
        flows_forgotten: changes.flows_forgotten,
        warnings: applied.warnings,
    })
}

/// The VIPs that have the real.
fn with_real(plan: &Plan, real: IpAddr) -> Vec<Service> {
    plan.vips.iter().filter(|vip| vip.reals.iter().any(|r| r.address == real)).map(Service::of).collect()
}

impl Balancer {
    async fn change(
        &self,
        generation: u64,
        edit: impl FnOnce(&mut Draft, &Plan) -> Result<(), EditError> + Send + 'static,
    ) -> Answer<wire::Applied> {
        waiting(&self.0, move |provision| provision.change(generation, edit)).await.map(applied)
    }
}

#[tonic::async_trait]
impl wire::balancer_server::Balancer for Balancer {
    async fn get_mode(&self, _: Request<wire::GetModeRequest>) -> Answer<wire::Mode> {
        let report = waiting(&self.0, Provision::mode).await?;
        Ok(Response::new(mode_to_wire(&report)))
    }

    async fn set_mode(&self, request: Request<wire::SetModeRequest>) -> Answer<wire::Mode> {
        let mode = match request.get_ref().mode() {
            wire::Seat::Xdp => ModeName::Xdp,
            wire::Seat::Afxdp => ModeName::Afxdp,
            wire::Seat::Unspecified => return Err(bad("no mode is named; xdp is 1, afxdp 2")),
        };
        let report = waiting(&self.0, move |provision| provision.set_mode(mode)).await?;
        Ok(Response::new(mode_to_wire(&report)))
    }

    async fn probe_mode(&self, request: Request<wire::ProbeModeRequest>) -> Answer<wire::Mode> {
        let wire::ProbeModeRequest { seconds, apply } = *request.get_ref();
        let report = waiting(&self.0, move |provision| provision.probe_mode(ProbeWish { seconds, apply })).await?;
        Ok(Response::new(mode_to_wire(&report)))
    }

    async fn get_counters(&self, _: Request<wire::GetCountersRequest>) -> Answer<wire::Counters> {
        let counters = waiting(&self.0, Provision::counters).await?;
        Ok(Response::new(wire::Counters {
            xdp: Some(counters_to_wire(&counters.xdp)),
            afxdp: Some(counters_to_wire(&counters.afxdp)),
        }))
    }

    async fn get_stats(&self, request: Request<wire::GetStatsRequest>) -> Answer<wire::Stats> {
        let only = match &request.get_ref().vip {
            None => None,
            Some(key) => Some(Service::from_wire(Some(key)).map_err(bad)?),
        };
        waiting(&self.0, move |provision| stats::of(provision, only)).await.map(Response::new)
    }

    async fn list_vips(&self, _: Request<wire::ListVipsRequest>) -> Answer<wire::Vips> {
        let now = waiting(&self.0, Provision::in_force).await?;
        let vips = now.plan.vips.iter().map(|vip| vip_to_wire(vip, self.0.board())).collect();
        Ok(Response::new(wire::Vips { vips, generation: now.generation, unsaved: now.unsaved }))
    }

    async fn add_vip(&self, request: Request<wire::AddVipRequest>) -> Answer<wire::Applied> {
        let request = request.into_inner();
        let vip = request.vip.unwrap_or_default();
        let service = Service::from_wire(vip.key.as_ref()).map_err(bad)?;
        let reals = vip.reals.iter().map(real_pairs).collect::<Result<Vec<_>, _>>()?;
        let edit = move |draft: &mut Draft, _: &Plan| {
            draft.add_vip(&service, vip_pairs(&vip))?;
            reals.into_iter().try_for_each(|(real, pairs)| draft.add_real(&service, real, pairs))
        };
        self.change(request.generation, edit).await
    }

    async fn set_vip(&self, request: Request<wire::SetVipRequest>) -> Answer<wire::Applied> {
        let request = request.into_inner();
        let service = Service::from_wire(request.vip.as_ref()).map_err(bad)?;
        // An empty text, no flags and 0 say: the default.
        let text = |name, text: Option<String>| text.map(|text| (name, some_text(&text)));
        let number = |name, number: Option<u32>| number.map(|number| (name, some_number(number)));
        let flags = request.flags.map(|flags| ("flags", (!flags.flags.is_empty()).then(|| texts(&flags.flags))));
        let pairs: Vec<Pair> = [
            text("encap", request.encap),
            text("ring", request.ring),
            number("ring_size", request.ring_size),
            flags,
            number("vni", request.vni),
        ]
        .into_iter()
        .flatten()
        .collect();
        self.change(request.generation, move |draft, _| draft.set_vip(&service, pairs)).await
    }

    async fn remove_vip(&self, request: Request<wire::RemoveVipRequest>) -> Answer<wire::Applied> {
        let request = request.into_inner();
        let service = Service::from_wire(request.vip.as_ref()).map_err(bad)?;
        self.change(request.generation, move |draft, _| draft.remove_vip(&service)).await
    }

    async fn add_reals(&self, request: Request<wire::AddRealsRequest>) -> Answer<wire::Applied> {
        let request = request.into_inner();
        let service = Service::from_wire(request.vip.as_ref()).map_err(bad)?;
        let reals = request.reals.iter().map(real_pairs).collect::<Result<Vec<_>, _>>()?;
        let edit = move |draft: &mut Draft, _: &Plan| {
            reals.into_iter().try_for_each(|(real, pairs)| draft.add_real(&service, real, pairs))
        };
        self.change(request.generation, edit).await
    }

    async fn set_real(&self, request: Request<wire::SetRealRequest>) -> Answer<wire::Applied> {
        let request = request.into_inner();
        let real = address(&request.real)?;
        let only = match &request.vip {
            None => None,
            key => Some(Service::from_wire(key.as_ref()).map_err(bad)?),
        };
        let mut pairs: Vec<Pair> = Vec::new();
        if let Some(weight) = request.weight {
            pairs.push(("weight", Some(i64::from(weight).into())));
        }
        if let Some(state) = request.state {
            pairs.push(("state", state_value(state)?));
        }
        let edit = move |draft: &mut Draft, plan: &Plan| match only {
            Some(vip) => draft.set_real(&vip, real, pairs),
            None => {
                let vips = with_real(plan, real);
                if vips.is_empty() {
                    return Err(EditError::RealNowhere(real));
                }
                vips.iter().try_for_each(|vip| draft.set_real(vip, real, pairs.clone()))
            }
        };
        self.change(request.generation, edit).await
    }

    async fn remove_reals(&self, request: Request<wire::RemoveRealsRequest>) -> Answer<wire::Applied> {
        let request = request.into_inner();
        let service = Service::from_wire(request.vip.as_ref()).map_err(bad)?;
        let reals = request.reals.iter().map(|text| address(text)).collect::<Result<Vec<_>, _>>()?;
        let edit = move |draft: &mut Draft, _: &Plan| reals.into_iter().try_for_each(|real| draft.remove_real(&service, real));
        self.change(request.generation, edit).await
    }

    async fn list_rings(&self, _: Request<wire::ListRingsRequest>) -> Answer<wire::Rings> {
        waiting(&self.0, flows::rings).await.map(Response::new)
    }

    async fn list_flows(&self, _: Request<wire::ListFlowsRequest>) -> Answer<wire::FlowSums> {
        waiting(&self.0, flows::sums).await.map(Response::new)
    }

    type ExportFlowsStream = tokio_stream::Iter<std::vec::IntoIter<Result<wire::Flows, Status>>>;

    async fn export_flows(&self, request: Request<wire::ExportFlowsRequest>) -> Answer<Self::ExportFlowsStream> {
        let only_depending = request.get_ref().only_depending;
        let parts = waiting(&self.0, move |provision| {
            let parts = provision.export_flows(only_depending)?.parts(flows::PART);
            Ok(parts.iter().map(|part| Ok(part.into())).collect::<Vec<_>>())
        });
        Ok(Response::new(tokio_stream::iter(parts.await?)))
    }

    async fn import_flows(&self, request: Request<Streaming<wire::Flows>>) -> Answer<wire::Imported> {
        let (mut parts, mut sum) = (request.into_inner(), Imported::default());
        while let Some(part) = parts.message().await.map_err(|error| flows::refused(error, &sum))? {
            let done = match flows::from_wire(part) {
                Ok(part) => waiting(&self.0, move |provision| provision.import_flows(part)).await,
                Err(error) => Err(bad(error)),
            };
            let done = done.map_err(|error| flows::refused(error, &sum))?;
            flows::add(&mut sum, done);
        }
        Ok(Response::new(sum.into()))
    }

    type CaptureStream = capture::Parts;

    async fn capture(&self, request: Request<wire::CaptureRequest>) -> Answer<Self::CaptureStream> {
        let asked = capture::asked(&request)?;
        let stream = waiting(&self.0, move |provision| provision.capture(asked)).await?;
        Ok(Response::new(capture::parts(stream)))
    }

    async fn reload(&self, _: Request<wire::ReloadRequest>) -> Answer<wire::Applied> {
        waiting(&self.0, Provision::reload).await.map(applied)
    }

    async fn save(&self, request: Request<wire::SaveRequest>) -> Answer<wire::Saved> {
        let generation = request.get_ref().generation;
        let (path, generation) = waiting(&self.0, move |provision| provision.save(generation)).await?;
        Ok(Response::new(wire::Saved { path: path.display().to_string(), generation }))
    }
}
