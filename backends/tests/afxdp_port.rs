//! The AF_XDP seat over real sockets: a veth pair in a private network namespace (copy mode, which is all veth has).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::RecvTimeoutError;
use tandem_backends::afxdp::{
    Ask, Bound, Pace, Port, PortConfig, PortError, Report, Seat, SeatConfig, SeatError, receive_queues,
};
use tandem_backends::memory::{self, Plain, Tables};
use tandem_engine::Reason;
use tandem_engine::handover::VERSION;
use tandem_engine::memory::SeatCounter;
use tandem_engine::memory::features::SEVERAL;
use tandem_engine::memory::reals::Out;

use bed::{HandOver, Steer, Wire, in_namespace, index, ip, veth};
use tables::{STRANGER, VIP_MIXED, VIP_V4, VIP_V6, expected, udp};

#[path = "afxdp/bed.rs"]
mod bed;
#[path = "afxdp/tables.rs"]
#[expect(dead_code, reason = "the tests without sockets use the rest")]
mod tables;

const SOON: Duration = Duration::from_secs(2);
const TWENTY: HandOver = HandOver { room: 20, version: VERSION };

fn config(interface: &str, queues: u32) -> SeatConfig {
    SeatConfig { zero_copy: Ask::Never, frames: 512, ..SeatConfig::new(&[(interface, queues)], vec![0, 1]) }
}

fn start(config: &SeatConfig, tables: &Arc<Tables>) -> Seat {
    let memories = (0..config.workers.len() as u32).map(|worker| (Plain::new(tables.clone(), worker), || 77)).collect();
    Seat::start(config, memories).expect("the seat starts")
}

/// Sends frames a few at a time and returns what came back, without order.
fn exchange(wire: &Wire, frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
    exchange_over(wire, wire, frames)
}

/// The same; what was sent by one wire arrives by another.
fn exchange_over(from: &Wire, to: &Wire, frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut back = Vec::new();
    for (round, some) in frames.chunks(32).enumerate() {
        for frame in some {
            assert!(from.send(frame), "the link is down");
        }
        while back.len() < round * 32 + some.len() {
            let Some(frame) = to.receive(SOON) else {
                return back;
            };
            back.push(frame);
        }
    }
    back
}

fn count(frames: &[Vec<u8>]) -> HashMap<&[u8], usize> {
    let mut counts = HashMap::new();
    for frame in frames {
        *counts.entry(&frame[..]).or_default() += 1;
    }
    counts
}

/// All frames are accounted for, and none is left in the worker or on its way out.
fn assert_whole(report: &Report) {
    assert!(report.panicked.is_empty());
    for worker in &report.workers {
        assert!(worker.census.is_whole(), "{worker:?}");
        assert_eq!(worker.census.sending + worker.census.queued, 0, "{worker:?}");
        assert!(worker.lanes.iter().all(|lane| (lane.statistics.rx_invalid, lane.statistics.tx_invalid) == (0, 0)), "{worker:?}");
    }
}

fn refusal(at: (&str, u32), zero_copy: Ask) -> PortError {
    match Port::open(&PortConfig::new(at.0, at.1, zero_copy)) {
        Ok(port) => panic!("{} was opened", port.at(0)),
        Err(error) => error,
    }
}

