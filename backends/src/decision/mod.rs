//! Which seat forwards, and why: pure functions of what is known of the host and of what was measured.
//!
//! What counts is the CPU time of a frame, which says what one core can forward. AF_XDP has to be cheaper by more than the rounds of the
//! measurement differ; else XDP forwards, which needs no threads.

use serde::{Deserialize, Serialize};

use crate::calibrate::{Calibration, Feed, Measured};
use crate::config::Attach;
use crate::probe::Costs;
use crate::run::ModeName;

/// Frames that a turn of the probe on the interface has to forward, or nothing can be said.
pub const ENOUGH: u64 = 10_000;

/// A way to forward that was considered.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Candidate {
    /// The seat.
    pub mode: ModeName,
    /// How it would be bound: `native` or `generic`, `zero-copy` or `copy`.
    pub bound: String,
    /// CPU nanoseconds for each packet; none: not known.
    pub ns: Option<f64>,
    /// How this number was got, or why there is none.
    pub how: String,
    /// All that was measured of it, if it forwarded frames.
    pub measured: Option<Measured>,
    /// Why it is not possible, with the cure; none if it is.
    pub impossible: Option<String>,
}

/// What was found, and what was made of it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Decision {
    /// The interface's driver; none: a virtual device.
    pub driver: Option<String>,
    /// What the driver says of XDP; none: this kernel does not say.
    pub xdp_features: Option<Vec<String>>,
    /// RX queues in use, of all interfaces.
    pub queues: u32,
    /// Cores that workers may run on.
    pub cores: usize,
    /// All that was considered.
    pub candidates: Vec<Candidate>,
    /// What receiving and sending cost without a balancer, where that was measured.
    pub bounce: Option<Measured>,
    /// The seat that was chosen.
    pub chosen: ModeName,
    /// How it is to be bound.
    pub bound: String,
    /// Why.
    pub reason: String,
}

/// What is known of the host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Host {
    /// The interface's driver; none: a virtual device.
    pub driver: Option<String>,
    /// What the driver says of XDP; none: this kernel does not say.
    pub xdp_features: Option<Vec<String>>,
    /// RX queues in use, of all interfaces.
    pub queues: u32,
    /// Cores that workers may run on.
    pub cores: usize,
    /// How XDP is attached.
    pub attach: Attach,
    /// Why AF_XDP is not possible without copies, with the cure.
    pub no_zero_copy: Option<String>,
    /// Why it is not possible with them either.
    pub no_copy: Option<String>,
}

/// What was measured.
#[derive(Clone, PartialEq, Debug)]
pub struct Numbers {
    /// In a private namespace, or why that was not possible, with the cure.
    pub calibrated: Result<Calibration, String>,
    /// When: `now`, or an age.
    pub when: String,
    /// In memory, without receiving and sending, or why not; none: nobody has asked for it.
    pub memory: Option<Result<Costs, String>>,
}

/// What a seat did in one turn on the interface.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Turn {
    /// Which.
    pub mode: ModeName,
    /// Frames that it sent.
    pub forwarded: u64,
    /// Frames that it would have sent, and a full TX ring refused.
    pub lost: u64,
    /// How long.
    pub seconds: f64,
    /// CPU nanoseconds of the workers.
    pub worker: u64,
    /// CPU nanoseconds of softirqs, of all cores, and of threads that serve the interfaces' queues.
    pub queue: u64,
}

/// How a number is called in a sentence.
fn called(candidate: &Candidate) -> &str {
    match (candidate.mode, candidate.bound.as_str()) {
        (ModeName::Xdp, _) => "in XDP",
        (ModeName::Afxdp, "zero-copy") => "in AF_XDP without copies (estimated)",
        (ModeName::Afxdp, _) => "in AF_XDP with copies",
    }
}

/// The numbers of what is possible, in a sentence.
fn in_words(candidates: &[Candidate]) -> String {
    let known = candidates.iter().filter(|candidate| candidate.impossible.is_none());
    let known = known.filter_map(|candidate| Some(format!("{:.0} {}", candidate.ns?, called(candidate))));
    known.collect::<Vec<_>>().join(", ")
}

