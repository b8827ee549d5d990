//! Contexts: several fleets, each under a name, in the operator's own configuration.
//!
//! ```toml
//! current = "chicago"
//!
//! [contexts.chicago]
//! coordinator = "fleet.example.org:7443"
//! identity = "/home/ann/chicago/operators/admin"
//! ```
//!
//! The file holds no secret, only where one lies. It is written by the commands below `lamplight
//! context`, and by people; so it is read as their other files are ([`lamplight_proto::settings`]).

use std::{
    collections::BTreeMap,
    env, fs, io,
    path::{Path, PathBuf},
};

use lamplight_proto::{
    ids::Label,
    keys,
    settings::{Document, SettingsError},
    tls::Address,
};
use serde::{Deserialize, Serialize};

/// Names the file, in place of the one in the configuration directory.
pub(crate) const FILE_VARIABLE: &str = "LAMPLIGHT_CONTEXTS";

/// Why contexts could not be read or kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ContextError {
    /// Nobody knows where configuration belongs.
    #[error(
        "neither XDG_CONFIG_HOME nor HOME is set; name the file of contexts with {FILE_VARIABLE}"
    )]
    NoHome,
    /// The file cannot be read, or is no list of contexts.
    #[error("{0}")]
    Settings(#[from] SettingsError),
    /// The file could not be written.
    #[error("{path} cannot be written: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// No context has the name.
    #[error("there is no context {name} in {path}; {known}")]
    Unknown {
        /// The name asked for.
        name: Label,
        /// The file.
        path: PathBuf,
        /// What there is instead.
        known: String,
    },
    /// The name is taken by something else.
    #[error("context {name} is already {old}; choose another name, or give --replace")]
    Taken {
        /// The name.
        name: Label,
        /// What it stands for.
        old: String,
    },
}

/// Where a fleet is and who calls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Context {
    /// `HOST:PORT`.
    #[serde(with = "as_text")]
    pub(crate) coordinator: Address,
    /// Directory of an operator's identity, absolute.
    pub(crate) identity: PathBuf,
}

mod as_text {
    use lamplight_proto::tls::Address;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(a: &Address, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(a)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Address, D::Error> {
        String::deserialize(d)?.parse().map_err(D::Error::custom)
    }
}

/// All contexts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    #[serde(skip_serializing_if = "Option::is_none")]
    current: Option<Label>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    contexts: BTreeMap<Label, Context>,
}

impl Kept {
    fn to_toml(&self) -> Result<String, toml::ser::Error> {
        toml::to_string(self)
    }
}

/// Reads the text of a file of contexts, and answers the file that this program would write for the
/// same contexts.
///
/// # Errors
/// The first fault, with its line, its key and what to write instead.
pub fn check(text: &str) -> anyhow::Result<String> {
    let kept: Kept = Document::parse(text, Path::new("contexts.toml"))?.read()?;
    Ok(kept.to_toml()?)
}

/// The file of contexts, read.
#[derive(Debug)]
pub(crate) struct Contexts {
    path: PathBuf,
    kept: Kept,
}

/// Where contexts are kept.
fn file() -> Result<PathBuf, ContextError> {
    let set = |name: &str| {
        env::var_os(name)
            .filter(|v| !v.is_empty())
            .map(PathBuf::from)
    };
    if let Some(file) = set(FILE_VARIABLE) {
        return Ok(file);
    }
    let config = set("XDG_CONFIG_HOME").or_else(|| Some(set("HOME")?.join(".config")));
    let config = config.ok_or(ContextError::NoHome)?;
    Ok(config.join("lamplight").join("contexts.toml"))
}

impl Contexts {
    /// Reads the operator's contexts; no file means none.
    ///
    /// # Errors
    /// [`ContextError`].
    pub(crate) fn read() -> Result<Self, ContextError> {
        Self::read_from(file()?)
    }

    /// Reads those of a file.
    ///
    /// # Errors
    /// [`ContextError`].
    pub(crate) fn read_from(path: PathBuf) -> Result<Self, ContextError> {
        let kept = match Document::read_file(&path) {
            Ok(document) => document.read()?,
            Err(SettingsError::Read { cause, .. }) if cause.kind() == io::ErrorKind::NotFound => {
                Kept::default()
            }
            Err(e) => return Err(e.into()),
        };
        Ok(Self { path, kept })
    }

    /// Writes them whole or not at all.
    fn write(&self) -> Result<(), ContextError> {
        let at = |source| ContextError::Write {
            path: self.path.clone(),
            source,
        };
        let text = (self.kept.to_toml()).map_err(|e| at(io::Error::other(e)))?;
        if let Some(dir) = self.path.parent() {
            fs::create_dir_all(dir).map_err(at)?;
        }
        keys::write_aside(&self.path, text.as_bytes(), 0o600).map_err(at)
    }