#[test]
fn every_refusal_names_cause_and_cure() {
    in_namespace(|| {
        veth("near", "far", 2);
        let first = Port::open(&PortConfig::new("near", 0, Ask::Prefer)).expect("copy mode is there");
        assert_eq!(first.bound(0), Bound::Copy, "veth has no zero-copy mode");
        let census = first.census();
        assert_eq!((census.filling, census.total), (4096, 4096));

        let busy = refusal(("near", 0), Ask::Never);
        assert!(matches!(busy, PortError::Busy { .. }), "{busy:?}");
        let strict = refusal(("near", 1), Ask::Require);
        assert!(matches!(strict, PortError::NoZeroCopy { .. }), "{strict:?}");
        let beyond = refusal(("near", 2), Ask::Never);
        assert!(matches!(beyond, PortError::NoQueue { queues: 2, .. }), "{beyond:?}");
        let nowhere = refusal(("nowhere", 0), Ask::Prefer);
        assert!(matches!(nowhere, PortError::NoInterface { .. }), "{nowhere:?}");
        ip("link set dev far down");
        ip("link set dev near down");
        let down = refusal(("near", 1), Ask::Prefer);
        assert!(matches!(down, PortError::Down { .. }), "{down:?}");
        let sizes = PortConfig { frames: 100, ..PortConfig::new("near", 1, Ask::Never) };
        assert!(matches!(Port::open(&sizes), Err(PortError::Size { found: 100, .. })));

        for (error, cure) in [
            (busy, "near queue 0: another AF_XDP socket"),
            (strict, "allow copy mode"),
            (beyond, "the interface has 2"),
            (nowhere, "nowhere queue 0: no such interface"),
            (down, "`ip link set dev near up`"),
        ] {
            let text = error.to_string();
            assert!(text.contains(cure), "{text}");
        }
    });
}

#[test]
fn without_privileges_the_error_says_which() {
    in_namespace(|| {
        veth("near", "far", 1);
        // SAFETY: integers only; the system call concerns this thread, which ends with the test.
        let done = unsafe { libc::syscall(libc::SYS_setresuid, 65534, 65534, 65534) };
        assert_eq!(done, 0);
        let error = refusal(("near", 0), Ask::Never);
        assert!(matches!(error, PortError::Forbidden { .. }), "{error:?}");
        assert!(error.to_string().contains("CAP_NET_RAW"), "{error}");
    });
}

#[test]
fn queues_are_those_of_this_namespace() {
    in_namespace(|| {
        veth("near", "far", 3);
        assert_eq!(receive_queues("near").expect("a veth"), 3);
        assert_eq!(receive_queues("lo").expect("a driver without channels"), 1);
        assert_eq!(receive_queues("nowhere").expect_err("none").raw_os_error(), Some(libc::ENODEV));
        assert_eq!(receive_queues("a-name-that-is-too-long").expect_err("none").raw_os_error(), Some(libc::EINVAL));
    });
}

#[test]
fn what_comes_back_is_what_the_engine_makes() {
    in_namespace(|| {
        veth("near", "far", 1);
        let (tables, wire) = (tables::make(1), Wire::open("far"));
        let seat = start(&config("near", 1), &tables);
        let steer = Steer::attach("near", TWENTY);
        steer.redirect(&seat.sockets());
        // More frames than the UMEM has, so each is used several times; all sizes; reals of both families.
        let vips = [VIP_V4, VIP_MIXED, VIP_V6];
        let frames: Vec<_> = (0..3000u32).map(|i| udp(i % 500, vips[i as usize % 3], (i * 7 % 1400) as usize)).collect();
        let wanted = expected(&frames);
        let back = exchange(&wire, &frames);
        assert_eq!(back.len(), frames.len());
        assert!(count(&back) == count(&wanted), "the bytes differ");

        steer.forget(0);
        let report = seat.stop();
        assert_whole(&report);
        let worker = &report.workers[0];
        assert_eq!((worker.received(), worker.sent(), worker.refused), (3000, 3000, 0));
        assert_eq!(worker.lanes[0].bound, Bound::Copy);
        assert_eq!(tables::reason(&tables, Reason::Forwarded), 3000);
        assert_eq!(tables::seat(&tables, SeatCounter::Defect), 0);
        let grown = wanted.iter().zip(&frames).filter(|(w, f)| w.len() - f.len() == 40).count();
        assert!(grown > 1000);
        assert_eq!(tables::seat(&tables, SeatCounter::RoomMoved), grown as u64, "those that needed more than 20 bytes");

        // The queue is free again.
        start(&config("near", 1), &tables).stop();
    });
}

