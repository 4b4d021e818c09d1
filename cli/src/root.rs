//! `tandem root`: the place where several XDP programs of one interface meet.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use tandem_backends::config::Attach;
use tandem_backends::xdp::{attach_root, detach_root, list_slots, put_tap, root_array};

use crate::Failure;

#[derive(Args)]
pub struct RootArgs {
    #[command(subcommand)]
    verb: RootVerb,
}

#[derive(Subcommand)]
enum RootVerb {
    /// Attaches a root with empty slots, and pins their array
    Attach {
        #[command(flatten)]
        place: Place,
        /// Run in the network stack: for drivers without XDP
        #[arg(long)]
        generic: bool,
    },
    /// Takes the root away, with whatever is in its slots
    Detach {
        #[command(flatten)]
        place: Place,
    },
    /// Lists the slots: which program is in each, and what a tap counted
    Show {
        #[command(flatten)]
        place: Place,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Puts a program into a slot that counts each frame and goes on to the next slot
    Tap {
        #[command(flatten)]
        place: Place,
        /// The slot
        #[arg(long, value_name = "N", default_value_t = 0)]
        slot: u32,
    },
}

#[derive(Args)]
struct Place {
    /// The interface
    #[arg(value_parser = interface)]
    interface: String,
    /// Pin of the array [default: /sys/fs/bpf/jmp_INTERFACE]
    #[arg(long, value_name = "PATH")]
    pin: Option<PathBuf>,
}

impl Place {
    fn array(&self) -> PathBuf {
        self.pin.clone().unwrap_or_else(|| root_array(&self.interface))
    }
}

/// A name is a part of paths that are made and removed.
pub fn interface(text: &str) -> Result<String, String> {
    let fits = (1..16).contains(&text.len()) && !text.contains(['/', '\0']) && text != "." && text != "..";
    if fits { Ok(text.to_owned()) } else { Err("not the name of an interface: 1 to 15 bytes without `/`".to_owned()) }
}

pub fn root(args: &RootArgs) -> Result<(), Failure> {
    match &args.verb {
        RootVerb::Attach { place, generic } => {
            let (array, mode) = (place.array(), if *generic { Attach::Generic } else { Attach::Native });
            attach_root(&place.interface, mode, &array)?;
            println!("{}: root attached, its slots are pinned at {}", place.interface, array.display());
        }
        RootVerb::Detach { place } => {
            let array = place.array();
            if detach_root(&array)? {
                println!("{}: root detached, {} removed", place.interface, array.display());
            } else {
                println!("{}: there is no root at {}", place.interface, array.display());
            }
        }
        RootVerb::Show { place, json } => {
            let rows = list_slots(&place.array())?;
            if *json {
                println!("{}", serde_json::to_string_pretty(&rows)?);
                return Ok(());
            }
            for row in rows {
                let name = row.name.unwrap_or_default();
                let program = row.program.map_or_else(|| "empty".to_owned(), |number| format!("program {number} {name}"));
                let frames = row.frames.map_or_else(String::new, |frames| format!(", {frames} frames"));
                println!("slot {}: {program}{frames}", row.slot);
            }
        }
        RootVerb::Tap { place, slot } => {
            let array = place.array();
            put_tap(&array, *slot)?;
            println!("{}: slot {slot} of {} counts and goes on", place.interface, array.display());
        }
    }
    Ok(())
}
