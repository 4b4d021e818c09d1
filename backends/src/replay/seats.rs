//! The two backends of a replay, each with tables of its own.

use std::sync::Arc;

use tandem_engine::memory::counters::reason_at;
use tandem_engine::memory::flows::WAYS;
use tandem_engine::wire::Ethernet;
use tandem_engine::{Reason, process};

use super::buffer::Buffer;
use super::decision::{Action, Decision, Names};
use crate::config::Plan;
use crate::control::{Changes, Control, ControlError, Facts, NoGrace};
use crate::memory::{MapError, Sizes, Tables, Traced};
use crate::xdp::{Balancer, Budget, Headroom, LARGEST_TEST_FRAME, Role, XdpError};

/// Which of the two.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Backend {
    /// The loaded BPF program, by `BPF_PROG_TEST_RUN`.
    Xdp,
    /// The same on the way that it takes when it forwards: usual frames have one of their own, and nothing is written down.
    Forwarding,
    /// The engine in this process.
    Engine,
}

/// Why frames cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The configuration lacks what a host would supply.
    #[error("{0}")]
    Facts(String),
    /// The plan does not fit into the tables.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// No memory.
    #[error(transparent)]
    Map(#[from] MapError),
    /// The kernel.
    #[error(transparent)]
    Xdp(#[from] XdpError),
    /// A frame that XDP cannot hold.
    #[error(
        "a frame of {found} bytes: an XDP program runs on at most {LARGEST_TEST_FRAME} bytes here; leave it out of the capture"
    )]
    TooLarge {
        /// Its bytes.
        found: usize,
    },
    /// The program did something that it did not write down.
    #[error(
        "the program ended with XDP action {action} and wrote down {reason:?}: the object and this program do not belong together; run `make build`"
    )]
    Contradiction {
        /// What it returned.
        action: u32,
        /// What it wrote.
        reason: Option<&'static str>,
    },
}

pub(super) enum Seat {
    Kernel(Box<Balancer>),
    Engine(Box<Traced>, Buffer),
}

/// A balancer that is asked frame by frame.
pub struct Instance {
    pub(super) seat: Seat,
    /// Whether decisions are written down.
    traced: bool,
    control: Control,
    facts: Facts,
    names: Names,
    out: Vec<u8>,
}

impl Instance {
    /// Sets up a balancer for `plan`; `seed` makes every random choice.
    ///
    /// # Errors
    /// [`ReplayError`]: MACs or sources missing in the configuration; for the kernel also missing privileges.
    pub fn new(backend: Backend, plan: &Plan, seed: u64) -> Result<Self, ReplayError> {
        Self::with_sizes(backend, plan, seed, Sizes::for_plan(plan, 1))
    }

