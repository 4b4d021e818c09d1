//! Metrics for Prometheus: what a scrape sees, in the OpenMetrics text format. Every scrape reads the counters anew.

use std::fmt;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use tandem_backends::config::{RealState, Vip};
use tandem_backends::control::Counters;
use tandem_backends::run::{CoreRow, ModeReport, SeatCounters};
use tandem_engine::{Action, Reason};

use crate::balancer::waiting;
use crate::health::Board;
use crate::names;
use crate::provision::{InForce, Provision, ProvisionError};

/// What the OpenMetrics specification calls its text format.
const CONTENT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// The name of every metric begins with it.
const PREFIX: &str = "tandem";

/// The page of metrics, and nothing else.
pub(crate) fn pages(provision: Arc<Provision>) -> Router {
    Router::new().route("/metrics", get(page)).with_state(provision)
}

async fn page(State(provision): State<Arc<Provision>>) -> impl IntoResponse {
    let text = waiting(&provision, |provision| Snapshot::take(provision).map(Snapshot::text)).await;
    match text {
        Ok(Ok(text)) => (StatusCode::OK, [(header::CONTENT_TYPE, CONTENT)], text),
        Ok(Err(error)) => (StatusCode::INTERNAL_SERVER_ERROR, [(header::CONTENT_TYPE, "text/plain")], error.to_string()),
        Err(status) => (StatusCode::SERVICE_UNAVAILABLE, [(header::CONTENT_TYPE, "text/plain")], status.message().to_owned()),
    }
}

/// Everything that one scrape tells.
struct Snapshot {
    now: InForce,
    counters: Box<SeatCounters>,
    mode: ModeReport,
    cores: Vec<CoreRow>,
    board: Board,
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot").field("generation", &self.now.generation).finish_non_exhaustive()
    }
}

impl Snapshot {
    fn take(provision: &Provision) -> Result<Self, ProvisionError> {
        Ok(Self {
            now: provision.in_force()?,
            counters: provision.counters()?,
            mode: provision.mode()?,
            cores: provision.cores()?,
            board: provision.board().clone(),
        })
    }

    fn text(self) -> Result<String, fmt::Error> {
        let mut registry = Registry::with_prefix(PREFIX);
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        text::encode(&mut text, &registry)?;
        Ok(text)
    }

    fn seats(&self) -> [(&'static str, &Counters); 2] {
        [("xdp", &self.counters.xdp), ("afxdp", &self.counters.afxdp)]
    }
}

/// A metric while its samples are written.
struct Family<'e>(MetricEncoder<'e>);

impl Family<'_> {
    fn count(&mut self, labels: &impl EncodeLabelSet, value: u64) -> fmt::Result {
        self.0.encode_family(labels)?.encode_counter::<NoLabelSet, _, u64>(&value, None)
    }

    fn gauge(&mut self, labels: &impl EncodeLabelSet, value: u64) -> fmt::Result {
        self.0.encode_family(labels)?.encode_gauge(&value)
    }

    /// The only sample of a metric without labels.
    fn one(&mut self, value: u64) -> fmt::Result {
        self.0.encode_gauge(&value)
    }
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let encoder = &mut encoder;
        self.about(encoder)?;
        self.frames(encoder)?;
        self.vips(encoder)?;
        self.reals(encoder)?;
        self.seats_and_cores(encoder)
    }
}

fn counter<'e>(encoder: &'e mut DescriptorEncoder<'_>, name: &'e str, help: &str) -> Result<Family<'e>, fmt::Error> {
    encoder.encode_descriptor(name, help, None, MetricType::Counter).map(Family)
}

fn gauge<'e>(encoder: &'e mut DescriptorEncoder<'_>, name: &'e str, help: &str) -> Result<Family<'e>, fmt::Error> {
    encoder.encode_descriptor(name, help, None, MetricType::Gauge).map(Family)
}

impl Snapshot {
    /// The process, its mode and its configuration.
    fn about(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mode = names::seat_name(names::seat_to_wire(self.mode.mode));
        let mut build = encoder.encode_descriptor("build", "The version that runs", None, MetricType::Info)?;
        build.encode_info(&[("version", env!("CARGO_PKG_VERSION"))])?;
        let mut modes = gauge(encoder, "mode", "1 for the seat that forwards, 0 for the other")?;
        for (seat, _) in self.seats() {
            modes.gauge(&[("mode", seat)], (seat == mode).into())?;
        }
        let help = "Where VIP traffic arrives, and how the program is attached there";
        let mut attached = encoder.encode_descriptor("attach", help, None, MetricType::Info)?;
        attached.encode_info(&[("interface", self.mode.interface.as_str()), ("attach", self.mode.attach.as_str())])?;
        let mut generation =
            gauge(encoder, "configuration_generation", "Which configuration is in force; every change makes it greater")?;
        generation.one(self.now.generation)?;
        let mut unsaved = gauge(encoder, "configuration_unsaved", "1 if there are changes that the file has not")?;
        unsaved.one(self.now.unsaved.into())?;
        let mut unreachable = gauge(encoder, "unreachable_reals", "Reals without a next hop: their frames are dropped")?;
        unreachable.one(self.mode.unreachable.len() as u64)?;
        let Some(known) = self.mode.flows else { return Ok(()) };
        gauge(encoder, "flows", "Flows in the flow table")?.one(known.flows)?;
        let help = "Of these flows: those that would go to another real if the flow table were lost now";
        gauge(encoder, "flows_depending_on_state", help)?.one(known.on_state)
    }

