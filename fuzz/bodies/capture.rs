//! Any bytes as a capture file, pcap or pcapng: frames, or an error; it ends, and no frame is larger than the file.

use std::path::PathBuf;

use tandem_backends::replay::Capture;

/// One input.
pub fn run(bytes: &[u8]) {
    let path = path();
    std::fs::write(&path, bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let Ok(mut capture) = Capture::open(&path) else { return };
    let mut frames = 0;
    while let Ok(Some(frame)) = capture.next_frame() {
        assert!(frame.len() <= bytes.len());
        frames += 1;
        assert!(frames <= bytes.len(), "a frame takes at least a byte");
    }
}

/// One file a process, where files are memory.
fn path() -> PathBuf {
    let directory = PathBuf::from("/dev/shm");
    let directory = if directory.is_dir() { directory } else { std::env::temp_dir() };
    directory.join(format!("tandem-fuzz-{}", std::process::id()))
}
