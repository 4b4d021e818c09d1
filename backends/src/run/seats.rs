//! Which seat forwards: the mode, the live switch, the workers.

use tandem_engine::memory::Mode;

use super::balancer::Running;
use super::error::RunError;
use super::hops::NextHops;
use super::protocol::{ModeName, ModeReport, WorkerRow};
use crate::afxdp::{Ask, Bound, Clock, Event, Seat, SeatConfig, receive_queues};
use crate::config::{Attach, ModeWish};
use crate::memory::Plain;

impl Running {
    /// Puts the configured mode in force.
    pub(super) fn choose_mode(&mut self) -> Result<(), RunError> {
        match self.plan.mode {
            ModeWish::Xdp => self.switch(ModeName::Xdp, Ask::Prefer, "the configuration says so")?,
            ModeWish::Afxdp => self.switch(ModeName::Afxdp, Ask::Prefer, "the configuration says so")?,
            ModeWish::Auto => self.decide()?,
        }
        tracing::info!(interface = self.interface.name, mode = ?self.mode(), why = self.why, "mode in force");
        Ok(())
    }

    pub(super) fn mode(&self) -> ModeName {
        match self.control.tables().root().mode() {
            Mode::Xdp => ModeName::Xdp,
            Mode::Afxdp => ModeName::Afxdp,
        }
    }

    /// The live switch: one store. The first one to afxdp starts the workers.
    pub(super) fn switch(&mut self, to: ModeName, ask: Ask, why: &str) -> Result<(), RunError> {
        if to == ModeName::Afxdp {
            self.start_workers(ask)?;
        }
        let mode = match to {
            ModeName::Xdp => Mode::Xdp,
            ModeName::Afxdp => Mode::Afxdp,
        };
        self.control.tables().root().switch(mode);
        why.clone_into(&mut self.why);
        Ok(())
    }

    fn start_workers(&mut self, ask: Ask) -> Result<(), RunError> {
        if self.interfaces.len() > 1 {
            return Err(RunError::WorkersOfSeveral);
        }
        if self.seat.as_ref().is_some_and(|seat| !seat.sockets().is_empty()) {
            return Ok(());
        }
        // Workers that all ended are replaced.
        drop(self.seat.take());
        let (found, most) = (queues(&self.interface.name)?, self.most_workers());
        if found > most {
            log::warn!(
                "{}: {found} receive queues, and the tables count for {most} workers: the kernel forwards the frames of the others; \
                 `tandem detach` removes the tables (their flows are lost), then start again",
                self.interface.name
            );
        }
        let queues: Vec<u32> = (0..found.min(most)).collect();
        let cores = match &self.plan.cores {
            Some(cores) => cores.clone(),
            None => core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).collect(),
        };
        let memories = queues.iter().map(|queue| {
            let desk = Plain::new(self.control.tables().clone(), self.cpus + queue);
            (desk, self.balancer.clock())
        });
        let memories = memories.collect();
        let config = SeatConfig { zero_copy: ask, ..SeatConfig::new(&self.interface.name, queues, cores) };
        let seat = Seat::start(&config, memories)?;
        for (queue, socket) in seat.sockets() {
            self.balancer.set_socket(queue, socket)?;
        }
        for worker in seat.workers() {
            log::info!("{}: queue {} on core {}, {}", self.interface.name, worker.queue, worker.core, bound_name(worker.bound));
        }
        self.seat = Some(seat);
        Ok(())
    }

    /// Workers for the queues that there are now; the kernel forwards while they change.
    pub(super) fn follow_queues(&mut self) -> Result<(), RunError> {
        let Some(seat) = &self.seat else { return Ok(()) };
        let (served, now) = (seat.queues(), queues(&self.interface.name)?.min(self.most_workers()));
        if served == now {
            return Ok(());
        }
        let (mode, why) = (self.mode(), self.why.clone());
        log::info!("{}: {now} receive queues instead of {served}", self.interface.name);
        self.stop_workers()?;
        self.switch(mode, Ask::Prefer, &why)
    }

    /// The tables count for so many.
    fn most_workers(&self) -> u32 {
        self.control.tables().blocks().saturating_sub(self.cpus)
    }

    /// The kernel forwards from here on, and the workers end when they have sent what they have.
    pub(super) fn stop_workers(&mut self) -> Result<(), RunError> {
        self.control.tables().root().switch(Mode::Xdp);
        let Some(seat) = self.seat.take() else { return Ok(()) };
        for (queue, _) in seat.sockets() {
            self.balancer.unset_socket(queue)?;
        }
        let report = seat.stop();
        for worker in report.workers.iter().filter(|worker| worker.refused > 0) {
            log::warn!("{}: {} frames were dropped because its TX ring stayed full", worker.at, worker.refused);
        }
        Ok(())
    }

    pub(super) fn worker_ended(&mut self, event: &Event) {
        log::error!("{}: its worker ended: {}; the kernel forwards this queue's frames", event.at, event.error);
        // The socket left the map when it was closed; this is for a kernel that is slower.
        let _ = self.balancer.unset_socket(event.at.queue);
    }

    pub(super) fn report(&self) -> ModeReport {
        let attach = match self.plan.attach {
            Attach::Native => "native",
            Attach::Generic => "generic",
        };
        let workers = self.seat.iter().flat_map(Seat::workers).map(|worker| {
            let bound = if worker.statistics.is_some() { bound_name(worker.bound) } else { "ended" };
            WorkerRow { queue: worker.queue, core: worker.core, bound: bound.to_owned() }
        });
        ModeReport {
            mode: self.mode(),
            why: self.why.clone(),
            interface: self.plan.interfaces.join(", "),
            attach: attach.to_owned(),
            workers: workers.collect(),
            decision: self.decision.clone(),
            flows: self.control.depending(self.balancer.clock().tick()),
            unreachable: self.next_hops.iter().flat_map(NextHops::unreachable).collect(),
        }
    }
}

pub(super) fn queues(interface: &str) -> Result<u32, RunError> {
    receive_queues(interface).map_err(|source| RunError::Queues { interface: interface.to_owned(), source })
}

fn bound_name(bound: Bound) -> &'static str {
    match bound {
        Bound::ZeroCopy => "zero-copy",
        Bound::Copy => "copy",
    }
}