#[test]
fn frames_that_cannot_go_on_are_counted_and_released() {
    in_namespace(|| {
        veth("near", "far", 1);
        let (tables, wire) = (tables::make(1), Wire::open("far"));
        let seat = start(&config("near", 1), &tables);
        let steer = Steer::attach("near", TWENTY);
        steer.redirect(&seat.sockets());
        let mut expired = udp(1, VIP_V4, 10);
        expired[22] = 1;
        // More than the UMEM has of each, then one that comes back.
        for _ in 0..700 {
            assert!(wire.send(&udp(1, STRANGER, 10)));
            assert!(wire.send(&expired));
            std::thread::sleep(Duration::from_micros(20));
        }
        assert_eq!(exchange(&wire, &[udp(1, VIP_V4, 10)]).len(), 1);
        let gone = tables::seat(&tables, SeatCounter::VipGone);
        let report = seat.stop();
        assert_whole(&report);
        let statistics = &report.workers[0].lanes[0].statistics;
        let lost = statistics.rx_dropped + statistics.rx_ring_full;
        assert_eq!(gone + tables::reason(&tables, Reason::TtlExpired) + lost, 1400);
        assert!(gone > 512, "{gone} seen, {lost} lost by the kernel");
        assert_eq!(tables::seat(&tables, SeatCounter::Defect), 0);
    });
}

#[test]
fn another_builds_hand_over_is_a_defect() {
    in_namespace(|| {
        veth("near", "far", 1);
        let (tables, wire) = (tables::make(1), Wire::open("far"));
        let seat = start(&config("near", 1), &tables);
        let steer = Steer::attach("near", HandOver { room: 20, version: VERSION + 1 });
        steer.redirect(&seat.sockets());
        assert!(wire.send(&udp(1, VIP_V4, 10)));
        assert!(wire.receive(Duration::from_millis(200)).is_none(), "it was forwarded");
        let report = seat.stop();
        assert_whole(&report);
        assert_eq!(tables::seat(&tables, SeatCounter::Defect), 1);
    });
}

#[test]
fn each_queue_has_its_worker() {
    in_namespace(|| {
        veth("near", "far", 2);
        let (tables, wire) = (tables::make(2), Wire::open("far"));
        let seat = start(&config("near", 2), &tables);
        let steer = Steer::attach("near", TWENTY);
        steer.redirect(&seat.sockets());
        // The queue follows the flow's hash: many flows fill both.
        let frames: Vec<_> = (0..1500).map(|i| udp(i, VIP_V4, 64)).collect();
        let back = exchange(&wire, &frames);
        assert!(count(&back) == count(&expected(&frames)), "{} of {} came back", back.len(), frames.len());
        let cores: Vec<_> = seat.info().iter().map(|socket| (socket.at.queue, socket.core)).collect();
        assert_eq!(cores, [(0, 0), (1, 1)]);
        let report = seat.stop();
        assert_whole(&report);
        let received: Vec<_> = report.workers.iter().map(|w| w.received()).collect();
        assert_eq!(received.iter().sum::<u64>(), 1500);
        assert!(received.iter().all(|&n| n > 100), "{received:?}");
    });
}

