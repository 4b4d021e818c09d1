//! A lab in which the balancer can run: companion programs attached, pins and sockets noted for removal.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use tandem_backends::config::Attach;
use tandem_backends::run::Paths;
use tandem_backends::xdp::{Companion, attach_companion};
use tandem_lab::{BPFFS, Host, Lab, Spec};

/// Name of the balancer that runs in the lab of this prefix.
pub fn balancer_name(prefix: &str) -> String {
    format!("lab-{prefix}")
}

/// What a lab and the balancer in it make outside of the lab's directory: pins of the companions, pins of the balancer, its
/// control socket and its lock.
pub fn outside(prefix: &str) -> [PathBuf; 4] {
    let balancer = Paths::of(&balancer_name(prefix));
    let companions = Path::new(BPFFS).join("tandem-lab").join(prefix);
    [companions, balancer.pins, balancer.socket, balancer.lock]
}

/// Builds a lab, with a BPF file system and the companions: the decapsulation on every real server, and on the far end of the
/// balancer's link the program without which a veth delivers nothing that XDP sends.
///
/// # Errors
/// What the lab or the kernel refuses; nothing is left then.
pub fn build(spec: Spec) -> anyhow::Result<Lab> {
    let mut lab = Lab::up(spec)?;
    let paths = outside(&lab.topology().spec.prefix);
    let [pins, ..] = paths.clone();
    lab.remove_with_it(paths)?;
    lab.ensure_bpffs(Path::new(BPFFS))?;
    fs::create_dir_all(&pins).with_context(|| format!("cannot make {} for the pins of the lab", pins.display()))?;
    let port = &lab.link(Host::Lb)?.router.interface;
    attach(&lab, Host::Router, Companion::Pass, port, &pins)?;
    for real in lab.topology().reals() {
        attach(&lab, real.host, Companion::Decap, &real.interface, &pins)?;
    }
    Ok(lab)
}

fn attach(lab: &Lab, host: Host, companion: Companion, interface: &str, pins: &Path) -> anyhow::Result<()> {
    let pin = pins.join(host.to_string());
    lab.enter(host, || attach_companion(companion, interface, Attach::Native, &pin))?.with_context(|| lab.namespace(host))
}
