//! What an operator writes into `coordinator.toml`, or says by variables and flags.
//!
//! ```text
//!   default < file < LAMPLIGHT_COORDINATOR__… < flags ──> Loaded { settings, document }
//! ```

use std::{ffi::OsString, net::SocketAddr, path::Path, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use lamplight_proto::settings::{
    Document, LOG_VARIABLE, Log, Setting, SettingsError, Variables, within,
};

use crate::Config;

/// The example, commented: every key there is. `lamplight coordinator config example` prints it.
pub const EXAMPLE: &str = include_str!("../../deploy/config/coordinator.toml");

/// The variable that names the file.
pub const CONFIG_VARIABLE: &str = "LAMPLIGHT_COORDINATOR_CONFIG";

/// The variable that names the state directory, beside the one that is made of the key.
pub const DIR_VARIABLE: &str = "LAMPLIGHT_COORDINATOR_DIR";

const VARIABLES: Variables = Variables {
    prefix: "LAMPLIGHT_COORDINATOR",
    named: &[(DIR_VARIABLE, "dir"), (LOG_VARIABLE, "log.filter")],
    spared: &[CONFIG_VARIABLE],
};

/// Which flag stands for which key.
const FLAGS: &[(&str, &str)] = &[
    ("dir", "--dir"),
    ("listen", "--listen"),
    ("poll_active_milliseconds", "--poll-active-ms"),
    ("poll_idle_milliseconds", "--poll-idle-ms"),
    ("grace_seconds", "--grace-seconds"),
    ("max_blob_mib", "--max-blob-mib"),
    ("threads", "--threads"),
];

/// Every key of a coordinator's configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// State directory, made by `lamplight init`.
    pub dir: Option<PathBuf>,
    /// Address and port to listen on.
    pub listen: SocketAddr,
    /// Suggested wait between polls of nodes that take part in a running round.
    pub poll_active_milliseconds: u64,
    /// Suggested wait between polls of all others.
    pub poll_idle_milliseconds: u64,
    /// How long a shutdown waits for the step in hand.
    pub grace_seconds: u64,
    /// Largest file an operator may upload.
    pub max_blob_mib: u64,
    /// Threads of evaluation.
    #[serde(deserialize_with = "within::<_, _, 1, 1024>")]
    pub threads: u64,
    /// What is logged.
    pub log: Log,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            dir: None,
            listen: SocketAddr::from(([0, 0, 0, 0], 7443)),
            poll_active_milliseconds: 200,
            poll_idle_milliseconds: 5000,
            grace_seconds: 10,
            max_blob_mib: 4096,
            threads: 1,
            log: Log::default(),
        }
    }
}

/// What the command line says about keys; what it does not say is `None`.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    /// `--dir`
    pub dir: Option<PathBuf>,
    /// `--listen`
    pub listen: Option<SocketAddr>,
    /// `--poll-active-ms`
    pub poll_active_milliseconds: Option<u64>,
    /// `--poll-idle-ms`
    pub poll_idle_milliseconds: Option<u64>,
    /// `--grace-seconds`
    pub grace_seconds: Option<u64>,
    /// `--max-blob-mib`
    pub max_blob_mib: Option<u64>,
    /// `--threads`
    pub threads: Option<u64>,
}

/// Settings that fit, and where each of them was given.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// Every key.
    pub settings: Settings,
    document: Document,
}

impl Loaded {
    /// Reads the layers: `file` if there is one, `variables` of the environment, `flags`.
    ///
    /// # Errors
    /// [`SettingsError`] naming place, key, both values and a remedy.
    pub fn read(
        file: Option<&Path>,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
        flags: &Flags,
    ) -> Result<Self, SettingsError> {
        let document = match file {
            Some(path) => Document::read_file(path)?,
            None => Document::empty(),
        };
        Self::layered(document, variables, flags)
    }

    /// What a file says alone.
    ///
    /// # Errors
    /// [`SettingsError`].
    pub fn of(document: Document) -> Result<Self, SettingsError> {
        Self::layered(document, [], &Flags::default())
    }

    fn layered(
        document: Document,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
        flags: &Flags,
    ) -> Result<Self, SettingsError> {
        let mut document = document.with_flags(FLAGS);
        document.over_environment(&VARIABLES, variables)?;
        document.over_flag("dir", flags.dir.as_ref().map(|p| p.display().to_string()));
        document.over_flag("listen", flags.listen);
        document.over_flag("poll_active_milliseconds", flags.poll_active_milliseconds);
        document.over_flag("poll_idle_milliseconds", flags.poll_idle_milliseconds);
        document.over_flag("grace_seconds", flags.grace_seconds);
        document.over_flag("max_blob_mib", flags.max_blob_mib);
        document.over_flag("threads", flags.threads);
        let mut settings: Settings = document.read()?;
        // As given: a path need not be text.
        if flags.dir.is_some() {
            settings.dir.clone_from(&flags.dir);
        }
        let loaded = Self { settings, document };
        loaded.check()?;
        Ok(loaded)
    }

    /// What types alone do not say.
    fn check(&self) -> Result<(), SettingsError> {
        let s = &self.settings;
        for (key, value, least, most) in [
            (
                "poll_active_milliseconds",
                s.poll_active_milliseconds,
                1,
                3_600_000,
            ),
            (
                "poll_idle_milliseconds",
                s.poll_idle_milliseconds,
                1,
                3_600_000,
            ),
            ("grace_seconds", s.grace_seconds, 0, 3600),
            ("max_blob_mib", s.max_blob_mib, 1, 1 << 20),
        ] {
            if !(least..=most).contains(&value) {
                let says = format!("is {value}, must be from {least} to {most}");
                return Err(self.document.fault(key, says));
            }
        }
        s.log.check(&self.document)
    }

