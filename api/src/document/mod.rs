//! The configuration in force as the text that it could have been read from: runtime changes are edits of the document.
//!
//! So there is one validation, that of the file, and what was changed can be saved: comments, order and style stay.

mod tables;

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use tandem_backends::config::{self, ConfigError, Loaded, Plan};
use toml_edit::{Array, DocumentMut, Item, Table, TableLike, Value};

use crate::names::Service;
use tables::Tables;

/// Why an edit cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// No such VIP.
    #[error("no VIP {0}; `tandem vip list` shows those in force")]
    NoVip(Service),
    /// There is such a VIP.
    #[error("the VIP {0} is there already; `tandem vip set` changes it")]
    VipThere(Service),
    /// No such real.
    #[error("the VIP {vip} has no real {real}; `tandem real list` shows those in force")]
    NoReal {
        /// The VIP.
        vip: Service,
        /// The real.
        real: IpAddr,
    },
    /// No VIP has the real.
    #[error("no VIP has a real {0}; `tandem real list` shows those in force")]
    RealNowhere(IpAddr),
    /// There is such a real.
    #[error("the VIP {vip} has the real {real} already; `tandem real set` changes it")]
    RealThere {
        /// The VIP.
        vip: Service,
        /// The real.
        real: IpAddr,
    },
    /// With the edit, the configuration would not be valid.
    #[error("{0}")]
    Invalid(String),
    /// Something else stands where tables have to be.
    #[error("`{0}` is no array of tables; `tandem check` says what is wrong with the file")]
    Shape(&'static str),
    /// The file cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// A valid configuration: its text, and what the text means.
#[derive(Clone)]
pub struct Document {
    path: PathBuf,
    text: DocumentMut,
    plan: Plan,
    warnings: Vec<String>,
    /// The file's own text, without edits.
    source: String,
}

impl Document {
    /// Reads the file.
    ///
    /// # Errors
    /// [`EditError::Config`].
    pub fn read(path: &Path) -> Result<Self, EditError> {
        Self::parse(&config::read(path)?, path)
    }

    /// From a text, that of the file at `path`.
    ///
    /// # Errors
    /// [`EditError::Config`]; [`EditError::Invalid`] if it is no TOML to the editor.
    pub fn parse(text: &str, path: &Path) -> Result<Self, EditError> {
        let loaded = config::parse(text, &path.display().to_string())?;
        let edited = text.parse().map_err(|error: toml_edit::TomlError| EditError::Invalid(error.to_string()))?;
        Ok(Self::of(loaded, edited, text.to_owned(), path))
    }

    /// What the text means.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// What is allowed but probably not meant.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Where the file is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The text.
    #[must_use]
    pub fn text(&self) -> String {
        self.text.to_string()
    }

    /// What the file says that this was read from or saved to.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The document after it was saved.
    pub(crate) fn saved(&mut self) {
        self.source = self.text();
    }

    /// The document with `edit` made, valid as a whole; this one stays as it is.
    ///
    /// # Errors
    /// What `edit` says; [`EditError::Invalid`] with every mistake, by its key.
    pub fn edited(&self, edit: impl FnOnce(&mut Draft) -> Result<(), EditError>) -> Result<Self, EditError> {
        let mut draft = Draft(self.text.clone());
        edit(&mut draft)?;
        // What is validated is the text that would be saved. It need not be read once more to be edited: the draft is that text.
        let loaded = config::parse(&draft.0.to_string(), &self.path.display().to_string()).map_err(|error| {
            // Lines of a text that nobody has seen help nobody: the keys do.
            let lines = error.findings().iter().map(|f| format!("key `{}`: {}; {}", f.key, f.problem, f.cure));
            EditError::Invalid(lines.collect::<Vec<_>>().join("\n"))
        })?;
        Ok(Self::of(loaded, draft.0, self.source.clone(), &self.path))
    }

    fn of(Loaded { plan, warnings }: Loaded, text: DocumentMut, source: String, path: &Path) -> Self {
        let warnings = warnings.iter().map(ToString::to_string).collect();
        Self { path: path.to_owned(), text, plan, warnings, source }
    }
}

/// A document while it is edited.
pub struct Draft(DocumentMut);

/// A key and its new value; `None` takes the key away.
pub type Pair = (&'static str, Option<Value>);

impl Draft {
    /// A new VIP, without reals. Pairs without a value are left out.
    ///
    /// # Errors
    /// [`EditError::VipThere`].
    pub fn add_vip(&mut self, vip: &Service, pairs: Vec<Pair>) -> Result<(), EditError> {
        if self.vip(vip).is_ok() {
            return Err(EditError::VipThere(*vip));
        }
        let mut table = Table::new();
        table.insert("address", toml_edit::value(vip.address_text()));
        table.insert("port", toml_edit::value(i64::from(vip.port)));
        table.insert("protocol", toml_edit::value(vip.protocol.to_string()));
        set(&mut table, pairs);
        self.tables("vip")?.push(table);
        Ok(())
    }

    /// Other values for keys of a VIP.
    ///
    /// # Errors
    /// [`EditError::NoVip`].
    pub fn set_vip(&mut self, vip: &Service, pairs: Vec<Pair>) -> Result<(), EditError> {
        set(self.vip(vip)?, pairs);
        Ok(())
    }

    /// Removes a VIP with its reals.
    ///
    /// # Errors
    /// [`EditError::NoVip`].
    pub fn remove_vip(&mut self, vip: &Service) -> Result<(), EditError> {
        let vips = self.tables("vip")?;
        let at = vips.position(|table| is_vip(table, vip)).ok_or(EditError::NoVip(*vip))?;
        vips.remove(at);
        Ok(())
    }

    /// A new real for a VIP.
    ///
    /// # Errors
    /// [`EditError::NoVip`], [`EditError::RealThere`].
    pub fn add_real(&mut self, vip: &Service, real: IpAddr, pairs: Vec<Pair>) -> Result<(), EditError> {
        let reals = self.reals(vip)?;
        if reals.position(|table| is_at(table, real)).is_some() {
            return Err(EditError::RealThere { vip: *vip, real });
        }
        let mut table = Table::new();
        table.insert("address", toml_edit::value(real.to_string()));
        set(&mut table, pairs);
        reals.push(table);
        Ok(())
    }

    /// Other values for keys of a VIP's real.
    ///
    /// # Errors
    /// [`EditError::NoVip`], [`EditError::NoReal`].
    pub fn set_real(&mut self, vip: &Service, real: IpAddr, pairs: Vec<Pair>) -> Result<(), EditError> {
        let reals = self.reals(vip)?;
        let found = reals.position(|table| is_at(table, real)).and_then(|at| reals.into_at(at));
        set(found.ok_or(EditError::NoReal { vip: *vip, real })?, pairs);
        Ok(())
    }

    /// Removes a VIP's real.
    ///
    /// # Errors
    /// [`EditError::NoVip`], [`EditError::NoReal`].
    pub fn remove_real(&mut self, vip: &Service, real: IpAddr) -> Result<(), EditError> {
        let reals = self.reals(vip)?;
        let at = reals.position(|table| is_at(table, real)).ok_or(EditError::NoReal { vip: *vip, real })?;
        reals.remove(at);
        Ok(())
    }

    /// A value of a section that there is once; `None` takes the key away.
    pub fn set_once(&mut self, section: &str, key: &str, value: Option<Value>) {
        let table = self.0.as_table_mut();
        if !table.contains_key(section) {
            table.insert(section, toml_edit::table());
        }
        if let Some(table) = table.get_mut(section).and_then(Item::as_table_like_mut) {
            set_one(table, key, value);
        }
    }

    /// The real of a socket mark; `None` removes the mark, if it is there.
    ///
    /// # Errors
    /// [`EditError::Shape`].
    pub fn set_mark(&mut self, mark: u32, real: Option<IpAddr>) -> Result<(), EditError> {
        let marks = self.tables("health_encap")?;
        let at = marks.position(|table| integer(table, "mark") == Some(mark.into()));
        match (at, real) {
            (Some(at), None) => marks.remove(at),
            (Some(at), Some(real)) => {
                if let Some(table) = marks.into_at(at) {
                    set_one(table, "real", Some(real.to_string().into()));
                }
            }
            (None, Some(real)) => {
                let mut table = Table::new();
                table.insert("mark", toml_edit::value(i64::from(mark)));
                table.insert("real", toml_edit::value(real.to_string()));
                marks.push(table);
            }
            (None, None) => {}
        }
        Ok(())
    }

    fn tables(&mut self, name: &'static str) -> Result<Tables<'_>, EditError> {
        Tables::of(self.0.as_table_mut(), name).ok_or(EditError::Shape(name))
    }

    fn vip(&mut self, vip: &Service) -> Result<&mut dyn TableLike, EditError> {
        let vips = self.tables("vip")?;
        let found = vips.position(|table| is_vip(table, vip)).and_then(|at| vips.into_at(at));
        found.ok_or(EditError::NoVip(*vip))
    }

    fn reals(&mut self, vip: &Service) -> Result<Tables<'_>, EditError> {
        Tables::of(self.vip(vip)?, "real").ok_or(EditError::Shape("vip.real"))
    }
}

/// An array of texts as a value.
#[must_use]
pub fn texts(texts: &[String]) -> Value {
    Value::Array(texts.iter().map(String::as_str).collect::<Array>())
}

fn text<'t>(table: &'t dyn TableLike, key: &str) -> Option<&'t str> {
    table.get(key)?.as_str()
}

