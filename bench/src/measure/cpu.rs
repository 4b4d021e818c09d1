//! CPU time: of the device's threads, and of each core.

use std::time::Duration;

use procfs::{CurrentSI, KernelStats};
use serde::{Deserialize, Serialize};

use crate::device::Device;
use crate::napi;

/// What one core did in a window, as shares of it.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Cpu {
    /// The core.
    pub core: usize,
    /// The device's threads (receive queue, worker), and the core's softirq thread.
    pub forwarding: f64,
    /// Softirqs, on whoever's time.
    pub softirq: f64,
    /// The generator.
    pub generator: f64,
    /// Everything that ran here, of the time that this machine had (`steal` is not in it).
    pub busy: f64,
    /// Time that the host of this guest gave to others.
    pub steal: f64,
}

/// Times at one moment.
pub struct Times {
    core: usize,
    device: Duration,
    softirq_thread: Duration,
    /// Softirq, busy and stolen milliseconds by core.
    cores: Vec<[u64; 3]>,
}

/// Milliseconds of each core, since the start: softirq, busy, stolen.
pub fn core_times() -> Vec<[u64; 3]> {
    let cores = KernelStats::current().map(|stats| stats.cpu_time).unwrap_or_default().into_iter().map(|cpu| {
        let busy = cpu.user_ms() + cpu.nice_ms() + cpu.system_ms() + cpu.irq_ms().unwrap_or(0) + cpu.softirq_ms().unwrap_or(0);
        [cpu.softirq_ms().unwrap_or(0), busy, cpu.steal_ms().unwrap_or(0)]
    });
    cores.collect()
}

impl Times {
    /// The times of a device's threads now.
    pub fn of(device: &Device) -> Self {
        let threads = device.threads().into_iter().filter(|(_, kind)| *kind != "control");
        let device_time = threads.map(|(thread, _)| napi::time_of(thread)).sum();
        let softirq_thread = device.softirq_thread.map_or(Duration::ZERO, napi::time_of);
        Self { core: device.core, device: device_time, softirq_thread, cores: core_times() }
    }

    /// CPU time that the device took, with the softirq thread of its core.
    pub fn busy_since(&self, first: &Self) -> Duration {
        self.device.saturating_sub(first.device) + self.softirq_thread.saturating_sub(first.softirq_thread)
    }

    /// What each core did since.
    pub fn cores_since(&self, first: &Self, seconds: f64, generator: (usize, f64)) -> Vec<Cpu> {
        let forwarding = self.busy_since(first).as_secs_f64() / seconds;
        let rows = self.cores.iter().zip(&first.cores).enumerate();
        rows.map(|(core, (last, first))| {
            let share = |at: usize| {
                let of = |times: &[u64; 3]| times.get(at).copied().unwrap_or(0);
                of(last).saturating_sub(of(first)) as f64 / 1000.0 / seconds
            };
            Cpu {
                core,
                forwarding: if core == self.core { forwarding } else { 0.0 },
                softirq: share(0),
                generator: if core == generator.0 { generator.1 } else { 0.0 },
                busy: share(1),
                steal: share(2),
            }
        })
        .collect()
    }
}
