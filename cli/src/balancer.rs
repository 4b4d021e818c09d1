//! `tandem run` and `tandem detach`.

use std::path::PathBuf;

use clap::Args;
use sd_notify::NotifyState;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use tandem_backends::run::{Life, Options, Paths, Signals, calibration, run as run_balancer};
use tandem_backends::xdp::{Balancer, SlotWish};

use crate::logs::LogFormat;
use crate::privileges::{More, give_up_others};
use crate::{Failure, load};

#[derive(Args)]
pub struct RunArgs {
    /// The configuration
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    /// Name of this balancer, for its pins and its control socket [default: the interface's]
    #[arg(long, value_parser = balancer_name)]
    name: Option<String>,
    /// At the end, leave the program attached and the tables pinned: the kernel goes on forwarding, and the next run takes
    /// over without losing a flow
    #[arg(long)]
    leave_attached: bool,
    /// Take the place of the balancer of this name that is running: it stops its workers, leaves everything else in place and
    /// ends; the kernel goes on forwarding meanwhile, and no flow notices
    #[arg(long)]
    take_over: bool,
    /// What the log looks like
    #[arg(long, value_enum, default_value = "text")]
    pub log_format: LogFormat,
    /// Enter a slot of this pinned program array (`tandem root attach` makes one) instead of attaching to the interface;
    /// node.attach is then the root's affair
    #[arg(long, value_name = "PATH", requires = "xdp_slot")]
    xdp_root: Option<PathBuf>,
    /// The slot; lower ones see each frame first
    #[arg(long, value_name = "N", requires = "xdp_root")]
    xdp_slot: Option<u32>,
}

#[derive(Args)]
pub struct DetachArgs {
    /// The balancer's name: its interface, or what --name said
    #[arg(value_parser = balancer_name)]
    name: String,
}

/// A name is a part of paths that are made and removed.
pub fn balancer_name(text: &str) -> Result<String, String> {
    let fits = (1..=64).contains(&text.len()) && !text.contains(['/', '\0']) && text != "." && text != "..";
    if fits {
        Ok(text.to_owned())
    } else {
        Err("not the name of a balancer: 1 to 64 bytes without `/`, not `.` or `..`".to_owned())
    }
}

pub fn run(args: &RunArgs) -> Result<(), Failure> {
    let plan = load(&args.config)?;
    crate::doctor::at_start(&plan, &args.config, args.name.as_deref());
    // It takes a private network namespace, and so a privilege that is given up next.
    let calibration = calibration(&plan, args.name.as_deref());
    give_up_others(&More { by_id: args.xdp_root.is_some(), shares: plan.api.group.is_some() })?;
    let signals = Signals::default();
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, signals.stop.clone())?;
    }
    signal_hook::flag::register(SIGHUP, signals.reload.clone())?;
    signal_hook::flag::register(SIGUSR1, signals.hand_over.clone())?;
    let slot = args.xdp_root.clone().zip(args.xdp_slot).map(|(path, slot)| SlotWish { path, slot });
    let config = Some(args.config.clone());
    let options = Options {
        name: args.name.clone(),
        config,
        leave_attached: args.leave_attached,
        take_over: args.take_over,
        slot,
        calibration,
    };
    run_balancer(&plan, &options, &signals, tell, |handle, socket| Ok(tandem_api::serve(handle, socket, &args.config, &plan)?))?;
    Ok(())
}

/// Tells the service manager; without one there is nobody to tell.
fn tell(life: Life) {
    let states = match life {
        Life::Ready => {
            log::info!("ready");
            vec![NotifyState::Ready]
        }
        Life::Reloading => std::iter::once(NotifyState::Reloading).chain(NotifyState::monotonic_usec_now().ok()).collect(),
        Life::Alive => vec![NotifyState::Watchdog],
        Life::Stopping => vec![NotifyState::Stopping],
    };
    let _ = sd_notify::notify(false, &states);
}

pub fn detach(args: &DetachArgs) -> Result<(), Failure> {
    let paths = Paths::of(&args.name);
    if paths.is_running() {
        return Err(anyhow::anyhow!("{}: the balancer is running; stop it first (SIGTERM detaches)", args.name).into());
    }
    paths.remove_files()?;
    if Balancer::remove_left(&paths.pins)? {
        println!("{}: detached, pins removed", args.name);
    } else {
        println!("{}: nothing is left of it ({})", args.name, paths.pins.display());
    }
    Ok(())
}
