//! Captures of scenarios, mistakes in arguments, comparisons of files.

use tandem_backends::replay::Capture;

use crate::Directory;
use crate::common::{output, tandem};

#[test]
fn a_capture_has_every_flow_once() {
    let directory = Directory::new("export");
    let said = output(&["bench", "export", "udp-sport-0-8000", "udp6-sport-0-100", "--out", &directory.path("")]);
    assert!(said.contains("udp-sport-0-8000.pcap: 8001 frames, 8001 flows"), "{said}");
    for (name, frames, size, first) in [("udp-sport-0-8000", 8001, 60, 1235), ("udp6-sport-0-100", 101, 124, 0)] {
        let mut capture = Capture::open(directory.0.join(format!("{name}.pcap")).as_path()).expect("a capture");
        let mut ports = Vec::new();
        while let Some(frame) = capture.next_frame().expect("a frame") {
            assert_eq!(frame.len(), size);
            let at = if size == 60 { 34 } else { 54 };
            ports.push(u16::from_be_bytes([frame[at], frame[at + 1]]));
        }
        assert_eq!((ports.len(), ports[0]), (frames, first), "{name}");
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), frames, "{name}");
    }
}

#[test]
fn mistakes_are_named() {
    let directory = Directory::new("mistakes");
    let file = directory.path("wrong.pkt");
    std::fs::write(&file, "range 0 src port 0 0 9\n").expect("a file");
    let cases: [(&[&str], i32, &str); 7] = [
        (&["bench", "no-such"], 2, "no scenario `no-such`"),
        (&["bench", &file], 2, "wrong.pkt:1:23: the command ends here; expected the increment"),
        (&["bench", "--modes", "xdp,ipvs"], 2, "expected one of xdp, afxdp, drop, bounce, fixed-header, afxdp-plain"),
        (&["bench", "--time", "0"], 2, "expected seconds from 0.05 to 3600"),
        (&["bench", "--core", "0"], 2, "need a core each"),
        (&["bench", "export", "no-such"], 2, "none of this name is built in; those are tcp-sport-0-0"),
        (&["bench", "compare", "/nowhere", "/nowhere"], 2, "/nowhere: No such file"),
    ];
    for (arguments, status, expected) in cases {
        let output = tandem(arguments).output().expect("tandem starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {said}");
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
}
