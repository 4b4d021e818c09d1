//! The way to each real, kept current: its next hop, and where it leaves this host.
//!
//! The kernel's routes say who the next hop is, its neighbour table says whether it answers. Frames that XDP sends confirm
//! nobody: without a question now and then, the kernel would go on believing in a next hop that died, or forget one that lives.
//! So every next hop in use is asked to confirm itself each [`REFRESH`], and a silent one is asked again and again, ever more
//! rarely, up to [`SELDOM`].
//!
//! If a gateway is silent and the route table has another for the same destination (another next hop of the route, or the same
//! prefix with the next metric), that one is used, until the first answers again.

use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use hashbrown::{HashMap, HashSet};
use rtnetlink::Handle;
use tandem_engine::memory::reals::Out;
use tandem_engine::wire::mac_word;

use super::routes::{self, Entry, Link, Neighbour, Route, Step};
use super::{FactError, Netlink};
use crate::config::Mac;
use crate::control::{Hops, Reached};

/// How often a next hop in use is asked to confirm itself.
const REFRESH: Duration = Duration::from_secs(15);
/// How soon a silent one is asked for the second time; then after twice as long each time.
const SOON: Duration = Duration::from_secs(1);
/// The longest time between two questions to a silent one.
const SELDOM: Duration = Duration::from_secs(8);
/// Questions of one look.
const QUESTIONS: usize = 256;

/// The next hop towards a real.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NextHop {
    /// The gateway, or the real itself.
    pub via: IpAddr,
    /// Its MAC.
    pub mac: Mac,
    /// Where frames to it leave: interface 0 if the plan has only one.
    pub out: Out,
    /// Source MAC of frames to it, as a word; 0: that of the first interface.
    pub from: u64,
    /// The device, a VLAN's included.
    device: u32,
    /// The gateway that the route would rather have, which is silent.
    pub instead_of: Option<IpAddr>,
}

/// Why a real has no next hop.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NoHop {
    /// No route.
    NoRoute,
    /// The route leaves by another interface.
    Elsewhere(String),
    /// The gateway (or the real itself) does not answer ARP or neighbour solicitation.
    Silent(IpAddr),
}

impl fmt::Display for NoHop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRoute => f.write_str("there is no route to it; add one (`ip route add`), or set node.next_hop_mac"),
            Self::Elsewhere(name) => write!(
                f,
                "the route to it leaves by {name}, which is neither an interface of the configuration nor a VLAN of one; change the route (`ip route`)"
            ),
            Self::Silent(via) => write!(f, "its next hop {via} does not answer; is it up? (`ip neigh`)"),
        }
    }
}

/// What is known of every real.
pub type Found = HashMap<IpAddr, Result<NextHop, NoHop>>;

/// When a neighbour is to be asked.
#[derive(Clone, Copy, Debug)]
struct Question {
    due: Instant,
    wait: Duration,
    is_silent: bool,
}

/// The ways to the reals of a plan, and what is remembered between two looks.
#[derive(Clone, Debug)]
pub struct Ways {
    /// Indices of the plan's interfaces.
    interfaces: Vec<u32>,
    /// Source MAC of what leaves by the first of them.
    local_mac: Mac,
    found: Found,
    questions: HashMap<(u32, IpAddr), Question>,
}

/// The kernel's tables at one time.
struct Tables {
    links: HashMap<u32, Link>,
    neighbours: HashMap<(u32, IpAddr), Neighbour>,
    /// Dumped only if a gateway is silent: they may be long.
    entries: [Option<Vec<Entry>>; 2],
}

impl Tables {
    async fn read(handle: &Handle) -> Result<Self, FactError> {
        let (links, neighbours) = (routes::links(handle).await?, routes::neighbours(handle).await?);
        Ok(Self { links, neighbours, entries: [None, None] })
    }

    /// All next hops for a destination.
    async fn steps(&mut self, handle: &Handle, table: u32, to: IpAddr) -> Result<Vec<Step>, FactError> {
        let [v4, v6] = &mut self.entries;
        let entries = if to.is_ipv6() { v6 } else { v4 };
        if entries.is_none() {
            *entries = Some(routes::entries(handle, to.is_ipv6()).await?);
        }
        Ok(routes::steps(entries.as_deref().unwrap_or_default(), table, to))
    }
}

impl Ways {
    /// Nothing is known yet. `interfaces`: the indices of the plan's, `local_mac`: source of what leaves by the first.
    pub fn new(interfaces: Vec<u32>, local_mac: Mac) -> Self {
        Self { interfaces, local_mac, found: HashMap::new(), questions: HashMap::new() }
    }

    /// What was found last.
    pub fn found(&self) -> &Found {
        &self.found
    }

    /// For the tables. `most`: largest IP packet on any way, whatever the routes say.
    pub fn hops(&self, most: Option<u16>) -> Hops {
        let reached = |hop: &NextHop| {
            let mtu = most.map_or(hop.out.mtu, |most| if hop.out.mtu == 0 { most } else { most.min(hop.out.mtu) });
            Reached { mac: hop.mac, out: Out { mtu, ..hop.out }, from: hop.from }
        };
        self.found.iter().map(|(real, hop)| (*real, hop.as_ref().ok().map(reached))).collect()
    }

