//! CPU time by thread and of softirqs, as procfs tells it.

use std::{fs, io};

/// Ticks of `/proc/stat` in a second (`USER_HZ`), on every architecture that has XDP.
const USER_HZ: u64 = 100;

/// The numbers of the processes (`/proc`), or of a process' threads (`/proc/self/task`), whose names begin so.
pub fn named<'a>(directory: &'a str, name: &str) -> impl Iterator<Item = i32> + use<'a> {
    // The kernel keeps 15 bytes of most names.
    let name: String = name.chars().take(15).collect();
    let all = fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok);
    let numbers = all.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    numbers
        .filter(move |number| fs::read_to_string(format!("{directory}/{number}/comm")).is_ok_and(|comm| comm.starts_with(&name)))
}

/// Nanoseconds that a thread has run, in user mode and in the kernel: exact while it sleeps, else as of the last timer interrupt.
///
/// # Errors
/// There is no such thread, or the kernel was built without `CONFIG_SCHED_INFO`.
pub fn time_of(thread: i32) -> io::Result<u64> {
    let path = format!("/proc/{thread}/schedstat");
    let text = fs::read_to_string(&path)?;
    let spent = text.split(' ').next().and_then(|nanos| nanos.parse().ok());
    spent.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("{path}: no number in {text:?}")))
}

/// Nanoseconds that all cores have spent in softirqs, in steps of 10 ms.
///
/// # Errors
/// `/proc/stat` cannot be read.
pub fn softirq_time() -> io::Result<u64> {
    softirq_of(&fs::read_to_string("/proc/stat")?)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/proc/stat: no softirq time in its first line"))
}

fn softirq_of(stat: &str) -> Option<u64> {
    let ticks: u64 = stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace().nth(6)?.parse().ok()?;
    Some(ticks * (1_000_000_000 / USER_HZ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seventh_number_is_that_of_softirqs() {
        let stat = "cpu  50813 12 22290 1234567 890 0 432 77 0 0\ncpu0 1 2 3 4 5 6 7 8 9 10\n";
        assert_eq!(softirq_of(stat), Some(4_320_000_000));
        assert_eq!(softirq_of("cpu0 1 2 3 4 5 6 7 8 9 10\n"), None);
        assert!(softirq_time().is_ok());
    }

    #[test]
    fn threads_are_found_by_their_names_and_have_run() {
        let thread = std::thread::Builder::new().name("found-by-name".to_owned());
        let (tell, told) = std::sync::mpsc::channel::<()>();
        let thread = thread.spawn(move || told.recv()).unwrap();
        let until = std::time::Instant::now() + std::time::Duration::from_secs(5);
        // It names itself when it runs.
        let number = loop {
            match named("/proc/self/task", "found-by").next() {
                Some(number) => break number,
                None => assert!(std::time::Instant::now() < until, "no such thread"),
            }
        };
        assert!(time_of(number).unwrap() > 0);
        drop(tell);
        assert!(thread.join().unwrap().is_err());
    }
}
