//! Changes of a running balancer's configuration: one at a time, validated as a whole, and none lost between two clients.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tandem_backends::config::{Plan, Profile, RealState};
use tandem_backends::control::{Changes, FlowExport, FlowRow, Imported, RingRow};
use tandem_backends::run::{
    CaptureStream, CaptureWish, CoreRow, Handle, ModeName, ModeReport, ProbeWish, Refusal, Reply, Request, SeatCounters,
};

use crate::document::{Document, Draft, EditError};
use crate::health::Board;

/// Why something is not done. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
pub enum ProvisionError {
    /// The edit itself.
    #[error(transparent)]
    Edit(#[from] EditError),
    /// The balancer.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Another change came first.
    #[error(
        "the configuration is of generation {found} by now, not {expected}: another change came first; look at it, and ask again"
    )]
    Generation {
        /// What is in force.
        found: u64,
        /// What was asked for.
        expected: u64,
    },
    /// The file is not what the balancer was started or reloaded with.
    #[error(
        "{}: the file is another one than the configuration in force comes from; `tandem reload` puts the file in force, \
         without what was changed and not saved", .0.display()
    )]
    Differs(PathBuf),
    /// The file cannot be written.
    #[error("{}: cannot write the configuration: {source}; nothing was saved", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// An answer of another kind than was asked for.
    #[error("the balancer answered something else than was asked for: a defect, please report it")]
    Answer,
}

/// What is in force.
#[derive(Clone)]
pub struct InForce {
    /// What the configuration says.
    pub plan: Arc<Plan>,
    /// The same, but for the reals that health checks found to be out.
    pub effective: Arc<Plan>,
    /// Which one it is, from 1: every change makes it greater.
    pub generation: u64,
    /// Whether there are changes that the file has not.
    pub unsaved: bool,
}

/// What a change did.
#[derive(Clone, Debug)]
pub struct Applied {
    /// What is in force now.
    pub generation: u64,
    /// What became of VIPs, reals and rings.
    pub changes: Changes,
    /// What is allowed but probably not meant.
    pub warnings: Vec<String>,
}

/// A running balancer, and its configuration as a text.
pub struct Provision {
    handle: Handle,
    path: PathBuf,
    /// `None`: nobody has asked yet.
    state: Mutex<Option<State>>,
    board: Board,
}

/// Reals that health checks found to be out, by VIP (its text) and address.
pub(crate) type Failed = BTreeSet<(String, IpAddr)>;

struct State {
    /// The plan that the balancer had last, as the same object: another one is another configuration.
    plan: Arc<Plan>,
    /// The plan without what health checks found.
    base: Arc<Plan>,
    /// What they found, in force.
    failed: Failed,
    generation: u64,
    /// The text that the base comes from; `None`: not read yet.
    document: Option<Document>,
    unsaved: bool,
}

impl Provision {
    /// Of the balancer behind `handle`, which was started with the file at `path`. It need not answer yet.
    #[must_use]
    pub fn new(handle: Handle, path: PathBuf) -> Self {
        Self { handle, path, state: Mutex::new(None), board: Board::default() }
    }

    /// What is in force now.
    ///
    /// # Errors
    /// The balancer does not answer.
    pub fn in_force(&self) -> Result<InForce, ProvisionError> {
        self.alone(|state| {
            let (plan, effective) = (state.base.clone(), state.plan.clone());
            Ok(InForce { plan, effective, generation: state.generation, unsaved: state.unsaved })
        })
    }

    /// What the configuration says: the same object until it is another one.
    pub(crate) fn base(&self) -> Result<Arc<Plan>, ProvisionError> {
        self.alone(|state| Ok(state.base.clone()))
    }

    /// How the checked reals are doing.
    pub(crate) fn board(&self) -> &Board {
        &self.board
    }

    /// Puts in force what health checks of `base` found. Nothing happens if that is not the configuration any more: its checks
    /// begin anew.
    pub(crate) fn set_failed(&self, base: &Arc<Plan>, failed: Failed) -> Result<(), ProvisionError> {
        self.alone(|state| {
            if failed == state.failed || !Arc::ptr_eq(base, &state.base) {
                return Ok(());
            }
            self.applied(Request::Apply(Box::new(without(&state.base, &failed))))?;
            state.plan = plan(&self.handle)?;
            state.failed = failed;
            Ok(())
        })
    }