    /// Looks, has the kernel ask whom it should, and gives what was found before.
    ///
    /// # Errors
    /// [`FactError::Netlink`].
    pub fn look(&mut self, netlink: &Netlink, reals: &[IpAddr]) -> Result<Found, FactError> {
        let now = Instant::now();
        netlink.run(async |handle: &Handle| {
            let mut tables = Tables::read(handle).await?;
            let (mut found, mut wanted) = (Found::with_capacity(reals.len()), HashSet::new());
            for real in reals {
                let hop = match routes::route(handle, *real).await {
                    None => Err(NoHop::NoRoute),
                    Some(route) => self.way(handle, &mut tables, *real, &route, &mut wanted).await?,
                };
                found.insert(*real, hop);
            }
            self.ask(handle, &tables, &wanted, now).await;
            Ok(std::mem::replace(&mut self.found, found))
        })
    }

    /// The same, waiting up to `patience` for silent ones; not for those that were silent before.
    ///
    /// # Errors
    /// [`FactError::Netlink`].
    pub fn look_within(&mut self, netlink: &Netlink, reals: &[IpAddr], patience: Duration) -> Result<(), FactError> {
        const STEP: Duration = Duration::from_millis(50);
        let end = Instant::now() + patience;
        let silent = |found: &Found| -> HashSet<IpAddr> {
            found.iter().filter(|(_, hop)| matches!(hop, Err(NoHop::Silent(_)))).map(|(real, _)| *real).collect()
        };
        let known = silent(&self.found);
        loop {
            self.look(netlink, reals)?;
            if silent(&self.found).is_subset(&known) || Instant::now() >= end {
                return Ok(());
            }
            std::thread::sleep(STEP);
        }
    }

    /// The way to one real: by the next hop that its route has, else by another one of the same destination.
    async fn way(
        &self,
        handle: &Handle,
        tables: &mut Tables,
        real: IpAddr,
        route: &Route,
        wanted: &mut HashSet<(u32, IpAddr)>,
    ) -> Result<Result<NextHop, NoHop>, FactError> {
        let first = &route.step;
        let hop = self.by(tables, real, first);
        if matches!(hop, Ok(_) | Err(NoHop::Silent(_))) {
            wanted.insert((first.device, first.via));
        }
        if !matches!(hop, Err(NoHop::Silent(via)) if via != real) {
            return Ok(hop);
        }
        for other in tables.steps(handle, route.table, real).await? {
            if (other.device, other.via) == (first.device, first.via) {
                continue;
            }
            let found = self.by(tables, real, &other);
            if matches!(found, Ok(_) | Err(NoHop::Silent(_))) {
                wanted.insert((other.device, other.via));
            }
            if let Ok(found) = found {
                return Ok(Ok(NextHop { instead_of: Some(first.via), ..found }));
            }
        }
        Ok(hop)
    }

    /// The way by this next hop.
    fn by(&self, tables: &Tables, real: IpAddr, step: &Step) -> Result<NextHop, NoHop> {
        let Step { device, via, mtu } = *step;
        let link = tables.links.get(&device).ok_or(NoHop::NoRoute)?;
        let (interface, vlan) = match link.vlan {
            _ if self.interfaces.contains(&device) => (device, 0),
            Some((parent, vlan)) if self.interfaces.contains(&parent) => (parent, vlan),
            _ => return Err(NoHop::Elsewhere(link.name.clone())),
        };
        let known = tables.neighbours.get(&(device, via)).copied();
        let mac = match (known, self.found.get(&real)) {
            // Forgotten, or asked anew: as long as it did not fail, what was known of it is as good as before.
            (None | Some(Neighbour::Asked), Some(Ok(last))) if (last.device, last.via) == (device, via) => Some(last.mac),
            _ => known.and_then(Neighbour::mac),
        };
        let mac = mac.ok_or(NoHop::Silent(via))?;
        let is_only = self.interfaces.len() == 1;
        let mtu = u16::try_from(mtu.unwrap_or(link.mtu)).unwrap_or(u16::MAX);
        let is_first = self.interfaces.first() == Some(&device);
        let from = link.mac.filter(|mac| !is_first && *mac != self.local_mac).map_or(0, |mac| mac_word(mac.0));
        Ok(NextHop {
            via,
            mac,
            out: Out { interface: if is_only { 0 } else { interface }, vlan, mtu },
            from,
            device,
            instead_of: None,
        })
    }

    /// Has the kernel ask those whose time has come.
    async fn ask(&mut self, handle: &Handle, tables: &Tables, wanted: &HashSet<(u32, IpAddr)>, now: Instant) {
        self.questions.retain(|neighbour, _| wanted.contains(neighbour));
        let mut asked = 0;
        for neighbour in wanted {
            let known = tables.neighbours.get(neighbour).copied();
            if matches!(known, Some(Neighbour::Fixed(_))) {
                continue;
            }
            let is_silent = !matches!(known, Some(Neighbour::Answered(_)));
            let new = || Question { due: if is_silent { now } else { now + REFRESH }, wait: SOON, is_silent };
            let question = self.questions.entry(*neighbour).or_insert_with(new);
            if question.is_silent != is_silent {
                *question = new();
            }
            if question.due > now || asked == QUESTIONS {
                continue;
            }
            asked += 1;
            if is_silent {
                question.due = now + question.wait;
                question.wait = SELDOM.min(question.wait * 2);
                routes::resolve(handle, *neighbour).await;
            } else {
                question.due = now + REFRESH;
                routes::confirm(handle, *neighbour).await;
            }
        }
    }
}