/// Two interfaces, one with two queues and one with one: a worker serves all three, and sends by either interface.
#[test]
fn one_worker_serves_several_interfaces() {
    in_namespace(|| {
        veth("front", "client", 2);
        veth("back", "real", 1);
        let tables = tables::make(1);
        tables.root().features.set(SEVERAL);
        // The reals of one VIP are behind the other interface, those of another are not, and the third one's are nowhere.
        for (reals, interface) in [(1..4, index("back")), (4..7, 0), (7..9, 9999)] {
            let out = Out { interface, ..Out::default() };
            tables.reals()[reals].iter().for_each(|real| real.set_out(out, 0));
        }
        let config = SeatConfig { frames: 512, ..SeatConfig::new(&[("front", 2), ("back", 1)], vec![0]) };
        let seat = start(&config, &tables);
        let steers = ["front", "back"].map(|name| Steer::attach(name, TWENTY));
        steers.iter().for_each(|steer| steer.redirect(&seat.sockets()));
        let places: Vec<_> = seat.info().iter().map(|socket| (socket.at.to_string(), socket.worker, socket.bound)).collect();
        let all = ["front queue 0", "front queue 1", "back queue 0"].map(|name| (name.to_owned(), 0, Bound::Copy));
        assert_eq!(places, all);
        let (client, real) = (Wire::open("client"), Wire::open("real"));
        // More than the UMEM has: each chunk changes its lane several times.
        let across: Vec<_> = (0..3000).map(|i| udp(i, VIP_V4, 64)).collect();
        assert!(count(&exchange_over(&client, &real, &across)) == count(&expected(&across)), "in by one, out by the other");
        let back: Vec<_> = (0..700).map(|i| udp(i, VIP_V6, 64)).collect();
        assert!(count(&exchange(&client, &back)) == count(&expected(&back)), "back by where they came");
        assert!(count(&exchange(&real, &across[..700])) == count(&expected(&across[..700])), "in by the real's own");
        assert!(client.send(&udp(1, VIP_MIXED, 10)) && client.receive(Duration::from_millis(200)).is_none());
        let report = seat.stop();
        assert_whole(&report);
        let moved: Vec<_> = report.workers[0].lanes.iter().map(|lane| (lane.received, lane.sent)).collect();
        assert_eq!(report.workers[0].census.total, 3 * 512);
        assert_eq!((moved[0].0 + moved[1].0, moved[0].1 + moved[1].1), (3701, 700), "{moved:?}");
        assert_eq!(moved[2], (700, 3700), "{moved:?}");
        assert!(moved[0].0 > 500 && moved[1].0 > 500, "both queues of the first: {moved:?}");
        assert_eq!(tables::seat(&tables, SeatCounter::NoInterface), 1);
        assert_eq!(tables::seat(&tables, SeatCounter::Defect), 0);
        // All three queues are free again.
        start(&config, &tables).stop();
    });
}

/// One of a worker's two interfaces goes: the worker ends with its name, and its frames are where they should be.
#[test]
fn the_other_interface_of_a_worker_vanishes() {
    in_namespace(|| {
        veth("front", "client", 1);
        veth("back", "real", 1);
        let tables = tables::make(1);
        let seat = start(&SeatConfig::new(&[("front", 1), ("back", 1)], vec![0]), &tables);
        let steer = Steer::attach("front", TWENTY);
        steer.redirect(&seat.sockets());
        let client = Wire::open("client");
        let frames: Vec<_> = (0..32).map(|i| udp(i, VIP_V4, 64)).collect();
        assert_eq!(exchange(&client, &frames).len(), 32);
        ip("link del back");
        let event = seat.events().recv_timeout(SOON).expect("the worker tells");
        assert!(matches!(*event.error, PortError::Vanished { .. } | PortError::Down { .. }), "{:?}", event.error);
        assert!(event.error.to_string().starts_with("back queue 0: "), "{}", event.error);
        assert_eq!(event.at.len(), 2, "both queues are without a worker: {event:?}");
        let report = seat.stop();
        assert!(report.panicked.is_empty());
        assert!(report.workers[0].census.is_whole(), "{report:?}");
    });
}

#[test]
fn grace_is_short_whether_busy_or_idle() {
    in_namespace(|| {
        veth("near", "far", 1);
        let (tables, wire) = (tables::make(1), Wire::open("far"));
        let mut config = config("near", 1);
        // Only a parked worker lets go of the tables while it sleeps this long.
        config.pace = Pace { sleep: Duration::from_millis(500), ..Pace::default() };
        let seat = start(&config, &tables);
        let steer = Steer::attach("near", TWENTY);
        steer.redirect(&seat.sockets());
        std::thread::sleep(Duration::from_millis(100));
        let start = Instant::now();
        assert!(seat.grace());
        assert!(start.elapsed() < Duration::from_millis(250), "an idle worker was waited for: {:?}", start.elapsed());
        let frames: Vec<_> = (0..32).map(|i| udp(i, VIP_V4, 64)).collect();
        for _ in 0..50 {
            assert_eq!(exchange(&wire, &frames).len(), 32);
            assert!(seat.grace());
        }
        assert_whole(&seat.stop());
    });
}