    /// The state directory.
    ///
    /// # Errors
    /// [`SettingsError::Missing`].
    pub fn dir(&self) -> Result<&Path, SettingsError> {
        let dir = self.settings.dir.as_deref();
        dir.ok_or_else(|| self.document.missing("dir"))
    }

    /// How the coordinator runs.
    ///
    /// # Errors
    /// [`SettingsError::Missing`] without a directory.
    pub fn config(&self) -> Result<Config, SettingsError> {
        let s = &self.settings;
        Ok(Config {
            poll_active: Duration::from_millis(s.poll_active_milliseconds),
            poll_idle: Duration::from_millis(s.poll_idle_milliseconds),
            grace: Duration::from_secs(s.grace_seconds),
            max_blob_bytes: s.max_blob_mib << 20,
            threads: usize::try_from(s.threads).unwrap_or(1),
            ..Config::new(self.dir()?)
        })
    }

    /// Every key, what counts, and why.
    ///
    /// # Errors
    /// [`serde_json::Error`] for a path that is not text.
    pub fn explain(&self) -> Result<Vec<Setting>, serde_json::Error> {
        Ok(self
            .document
            .explain(&serde_json::to_value(&self.settings)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Loaded, SettingsError> {
        Loaded::of(Document::parse(text, Path::new("coordinator.toml"))?)
    }

    #[test]
    fn the_example_is_read_and_holds_the_defaults() {
        let example = read(EXAMPLE).unwrap().settings;
        assert!(example.dir.is_some());
        let default = Settings {
            dir: example.dir.clone(),
            ..Settings::default()
        };
        assert_eq!(example, default);
        // The defaults of a program without any configuration are the same.
        let config = read("dir = \"d\"").unwrap().config().unwrap();
        let plain = Config::new("d");
        assert_eq!(format!("{config:?}"), format!("{plain:?}"));
    }

    #[test]
    fn the_example_shows_every_key_and_no_other() {
        let known = read("").unwrap().explain().unwrap();
        let mut known: Vec<String> = known.into_iter().map(|s| s.key).collect();
        known.sort();
        let mut table = String::new();
        let mut shown = Vec::new();
        for line in EXAMPLE.lines() {
            if let Some(name) = line.strip_prefix('[') {
                table = format!("{}.", name.trim_end_matches(']'));
            } else if let Some((key, _)) = line.split_once(" = ").filter(|_| !line.starts_with('#'))
            {
                shown.push(format!("{table}{key}"));
            }
        }
        shown.sort();
        assert_eq!(shown, known);
    }

    #[test]
    fn a_value_that_cannot_be_is_told_with_line_and_remedy() {
        for (text, want) in [
            (
                "threads = 0",
                "coordinator.toml:1:11: `threads` is 0, must be a whole number from 1 to 1024",
            ),
            (
                "poll_idle_seconds = 5",
                "coordinator.toml:1:1: unknown key `poll_idle_seconds`; did you mean \
                 `poll_idle_milliseconds`?",
            ),
            (
                "listen = \"7443\"",
                "coordinator.toml:1:10: `listen` does not fit: invalid socket address syntax",
            ),
            (
                "max_blob_mib = 9999999999",
                "coordinator.toml:1:16: `max_blob_mib` is 9999999999, must be from 1 to 1048576",
            ),
            (
                "[log]\nlevel = \"info\"",
                "coordinator.toml:2:1: unknown key `log.level`; known here: `filter`, `format`",
            ),
        ] {
            let e = read(text).unwrap_err().to_string();
            assert!(e.starts_with(want), "{e}\n{want}");
        }
    }

    #[test]
    fn flags_and_variables_count_more_than_the_file() {
        let document = |text| Document::parse(text, Path::new("coordinator.toml")).unwrap();
        let variables = [
            ("LAMPLIGHT_COORDINATOR_DIR", "/variable"),
            ("LAMPLIGHT_COORDINATOR__THREADS", "3"),
            // The operator's own, which tells the CLI where the coordinator is.
            ("LAMPLIGHT_COORDINATOR", "fleet.example.org:7443"),
            ("LAMPLIGHT_COORDINATOR_SERVICE_HOST", "10.0.0.1"),
        ];
        let variables = variables.map(|(k, v)| (OsString::from(k), OsString::from(v)));
        let flags = Flags {
            listen: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
            ..Flags::default()
        };
        let text = "dir = \"/file\"\nthreads = 2\nlisten = \"0.0.0.0:1\"\n";
        let loaded = Loaded::layered(document(text), variables, &flags).unwrap();
        assert_eq!(loaded.dir().unwrap(), Path::new("/variable"));
        assert_eq!(loaded.settings.threads, 3);
        assert_eq!(loaded.settings.listen.port(), 0);
        let slip = [(
            OsString::from("LAMPLIGHT_COORDINATOR_THREADS"),
            OsString::from("3"),
        )];
        let e = Loaded::layered(document(text), slip, &Flags::default()).unwrap_err();
        assert!(e.to_string().contains("names no key"), "{e}");
    }
}
