//! What mode auto measures, on stock kernels: before Linux 5.18 a socket makes the frames, before 5.12 no thread serves a queue.

use tandem_backends::calibrate::{Calibration, Feed, calibrate};
use tandem_backends::config::Attach;

use super::report::Report;

pub fn run(report: &mut Report) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let found = calibrate(Attach::Native, None).map_err(|error| error.to_string());
    if release.starts_with("5.10.") {
        let name = "a calibration: what this kernel lacks is named";
        let told = found.map_or_else(|why| why, |found| format!("{found:?}"));
        return report.result(name, if told.contains("Linux 5.12") { Ok(()) } else { Err(told) });
    }
    report.result("a calibration: both seats forward real frames in a private namespace", found.and_then(|found| whole(&found)));
}

fn whole(found: &Calibration) -> Result<(), String> {
    let ways = [("bounce", found.bounce), ("xdp", found.xdp), ("afxdp", found.afxdp)];
    for (name, way) in ways {
        println!("note: {name}: {:.0} ns a frame, {} forwarded, {} lost", way.ns, way.forwarded, way.lost);
    }
    let is_whole = ways.iter().all(|(_, way)| way.forwarded > 0 && way.ns > 0.0) && found.feed == Feed::LiveFrames;
    if is_whole { Ok(()) } else { Err(format!("{found:?}")) }
}
