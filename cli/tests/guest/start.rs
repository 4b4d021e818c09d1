//! The beginning and the end: as the init process of a kernel that has nothing else, or as an ordinary process.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::Path;

use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::report::Report;

/// Modules in the order in which they load, beside this program in the initial file system.
const MODULES: &str = "/modules";

pub fn is_init() -> bool {
    std::process::id() == 1
}

pub fn is_privileged() -> bool {
    match tandem_lab::check_permitted() {
        Ok(()) => true,
        Err(why) => {
            let required = std::env::var_os("TANDEM_REQUIRE_KERNEL").is_some_and(|v| v == "1");
            assert!(!required, "{why}");
            false
        }
    }
}

/// Namespaces for network and mounts that end with the process.
pub fn in_namespaces() {
    unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
    tandem_lab::own_mounts().expect("mounts of our own");
    mount(Some("bpf"), "/sys/fs/bpf", Some("bpf"), MsFlags::empty(), None::<&str>).expect("a BPF file system");
}

/// Runs, and switches the machine off: whatever happens, this does not return.
pub fn as_init(run: impl FnOnce() -> Report + std::panic::UnwindSafe) -> ! {
    // The firmware's escape codes are in the line before.
    println!();
    let begun = std::panic::catch_unwind(|| {
        begin();
        run();
    });
    if begun.is_err() {
        println!("FAIL the guest: a panic, see above");
    }
    // SAFETY: the descriptor is this process' own; the call waits until the console has it all.
    unsafe { libc::tcdrain(1) };
    // SAFETY: ends the machine, which has no disk to lose anything on.
    unsafe { libc::reboot(libc::LINUX_REBOOT_CMD_POWER_OFF) };
    panic!("the machine does not switch off")
}

fn begin() {
    for (kind, at) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"), ("tmpfs", "/tmp"), ("tmpfs", "/run")] {
        fs::create_dir_all(at).expect("a directory");
        mount(Some(kind), at, Some(kind), MsFlags::empty(), None::<&str>).unwrap_or_else(|error| panic!("{at}: {error}"));
    }
    mount(Some("bpf"), "/sys/fs/bpf", Some("bpf"), MsFlags::empty(), None::<&str>).expect("a BPF file system");
    let mut modules: Vec<_> = fs::read_dir(MODULES).expect("modules").map(|entry| entry.expect("an entry").path()).collect();
    modules.sort();
    for module in modules {
        if let Err(error) = load(&module) {
            println!("note: {}: {error}", module.display());
        }
    }
}

/// `finit_module(2)`.
fn load(module: &Path) -> std::io::Result<()> {
    let file = File::open(module)?;
    // SAFETY: the descriptor is open, the parameters are an empty terminated text, no flags.
    let answer = unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), 0) };
    match std::io::Error::last_os_error() {
        _ if answer == 0 => Ok(()),
        // It is there, or built in.
        error if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        error => Err(error),
    }
}
