//! Runs the binary: to its end within a time limit, or in the background until a test is done with it.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{fs, io};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tandem_backends::run::Paths;

/// The binary under test.
pub const TANDEM: &str = env!("CARGO_BIN_EXE_tandem");
/// What every command ends within, also on a machine with ten times as much to do: it only ends what hangs.
const LIMIT: Duration = Duration::from_secs(180);

/// A number that no other test of this host has now.
fn unique() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Says that a test did not run, past the harness, which hides what passing tests print.
pub fn skipped(why: &str) {
    assert!(std::env::var_os("TANDEM_REQUIRE_KERNEL").is_none(), "required, but {why}");
    let _ = writeln!(io::stderr(), "SKIPPED: {why}");
}

/// Whether this process may make namespaces and load programs; says so if not.
pub fn is_privileged() -> bool {
    let is_root = fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0);
    let missing = tandem_lab::check_permitted().err().map(|error| error.to_string());
    let missing = if is_root { missing } else { Some("it needs root".to_owned()) };
    missing.iter().for_each(|why| skipped(why));
    missing.is_none()
}

/// A directory of one test, readable by everybody; it goes with the value.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new() -> Self {
        let path = std::env::temp_dir().join(format!("tandem-test-{}", unique()));
        fs::create_dir(&path).expect("a new directory");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("open to read");
        Self(path)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub fn file(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, contents).expect("a file");
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// How a command ended, and what it said.
#[derive(Debug)]
pub struct Answer {
    pub status: ExitStatus,
    pub out: String,
    pub err: String,
}

impl Answer {
    /// Asserts that it was refused with this exit status and exactly one message, which contains all of `parts`.
    #[track_caller]
    pub fn refused(&self, status: i32, parts: &[&str]) {
        assert_eq!(self.status.code(), Some(status), "{self:?}");
        let messages: Vec<&str> = self.err.lines().filter(|line| line.starts_with("error:")).collect();
        assert_eq!(messages.len(), 1, "one message, not {messages:?} in {self:?}");
        assert!(!self.err.contains("panicked"), "{self:?}");
        for part in parts {
            assert!(self.err.contains(part), "no {part:?} in {self:?}");
        }
    }

    /// Asserts that it was done.
    #[track_caller]
    pub fn done(self) -> Self {
        assert!(self.status.success(), "{self:?}");
        self
    }
}

/// Runs `tandem` with these arguments to its end.
#[track_caller]
pub fn tandem<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Answer {
    let mut command = Command::new(TANDEM);
    command.args(arguments);
    finish(&mut command)
}

/// Runs a command to its end; one that does not end is killed, and fails the test.
#[track_caller]
pub fn finish(command: &mut Command) -> Answer {
    Run::start(command).end()
}

/// What a stream said so far.
#[derive(Default)]
struct Said {
    text: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Said {
    fn of(mut stream: impl Read + Send + 'static) -> Self {
        let text = Arc::new(Mutex::new(Vec::new()));
        let into = text.clone();
        let reader = std::thread::spawn(move || {
            let mut some = [0; 4096];
            while let Ok(count @ 1..) = stream.read(&mut some) {
                into.lock().expect("not poisoned").extend_from_slice(&some[..count]);
            }
        });
        Self { text, reader: Some(reader) }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.text.lock().expect("not poisoned")).into_owned()
    }

    fn read_to_the_end(&mut self) -> String {
        self.reader.take().map(JoinHandle::join);
        self.text()
    }
}

/// A process; killed if it is still there at the end.
pub struct Run {
    child: Child,
    out: Said,
    err: Said,
}

