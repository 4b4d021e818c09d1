//! The scenarios of `pktgen-scenarios/`, for a binary that is alone.

macro_rules! built_in {
    ($($name:literal $(+ $sidecar:literal)?),* $(,)?) => {
        /// Name, command file and sidecar of each.
        pub const BUILT_IN: &[(&str, &str, Option<&str>)] = &[
            $((
                $name,
                include_str!(concat!("../../pktgen-scenarios/", $name, ".pkt")),
                built_in!(@sidecar $($sidecar)?),
            ),)*
        ];
    };
    (@sidecar) => { None };
    (@sidecar $name:literal) => { Some(include_str!(concat!("../../pktgen-scenarios/", $name))) };
}

built_in! {
    "tcp-sport-0-0",
    "tcp-sport-0-100",
    "tcp-sport-0-1000",
    "tcp-sport-0-1000-syn" + "tcp-sport-0-1000-syn.toml",
    "tcp-sport-0-2000",
    "tcp-sport-0-6000",
    "tcp-sport-0-8000",
    "udp-sport-0-0",
    "udp-sport-0-100",
    "udp-sport-0-1000",
    "udp-sport-0-1000-imix" + "udp-sport-0-1000-imix.toml",
    "udp-sport-0-1000-size-1024",
    "udp-sport-0-1000-size-128",
    "udp-sport-0-1000-size-1500",
    "udp-sport-0-1000-size-256",
    "udp-sport-0-1000-size-512",
    "udp-sport-0-2000",
    "udp-sport-0-6000",
    "udp-sport-0-8000",
    "udp-sport-0-8000-churn" + "udp-sport-0-8000-churn.toml",
    "udp-sport-0-8000-shuffled" + "udp-sport-0-8000-shuffled.toml",
    "udp-sport-0-8000-zipf" + "udp-sport-0-8000-zipf.toml",
    "udp6-sport-0-0",
    "udp6-sport-0-100",
    "udp6-sport-0-1000",
    "udp6-sport-0-2000",
    "udp6-sport-0-6000",
    "udp6-sport-0-8000",
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::scenario::Scenario;

    /// Every file of the directory is built in, is accepted by the strict reader, and has the flows that its name says.
    #[test]
    fn all_files_are_scenarios() {
        let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../pktgen-scenarios");
        let entries = std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let files: BTreeSet<String> = entries.filter_map(|name| name.strip_suffix(".pkt").map(str::to_owned)).collect();
        let built_in: BTreeSet<String> = BUILT_IN.iter().map(|(name, ..)| (*name).to_owned()).collect();
        assert_eq!(files, built_in);
        for name in files {
            let scenario = Scenario::load(&directory.join(format!("{name}.pkt"))).unwrap();
            assert_eq!(scenario, Scenario::find(&name, std::path::Path::new("/nowhere")).unwrap(), "{name}");
            let last: u32 = name.split('-').nth(3).unwrap().parse().unwrap();
            assert_eq!((scenario.spread(), scenario.flows()), (last + 1, last as usize + 1), "{name}");
            let size = name
                .split_once("size-")
                .map_or(if name.starts_with("udp6") { 128 } else { 64 }, |(_, size)| size.parse().unwrap());
            assert_eq!(scenario.traffic.size.start, size, "{name}");
            let first = if last < 1235 { 0 } else { 1235 };
            assert_eq!(scenario.traffic.walk().next().unwrap().src_port, first, "{name}");
        }
    }
}
