//! The small programs beside the balancer: for real servers, and for the far end of a veth.

use std::path::Path;

use aya::EbpfLoader;

use super::balancer::attach;
use super::error::{XdpError, errno, load_cure};
use super::object::{OBJECT, program};
use crate::config::Attach;

/// A program beside the balancer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Companion {
    /// Strips IPIP on a real server and passes the client's packet to its stack.
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
    let mut ebpf = EbpfLoader::new().load(OBJECT).map_err(|source| {
        let cure = load_cure(errno(&source));
        XdpError::Load { source: Box::new(source), cure }
    })?;
    attach(program(&mut ebpf, companion.name())?, companion.name(), interface, mode, Some(pin))
}
