//! The small programs beside the balancer: for real servers, for the far end of a veth, and the root of several programs.

use std::borrow::Borrow;
use std::path::Path;

use aya::maps::{MapData, PerCpuArray};
use aya::{Ebpf, EbpfLoader};
use tandem_engine::strip::Tunnels;

use super::attach::attach;
use super::decap::load_decap;
use super::error::XdpError;
use super::object::{OBJECT, load_object, program};
use crate::config::Attach;

/// A program beside the balancer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Companion {
    /// Strips every tunnel, at the usual ports, on a real server and passes the client's packet to its stack.
    Decap,
    /// Passes everything: a veth delivers XDP_TX and AF_XDP frames only to a peer with a program.
    Pass,
}

impl Companion {
    fn name(self) -> &'static str {
        match self {
            Self::Decap => "decap",
            Self::Pass => "pass",
        }
    }
}

/// Attaches a companion to an interface of the current network namespace, for as long as `pin` (on bpffs) exists.
///
/// # Errors
/// [`XdpError`].
pub fn attach_companion(companion: Companion, interface: &str, mode: Attach, pin: &Path) -> Result<(), XdpError> {
    let mut ebpf = match companion {
        Companion::Decap => load_decap(&Tunnels::standard())?,
        Companion::Pass => load_object(&mut EbpfLoader::new(), OBJECT)?,
    };
    attach(program(&mut ebpf, companion.name())?, companion.name(), interface, mode, Some(pin))
}

/// All counters of a per-CPU array, summed over CPUs.
pub(super) fn counts(ebpf: &Ebpf, name: &'static str) -> Result<Vec<u64>, XdpError> {
    let missing = || XdpError::Missing { what: "per-CPU array", name };
    let array: PerCpuArray<_, u64> = ebpf.map(name).and_then(|map| map.try_into().ok()).ok_or_else(missing)?;
    sums(&array).ok_or_else(missing)
}

/// The counters of a per-CPU array, summed over CPUs; `None`: the kernel does not give them.
pub(super) fn sums<T: Borrow<MapData>>(array: &PerCpuArray<T, u64>) -> Option<Vec<u64>> {
    let sums = array.iter().map(|values| values.map(|values| values.iter().sum()));
    sums.collect::<Result<_, _>>().ok()
}