/// The ways to forward, with what is known of each.
fn candidates(host: &Host, numbers: &Numbers) -> [Candidate; 3] {
    let measured = numbers.calibrated.as_ref().ok();
    let memory = numbers.memory.as_ref().and_then(|memory| memory.as_ref().ok());
    let missing = match (&numbers.calibrated, &numbers.memory) {
        (Err(why), Some(Err(cause))) => format!("not measured: {why}; nor in memory: {cause}"),
        (Err(why), _) => format!("not measured: {why}"),
        (Ok(_), Some(Err(cause))) => format!("not estimated: the engine could not be measured in memory: {cause}"),
        (Ok(_), _) => "not estimated".to_owned(),
    };
    let with = |mode, bound: &str, ns, how, measured, impossible: &Option<String>| Candidate {
        mode,
        bound: bound.to_owned(),
        ns,
        how,
        measured,
        impossible: impossible.clone(),
    };
    let mut when = if numbers.when == "now" { String::new() } else { format!(", {}", numbers.when) };
    if measured.is_some_and(|found| found.feed == Feed::Sockets) {
        when.push_str(
            ", fed by sockets, whose frames cost more to receive than a driver's (Linux 5.18 or newer feeds it without)",
        );
    }
    let seat = |mode, bound: &str, found: Option<Measured>, in_memory: Option<f64>, impossible: &Option<String>| {
        let (ns, how) = match (found, in_memory) {
            (Some(found), _) => (Some(found.ns), format!("measured in a private namespace{when}")),
            (None, Some(ns)) => (Some(ns), format!("measured in memory, without receiving and sending; {missing}")),
            (None, None) => (None, missing.clone()),
        };
        with(mode, bound, ns, how, found, impossible)
    };
    let attach = match host.attach {
        Attach::Native => "native",
        Attach::Generic => "generic",
    };
    let zero_copy = match (&host.no_zero_copy, measured, memory) {
        (Some(_), _, _) => (None, "not measured: it is not possible".to_owned()),
        (None, Some(found), Some(memory)) => (
            Some(found.bounce.ns + memory.afxdp_ns),
            format!(
                "estimated: {:.0} ns that receiving and sending take in a private namespace, and {:.0} ns of the engine in memory; no \
                 virtual device has AF_XDP without copies",
                found.bounce.ns, memory.afxdp_ns
            ),
        ),
        (None, None, Some(memory)) => {
            (Some(memory.afxdp_ns), format!("measured in memory, without receiving and sending; {missing}"))
        }
        (None, _, None) => (None, missing.clone()),
    };
    let (ns, how) = zero_copy;
    [
        seat(ModeName::Xdp, attach, measured.map(|found| found.xdp), memory.map(|memory| memory.xdp_ns), &None),
        with(ModeName::Afxdp, "zero-copy", ns, how, None, &host.no_zero_copy),
        seat(ModeName::Afxdp, "copy", measured.map(|found| found.afxdp), memory.map(|memory| memory.afxdp_ns), &host.no_copy),
    ]
}

/// Chooses between the seats by numbers alone: the cheaper one, and XDP within the noise. `at`: the candidate, and why.
fn cheapest(candidates: &[Candidate], noise: f64) -> (usize, String) {
    let first = candidates.first().and_then(|xdp| xdp.ns).unwrap_or(0.0);
    let others = candidates.iter().enumerate().filter(|(_, one)| one.mode == ModeName::Afxdp && one.impossible.is_none());
    let best = others.filter_map(|(at, one)| Some((at, one, one.ns?))).min_by(|(_, _, a), (_, _, b)| a.total_cmp(b));
    match best {
        None => (0, "AF_XDP is not possible here".to_owned()),
        Some((at, one, ns)) if ns + noise < first => (at, format!("AF_XDP ({}) is the cheaper seat here", one.bound)),
        Some((_, _, ns)) if (ns - first).abs() <= noise => {
            (0, format!("the seats differ by no more than the measurement does (by {noise:.0} ns), and XDP needs no threads"))
        }
        Some(_) => (0, "the kernel is the cheaper seat here".to_owned()),
    }
}

/// Chooses.
pub fn decide(host: &Host, numbers: &Numbers) -> Decision {
    let candidates = candidates(host, numbers);
    let [xdp, zero_copy, copy] = &candidates;
    let (at, verdict) = match (&numbers.calibrated, &zero_copy.impossible, &copy.impossible) {
        (_, Some(_), Some(why)) => (0, format!("AF_XDP is not possible: {why}")),
        (Ok(found), ..) => cheapest(&candidates, found.xdp.spread_ns.max(found.afxdp.spread_ns)),
        // What copies cost is not known then, and it is much.
        (Err(_), Some(why), None) => (0, format!("AF_XDP pays only with zero-copy as long as nothing was measured: {why}")),
        (Err(_), None, _) => match (xdp.ns, zero_copy.ns) {
            (Some(xdp), Some(zero_copy)) if zero_copy >= xdp => (0, "the kernel is the cheaper seat here".to_owned()),
            (Some(_), Some(_)) => (1, "the driver has zero-copy AF_XDP, and userspace is the cheaper seat here".to_owned()),
            _ => (1, "the driver has zero-copy AF_XDP".to_owned()),
        },
    };
    let words = in_words(&candidates);
    let reason = match &numbers.calibrated {
        Ok(_) => format!("auto: {verdict} (ns of CPU a packet, measured in a private namespace: {words})"),
        Err(why) if words.is_empty() => format!("auto: {verdict} (nothing could be measured: {why})"),
        Err(why) => format!("auto: {verdict} (ns a packet in memory alone: {words}; not measured in a private namespace: {why})"),
    };
    let bounce = numbers.calibrated.as_ref().ok().map(|found| found.bounce);
    conclude(host, candidates.to_vec(), bounce, at, reason)
}

