//! `tandem bench`, really run: small benchmarks in a lab, gates that are provoked, captures, comparisons.

#[path = "../common/mod.rs"]
mod common;
mod files;
mod gates;
mod runs;

use std::path::PathBuf;

/// A directory of this test's own, removed with the value.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("tandem-bench-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a directory");
        Self(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Namespaces, pins and states of labs whose names begin so.
fn left(prefix: &str) -> Vec<String> {
    let directories = ["/run/netns", "/run/tandem-lab", "/sys/fs/bpf", "/sys/fs/bpf/tandem", "/run/tandem"];
    let entries = directories.iter().flat_map(|directory| std::fs::read_dir(directory).into_iter().flatten().flatten());
    let names = entries.map(|entry| entry.path().display().to_string());
    names.filter(|path| path.contains(&format!("/{prefix}-")) || path.contains(&format!("/lab-{prefix}-"))).collect()
}
