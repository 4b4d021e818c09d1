//! `tandem vip`, `tandem real`, `tandem drain` and `tandem stats`: what a running balancer serves, and what it did.

use std::net::IpAddr;

use clap::{Args, Subcommand, ValueEnum};
use comfy_table::{CellAlignment, Table, presets};
use tandem_api::{Service, state_name, wire};

use crate::Failure;
use crate::mode::summary;
use crate::target::Target;

#[derive(Args)]
pub struct VipArgs {
    #[command(flatten)]
    target: Target,
    #[command(subcommand)]
    verb: VipVerb,
}

#[derive(Subcommand)]
enum VipVerb {
    /// The VIPs in force
    List,
    /// A new VIP
    Add {
        /// ADDRESS:PORT/tcp or /udp; IPv6 as `[ADDRESS]:PORT/tcp`, a prefix as `[fc00:1::/96]:80/tcp`, port 0 for every port
        vip: Service,
        /// Its reals: ADDRESS, or ADDRESS=WEIGHT
        #[arg(long = "real", value_name = "REAL", value_parser = real_and_weight)]
        reals: Vec<(IpAddr, Option<u32>)>,
        #[command(flatten)]
        properties: Properties,
    },
    /// Other properties for a VIP
    Set {
        /// The VIP
        vip: Service,
        #[command(flatten)]
        properties: Properties,
        /// No flags
        #[arg(long, conflicts_with = "flags")]
        no_flags: bool,
    },
    /// Removes a VIP with its reals
    Remove {
        /// The VIP
        vip: Service,
    },
    /// A digest of each VIP's ring: the same in all balancers of a group, or they send new flows to different reals
    Rings,
}

/// docs/configuration.md has the accepted values.
#[derive(Args)]
struct Properties {
    /// Forwarding method of its reals
    #[arg(long)]
    encap: Option<String>,
    /// How weights shape its ring
    #[arg(long)]
    ring: Option<String>,
    /// Slots of its ring, a prime
    #[arg(long, value_name = "SLOTS")]
    ring_size: Option<u32>,
    /// A flag; several: --flag A --flag B
    #[arg(long = "flag", value_name = "FLAG")]
    flags: Vec<String>,
    /// The virtual network of Geneve
    #[arg(long)]
    vni: Option<u32>,
}

#[derive(Args)]
pub struct RealArgs {
    #[command(flatten)]
    target: Target,
    #[command(subcommand)]
    verb: RealVerb,
}

#[derive(Subcommand)]
enum RealVerb {
    /// The reals in force
    List {
        /// Only this VIP's
        vip: Option<Service>,
    },
    /// A new real for a VIP
    Add {
        /// The VIP
        vip: Service,
        /// The real's address
        real: IpAddr,
        #[command(flatten)]
        share: Share,
        /// Forwarding method [default: that of the VIP]
        #[arg(long)]
        encap: Option<String>,
        /// The server's port, with NAT
        #[arg(long)]
        port: Option<u16>,
        /// The real is this machine
        #[arg(long)]
        local: bool,
        /// MAC of the real's Geneve device
        #[arg(long, value_name = "MAC")]
        inner_mac: Option<String>,
    },
    /// Another weight or state for a VIP's real
    Set {
        /// The VIP
        vip: Service,
        /// The real's address
        real: IpAddr,
        #[command(flatten)]
        share: Share,
    },
    /// Removes reals from a VIP: their flows, and no others, follow the removal policy
    Remove {
        /// The VIP
        vip: Service,
        /// Their addresses
        #[arg(required = true)]
        reals: Vec<IpAddr>,
    },
}

#[derive(Args)]
struct Share {
    /// Share of the ring relative to the other reals; 0: no new flows
    #[arg(long)]
    weight: Option<u32>,
    /// Whether it is in the ring, and whether it keeps its flows
    #[arg(long)]
    state: Option<State>,
}

#[derive(Clone, Copy, ValueEnum)]
enum State {
    /// In the ring
    Up,
    /// Not in the ring; keeps its flows
    Drain,
    /// Not in the ring; its flows follow the removal policy
    Down,
}

impl State {
    fn to_wire(self) -> wire::RealState {
        match self {
            Self::Up => wire::RealState::Up,
            Self::Drain => wire::RealState::Drain,
            Self::Down => wire::RealState::Down,
        }
    }
}

