//! The calibration behind mode auto, on this host: real frames through both seats, and nothing left.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use tandem_backends::calibrate::{CalibrateError, Calibration, Feed, calibrate, calibrate_fed_by};
use tandem_backends::config::Attach;

/// Measures; `None`, and says so, where this process may not.
fn measured(feed: Feed) -> Option<Calibration> {
    match calibrate_fed_by(feed, Attach::Native, None) {
        Ok(found) => Some(found),
        Err(error @ (CalibrateError::Lacks(_) | CalibrateError::Namespace { .. })) => {
            assert!(std::env::var_os("TANDEM_REQUIRE_KERNEL").is_none(), "{error}");
            eprintln!("SKIPPED: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

fn names(directory: &str) -> BTreeSet<String> {
    let all = fs::read_dir(directory).expect(directory).filter_map(Result::ok);
    all.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// What there is of this process: open files, threads, and the kernel's threads of its links.
fn there() -> (usize, usize, Vec<String>) {
    let id = std::process::id();
    let is_ours = |name: &String| name.starts_with(&format!("napi/c{id}")) || name.starts_with(&format!("napi/r{id}"));
    let all = names("/proc").into_iter().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
    let threads = all.filter_map(|process| fs::read_to_string(format!("/proc/{process}/comm")).ok()).filter(is_ours);
    (names("/proc/self/fd").len(), names("/proc/self/task").len(), threads.collect())
}

/// One test: what is open is the process' affair.
#[test]
fn both_seats_forward_and_nothing_is_left() {
    let generic = calibrate(Attach::Generic, None).expect_err("natively alone").to_string();
    assert!(generic.contains("node.attach"), "{generic}");
    let links = names("/sys/class/net");
    // Sockets, too, as kernels before 5.18 need them.
    for feed in [Feed::LiveFrames, Feed::Sockets] {
        let Some(found) = measured(feed) else { return };
        println!("{found:#?}");
        assert!(found.feed == feed || found.feed == Feed::Sockets, "{found:?}");
        for (name, way) in [("bounce", found.bounce), ("xdp", found.xdp), ("afxdp", found.afxdp)] {
            assert!(way.forwarded > u64::from(found.flows) && way.rounds >= 3 && way.pps > 0.0, "{name}: {way:?}");
            assert!(way.ns > 0.0 && way.queue_ns > 0.0 && way.spread_ns >= 0.0, "{name}: {way:?}");
            assert!((way.ns - way.queue_ns - way.worker_ns).abs() < 1e-6, "{name}: {way:?}");
        }
        // Only userspace has a worker.
        assert!(found.afxdp.worker_ns > 0.0 && found.xdp.worker_ns == 0.0 && found.bounce.worker_ns == 0.0, "{found:?}");
    }
    let before = there();
    for _ in 0..20 {
        measured(Feed::LiveFrames).expect("as before");
    }
    // The kernel removes a namespace, its links and their threads in deferred work, and a thread from the list after it was joined: so
    // there may have been one more before.
    let until = Instant::now() + Duration::from_secs(20);
    let is_left =
        |(files, threads, of_links): (usize, usize, Vec<String>)| files > before.0 || threads > before.1 || !of_links.is_empty();
    while is_left(there()) {
        assert!(Instant::now() < until, "{:?}, and there was {before:?}", there());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(names("/sys/class/net"), links);
}
