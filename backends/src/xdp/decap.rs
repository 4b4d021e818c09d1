//! The decapsulation of real servers: loaded, asked frame by frame, read.

use aya::programs::{TestRun, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use tandem_engine::strip::Tunnels;

use super::companion::counts;
use super::error::XdpError;
use super::object::{OBJECT, load_object, program};

const DECAP: &str = "decap";
const ROOM: usize = 256;

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
        counts(&self.ebpf, "DECAPS")
    }
}

/// The object with the constants of `decap`.
pub(super) fn load_decap(tunnels: &Tunnels) -> Result<Ebpf, XdpError> {
    let (gue_port, katran) = (u32::from(tunnels.gue_port), u32::from(tunnels.katran));
    let (fou_ports, geneve_port) = (tunnels.fou_ports.map(u32::from), u32::from(tunnels.geneve_port));
    let mut loader = EbpfLoader::new();
    loader.override_global("DECAP_GUE_PORT", &gue_port, true).override_global("DECAP_KATRAN", &katran, true);
    loader.override_global("DECAP_FOU_PORTS", &fou_ports, true).override_global("DECAP_GENEVE_PORT", &geneve_port, true);
    load_object(&mut loader, OBJECT)
}
