//! When something that was unlinked may be used again.

use std::time::Duration;

/// Waits until every reader that may still hold what was unlinked has passed.
pub trait Grace {
    /// `false`: not all have passed; nothing may be used again.
    fn wait(&self) -> bool;
}

/// For tables that nobody reads meanwhile.
#[derive(Clone, Copy, Debug)]
pub struct NoGrace;

impl Grace for NoGrace {
    fn wait(&self) -> bool {
        true
    }
}

/// Waits for the kernel seat: XDP programs run inside RCU read-side sections.
#[derive(Clone, Copy, Debug)]
pub struct KernelGrace;

impl Grace for KernelGrace {
    fn wait(&self) -> bool {
        // MEMBARRIER_CMD_GLOBAL waits for an RCU grace period (kernel/sched/membarrier.c).
        // SAFETY: the command takes no pointers.
        let done = unsafe { libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_GLOBAL, 0, 0) };
        if done != 0 {
            // Not there with nohz_full. A program runs for microseconds; this is ten thousand times that.
            std::thread::sleep(Duration::from_millis(100));
        }
        true
    }
}