#[derive(Args)]
pub struct DrainArgs {
    #[command(flatten)]
    target: Target,
    /// The real's address
    real: IpAddr,
    /// Only for this VIP [default: for every VIP that has it]
    #[arg(long)]
    vip: Option<Service>,
    /// Takes new flows again
    #[arg(long)]
    undo: bool,
}

#[derive(Args)]
pub struct StatsArgs {
    #[command(flatten)]
    target: Target,
    /// Only this VIP
    vip: Option<Service>,
}

fn real_and_weight(text: &str) -> Result<(IpAddr, Option<u32>), String> {
    let (address, weight) = match text.split_once('=') {
        None => (text, None),
        Some((address, weight)) => (address, Some(weight.parse().map_err(|_| format!("not a weight: {weight:?}"))?)),
    };
    Ok((address.parse().map_err(|_| format!("not an IP address: {address:?}"))?, weight))
}

pub fn vip(args: &VipArgs) -> Result<(), Failure> {
    match &args.verb {
        VipVerb::List => list_vips(&args.target),
        VipVerb::Add { vip, reals, properties } => {
            let reals = reals.iter().map(|(address, weight)| wire::Real {
                address: address.to_string(),
                weight: *weight,
                ..wire::Real::default()
            });
            let vip = wire::Vip {
                key: Some(vip.to_wire()),
                encap: properties.encap.clone().unwrap_or_default(),
                ring: properties.ring.clone().unwrap_or_default(),
                ring_size: properties.ring_size.unwrap_or(0),
                flags: properties.flags.clone(),
                vni: properties.vni.unwrap_or(0),
                reals: reals.collect(),
            };
            let request = wire::AddVipRequest { vip: Some(vip), generation: 0 };
            done(&args.target, args.target.connect()?.ask(async |balancer| balancer.add_vip(request).await)?)
        }
        VipVerb::Set { vip, properties, no_flags } => {
            let flags = (*no_flags || !properties.flags.is_empty()).then(|| wire::Flags { flags: properties.flags.clone() });
            let request = wire::SetVipRequest {
                vip: Some(vip.to_wire()),
                encap: properties.encap.clone(),
                ring: properties.ring.clone(),
                ring_size: properties.ring_size,
                flags,
                vni: properties.vni,
                generation: 0,
            };
            done(&args.target, args.target.connect()?.ask(async |balancer| balancer.set_vip(request).await)?)
        }
        VipVerb::Remove { vip } => {
            let request = wire::RemoveVipRequest { vip: Some(vip.to_wire()), generation: 0 };
            done(&args.target, args.target.connect()?.ask(async |balancer| balancer.remove_vip(request).await)?)
        }
        VipVerb::Rings => list_rings(&args.target),
    }
}

pub fn real(args: &RealArgs) -> Result<(), Failure> {
    match &args.verb {
        RealVerb::List { vip } => list_reals(&args.target, vip.as_ref()),
        RealVerb::Add { vip, real, share, encap, port, local, inner_mac } => {
            let real = wire::Real {
                address: real.to_string(),
                weight: share.weight,
                state: share.state.map_or(wire::RealState::Unspecified, State::to_wire).into(),
                local: *local,
                encap: encap.clone().unwrap_or_default(),
                port: port.unwrap_or(0).into(),
                inner_mac: inner_mac.clone().unwrap_or_default(),
                ..wire::Real::default()
            };
            let request = wire::AddRealsRequest { vip: Some(vip.to_wire()), reals: vec![real], generation: 0 };
            done(&args.target, args.target.connect()?.ask(async |balancer| balancer.add_reals(request).await)?)
        }
        RealVerb::Set { vip, real, share } => set_real(&args.target, Some(vip), *real, share.weight, share.state),
        RealVerb::Remove { vip, reals } => {
            let reals = reals.iter().map(ToString::to_string).collect();
            let request = wire::RemoveRealsRequest { vip: Some(vip.to_wire()), reals, generation: 0 };
            done(&args.target, args.target.connect()?.ask(async |balancer| balancer.remove_reals(request).await)?)
        }
    }
}

pub fn drain(args: &DrainArgs) -> Result<(), Failure> {
    let state = if args.undo { State::Up } else { State::Drain };
    set_real(&args.target, args.vip.as_ref(), args.real, None, Some(state))
}

fn set_real(
    target: &Target,
    vip: Option<&Service>,
    real: IpAddr,
    weight: Option<u32>,
    state: Option<State>,
) -> Result<(), Failure> {
    let request = wire::SetRealRequest {
        vip: vip.map(Service::to_wire),
        real: real.to_string(),
        weight,
        state: state.map(|state| state.to_wire().into()),
        generation: 0,
    };
    done(target, target.connect()?.ask(async |balancer| balancer.set_real(request).await)?)
}

