//! Which seat forwards: the mode, the live switch, the workers.

use tandem_engine::memory::Mode;

use super::balancer::Running;
use super::error::RunError;
use super::hops::NextHops;
use super::protocol::{ModeName, ModeReport, WorkerRow};
use super::reload::Readers;
use crate::afxdp::{Ask, Bound, Clock, Event, QueueName, Seat, SeatConfig, SocketInfo, receive_queues};
use crate::config::{Attach, ModeWish};
use crate::facts::Interface;
use crate::memory::Plain;

impl Running {
    /// Puts the configured mode in force.
    pub(super) fn choose_mode(&mut self) -> Result<(), RunError> {
        self.give_up_probe("another mode was configured");
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
        if self.seat.as_ref().is_some_and(|seat| !seat.sockets().is_empty()) {
            return Ok(());
        }
        if let Some(bond) = self.interfaces.iter().find(|interface| interface.is_bond) {
            return Err(RunError::WorkersOfBond(bond.name.clone()));
        }
        // Workers that all ended are replaced.
        drop(self.seat.take());
        let (found, most) = (queues(&self.interfaces)?, self.most_workers());
        let workers = SeatConfig::workers(found.iter().copied());
        if workers > most {
            log::warn!(
                "{}: {workers} workers for its receive queues, and the tables count for {most}: the kernel forwards the frames of the \
                 other queues; `tandem detach` removes the tables (their flows are lost), then start again",
                self.interface.name
            );
        }
        let names = self.interfaces.iter().map(|interface| interface.name.as_str());
        let interfaces: Vec<_> = names.zip(found.into_iter().map(|queues| queues.min(most))).collect();
        let cores = match &self.plan.cores {
            Some(cores) => cores.clone(),
            None => core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).collect(),
        };
        let config = SeatConfig { zero_copy: ask, tap: self.tap.clone(), ..SeatConfig::new(&interfaces, cores) };
        let memories = (self.cpus..).take(config.workers.len());
        let memories = memories.map(|block| (Plain::new(self.control.tables().clone(), block), self.balancer.clock()));
        let seat = Seat::start(&config, memories.collect())?;
        for (at, socket) in seat.sockets() {
            self.balancer.set_socket(place_of(&self.interfaces, &at), &at, socket)?;
        }
        for socket in seat.info() {
            log::info!("{}: worker {} on core {}, {}", socket.at, socket.worker, socket.core, bound_name(socket.bound));
        }
        self.seat = Some(seat);
        Ok(())
    }

    /// The program and workers for the queues that there are now; the kernel forwards while the workers change.
    pub(super) fn follow_queues(&mut self) -> Result<(), RunError> {
        // An interface that is gone is somebody else's affair.
        let Ok(now) = queues(&self.interfaces) else { return Ok(()) };
        let before = std::mem::replace(&mut self.queues, now.clone());
        if before == now {
            return Ok(());
        }
        for ((interface, now), before) in self.interfaces.iter().zip(&now).zip(&before).filter(|((_, now), before)| now != before)
        {
            log::info!("{}: {now} receive queues instead of {before}", interface.name);
        }
        if now.iter().zip(&before).any(|(now, before)| now > before) {
            // A veth leaves its new queues without the program until it gets another one (`veth_set_channels`).
            self.put_another_program(self.balancer.features())?;
        }
        let Some(seat) = &self.seat else { return Ok(()) };
        let most = self.most_workers();
        let served_of = |interface: &Interface| seat.queues().filter(|at| at.interface == interface.name).count() as u32;
        let served: Vec<u32> = self.interfaces.iter().map(served_of).collect();
        if now.iter().map(|queues| *queues.min(&most)).eq(served) {
            return Ok(());
        }
        let (mode, why) = (self.mode(), self.why.clone());
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
        for (at, _) in seat.sockets() {
            self.balancer.unset_socket(place_of(&self.interfaces, &at), at.queue)?;
        }
        let report = seat.stop();
        for (number, worker) in report.workers.iter().enumerate() {
            if worker.refused > 0 {
                log::warn!("worker {number}: {} frames were dropped because a TX ring stayed full", worker.refused);
            }
            if !worker.census.is_whole() {
                log::error!("worker {number}: frames of its UMEM were lost: {:?}; this is a defect, report it", worker.census);
            }
        }
        for worker in report.panicked {
            log::error!("worker {worker} panicked; this is a defect, report it");
        }
        Ok(())
    }

    pub(super) fn worker_ended(&mut self, event: &Event) {
        for at in &event.at {
            log::error!("{at}: its worker ended: {}; the kernel forwards this queue's frames", event.error);
            // The socket left the map when it was closed; this is for a kernel that is slower.
            let _ = self.balancer.unset_socket(place_of(&self.interfaces, at), at.queue);
        }
        self.control.release_claims(&Readers(self.seat.as_ref()));
    }

    pub(super) fn report(&self) -> ModeReport {
        let attach = match self.plan.attach {
            Attach::Native => "native",
            Attach::Generic => "generic",
        };
        let workers = self.seat.iter().flat_map(Seat::info).map(|SocketInfo { at, core, bound, statistics, .. }| {
            let bound = if statistics.is_some() { bound_name(bound) } else { "ended" };
            WorkerRow { interface: at.interface, queue: at.queue, core, bound: bound.to_owned() }
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

/// The receive queues of each interface.
pub(super) fn queues(interfaces: &[Interface]) -> Result<Vec<u32>, RunError> {
    let of = |Interface { name, .. }: &Interface| {
        receive_queues(name).map_err(|source| RunError::Queues { interface: name.clone(), source })
    };
    interfaces.iter().map(of).collect()
}

/// Which of the interfaces a queue is of.
fn place_of(interfaces: &[Interface], at: &QueueName) -> usize {
    interfaces.iter().position(|interface| interface.name == at.interface).unwrap_or(0)
}

pub(super) fn bound_name(bound: Bound) -> &'static str {
    match bound {
        Bound::ZeroCopy => "zero-copy",
        Bound::Copy => "copy",
    }
}
