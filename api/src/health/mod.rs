//! Health checks: each real of a VIP is asked through the VIP itself, in the encapsulation of its data, so that a healthy real
//! is one whose whole way works. What changes goes into the configuration in force; VIPs with enough healthy reals are announced.
//!
//! ```text
//! a task for each VIP and real: wait > probe (with the real's mark) > verdict
//!                                                        |
//! one watch: standing of each > Provision::set_failed (all changes at once) > announce
//! ```

mod announce;
mod probe;
mod standing;
mod tls;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tandem_backends::config::{Health, Plan, Real, RealState, Vip};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::balancer::waiting;
use crate::names::Service;
use crate::provision::{Failed, Provision};
use announce::Routes;
use standing::Standing;

/// How often is looked whether there is another configuration.
const LOOK: Duration = Duration::from_millis(500);
/// What is told within this time is put in force together.
const TOGETHER: Duration = Duration::from_millis(20);

/// A real of a VIP.
pub(crate) type Target = (Service, IpAddr);

/// What one probe found.
struct Verdict {
    target: Target,
    /// Why it is not healthy; `None`: it is.
    failure: Option<String>,
}

/// How the checked reals are doing, for whoever lists them.
#[derive(Clone, Default)]
pub(crate) struct Board(Arc<std::sync::Mutex<BTreeMap<String, BTreeMap<IpAddr, &'static str>>>>);

impl Board {
    /// `healthy`, `failed` or `unknown`; `None` for a real that is not checked.
    pub(crate) fn of(&self, vip: &str, real: IpAddr) -> Option<&'static str> {
        self.0.lock().ok()?.get(vip)?.get(&real).copied()
    }

    fn write(&self, standings: &BTreeMap<String, BTreeMap<IpAddr, &'static str>>) {
        if let Ok(mut board) = self.0.lock() {
            board.clone_from(standings);
        }
    }
}

/// Checks until `stopped`, and takes the routes away then.
pub(crate) async fn watch(provision: Arc<Provision>, mut stopped: watch::Receiver<bool>) {
    let mut watch = Watch::new(provision);
    loop {
        tokio::select! {
            // An error says that who would tell is gone.
            _ = stopped.wait_for(|stopped| *stopped) => break,
            () = watch.turn() => {}
        }
    }
    watch.routes.withdraw().await;
}

struct Watch {
    provision: Arc<Provision>,
    /// Which configuration the probes are of.
    plan: Option<Arc<Plan>>,
    probes: JoinSet<()>,
    verdicts: (mpsc::Sender<Verdict>, mpsc::Receiver<Verdict>),
    standings: HashMap<Target, Standing>,
    routes: Routes,
}

impl Watch {
    fn new(provision: Arc<Provision>) -> Self {
        Self {
            provision,
            plan: None,
            probes: JoinSet::new(),
            verdicts: mpsc::channel(1024),
            standings: HashMap::new(),
            routes: Routes::default(),
        }
    }

    /// Waits for verdicts, or for another configuration, and does what follows.
    async fn turn(&mut self) {
        let first = tokio::time::timeout(LOOK, self.verdicts.1.recv()).await.ok().flatten();
        let mut changed = false;
        if let Some(first) = first {
            changed |= self.note(first);
            if changed {
                // A rack that lost its power fails within the same moment.
                tokio::time::sleep(TOGETHER).await;
            }
            while let Ok(verdict) = self.verdicts.1.try_recv() {
                changed |= self.note(verdict);
            }
        }
        changed |= self.follow().await;
        if changed {
            self.put_in_force().await;
        }
    }

    /// Whether a standing changed.
    fn note(&mut self, verdict: Verdict) -> bool {
        let Some(health) = self.plan.as_ref().and_then(|plan| health_of(plan, &verdict.target.0)) else { return false };
        let (rise, fall) = (health.rise, health.fall);
        let Some(standing) = self.standings.get_mut(&verdict.target) else { return false };
        let changed = standing.note(verdict.failure.is_none(), rise, fall);
        if changed {
            let (vip, real) = verdict.target;
            match verdict.failure {
                None => log::info!("{vip}: real {real} is healthy"),
                Some(why) => log::warn!("{vip}: real {real} is out: {why} ({fall} times in a row)"),
            }
        }
        changed
    }

