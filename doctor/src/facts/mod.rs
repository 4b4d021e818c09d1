//! What is so on this host, read once: through netlink, sysfs, procfs and the BPF system call, never from the output of a
//! command. The checks see nothing else, so that facts that were recorded on one host can be judged on another.

mod exchange;
mod filter;
mod generic;
mod links;
mod machine;
mod routes;
mod sockets;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tandem_api::client::Client;
use tandem_backends::run::Paths;

pub use filter::{Chain, Element, Filter, FilterRule, Set, Step, Verdict};
pub use generic::{Device, FouPort};
pub use links::{Address, Link, Tunnel, Xdp};
pub use machine::{Interrupt, Machine, Place};
pub use routes::{Answer, Neighbour, Question, Route, Rule, Way};
pub use sockets::Listener;

use crate::setting::{Role, Setting};
use exchange::Exchange;

/// `NETLINK_ROUTE`.
const ROUTE: isize = 0;
/// Questions that follow from answers: at most this often.
const ROUNDS: usize = 3;
/// Packets that the kernel is asked about, at most.
const MOST_ANSWERS: usize = 4096;
/// Between the two looks at the counters of lost frames.
const WATCHED: Duration = Duration::from_millis(250);

/// What is known of one host at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostFacts {
    /// The machine and its kernel.
    pub machine: Machine,
    /// Its links.
    pub links: Vec<Link>,
    /// Its addresses.
    pub addresses: Vec<Address>,
    /// Its routes, of all tables.
    pub routes: Vec<Route>,
    /// Its policy rules.
    pub rules: Vec<Rule>,
    /// Its neighbours.
    pub neighbours: Vec<Neighbour>,
    /// What the kernel says about single packets.
    pub answers: Vec<(Question, Answer)>,
    /// Kernel settings, by their paths below `/proc/sys`.
    pub settings: BTreeMap<String, String>,
    /// Counters of refused packets, by the names of `nstat`.
    pub counters: BTreeMap<String, u64>,
    /// What ethtool and netdev know of links, by name.
    pub devices: BTreeMap<String, Device>,
    /// Where links are in the machine, by name.
    pub places: BTreeMap<String, Place>,
    /// Ports of FOU and GUE.
    pub fou: Vec<FouPort>,
    /// The packet filter.
    pub filter: Filter,
    /// Sockets that wait for clients.
    pub listeners: Vec<Listener>,
    /// Frames lost while the facts were read: link, counter, how many.
    pub losses: Vec<(String, String, u64)>,
    /// What a running balancer said of itself (`tandem mode show --json`, `tandem counters --json`).
    pub balancer: Option<Value>,
    /// What the balancer has counted.
    pub balancer_counters: Option<Value>,
    /// What it had counted a moment before.
    pub balancer_counters_before: Option<Value>,
    /// Parts that could not be read, and why.
    pub unread: BTreeMap<String, String>,
}

impl HostFacts {
    /// Reads them, in the calling thread's network namespace. What cannot be read is named in [`HostFacts::unread`].
    ///
    /// `questions` names packets to ask the kernel about, from what is known so far: it is called again with the answers, until
    /// there are no new ones.
    #[must_use]
    pub fn read(setting: &Setting, questions: impl Fn(&Self, &Setting) -> Vec<Question>) -> Self {
        let mut facts =
            Self { machine: machine::machine(), settings: machine::settings(), counters: machine::counters(), ..Self::default() };
        let mut exchange = facts.read_routing();
        let xdp = facts.noted("xdp-features", generic::xdp_features());
        facts.devices = facts.noted("ethtool", generic::ethtool());
        for link in &facts.links {
            if let Some(features) = xdp.get(&link.index) {
                facts.devices.entry(link.name.clone()).or_default().xdp_features = Some(*features);
            }
        }
        facts.places = machine::places(&facts.links);
        facts.fou = facts.noted("fou", generic::fou());
        facts.filter = facts.noted("filter", filter::filter());
        facts.listeners = facts.noted("listeners", sockets::listeners());
        facts.name_programs();
        let mut client = setting.balancer.as_ref().and_then(|balancer| Client::unix(&Paths::of(&balancer.name).socket).ok());
        let counters = |client: &mut Option<Client>| serde_json::to_value(client.as_mut()?.counters().ok()?).ok();
        facts.balancer_counters_before = counters(&mut client);
        // Who does not answer is not asked twice.
        client = client.filter(|_| facts.balancer_counters_before.is_some());
        if let Some(exchange) = &mut exchange {
            facts.ask(exchange, setting, questions);
            // A start does not wait for them.
            if setting.role == Role::Lb && !setting.balancer.as_ref().is_some_and(|balancer| balancer.is_starting) {
                facts.watch_losses(exchange);
            }
        }
        facts.balancer_counters = counters(&mut client);
        facts.balancer = client.and_then(|mut client| client.mode().ok()).and_then(|mode| serde_json::to_value(mode).ok());
        facts
    }