    /// Verdicts and events.
    fn frames(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Frames by what became of them, and why: docs/counters.md, `reasons`";
        let mut frames = counter(encoder, "frames", help)?;
        for (seat, counters) in self.seats() {
            for reason in Reason::ALL {
                let action = match reason.action() {
                    Action::Tx => "tx",
                    Action::Pass => "pass",
                    Action::Drop => "drop",
                };
                frames.count(&[("seat", seat), ("action", action), ("reason", reason.name())], counters.reason(*reason))?;
            }
        }
        let mut events = counter(encoder, "events", "What happened to frames on their way: docs/counters.md, `events`")?;
        for (seat, counters) in self.seats() {
            for (event, count) in &counters.events {
                events.count(&[("seat", seat), ("event", *event)], *count)?;
            }
        }
        let mut own = counter(encoder, "seat_events", "What a seat counts of its own work: docs/counters.md, `seat`")?;
        for (seat, counters) in self.seats() {
            for (event, count) in &counters.seat {
                own.count(&[("seat", seat), ("event", *event)], *count)?;
            }
        }
        Ok(())
    }

    fn vips(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let metrics = [
            ("vip_packets", "packets", "Packets to a VIP that were forwarded, or delivered here"),
            ("vip_bytes", "bytes", "Bytes of these IP packets, before encapsulation"),
            ("vip_ring_packets", "ring", "Of these packets: those whose real the ring chose, that is, no flow was known"),
            ("vip_flows_entered", "entered", "Flows entered into the flow table"),
            ("vip_flows_evicted", "evicted", "Of these: those that took the place of another flow"),
        ];
        for (name, row, help) in metrics {
            let mut family = counter(encoder, name, help)?;
            for (seat, counters) in self.seats() {
                for (vip, counts) in &counters.vips {
                    family.count(&[("seat", seat), ("vip", vip.as_str())], counts.get(row).copied().unwrap_or(0))?;
                }
            }
        }
        let up = |vip: &Vip| self.now.effective.in_ring(vip).count() as u64;
        let mut family = gauge(encoder, "vip_reals_up", "Reals of a VIP that take new flows")?;
        self.now.effective.vips.iter().try_for_each(|vip| family.gauge(&[("vip", vip.to_string().as_str())], up(vip)))
    }

    fn reals(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        type Row = fn(&tandem_backends::control::RealRow) -> u64;
        let metrics: [(&str, Row, &str); 4] = [
            ("real_packets", |row| row.packets, "Packets that were forwarded to a real of a VIP"),
            ("real_bytes", |row| row.bytes, "Bytes of these IP packets, before encapsulation"),
            ("real_ring_packets", |row| row.ring, "Of these packets: those that the ring sent there"),
            ("real_refused_packets", |row| row.refused, "Of these packets: TCP resets, and ICMP errors about what the real sent"),
        ];
        for (name, of, help) in metrics {
            let mut family = counter(encoder, name, help)?;
            for (seat, counters) in self.seats() {
                for row in &counters.reals {
                    let vip = row.vip.as_deref().unwrap_or_default();
                    family.count(&[("seat", seat), ("vip", vip), ("real", row.real.as_str())], of(row))?;
                }
            }
        }
        let mut weights = gauge(encoder, "real_weight", "A real's share of its VIP's ring, relative to the others")?;
        self.each_real(|vip, real, of| weights.gauge(&[("vip", vip), ("real", real)], of.weight.into()))?;
        let mut healthy =
            gauge(encoder, "real_healthy", "1 for a checked real that is healthy, 0 for one that is not known to be")?;
        self.each_real(|vip, real, of| match self.board.of(vip, of.address) {
            Some(health) => healthy.gauge(&[("vip", vip), ("real", real)], (health == "healthy").into()),
            None => Ok(()),
        })?;
        let mut states = gauge(encoder, "real_state", "1 for the state that a real is in")?;
        self.each_real(|vip, real, of| {
            [RealState::Up, RealState::Drain, RealState::Down].into_iter().try_for_each(|state| {
                let name = names::state_name(names::state_to_wire(state));
                states.gauge(&[("vip", vip), ("real", real), ("state", name)], (of.state == state).into())
            })
        })
    }

    fn each_real(&self, mut tell: impl FnMut(&str, &str, &tandem_backends::config::Real) -> fmt::Result) -> fmt::Result {
        self.now.plan.vips.iter().try_for_each(|vip| {
            let name = vip.to_string();
            vip.reals.iter().try_for_each(|real| tell(&name, &real.address.to_string(), real))
        })
    }

    fn seats_and_cores(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut cores = counter(encoder, "core_frames", "Frames that a CPU's kernel seat or a queue's worker decided about")?;
        for row in &self.cores {
            cores.count(&[("core", row.core.as_str())], row.frames)?;
        }
        let mut workers = gauge(encoder, "worker_up", "1 for each worker that runs, 0 for one that ended")?;
        self.mode.workers.iter().try_for_each(|worker| {
            let (queue, core) = (worker.queue.to_string(), worker.core.to_string());
            let labels = [("queue", queue.as_str()), ("core", core.as_str()), ("bound", worker.bound.as_str())];
            workers.gauge(&labels, (worker.bound != "ended").into())
        })
    }
}
