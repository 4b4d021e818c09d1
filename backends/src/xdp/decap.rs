//! The decapsulation of real servers: loaded, attached, asked frame by frame, read.

use std::path::{Path, PathBuf};

use aya::maps::{Map, MapData, PerCpuArray};
use aya::programs::{TestRun, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use tandem_engine::strip::{Tunnels, counter_names};

use super::attach::attach;
use super::balancer::{make_directory, remove, remove_directory};
use super::companion::{counts, sums};
use super::error::{XdpError, chain};
use super::object::{OBJECT, load_object, program};
use crate::config::Attach;

const DECAP: &str = "decap";
const ROOM: usize = 256;
const COUNTS: &str = "DECAPS";

/// The `decap` program in the kernel, attached to nothing.
pub struct Decap {
    ebpf: Ebpf,
}

impl Decap {
    /// Loads it for these tunnels; it opens IPIP whatever they say.
    ///
    /// # Errors
    /// [`XdpError`]: no privileges, a kernel that is too old.
    pub fn load(tunnels: &Tunnels) -> Result<Self, XdpError> {
        let mut ebpf = load_decap(tunnels)?;
        program(&mut ebpf, DECAP)?;
        Ok(Self { ebpf })
    }

    /// Runs one frame; gives the XDP action and the frame as it was left.
    ///
    /// # Errors
    /// [`XdpError::TestRun`]: a frame that is shorter than an Ethernet header or longer than
    /// [`LARGEST_TEST_FRAME`](super::LARGEST_TEST_FRAME).
    pub fn run_frame(&self, frame: &[u8], out: &mut Vec<u8>) -> Result<u32, XdpError> {
        let missing = || XdpError::Missing { what: "program", name: DECAP };
        let program: &Xdp = self.ebpf.program(DECAP).and_then(|p| p.try_into().ok()).ok_or_else(missing)?;
        out.clear();
        out.resize(frame.len() + ROOM, 0);
        let options = TestRunOptions { data_in: Some(frame), data_out: Some(out), ..Default::default() };
        let failed = |source| XdpError::TestRun { program: DECAP, bytes: frame.len(), source: Box::new(source) };
        let result = program.test_run(options).map_err(failed)?;
        out.truncate(result.data_size_out as usize);
        Ok(result.return_value)
    }

    /// Its counters, by the indices of [`tandem_engine::strip::counter_names`], summed over CPUs.
    ///
    /// # Errors
    /// [`XdpError::Missing`]: the object has no such counters.
    pub fn counts(&self) -> Result<Vec<u64>, XdpError> {
        counts(&self.ebpf, COUNTS)
    }
}

/// Where the pins of a real server's decapsulation are: the attachment, and the counters.
pub fn decap_directory(name: &str) -> PathBuf {
    Path::new("/sys/fs/bpf/tandem-decap").join(name)
}

/// Attaches `decap` to an interface of the current network namespace, until [`detach_decap`].
///
/// # Errors
/// [`XdpError`]: something is pinned there already, another program is attached, no privileges.
pub fn attach_decap(interface: &str, mode: Attach, tunnels: &Tunnels, directory: &Path) -> Result<(), XdpError> {
    if directory.exists() {
        return Err(XdpError::Pin {
            path: directory.to_owned(),
            what: "cannot pin the decapsulation",
            cause: "something is pinned there already".to_owned(),
            cure: "is it attached already? `tandem decap detach` removes it, or choose another --name",
        });
    }
    make_directory(directory)?;
    let attached = attach_in(interface, mode, tunnels, directory);
    if attached.is_err() {
        detach_decap(directory)?;
    }
    attached
}

fn attach_in(interface: &str, mode: Attach, tunnels: &Tunnels, directory: &Path) -> Result<(), XdpError> {
    let mut ebpf = load_for(tunnels, Some(&directory.join(COUNTS)))?;
    attach(program(&mut ebpf, DECAP)?, DECAP, interface, mode, Some(&directory.join("link")))
}

/// Takes it away; `false`: there was none.
///
/// # Errors
/// [`XdpError::Pin`]: a pin cannot be removed.
pub fn detach_decap(directory: &Path) -> Result<bool, XdpError> {
    if !directory.exists() {
        return Ok(false);
    }
    remove(Some(&directory.join("link")))?;
    remove(Some(&directory.join(COUNTS)))?;
    remove_directory(directory)?;
    Ok(true)
}

/// The counters of an attached one, by name.
///
/// # Errors
/// [`XdpError::Pin`]: there is none, or this process may not read it.
pub fn decap_counts(directory: &Path) -> Result<Vec<(&'static str, u64)>, XdpError> {
    let path = directory.join(COUNTS);
    let fail = |cause| XdpError::Pin {
        path: path.clone(),
        what: "cannot read the counters of the decapsulation",
        cause,
        cure: "is it attached (`tandem decap attach`), and are you root?",
    };
    let map = MapData::from_pin(&path).map_err(|error| fail(chain(&error)))?;
    let array: PerCpuArray<_, u64> = Map::PerCpuArray(map).try_into().map_err(|error| fail(chain(&error)))?;
    let counts = sums(&array).ok_or_else(|| fail("the kernel does not give them".to_owned()))?;
    Ok(counter_names().zip(counts).collect())
}

/// The object with the constants of `decap`.
pub(super) fn load_decap(tunnels: &Tunnels) -> Result<Ebpf, XdpError> {
    load_for(tunnels, None)
}

/// With its counters pinned at a path.
fn load_for(tunnels: &Tunnels, counters: Option<&Path>) -> Result<Ebpf, XdpError> {
    let (gue_port, katran) = (u32::from(tunnels.gue_port), u32::from(tunnels.katran));
    let (fou_ports, geneve_port) = (tunnels.fou_ports.map(u32::from), u32::from(tunnels.geneve_port));
    let mut loader = EbpfLoader::new();
    if let Some(path) = counters {
        loader.map_pin_path(COUNTS, path);
    }
    loader.override_global("DECAP_GUE_PORT", &gue_port, true).override_global("DECAP_KATRAN", &katran, true);
    loader.override_global("DECAP_FOU_PORTS", &fou_ports, true).override_global("DECAP_GENEVE_PORT", &geneve_port, true);
    load_object(&mut loader, OBJECT)
}