fn conclude(host: &Host, candidates: Vec<Candidate>, bounce: Option<Measured>, at: usize, reason: String) -> Decision {
    let chosen = candidates.get(at).map_or((ModeName::Xdp, String::new()), |chosen| (chosen.mode, chosen.bound.clone()));
    Decision {
        driver: host.driver.clone(),
        xdp_features: host.xdp_features.clone(),
        queues: host.queues,
        cores: host.cores,
        candidates,
        bounce,
        chosen: chosen.0,
        bound: chosen.1,
        reason,
    }
}

/// What turns of both seats on the interface say; `bound`: how the workers' sockets are bound.
///
/// # Errors
/// Too few frames to say anything, in words.
pub fn judge(host: &Host, turns: &[Turn], bound: &str) -> Result<Decision, String> {
    if let Some(least) = turns.iter().min_by_key(|turn| turn.forwarded).filter(|turn| turn.forwarded < ENOUGH) {
        return Err(format!(
            "too few packets to judge: {} were forwarded in a turn of {:.1} s in mode {}, and it takes {ENOUGH}; ask for longer turns, or \
             when there is more traffic",
            least.forwarded,
            least.seconds,
            least.mode.name()
        ));
    }
    let attach = match host.attach {
        Attach::Native => "native",
        Attach::Generic => "generic",
    };
    let seat = |mode, bound: &str| -> Option<Candidate> {
        let measured = of_turns(turns, mode)?;
        Some(Candidate {
            mode,
            bound: bound.to_owned(),
            ns: Some(measured.ns),
            how: format!(
                "measured on the interface, in {} turns: CPU time of the workers, of softirqs on all cores (/proc/stat, in steps of 10 \
                 ms; other softirqs too) and of threads that serve the interface's queues, for each packet that was sent",
                measured.rounds
            ),
            measured: Some(measured),
            impossible: None,
        })
    };
    let candidates: Vec<Candidate> = [seat(ModeName::Xdp, attach), seat(ModeName::Afxdp, bound)].into_iter().flatten().collect();
    let [xdp, afxdp] = candidates.as_slice() else { return Err("not both seats had a turn".to_owned()) };
    let noise = [xdp, afxdp].iter().filter_map(|one| one.measured).map(|found| found.spread_ns).fold(0.0, f64::max);
    let (at, verdict) = cheapest(&candidates, noise);
    let numbers = format!("{:.0} in XDP, {:.0} in AF_XDP ({bound})", xdp.ns.unwrap_or(0.0), afxdp.ns.unwrap_or(0.0));
    let reason = format!("probe: {verdict} (ns of CPU a packet, measured on the interface: {numbers})");
    Ok(conclude(host, candidates, None, at, reason))
}

/// The turns of one seat together; `None`: it had none.
fn of_turns(turns: &[Turn], mode: ModeName) -> Option<Measured> {
    let mut own: Vec<&Turn> = turns.iter().filter(|turn| turn.mode == mode && turn.forwarded > 0).collect();
    let each = |turn: &Turn, nanos: u64| nanos as f64 / turn.forwarded as f64;
    let cost = |turn: &Turn| each(turn, turn.queue + turn.worker);
    own.sort_by(|a, b| cost(a).total_cmp(&cost(b)));
    let (best, worst) = (*own.first()?, *own.last()?);
    Some(Measured {
        ns: cost(best),
        queue_ns: each(best, best.queue),
        worker_ns: each(best, best.worker),
        // There are too few for a median.
        spread_ns: cost(worst) - cost(best),
        pps: own.iter().map(|turn| turn.forwarded as f64 / turn.seconds).fold(0.0, f64::max),
        forwarded: own.iter().map(|turn| turn.forwarded).sum(),
        lost: own.iter().map(|turn| turn.lost).sum(),
        rounds: own.len() as u32,
    })
}

#[cfg(test)]
mod tests;
