//! What was found, with causes before consequences.

use std::collections::BTreeSet;
use std::fmt::{self, Write as _};

use serde::{Deserialize, Serialize};

use crate::checks::{Check, by_id, of_role, questions};
use crate::facts::HostFacts;
use crate::finding::{Finding, Status};
use crate::setting::{Role, Setting};

/// What one check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// The check.
    pub id: String,
    /// What it is about.
    pub title: String,
    /// The worst of its findings.
    pub status: Status,
    /// Its rule.
    pub rule: String,
    /// What it found, never nothing.
    pub findings: Vec<Finding>,
    /// Checks that failed, too, and explain this one.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub because: Vec<String>,
    /// The command that explains it.
    pub explain: String,
}

/// What all checks of a role found on one host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The role.
    pub role: Role,
    /// The worst of all.
    pub status: Status,
    /// Ids of the checks that failed and are no consequence of others.
    pub roots: Vec<String>,
    /// All checks of the role, in the order of their numbers.
    pub checks: Vec<Row>,
}

/// Reads this host's facts and runs the checks of the role on them.
#[must_use]
pub fn examine(setting: &Setting) -> (Report, HostFacts) {
    let facts = HostFacts::read(setting, questions);
    (judge(&facts, setting), facts)
}

/// Runs the checks of the role on facts, those of this host or recorded ones.
#[must_use]
pub fn judge(facts: &HostFacts, setting: &Setting) -> Report {
    let mut checks: Vec<Row> = of_role(setting.role).map(|check| row(check, facts, setting)).collect();
    let failed: BTreeSet<String> = checks.iter().filter(|row| row.status == Status::Fail).map(|row| row.id.clone()).collect();
    for row in checks.iter_mut().filter(|row| row.status >= Status::Warn) {
        let after = by_id(&row.id).map_or(&[][..], |check| check.after);
        row.because = after.iter().filter(|id| failed.contains(**id)).map(|id| (*id).to_owned()).collect();
    }
    let worst = |least: Status| {
        checks
            .iter()
            .filter(move |row| row.status == least && row.because.is_empty())
            .map(|row| row.id.clone())
            .collect::<Vec<_>>()
    };
    let status = checks.iter().map(|row| row.status).filter(|status| *status != Status::Skip).max().unwrap_or(Status::Skip);
    Report { role: setting.role, status, roots: worst(Status::Fail), checks }
}

fn row(check: &Check, facts: &HostFacts, setting: &Setting) -> Row {
    let mut findings = (check.run)(facts, setting);
    // What cures one often cures another, and need not be done twice.
    let mut printed = BTreeSet::new();
    for finding in &mut findings {
        finding.cures.retain(|cure| printed.insert(cure.clone()));
    }
    Row {
        id: check.id.to_owned(),
        title: check.title.to_owned(),
        status: findings.iter().map(|finding| finding.status).max().unwrap_or(Status::Skip),
        rule: check.rule.to_owned(),
        findings,
        because: Vec::new(),
        explain: format!("tandem doctor explain {}", check.id),
    }
}

impl Report {
    /// What one check found, if the role has it.
    #[must_use]
    pub fn row(&self, id: &str) -> Option<&Row> {
        self.checks.iter().find(|row| row.id == id)
    }

    /// Number of checks with a status.
    #[must_use]
    pub fn count(&self, status: Status) -> usize {
        self.checks.iter().filter(|row| row.status == status).count()
    }

    /// The commands that cure what a check found, in their order.
    #[must_use]
    pub fn cures(&self, id: &str) -> Vec<String> {
        self.row(id).into_iter().flat_map(|row| &row.findings).flat_map(|finding| finding.cures.clone()).collect()
    }

    /// As Prometheus reads it: a gauge for each check, 0 pass, 1 skip, 2 warn, 3 fail.
    #[must_use]
    pub fn metrics(&self) -> String {
        let mut text = String::from(
            "# HELP tandem_doctor_check Result of a check: 0 pass, 1 skip, 2 warn, 3 fail.\n# TYPE tandem_doctor_check gauge\n",
        );
        for row in &self.checks {
            let is_root = row.because.is_empty();
            // A String takes everything.
            let _ = writeln!(
                text,
                "tandem_doctor_check{{role=\"{}\",id=\"{}\",root=\"{is_root}\"}} {}",
                self.role, row.id, row.status as u8
            );
        }
        text
    }
}

/// For people: causes first, each with its consequences below it, then the rest.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bad = |row: &&Row| row.status >= Status::Warn;
        let roots = self.checks.iter().filter(bad).filter(|row| row.because.is_empty());
        let mut roots: Vec<&Row> = roots.collect();
        roots.sort_by_key(|row| std::cmp::Reverse(row.status));
        for row in roots {
            write_row(f, row, "")?;
            for under in self.checks.iter().filter(|under| under.because.first() == Some(&row.id)) {
                writeln!(f, "    and therefore")?;
                write_row(f, under, "    ")?;
            }
            writeln!(f)?;
        }
        for row in self.checks.iter().filter(|row| row.status < Status::Warn) {
            let observed: Vec<&str> = row.findings.iter().map(|finding| finding.observed.as_str()).collect();
            writeln!(f, "{} {} {}: {}", row.status.word(), row.id, row.title, observed.join("; "))?;
        }
        let [pass, warn, fail, skip] = [Status::Pass, Status::Warn, Status::Fail, Status::Skip].map(|status| self.count(status));
        writeln!(f, "role {}: {pass} passed, {warn} warnings, {fail} failed, {skip} skipped", self.role)
    }
}

fn write_row(f: &mut fmt::Formatter<'_>, row: &Row, indent: &str) -> fmt::Result {
    writeln!(f, "{indent}{} {} {}", row.status.word(), row.id, row.title)?;
    for finding in row.findings.iter().filter(|finding| finding.status >= Status::Warn) {
        writeln!(f, "{indent}     {}", finding.observed)?;
        for cure in &finding.cures {
            writeln!(f, "{indent}     cure: {cure}")?;
        }
    }
    writeln!(f, "{indent}     rule: {}; more: {}", row.rule, row.explain)
}
