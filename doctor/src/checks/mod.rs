//! The checks: each a rule, what it looks at, a function of facts and setting alone, and how that was tried out.
//!
//! The numbers are those of the list that the checks were gathered in, which has gaps.

mod device;
mod filtered;
mod local;
mod others;
mod packet;
mod program;
mod router;
mod sources;
mod tunnels;
mod ways;

mod table;

use crate::facts::HostFacts;
use crate::finding::Finding;
use crate::setting::{Role, Setting};

pub(crate) use local::sample;
pub use table::all;

/// How a check was tried out: what it names was broken, found, cured by the commands that it prints, and worked again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// In the lab of network namespaces, with real traffic.
    Lab,
    /// Likewise, in a stock kernel under QEMU, with its tunnel devices.
    Qemu,
    /// On recorded facts, found and not cured; what of it, and why not better.
    Recorded(&'static str),
    /// Not tried, and why.
    Untried(&'static str),
}

/// A check.
pub struct Check {
    /// `D-04`.
    pub id: &'static str,
    /// What it is about, in a few words.
    pub title: &'static str,
    /// On which hosts it is run.
    pub roles: &'static [Role],
    /// What it looks at.
    pub looks_at: &'static str,
    /// When it is as it should be.
    pub rule: &'static str,
    /// Why that is so, for who wants to understand.
    pub explanation: &'static str,
    /// What cures it, in words.
    pub cure: &'static str,
    /// Checks whose failure explains this one's.
    pub after: &'static [&'static str],
    /// How it was tried out.
    pub proof: &'static [Proof],
    /// Looks.
    pub run: fn(&HostFacts, &Setting) -> Vec<Finding>,
}

/// A check by its id, in either case.
#[must_use]
pub fn by_id(id: &str) -> Option<&'static Check> {
    all().find(|check| check.id.eq_ignore_ascii_case(id))
}

/// Those of a role.
pub fn of_role(role: Role) -> impl Iterator<Item = &'static Check> {
    all().filter(move |check| check.roles.contains(&role))
}

/// The packets that the kernel is to be asked about, as far as is known before they are asked: called again with the answers.
#[must_use]
pub fn questions(facts: &HostFacts, setting: &Setting) -> Vec<crate::facts::Question> {
    match setting.role {
        Role::Lb => ways::questions(setting),
        Role::Real => local::questions(facts, setting),
        Role::Router => router::questions(facts, setting),
        Role::Client => others::questions(setting),
    }
}