    /// Edits the configuration, and puts it in force. `generation`: only if this one is in force; 0: whichever it is.
    ///
    /// # Errors
    /// [`ProvisionError`].
    pub fn change(
        &self,
        generation: u64,
        edit: impl FnOnce(&mut Draft, &Plan) -> Result<(), EditError>,
    ) -> Result<Applied, ProvisionError> {
        self.alone(|state| {
            state.check(generation)?;
            let document = match state.document.take() {
                Some(document) => document,
                None => self.read(state)?,
            };
            let edited = document.edited(|draft| edit(draft, document.plan()));
            // Whatever comes of it, what is in force is still that text.
            state.document = Some(document);
            let edited = edited?;
            let changes = self.applied(Request::Apply(Box::new(without(edited.plan(), &state.failed))))?;
            let (generation, warnings) = (state.generation + 1, edited.warnings().to_vec());
            *state = State {
                plan: plan(&self.handle)?,
                base: Arc::new(edited.plan().clone()),
                failed: std::mem::take(&mut state.failed),
                generation,
                document: Some(edited),
                unsaved: true,
            };
            Ok(Applied { generation, changes, warnings })
        })
    }

    /// Reads the file again and puts it in force; what was not saved is lost.
    ///
    /// # Errors
    /// [`ProvisionError`].
    pub fn reload(&self) -> Result<Applied, ProvisionError> {
        self.alone(|state| {
            let changes = self.applied(Request::Reload)?;
            *state = State::of(plan(&self.handle)?, state.generation + 1);
            // The file may be another one by now; whoever edits next is told.
            state.document = self.read(state).ok();
            let warnings = state.document.as_ref().map(|document| document.warnings().to_vec()).unwrap_or_default();
            Ok(Applied { generation: state.generation, changes, warnings })
        })
    }

    fn applied(&self, request: Request) -> Result<Changes, ProvisionError> {
        match self.handle.ask(request)? {
            Reply::Applied(changes) => Ok(changes),
            _ => Err(ProvisionError::Answer),
        }
    }

    /// Writes what is in force into the file, whole or not at all.
    ///
    /// # Errors
    /// [`ProvisionError`].
    pub fn save(&self, generation: u64) -> Result<(PathBuf, u64), ProvisionError> {
        self.alone(|state| {
            state.check(generation)?;
            if let (true, Some(document)) = (state.unsaved, &mut state.document) {
                let fail = |source| ProvisionError::Write { path: self.path.clone(), source };
                // What somebody else wrote in the meantime is theirs.
                if std::fs::read_to_string(&self.path).map_err(fail)? != document.source() {
                    return Err(ProvisionError::Differs(self.path.clone()));
                }
                replace(&self.path, &document.text()).map_err(fail)?;
                document.saved();
                state.unsaved = false;
            }
            Ok((self.path.clone(), state.generation))
        })
    }

    /// The mode in force.
    ///
    /// # Errors
    /// The balancer does not answer.
    pub fn mode(&self) -> Result<ModeReport, ProvisionError> {
        self.mode_by(Request::Mode)
    }

    /// The live switch.
    ///
    /// # Errors
    /// The balancer refuses.
    pub fn set_mode(&self, mode: ModeName) -> Result<ModeReport, ProvisionError> {
        self.mode_by(Request::SetMode(mode))
    }

    /// Both seats in turns, under the traffic that is there; waits until it is done.
    ///
    /// # Errors
    /// The balancer refuses, or found nothing.
    pub fn probe_mode(&self, wish: ProbeWish) -> Result<ModeReport, ProvisionError> {
        self.mode_by(Request::ProbeMode(wish))
    }

    fn mode_by(&self, request: Request) -> Result<ModeReport, ProvisionError> {
        match self.handle.ask(request)? {
            Reply::Mode(report) => Ok(report),
            _ => Err(ProvisionError::Answer),
        }
    }

    /// All counters.
    ///
    /// # Errors
    /// The balancer does not answer.
    pub fn counters(&self) -> Result<Box<SeatCounters>, ProvisionError> {
        match self.handle.ask(Request::Counters)? {
            Reply::Counters(counters) => Ok(counters),
            _ => Err(ProvisionError::Answer),
        }
    }

    /// What each core did.
    ///
    /// # Errors
    /// The balancer does not answer.
    pub fn cores(&self) -> Result<Vec<CoreRow>, ProvisionError> {
        match self.handle.ask(Request::Cores)? {
            Reply::Cores(cores) => Ok(cores),
            _ => Err(ProvisionError::Answer),
        }
    }