    /// Probes what the configuration in force says, if that is another one than before.
    async fn follow(&mut self) -> bool {
        // A balancer that does not answer now is asked again soon.
        let Ok(now) = waiting(&self.provision, Provision::base).await else { return false };
        if self.plan.as_ref().is_some_and(|plan| Arc::ptr_eq(plan, &now)) {
            return false;
        }
        self.probes.abort_all();
        let mut standings = HashMap::new();
        for (vip, health, real, mark) in targets(&now) {
            let target = (Service::of(vip), real);
            standings.insert(target, self.standings.get(&target).copied().unwrap_or_default());
            let at = SocketAddr::new(vip.address, health.port);
            let probe = probe::Probe { check: health.check.clone(), at, real, mark, timeout: health.timeout };
            let (interval, jitter, tell) = (health.interval, health.jitter, self.verdicts.0.clone());
            self.probes.spawn(async move {
                let mut turn = u64::from(mark) << 32;
                loop {
                    turn = turn.wrapping_add(1);
                    tokio::time::sleep(standing::with_jitter(interval, jitter, turn)).await;
                    let failure = probe.run().await.err();
                    if tell.send(Verdict { target, failure }).await.is_err() {
                        return;
                    }
                }
            });
        }
        self.standings = standings;
        self.plan = Some(now);
        true
    }

    async fn put_in_force(&mut self) {
        let Some(plan) = self.plan.clone() else { return };
        let failed: Failed = self
            .standings
            .iter()
            .filter(|(_, standing)| standing.is_out())
            .map(|((vip, real), _)| (vip.to_string(), *real))
            .collect();
        let mut board: BTreeMap<String, BTreeMap<IpAddr, &'static str>> = BTreeMap::new();
        for ((vip, real), standing) in &self.standings {
            board.entry(vip.to_string()).or_default().insert(*real, standing.name());
        }
        self.provision.board().write(&board);
        let base = plan.clone();
        if let Err(status) = waiting(&self.provision, move |provision| provision.set_failed(&base, failed)).await {
            log::error!("health checks: what they found is not in force: {}", status.message());
            // Asked again with the next look.
            self.plan = None;
            return;
        }
        let Some(announce) = plan.announce else {
            self.routes.withdraw().await;
            return;
        };
        let healthy = |vip: &Vip| {
            let service = Service::of(vip);
            let is_good = |real: &&Real| {
                plan.profile.is_in_ring(real)
                    && self.standings.get(&(service, real.address)).is_some_and(|standing| standing.is_in())
            };
            vip.reals.iter().filter(is_good).count()
        };
        let enough = |vip: &&Vip| vip.health.as_ref().is_some_and(|health| healthy(vip) >= health.min_healthy as usize);
        let wanted: BTreeSet<(IpAddr, u8)> = plan.vips.iter().filter(enough).map(prefix).collect();
        self.routes.set(announce, &plan.interfaces, wanted).await;
    }
}

/// A VIP as the destination of a route.
fn prefix(vip: &Vip) -> (IpAddr, u8) {
    (vip.address, vip.prefix_len.unwrap_or(if vip.address.is_ipv4() { 32 } else { 128 }))
}

fn health_of<'p>(plan: &'p Plan, service: &Service) -> Option<&'p Health> {
    plan.vips.iter().find(|vip| Service::of(vip) == *service)?.health.as_ref()
}

/// What is probed: a VIP, how, the real, and the mark of packets to it. A real that the configuration has down is not.
fn targets(plan: &Plan) -> impl Iterator<Item = (&Vip, &Health, IpAddr, u32)> {
    let checked = plan.vips.iter().filter_map(|vip| Some((vip, vip.health.as_ref()?)));
    checked.flat_map(move |(vip, health)| {
        let probed = vip.reals.iter().filter(|real| real.state != RealState::Down);
        probed.filter_map(move |real| {
            let mark = plan.health_encaps.iter().find(|probe| probe.real == real.address && probe.is_own())?.mark;
            Some((vip, health, real.address, mark))
        })
    })
}