fn integer(table: &dyn TableLike, key: &str) -> Option<i64> {
    table.get(key)?.as_integer()
}

fn is_at(table: &dyn TableLike, real: IpAddr) -> bool {
    text(table, "address").and_then(|address| address.parse().ok()) == Some(real)
}

fn is_vip(table: &dyn TableLike, vip: &Service) -> bool {
    let is_same = |address| Service::new(address, vip.port, vip.protocol).is_ok_and(|found| found == *vip);
    integer(table, "port") == Some(vip.port.into())
        && text(table, "protocol") == Some(&vip.protocol.to_string())
        && text(table, "address").is_some_and(is_same)
}

fn set(table: &mut dyn TableLike, pairs: Vec<Pair>) {
    for (key, value) in pairs {
        set_one(table, key, value);
    }
}

/// Another value in the place of the old one, whose spaces and comment stay.
fn set_one(table: &mut dyn TableLike, key: &str, value: Option<Value>) {
    let Some(mut value) = value else {
        table.remove(key);
        return;
    };
    match table.get_mut(key).and_then(Item::as_value_mut) {
        Some(old) => {
            *value.decor_mut() = old.decor().clone();
            *old = value;
        }
        None => {
            table.insert(key, Item::Value(value));
        }
    }
}

#[cfg(test)]
mod tests;
