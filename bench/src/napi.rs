//! The kernel's threads that serve receive queues: made, found, pinned, and how much time they took.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::mount::{MsFlags, mount};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use procfs::process::{Process, all_processes};
use tandem_lab::{Host, Lab, own_mounts};

/// How long a thread may take to appear.
const PATIENCE: Duration = Duration::from_secs(1);

/// Moves the NAPI of an interface out of softirqs, into threads; returns their numbers.
///
/// The interface must have its XDP program: a veth has a NAPI only then, and forgets the threads with it. A NIC may keep those of
/// an earlier time, which count if they `may_be_old`: other namespaces have interfaces of a lab's names, but not of a NIC's.
///
/// # Errors
/// A kernel or driver that has no threaded NAPI.
pub fn into_threads(lab: &Lab, host: Host, interface: &str, may_be_old: bool) -> Result<Vec<i32>> {
    let before = threads_of(interface);
    lab.enter(host, || switch(interface, true))?
        .with_context(|| format!("{}: {interface} has no threaded NAPI (Linux 5.12 or newer has it)", lab.namespace(host)))?;
    let until = Instant::now() + PATIENCE;
    loop {
        let new: Vec<i32> = threads_of(interface).difference(&before).copied().collect();
        if !new.is_empty() {
            return Ok(new);
        }
        if Instant::now() > until {
            if may_be_old && !before.is_empty() {
                return Ok(before.into_iter().collect());
            }
            bail!("{}: no thread napi/{interface} has appeared", lab.namespace(host));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Moves the NAPI of an interface back into softirqs.
///
/// # Errors
/// What the kernel says.
pub fn out_of_threads(lab: &Lab, host: Host, interface: &str) -> Result<()> {
    lab.enter(host, || switch(interface, false))?
}

/// `/sys/class/net` shows the namespace that mounted it: so it is mounted anew, for this thread alone.
fn switch(interface: &str, on: bool) -> Result<()> {
    own_mounts().context("cannot have mounts of its own")?;
    mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), None::<&str>).context("cannot mount sysfs")?;
    let file = format!("/sys/class/net/{interface}/threaded");
    fs::write(&file, if on { "1" } else { "0" }).context(file)
}

/// The kernel threads that serve an interface of this name, in whatever namespace.
fn threads_of(interface: &str) -> BTreeSet<i32> {
    // The kernel keeps 15 bytes of the name, which is enough for the interfaces of a lab.
    let name = format!("napi/{interface}-");
    let all = all_processes().into_iter().flatten().flatten();
    all.filter(|process| process.stat().is_ok_and(|stat| stat.comm.starts_with(&name))).map(|process| process.pid).collect()
}

/// Lets a thread run on one core alone.
///
/// # Errors
/// No such thread or core.
pub fn pin(thread: i32, core: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(core).with_context(|| format!("core {core} is beyond the CPU set"))?;
    sched_setaffinity(Pid::from_raw(thread), &set).with_context(|| format!("cannot pin thread {thread} to core {core}"))
}

/// The core that a thread ran on last.
pub fn core_of(thread: i32) -> Option<usize> {
    Process::new(thread).ok()?.stat().ok()?.processor.and_then(|core| usize::try_from(core).ok())
}

/// Time that a thread (by its number, also of another process) has run, in user mode and in the kernel.
pub fn time_of(thread: i32) -> Duration {
    let spent = |text: String| text.split(' ').next().and_then(|nanos| nanos.parse().ok());
    let text = fs::read_to_string(format!("/proc/{thread}/schedstat")).ok();
    Duration::from_nanos(text.and_then(spent).unwrap_or(0))
}

/// The threads of a process, with their names.
pub fn threads_of_process(pid: i32) -> Vec<(i32, String)> {
    let tasks = Process::new(pid).and_then(|process| process.tasks());
    let named = tasks.into_iter().flatten().flatten().filter_map(|task| Some((task.tid, task.stat().ok()?.comm)));
    named.collect()
}

/// The thread that runs the softirqs of a core when they are too many.
pub fn softirq_thread(core: usize) -> Option<i32> {
    let name = format!("ksoftirqd/{core}");
    let all = all_processes().into_iter().flatten().flatten();
    all.filter(|process| process.stat().is_ok_and(|stat| stat.comm == name)).map(|process| process.pid).next()
}