impl Run {
    /// Starts it.
    #[track_caller]
    pub fn start(command: &mut Command) -> Self {
        command.env_remove("TANDEM_LOG").env_remove("RUST_BACKTRACE").stdin(Stdio::null());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        let out = Said::of(child.stdout.take().expect("piped"));
        let err = Said::of(child.stderr.take().expect("piped"));
        Self { child, out, err }
    }

    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        let end = Instant::now() + LIMIT;
        while Instant::now() < end {
            if let Some(status) = self.child.try_wait().expect("our own child") {
                return status;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("it did not end within {LIMIT:?}: {}", self.err.text());
    }

    /// Waits for its end.
    #[track_caller]
    pub fn end(mut self) -> Answer {
        let status = self.wait();
        Answer { status, out: self.out(), err: self.err() }
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        let id = Pid::from_raw(i32::try_from(self.child.id()).expect("a process id"));
        kill(id, signal).expect("it runs");
    }

    fn out(&mut self) -> String {
        self.out.read_to_the_end()
    }

    fn err(&mut self) -> String {
        self.err.read_to_the_end()
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // One that has ended already is none of ours any more: std does not signal it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A `tandem run` in the background, under a name of its own. Whatever becomes of the test, nothing of it stays.
pub struct Balancer {
    run: Option<Run>,
    pub name: String,
}

/// A name for a balancer.
pub fn balancer_name() -> String {
    format!("test-{}", unique())
}

impl Balancer {
    /// Starts one, and waits until it forwards.
    #[track_caller]
    pub fn start(config: &Path) -> Self {
        Self::start_as(&balancer_name(), config, &[])
    }

    /// The same, under this name and with more options.
    #[track_caller]
    pub fn start_as(name: &str, config: &Path, options: &[&str]) -> Self {
        Self::start_with(name, config, options, &[])
    }

    /// The same, with more in its environment.
    #[track_caller]
    pub fn start_with(name: &str, config: &Path, options: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut command = Command::new(TANDEM);
        command.args(["run", "--name", name, "-c"]).arg(config).args(options).envs(environment.iter().copied());
        Self::start_by(command, name)
    }

    /// The same by a command that runs it under this name.
    #[track_caller]
    pub fn start_by(mut command: Command, name: &str) -> Self {
        let mut balancer = Self { run: Some(Run::start(&mut command)), name: name.to_owned() };
        balancer.wait_for("ready");
        balancer
    }

    /// Waits until it has logged `text`.
    #[track_caller]
    fn wait_for(&mut self, text: &str) {
        let run = self.run.as_mut().expect("it was started");
        let end = Instant::now() + LIMIT;
        while !run.err.text().contains(text) {
            let ended = run.child.try_wait().expect("our own child");
            assert!(ended.is_none() && Instant::now() < end, "no {text:?}: {ended:?} {}", run.err.text());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.run.as_ref().expect("it was started").child.id()
    }

    /// Sends it a signal.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        self.run.as_ref().expect("it was started").signal(signal);
    }

    /// Waits for its end; what it left stays.
    #[track_caller]
    pub fn end(&mut self) -> Answer {
        self.run.take().expect("it was started").end()
    }

    /// What it logged so far.
    pub fn log(&self) -> String {
        self.run.as_ref().map(|run| run.err.text()).unwrap_or_default()
    }

    /// Asks it: `tandem VERB… --name NAME --json`.
    #[track_caller]
    pub fn ask(&self, verb: &[&str]) -> serde_json::Value {
        let words = verb.iter().copied().chain(["--name", &self.name, "--json"]);
        let answer = tandem(words).done();
        serde_json::from_str(&answer.out).unwrap_or_else(|error| panic!("{error}: {answer:?}"))
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        drop(self.run.take());
        let _ = Command::new(TANDEM).args(["detach", &self.name]).output();
        let _ = Paths::of(&self.name).remove_files();
    }
}

/// Asserts that a balancer of this name left nothing.
#[track_caller]
pub fn assert_gone(name: &str) {
    let Paths { pins, socket, lock, calibration } = Paths::of(name);
    assert!(!calibration.exists(), "{} is left", calibration.display());
    assert!(!lock.exists(), "{} is left", lock.display());
    assert!(!pins.exists(), "{} is left", pins.display());
    for socket in [Paths::katran(&socket), socket] {
        assert!(!socket.exists(), "{} is left", socket.display());
    }
}

/// Whether a process was ended by this signal.
pub fn was_ended_by(status: ExitStatus, signal: Signal) -> bool {
    status.signal() == Some(signal as i32)
}