    fn read_routing(&mut self) -> Option<Exchange> {
        let mut exchange = match Exchange::open(ROUTE) {
            Ok(exchange) => exchange,
            Err(error) => {
                self.unread.insert("routing".to_owned(), error.to_string());
                return None;
            }
        };
        self.links = self.noted("links", links::links(&mut exchange));
        self.addresses = self.noted("addresses", links::addresses(&mut exchange));
        self.routes = self.noted("routes", routes::routes(&mut exchange, &self.links));
        self.rules = self.noted("rules", routes::rules(&mut exchange));
        self.neighbours = self.noted("neighbours", routes::neighbours(&mut exchange, &self.links));
        Some(exchange)
    }

    fn ask(&mut self, exchange: &mut Exchange, setting: &Setting, questions: impl Fn(&Self, &Setting) -> Vec<Question>) {
        for _ in 0..ROUNDS {
            let asked = self.answers.len();
            for question in questions(self, setting) {
                if self.answers.len() >= MOST_ANSWERS || self.answer(&question).is_some() {
                    continue;
                }
                match routes::look_up(exchange, &self.links, &question) {
                    Ok(answer) => self.answers.push((question, answer)),
                    Err(error) => drop(self.unread.insert("answers".to_owned(), error.to_string())),
                }
            }
            if self.answers.len() == asked {
                return;
            }
        }
    }

    fn watch_losses(&mut self, exchange: &mut Exchange) {
        std::thread::sleep(WATCHED);
        for after in self.noted("losses", links::links(exchange)) {
            let Some(before) = self.links.iter().find(|link| link.index == after.index) else { continue };
            for (name, count) in &after.losses {
                let moved = count.saturating_sub(before.losses.get(name).copied().unwrap_or(0));
                if moved > 0 {
                    self.losses.push((after.name.clone(), name.clone(), moved));
                }
            }
        }
    }

    /// Takes what was read, or notes why it could not be.
    fn noted<T: Default>(&mut self, part: &str, read: std::io::Result<T>) -> T {
        read.unwrap_or_else(|error| {
            self.unread.insert(part.to_owned(), error.to_string());
            T::default()
        })
    }

    /// Names of the XDP programs on the links, which the kernel tells by their numbers.
    fn name_programs(&mut self) {
        if self.links.iter().all(|link| link.xdp.is_none()) {
            return;
        }
        let programs = aya::programs::loaded_programs().filter_map(Result::ok);
        let names: BTreeMap<u32, String> =
            programs.filter_map(|program| Some((program.id(), program.name_as_str()?.to_owned()))).collect();
        for xdp in self.links.iter_mut().filter_map(|link| link.xdp.as_mut()) {
            xdp.name = names.get(&xdp.program).cloned();
        }
    }

    /// A link by name.
    #[must_use]
    pub fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }

    /// The name of a link.
    #[must_use]
    pub fn name_of(&self, index: u32) -> &str {
        self.links.iter().find(|link| link.index == index).map_or("?", |link| link.name.as_str())
    }

    /// What the kernel said about a packet, if it was asked.
    #[must_use]
    pub fn answer(&self, question: &Question) -> Option<&Answer> {
        self.answers.iter().find(|(asked, _)| asked == question).map(|(_, answer)| answer)
    }

    /// A kernel setting as a number, by its path below `/proc/sys`.
    #[must_use]
    pub fn setting(&self, path: &str) -> Option<i64> {
        self.settings.get(path)?.parse().ok()
    }

    /// A setting of a link for IPv4 that is in force: the larger of the link's and that of `all` (`IN_DEV_MAXCONF`).
    #[must_use]
    pub fn in_force(&self, link: &str, name: &str) -> Option<i64> {
        let of = |key: &str| self.setting(&format!("net/ipv4/conf/{key}/{name}"));
        of("all").max(of(link))
    }

    /// Whether packets to it end on this host.
    #[must_use]
    pub fn is_local(&self, address: std::net::IpAddr) -> bool {
        self.addresses.iter().any(|own| own.address == address)
            || self.routes.iter().any(|route| route.kind == "local" && route.to.contains(address))
    }
}