/// Says what a change did.
fn done(target: &Target, applied: wire::Applied) -> Result<(), Failure> {
    applied.warnings.iter().for_each(|warning| log::warn!("{warning}"));
    if target.json {
        println!("{}", serde_json::to_string(&applied)?);
    } else {
        println!("in force: {}; not in the file yet (`tandem save`)", summary(&applied));
    }
    Ok(())
}

fn vips(target: &Target) -> Result<wire::Vips, Failure> {
    target.connect()?.ask(async |balancer| balancer.list_vips(wire::ListVipsRequest {}).await)
}

fn name(vip: &wire::Vip) -> String {
    Service::from_wire(vip.key.as_ref()).map(|service| service.to_string()).unwrap_or_default()
}

fn list_vips(target: &Target) -> Result<(), Failure> {
    let vips = vips(target)?;
    if target.json {
        println!("{}", serde_json::to_string(&vips)?);
        return Ok(());
    }
    let mut table = table(&["VIP", "reals", "encap", "ring", "slots", "flags"], &[1, 4]);
    for vip in &vips.vips {
        let (reals, slots) = (vip.reals.len().to_string(), vip.ring_size.to_string());
        table.add_row([&name(vip), &reals, &vip.encap, &vip.ring, &slots, &vip.flags.join(" ")]);
    }
    println!("{table}");
    if vips.unsaved {
        println!("some of it is not in the file (`tandem save`)");
    }
    Ok(())
}

fn list_rings(target: &Target) -> Result<(), Failure> {
    let rings = target.connect()?.ask(async |balancer| balancer.list_rings(wire::ListRingsRequest {}).await)?;
    if target.json {
        println!("{}", serde_json::to_string(&rings)?);
        return Ok(());
    }
    let mut table = table(&["VIP", "slots", "digest"], &[1]);
    for ring in &rings.rings {
        table.add_row([&ring.vip, &ring.slots.to_string(), &format!("{:016x}", ring.digest)]);
    }
    println!("{table}");
    Ok(())
}

fn list_reals(target: &Target, only: Option<&Service>) -> Result<(), Failure> {
    let mut vips = vips(target)?;
    if let Some(only) = only {
        vips.vips.retain(|vip| name(vip) == only.to_string());
        if vips.vips.is_empty() {
            return Err(anyhow::anyhow!("no VIP {only}; `tandem vip list` shows those in force").into());
        }
    }
    if target.json {
        println!("{}", serde_json::to_string(&vips)?);
        return Ok(());
    }
    let mut table = table(&["VIP", "real", "weight", "state", "health", "encap"], &[2]);
    for vip in &vips.vips {
        for real in &vip.reals {
            let weight = real.weight.unwrap_or(1).to_string();
            table.add_row([&name(vip), &real.address, &weight, &state_name(real.state()).to_owned(), &real.health, &real.encap]);
        }
    }
    println!("{table}");
    Ok(())
}

pub fn stats(args: &StatsArgs) -> Result<(), Failure> {
    let request = wire::GetStatsRequest { vip: args.vip.as_ref().map(Service::to_wire) };
    let stats = args.target.connect()?.ask(async |balancer| balancer.get_stats(request).await)?;
    if args.target.json {
        println!("{}", serde_json::to_string(&stats)?);
        return Ok(());
    }
    let mut table = table(&["VIP", "real", "weight", "state", "packets", "bytes", "by the ring", "refused"], &[2, 4, 5, 6, 7]);
    for vip in &stats.vips {
        let [packets, bytes, ring] = [vip.packets, vip.bytes, vip.ring].map(|n| n.to_string());
        table.add_row([vip.vip.as_str(), "", "", "", &packets, &bytes, &ring, ""]);
        for real in &vip.reals {
            let [packets, bytes, ring, refused] = [real.packets, real.bytes, real.ring, real.refused].map(|n| n.to_string());
            let (weight, state) = (real.weight.to_string(), state_name(real.state()));
            table.add_row(["", &real.real, &weight, state, &packets, &bytes, &ring, &refused]);
        }
    }
    println!("{table}");
    for (reason, count) in &stats.drops {
        println!("dropped, {reason}: {count}");
    }
    Ok(())
}

/// A table without lines, numbers to the right.
pub fn table(header: &[&str], numbers: &[usize]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header);
    for column in numbers {
        if let Some(column) = table.column_mut(*column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}