#[test]
fn an_idle_seat_costs_no_cpu() {
    in_namespace(|| {
        veth("idle0", "far", 1);
        let seat = start(&config("idle0", 1), &tables::make(1));
        let used = || {
            let tasks = std::fs::read_dir("/proc/self/task").expect("procfs");
            let paths: Vec<_> = tasks.map(|t| t.expect("a thread").path()).collect();
            let name = |p: &std::path::PathBuf| std::fs::read_to_string(p.join("comm")).unwrap_or_default();
            let worker = paths.iter().find(|p| name(p).trim() == "xsk0-idle0").expect("the worker's thread");
            let stat = std::fs::read_to_string(worker.join("schedstat")).expect("schedstat");
            let nanoseconds = stat.split(' ').next().and_then(|n| n.parse().ok()).expect("a number");
            Duration::from_nanos(nanoseconds)
        };
        std::thread::sleep(Duration::from_millis(100));
        let before = used();
        std::thread::sleep(Duration::from_secs(1));
        let spent = used() - before;
        assert!(spent < Duration::from_millis(50), "{spent:?} in a second");
        assert_whole(&seat.stop());
    });
}

#[test]
fn an_interface_that_vanishes_ends_its_worker_with_a_reason() {
    in_namespace(|| {
        veth("near", "far", 1);
        let (tables, wire) = (tables::make(1), Wire::open("far"));
        let seat = start(&config("near", 1), &tables);
        let steer = Steer::attach("near", TWENTY);
        steer.redirect(&seat.sockets());
        let frames: Vec<_> = (0..32).map(|i| udp(i, VIP_V4, 64)).collect();
        assert_eq!(exchange(&wire, &frames).len(), 32);
        ip("link del near");
        let event = seat.events().recv_timeout(SOON).expect("the worker tells");
        assert!(matches!(*event.error, PortError::Vanished { .. }), "{:?}", event.error);
        let text = event.error.to_string();
        assert!(text.starts_with("near queue 0: the interface vanished"), "{text}");
        assert!(seat.grace(), "nobody waits for a worker that is gone");
        while !seat.sockets().is_empty() {
            std::thread::yield_now();
        }
        let more = seat.events().recv_timeout(Duration::from_millis(50));
        assert_eq!(more.err(), Some(RecvTimeoutError::Timeout), "who selects on it must not spin");
        let report = seat.stop();
        assert!(report.panicked.is_empty());
        let worker = &report.workers[0];
        assert!(worker.error.is_some());
        assert!(worker.census.is_whole(), "{worker:?}");
    });
}

#[test]
fn an_interface_that_goes_down_ends_its_worker_with_a_reason() {
    in_namespace(|| {
        veth("near", "far", 1);
        let seat = start(&config("near", 1), &tables::make(1));
        ip("link set dev near down");
        let event = seat.events().recv_timeout(SOON).expect("the worker tells");
        assert!(matches!(*event.error, PortError::Down { .. }), "{:?}", event.error);
    });
}

#[test]
fn a_seat_starts_whole_or_not_at_all() {
    in_namespace(|| {
        veth("near", "far", 2);
        let tables = tables::make(2);
        let memories = || (0..2).map(|worker| (Plain::new(tables.clone(), worker), || 0)).collect::<Vec<_>>();
        let holder = Port::open(&PortConfig::new("near", 1, Ask::Never)).expect("free");
        let error = Seat::start(&config("near", 2), memories()).err().expect("queue 1 is taken");
        assert!(matches!(error, SeatError::Port(PortError::Busy { .. })), "{error:?}");
        drop(holder);
        for core in [1000, 5000] {
            let config = SeatConfig { cores: vec![0, core], ..config("near", 2) };
            let error = Seat::start(&config, memories()).err().expect("no such core");
            assert!(matches!(error, SeatError::Core { .. }), "{error:?}");
        }
        let error = Seat::start(&config("near", 1), memories()).err().expect("one memory too many");
        assert!(matches!(error, SeatError::Memories { found: 2, expected: 1, .. }), "{error:?}");
        let none = SeatConfig { cores: vec![], ..config("near", 2) };
        assert!(matches!(Seat::start(&none, memories()), Err(SeatError::Nothing { what: "cores", .. })));
        // Nothing was left behind: both queues are free.
        assert_whole(&start(&config("near", 2), &tables).stop());
    });
}