    /// What each VIP's ring says.
    ///
    /// # Errors
    /// The balancer does not answer.
    pub fn rings(&self) -> Result<Vec<RingRow>, ProvisionError> {
        match self.handle.ask(Request::Rings)? {
            Reply::Rings(rings) => Ok(rings),
            _ => Err(ProvisionError::Answer),
        }
    }

    /// How many flows each real has.
    ///
    /// # Errors
    /// The balancer does not answer, or does not know.
    pub fn flow_rows(&self) -> Result<Vec<FlowRow>, ProvisionError> {
        match self.handle.ask(Request::FlowRows)? {
            Reply::FlowRows(rows) => Ok(rows),
            _ => Err(ProvisionError::Answer),
        }
    }

    /// The flows of the flow table.
    ///
    /// # Errors
    /// The balancer does not answer, or does not know which flows depend on state.
    pub fn export_flows(&self, only_depending: bool) -> Result<FlowExport, ProvisionError> {
        match self.handle.ask(Request::ExportFlows { only_depending })? {
            Reply::Flows(flows) => Ok(*flows),
            _ => Err(ProvisionError::Answer),
        }
    }

    /// Captures frames until what this gives is dropped.
    ///
    /// # Errors
    /// The balancer does not answer, somebody captures already, or the kernel refuses.
    pub fn capture(&self, asked: CaptureWish) -> Result<CaptureStream, ProvisionError> {
        match self.handle.ask(Request::Capture(asked))? {
            Reply::Capture(stream) => Ok(stream),
            _ => Err(ProvisionError::Answer),
        }
    }

    /// Enters flows of another balancer.
    ///
    /// # Errors
    /// The balancer does not answer, or the flows fit nothing here.
    pub fn import_flows(&self, flows: FlowExport) -> Result<Imported, ProvisionError> {
        match self.handle.ask(Request::ImportFlows(Box::new(flows)))? {
            Reply::Imported(done) => Ok(done),
            _ => Err(ProvisionError::Answer),
        }
    }

    /// Runs `change` alone, on the state after a look whether the balancer has another plan by now: a reload that nobody here
    /// asked for.
    fn alone<T>(&self, change: impl FnOnce(&mut State) -> Result<T, ProvisionError>) -> Result<T, ProvisionError> {
        // A thread that panicked left a whole state: it is replaced as one.
        let mut state: MutexGuard<'_, Option<State>> = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let plan = plan(&self.handle)?;
        let generation = state.as_ref().map_or(0, |state| state.generation);
        let is_known = state.as_ref().is_some_and(|state| Arc::ptr_eq(&plan, &state.plan));
        let state = match &mut *state {
            Some(state) if is_known => state,
            stale => stale.insert(State::of(plan, generation + 1)),
        };
        change(state)
    }

    fn read(&self, state: &State) -> Result<Document, ProvisionError> {
        let document = Document::read(&self.path)?;
        if *document.plan() == *state.base { Ok(document) } else { Err(ProvisionError::Differs(self.path.clone())) }
    }
}

impl State {
    /// A plan that comes from the file.
    fn of(plan: Arc<Plan>, generation: u64) -> Self {
        Self { base: plan.clone(), plan, failed: Failed::new(), generation, document: None, unsaved: false }
    }

    fn check(&self, expected: u64) -> Result<(), ProvisionError> {
        let found = self.generation;
        if expected == 0 || expected == found { Ok(()) } else { Err(ProvisionError::Generation { found, expected }) }
    }
}

/// The plan with reals taken out of their rings. In profile katran the weight alone decides about that.
fn without(plan: &Plan, failed: &Failed) -> Plan {
    let mut plan = plan.clone();
    for vip in &mut plan.vips {
        let name = vip.to_string();
        for real in vip.reals.iter_mut().filter(|real| failed.contains(&(name.clone(), real.address))) {
            match plan.profile {
                Profile::Standard => real.state = RealState::Down,
                Profile::Katran => real.weight = 0,
            }
        }
    }
    plan
}

fn plan(handle: &Handle) -> Result<Arc<Plan>, ProvisionError> {
    match handle.ask(Request::Plan)? {
        Reply::Plan(plan) => Ok(plan),
        _ => Err(ProvisionError::Answer),
    }
}

/// Writes a file beside the old one, with its permissions, and puts it in its place.
fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    // A link stays one: what it leads to is replaced.
    let path = path.canonicalize()?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    let written = (|| {
        let mut file = std::fs::File::create(&new)?;
        file.set_permissions(std::fs::metadata(&path)?.permissions())?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&new, &path)
    })();
    if written.is_err() {
        // What is half written is nobody's.
        let _ = std::fs::remove_file(&new);
    }
    written
}