    /// The same with tables of other sizes.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_sizes(backend: Backend, plan: &Plan, seed: u64, sizes: Sizes) -> Result<Self, ReplayError> {
        let facts = Facts::of_plan(plan, seed).map_err(ReplayError::Facts)?;
        let (seat, tables) = match backend {
            Backend::Xdp | Backend::Forwarding => {
                let role = if backend == Backend::Xdp { Role::Replay } else { Role::Untraced };
                let balancer = Balancer::load(&role, sizes)?;
                let tables = balancer.tables().clone();
                (Seat::Kernel(Box::new(balancer)), tables)
            }
            Backend::Engine => {
                let tables = Tables::plain(sizes)?;
                (Seat::Engine(Box::new(Traced::new(tables.clone(), 0)), Buffer::default()), tables)
            }
        };
        let control = Control::adopt(tables)?;
        let traced = backend != Backend::Forwarding;
        let mut instance = Self { seat, traced, control, facts, names: Names::new(), out: Vec::new() };
        instance.apply(plan)?;
        Ok(instance)
    }

    /// Makes the tables say what another plan says.
    ///
    /// # Errors
    /// [`ReplayError::Control`], and [`ReplayError::Facts`] if the plan lacks what a host would supply.
    pub fn apply(&mut self, plan: &Plan) -> Result<Changes, ReplayError> {
        let key = self.facts.key;
        self.facts = Facts { key, ..Facts::of_plan(plan, 0).map_err(ReplayError::Facts)? };
        // Whoever reads the tables is a call of this thread's, the kernel's program, too: it has passed when the call returned.
        let changes = self.control.apply(plan, &self.facts, &NoGrace)?;
        self.names = self.control.vip_names().map(|(id, name)| (id, name.into())).collect();
        Ok(changes)
    }

    /// Sends one frame through; gives what became of it, and the frame as it was left.
    ///
    /// # Errors
    /// [`ReplayError::TooLarge`], or what the kernel says.
    pub fn frame(&mut self, frame: &[u8]) -> Result<(Decision, &[u8]), ReplayError> {
        self.frame_with(frame, Headroom::Usual)
    }

    /// The same, with this much room in front of the frame.
    ///
    /// # Errors
    /// As [`Self::frame`].
    pub fn frame_with(&mut self, frame: &[u8], headroom: Headroom) -> Result<(Decision, &[u8]), ReplayError> {
        if frame.len() > LARGEST_TEST_FRAME {
            return Err(ReplayError::TooLarge { found: frame.len() });
        }
        let tables = self.control.tables();
        tables.trace().clear();
        if frame.len() < Ethernet::LEN {
            // Kernels refuse to run it; nobody would ever receive it.
            count_too_short(tables);
            self.out.clear();
            self.out.extend_from_slice(frame);
            return Ok((Decision::too_short(), &self.out));
        }
        let (action, out) = match &mut self.seat {
            Seat::Kernel(balancer) => {
                let action = balancer.run_frame(frame, headroom, &mut self.out)?;
                (Action::of_xdp(action).ok_or(ReplayError::Contradiction { action, reason: None })?, self.out.as_slice())
            }
            Seat::Engine(desk, buffer) => {
                desk.set_now(tables.root().tick.get());
                match headroom {
                    Headroom::Usual => buffer.load(frame),
                    Headroom::None => buffer.load_with(0, frame),
                }
                let verdict = process(buffer, desk.as_ref());
                (Action::of_verdict(&verdict), buffer.frame())
            }
        };
        let decision = Decision::read(tables, &self.names, action);
        if self.traced && decision.reason.map(Action::of_reason) != Some(action) {
            let reason = decision.reason.map(Reason::name);
            return Err(ReplayError::Contradiction { action: action as u32, reason });
        }
        Ok((decision, out))
    }

    /// Moves the clock, in ticks.
    pub fn set_tick(&self, tick: u32) {
        self.tables().root().tick.set(tick);
    }

    /// Forgets all flows.
    pub fn forget_flows(&self) {
        for set in self.tables().flows() {
            set.forget(|_| true);
        }
    }

    /// Forgets all flows that the last frame touched, all connections of NAT, and all counters.
    pub fn start_anew(&self) {
        let tables = self.tables();
        let trace = tables.trace();
        // The set that was written to is not always the flow's own: Katran enters some flows under another key.
        let touched = trace.sets.iter().chain(&trace.fragment_sets).chain(trace.written.first());
        for set in touched.filter_map(|set| tables.flows().get(set.get().checked_sub(1)? as usize)) {
            set.forget(|_| true);
        }
        // One place if NAT is not used.
        tables.nats().iter().filter(|nat| nat.entry().is_some()).for_each(tandem_engine::memory::Nat::forget);
        tables.block(0).iter().for_each(tandem_engine::memory::Line::clear);
    }

    /// The tables.
    pub fn tables(&self) -> &Arc<Tables> {
        self.control.tables()
    }

    /// The writer of the tables.
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// The size of the loaded program; `None` for the engine.
    pub fn budget(&self) -> Option<Budget> {
        match &self.seat {
            Seat::Kernel(balancer) => balancer.budget().ok(),
            Seat::Engine(..) => None,
        }
    }

    /// Flows that the table can hold.
    pub fn flow_capacity(&self) -> usize {
        self.tables().flows().len() * WAYS
    }
}

fn count_too_short(tables: &Tables) {
    let (line, index) = reason_at(Reason::FrameTooShort as u32);
    if let Some(line) = tables.block(0).get(line as usize) {
        line.add(index, 1);
    }
}
