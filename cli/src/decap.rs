//! `tandem decap`: the decapsulation of a real server.

use clap::{Args, Subcommand};
use tandem_backends::config::Attach;
use tandem_backends::xdp::{Tunnels, attach_decap, decap_counts, decap_directory, detach_decap};

use crate::Failure;
use crate::root::interface;

const USUAL: Tunnels = Tunnels::standard();

#[derive(Args)]
pub struct DecapArgs {
    #[command(subcommand)]
    verb: DecapVerb,
}

#[derive(Subcommand)]
enum DecapVerb {
    /// Attaches it; it stays until it is detached
    Attach {
        #[command(flatten)]
        place: Place,
        /// Run in the network stack: for drivers without XDP
        #[arg(long)]
        generic: bool,
        /// Follow Katran's rules: IPIP and GUE version 1 alone
        #[arg(long)]
        katran: bool,
        #[command(flatten)]
        ports: Ports,
    },
    /// Takes it away
    Detach {
        #[command(flatten)]
        place: Place,
    },
    /// Its counters
    Show {
        #[command(flatten)]
        place: Place,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Args)]
struct Place {
    /// The interface
    #[arg(value_parser = interface)]
    interface: String,
    /// Name of its pins [default: the interface's]
    #[arg(long, value_parser = interface)]
    name: Option<String>,
}

impl Place {
    fn directory(&self) -> std::path::PathBuf {
        decap_directory(self.name.as_ref().unwrap_or(&self.interface))
    }
}

/// UDP destination ports, as the balancer's configuration has them.
#[derive(Args)]
struct Ports {
    /// Of GUE
    #[arg(long, value_name = "N", default_value_t = USUAL.gue_port, value_parser = clap::value_parser!(u16).range(1..))]
    gue_port: u16,
    /// Of FOU with IPv4 inside
    #[arg(long, value_name = "N", default_value_t = USUAL.fou_ports[0], value_parser = clap::value_parser!(u16).range(1..))]
    fou_port_v4: u16,
    /// Of FOU with IPv6 inside
    #[arg(long, value_name = "N", default_value_t = USUAL.fou_ports[1], value_parser = clap::value_parser!(u16).range(1..))]
    fou_port_v6: u16,
    /// Of Geneve
    #[arg(long, value_name = "N", default_value_t = USUAL.geneve_port, value_parser = clap::value_parser!(u16).range(1..))]
    geneve_port: u16,
}

impl Ports {
    fn tunnels(&self, katran: bool) -> Tunnels {
        let Self { gue_port, fou_port_v4, fou_port_v6, geneve_port } = *self;
        if katran {
            return Tunnels { gue_port, ..Tunnels::katran() };
        }
        Tunnels { gue_port, fou_ports: [fou_port_v4, fou_port_v6], geneve_port, ..USUAL }
    }
}

pub fn decap(args: &DecapArgs) -> Result<(), Failure> {
    match &args.verb {
        DecapVerb::Attach { place, generic, katran, ports } => {
            let mode = if *generic { Attach::Generic } else { Attach::Native };
            attach_decap(&place.interface, mode, &ports.tunnels(*katran), &place.directory())?;
            println!("{}: tunnels are taken off; pinned at {}", place.interface, place.directory().display());
        }
        DecapVerb::Detach { place } => {
            if detach_decap(&place.directory())? {
                println!("{}: tunnels are not taken off any more", place.interface);
            } else {
                println!("{}: nothing is pinned at {}", place.interface, place.directory().display());
            }
        }
        DecapVerb::Show { place, json } => {
            let counts = decap_counts(&place.directory())?;
            if *json {
                let counts: serde_json::Map<_, _> = counts.into_iter().map(|(name, n)| (name.to_owned(), n.into())).collect();
                println!("{}", serde_json::to_string_pretty(&counts)?);
                return Ok(());
            }
            for (name, count) in counts {
                println!("{name:24} {count}");
            }
        }
    }
    Ok(())
}
