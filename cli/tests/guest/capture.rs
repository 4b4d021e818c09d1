//! The program that captures on this kernel: loaded with a filter, and what it tells of each frame.

use tandem_backends::capture::{Classic, Wish};
use tandem_backends::config::parse;
use tandem_backends::memory::Sizes;
use tandem_backends::xdp::{Balancer, Headroom, Role};

use super::cases::{self, Case};
use super::report::Report;

/// UDP over IPv4 to an even port: loads by a number and by X, comparisons, a test of bits.
const EVEN_PORTS: [Classic; 9] = [
    classic(0x28, 0, 0, 12),
    classic(0x15, 0, 6, 0x800),
    classic(0x30, 0, 0, 23),
    classic(0x15, 0, 4, 17),
    classic(0xb1, 0, 0, 14),
    classic(0x48, 0, 0, 16),
    classic(0x45, 1, 0, 1),
    classic(0x06, 0, 0, 1),
    classic(0x06, 0, 0, 0),
];

const fn classic(code: u16, jt: u8, jf: u8, k: u32) -> Classic {
    Classic { code, jt, jf, k }
}

/// The same in Rust.
fn is_taken(frame: &[u8]) -> bool {
    let header = usize::from(frame[14] & 0xf) * 4;
    frame[12..14] == [8, 0] && frame[23] == 17 && frame.get(14 + header + 3).is_some_and(|port| port & 1 == 0)
}

pub fn run(report: &mut Report, cases: &[Case]) {
    match told(cases) {
        Ok(said) => report.ok(&format!("capture: {said}")),
        Err(why) => report.fail("capture", &why),
    }
}

fn told(cases: &[Case]) -> Result<String, String> {
    let plan = parse(&cases::configuration("always"), "guest").map_err(|error| format!("{error:?}"))?.plan;
    // Counters for whichever CPU it runs on: this is no replay.
    let sizes = Sizes { flow_sets: 1024, ..Sizes::for_plan(&plan, 64) };
    let wish = Wish { filter: EVEN_PORTS.to_vec(), rate: 1_000_000, snap: 100, ..Wish::default() };
    let mut balancer =
        Balancer::load_for(&Role::Unpinned, sizes, Some(wish)).map_err(|error| format!("it does not load: {error}"))?;
    let mut sources = balancer.sources().map_err(|error| error.to_string())?;
    let (mut out, mut taken) = (Vec::new(), 0);
    for Case { frame, what, .. } in cases {
        balancer.run_frame(frame, Headroom::Usual, &mut out).map_err(|error| error.to_string())?;
        let (mut came, mut went) = (Vec::new(), 0);
        sources.read(|sight, bytes| {
            if sight.reason == 0 {
                came.push((sight.len as usize, bytes.to_vec()));
            } else {
                went += 1;
            }
        });
        let expected = is_taken(frame).then(|| (frame.len(), frame[..frame.len().min(100)].to_vec()));
        if came != Vec::from_iter(expected) || went != came.len() {
            return Err(format!("{what}: {came:02x?}, and {went} times what became of it"));
        }
        taken += came.len();
    }
    let counts = sources.counts();
    if taken == 0 || taken == cases.len() || counts.captured != taken as u64 || counts.lost != 0 {
        return Err(format!("{taken} of {} frames: {counts:?}", cases.len()));
    }
    let size = balancer.budget().map_or_else(|_| String::new(), |budget| format!("{} instructions, ", budget.translated));
    Ok(format!("{size}{taken} of {} frames, each as it came and with what became of it", cases.len()))
}