    /// Where they are kept.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// All of them, by name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Label, &Context)> {
        self.kept.contexts.iter()
    }

    /// Name of the one in use.
    pub(crate) fn current(&self) -> Option<&Label> {
        self.kept.current.as_ref()
    }

    /// The one with this name.
    ///
    /// # Errors
    /// [`ContextError::Unknown`].
    pub(crate) fn get(&self, name: &Label) -> Result<&Context, ContextError> {
        self.kept.contexts.get(name).ok_or_else(|| {
            let names: Vec<&str> = self.kept.contexts.keys().map(Label::as_str).collect();
            ContextError::Unknown {
                name: name.clone(),
                path: self.path.clone(),
                known: if names.is_empty() {
                    "there is none yet: lamplight context add".to_owned()
                } else {
                    format!("known are {}", names.join(", "))
                },
            }
        })
    }

    /// Keeps a context. The first one is in use from then on.
    ///
    /// # Errors
    /// [`ContextError::Taken`] when the name stands for something else and may not be replaced.
    pub(crate) fn add(
        &mut self,
        name: Label,
        context: Context,
        may_replace: bool,
    ) -> Result<(), ContextError> {
        if let Some(old) = self.kept.contexts.get(&name)
            && *old != context
            && !may_replace
        {
            let old = format!("{} with {}", old.coordinator, old.identity.display());
            return Err(ContextError::Taken { name, old });
        }
        if self.kept.contexts.is_empty() {
            self.kept.current = Some(name.clone());
        }
        self.kept.contexts.insert(name, context);
        self.write()
    }

    /// Commands that name no fleet mean this one from now on.
    ///
    /// # Errors
    /// [`ContextError::Unknown`].
    pub(crate) fn choose(&mut self, name: &Label) -> Result<(), ContextError> {
        self.get(name)?;
        self.kept.current = Some(name.clone());
        self.write()
    }

    /// Forgets a context; the identity it names stays where it is.
    ///
    /// # Errors
    /// [`ContextError::Unknown`].
    pub(crate) fn remove(&mut self, name: &Label) -> Result<Context, ContextError> {
        let gone = self.get(name)?.clone();
        self.kept.contexts.remove(name);
        if self.kept.current.as_ref() == Some(name) {
            self.kept.current = None;
        }
        self.write()?;
        Ok(gone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(text: &str) -> Label {
        text.parse().unwrap()
    }

    fn context(host: &str) -> Context {
        Context {
            coordinator: format!("{host}:7443").parse().unwrap(),
            identity: "/somewhere/admin".into(),
        }
    }

    #[test]
    fn contexts_read_back_as_they_were_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/contexts.toml");
        let mut all = Contexts::read_from(path.clone()).unwrap();
        assert_eq!(all.current(), None);
        all.add(label("a"), context("a.example"), false).unwrap();
        all.add(label("b"), context("b.example"), false).unwrap();
        let mut again = Contexts::read_from(path.clone()).unwrap();
        assert_eq!(again.kept, all.kept);
        assert_eq!(again.current(), Some(&label("a")), "the first is in use");
        again.choose(&label("b")).unwrap();
        again.remove(&label("b")).unwrap();
        let last = Contexts::read_from(path).unwrap();
        assert_eq!(last.current(), None, "the one in use is gone");
        assert_eq!(last.iter().count(), 1);
    }

    #[test]
    fn a_name_is_not_given_away_twice_unless_told_to() {
        let dir = tempfile::tempdir().unwrap();
        let mut all = Contexts::read_from(dir.path().join("c.toml")).unwrap();
        all.add(label("a"), context("a.example"), false).unwrap();
        all.add(label("a"), context("a.example"), false).unwrap();
        let e = all
            .add(label("a"), context("b.example"), false)
            .unwrap_err();
        assert!(e.to_string().contains("a.example:7443"), "{e}");
        all.add(label("a"), context("b.example"), true).unwrap();
        assert_eq!(all.get(&label("a")).unwrap(), &context("b.example"));
    }

    #[test]
    fn an_unknown_name_is_answered_with_those_there_are() {
        let dir = tempfile::tempdir().unwrap();
        let mut all = Contexts::read_from(dir.path().join("c.toml")).unwrap();
        let e = all.choose(&label("x")).unwrap_err().to_string();
        assert!(e.contains("context add"), "{e}");
        all.add(label("a"), context("a.example"), false).unwrap();
        let e = all.choose(&label("x")).unwrap_err().to_string();
        assert!(e.contains("known are a"), "{e}");
    }

    #[test]
    fn a_mistake_in_the_file_is_told_in_one_line_with_its_place_and_its_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.toml");
        let long = format!("current = \"{}\"\n", "a ".repeat(100_000));
        for (text, place, says) in [
            (
                "current = \"a\"\n[contexts.a]\ncordinator = \"x:1\"\n",
                "c.toml:3:1",
                "did you mean `contexts.a.coordinator`?",
            ),
            (
                "[contexts.a]\ncoordinator = \"x\"\nidentity = \"/a\"\n",
                "c.toml:2:15",
                "\"x\" is not host:port, e.g. fleet.example.org:7443",
            ),
            (
                "\n[contexts.a]\ncoordinator = \"x:1\"\n",
                "c.toml:2:11",
                "`contexts.a.identity` is missing; write it there",
            ),
            (
                "[contexts.\"a b\"]\ncoordinator = \"x:1\"\nidentity = \"/a\"\n",
                "c.toml:1:11",
                "`contexts.a b` does not fit: name is malformed",
            ),
            ("[context.a]\n", "c.toml:1:2", "did you mean `contexts`?"),
            ("current = \"a\n", "c.toml:1:13", "correct this line"),
            (&long, "c.toml:1:11", "name is malformed"),
        ] {
            fs::write(&path, text).unwrap();
            let e = Contexts::read_from(path.clone()).unwrap_err().to_string();
            assert!(e.contains(place) && e.contains(says), "{e}");
            assert!(e.len() < 500 && !e.contains('\n'), "{e}");
        }
        fs::write(&path, vec![b'#'; 2 << 20]).unwrap();
        let e = Contexts::read_from(path).unwrap_err().to_string();
        assert!(e.contains("2097152 bytes"), "{e}");
    }

    #[test]
    fn what_a_person_wrote_reads_back_as_this_program_writes_it() {
        let text = "contexts.b = { identity = '/b', coordinator = \"b:1\" } # mine\n";
        let written = check(text).unwrap();
        assert_eq!(
            written,
            "[contexts.b]\ncoordinator = \"b:1\"\nidentity = \"/b\"\n"
        );
        assert_eq!(check(&written).unwrap(), written);
    }
}
