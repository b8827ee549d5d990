//! What a node's owner writes into `agent.toml`, or says by variables and flags.
//!
//! ```text
//!   default < file < LAMPLIGHT_AGENT__… < flags ──> Loaded { settings, document }
//! ```
//!
//! [`Settings`] holds every key with its unit in its name; the rest of the agent gets domain types
//! ([`Limits`], [`run::Config`](crate::run::Config)).

use std::{ffi::OsString, fmt, path::Path, path::PathBuf};

use lamplight_models::{lane::LaneKind, train::Precision};
use lamplight_proto::{
    budget::{Budget, DailyWindow, MAX_WINDOWS},
    ids::{Label, ModelName},
    settings::{Document, LOG_VARIABLE, Log, Setting, SettingsError, Variables, within},
    tls::Address,
};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{SeqAccess, Visitor, value::StrDeserializer},
};

use crate::{limits::Limits, source::SourceSpec};

/// The example, commented: every key there is. `lamplight agent config example` prints it.
pub const EXAMPLE: &str = include_str!("../../deploy/config/agent.toml");

/// The variable that names the file.
pub const CONFIG_VARIABLE: &str = "LAMPLIGHT_AGENT_CONFIG";

const VARIABLES: Variables = Variables {
    prefix: "LAMPLIGHT_AGENT",
    named: &[(LOG_VARIABLE, "log.filter")],
    spared: &[CONFIG_VARIABLE],
};

/// Which flag stands for which key.
const FLAGS: &[(&str, &str)] = &[
    ("dir", "--dir"),
    ("coordinator", "--coordinator"),
    ("name", "--name"),
    ("token_file", "--token-file"),
    ("grace_seconds", "--grace-seconds"),
    ("source.spec", "--source"),
    ("training.device", "--device"),
    ("training.threads", "--threads"),
    ("training.precision", "--precision"),
    ("training.checkpoint_seconds", "--checkpoint-seconds"),
];

/// How join tokens begin: one that stands where its file's name belongs must not be shown.
const TOKEN_BEGINS: &str = "lamp1_";

/// Every key of a node's configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// The node's directory.
    pub dir: Option<PathBuf>,
    /// Where the coordinator listens.
    pub coordinator: Option<Address>,
    /// A name for people.
    pub name: Option<Label>,
    /// A file that holds the join token.
    pub token_file: Option<PathBuf>,
    /// A stop takes at most this long.
    pub grace_seconds: u32,
    /// The node's samples.
    pub source: Source,
    /// How it trains.
    pub training: Training,
    /// What a task may use.
    pub limits: LimitKeys,
    /// What is logged.
    pub log: Log,
}

/// The table `[source]`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Source {
    /// The node's samples, in one line.
    pub spec: Option<SourceSpec>,
}

/// The table `[training]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Training {
    /// Where matrix products run.
    pub device: LaneKind,
    /// Threads of the CPU.
    #[serde(deserialize_with = "within::<_, _, 1, 1024>")]
    pub threads: u16,
    /// In which numbers steps calculate.
    pub precision: Precision,
    /// How often training is saved.
    pub checkpoint_seconds: u32,
}

/// The table `[limits]`: [`Limits`] as people write them.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LimitKeys {
    /// Memory of training.
    pub memory_mib: Option<u64>,
    /// Energy of a round's training.
    pub energy_joules: Option<f64>,
    /// What the machine draws while it trains, where no counter tells.
    pub assumed_power_watts: Option<f64>,
    /// What a round may move over the network.
    pub transfer_mib: Option<u64>,
    /// When training may run.
    pub window_utc: Windows,
    /// Whose tasks are taken.
    pub models: Option<Vec<ModelName>>,
}

/// One span of the day or several: a text, several parted by commas, or a list.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Windows(pub Vec<DailyWindow>);

impl Default for Settings {
    fn default() -> Self {
        Self {
            dir: None,
            coordinator: None,
            name: None,
            token_file: None,
            grace_seconds: 10,
            source: Source::default(),
            training: Training::default(),
            limits: LimitKeys::default(),
            log: Log::default(),
        }
    }
}

impl Default for Training {
    fn default() -> Self {
        Self {
            device: LaneKind::Cpu,
            threads: 1,
            // Not `auto`: nodes with other processors would train in other numbers, and what a fleet
            // learns should not hang on who built its nodes. Owners who know theirs choose.
            precision: Precision::F32,
            checkpoint_seconds: 60,
        }
    }
}

impl Serialize for Windows {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(&self.0)
    }
}

impl<'de> Deserialize<'de> for Windows {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct OneOrMany;

        impl<'de> Visitor<'de> for OneOrMany {
            type Value = Windows;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a span of the day like \"22:00-06:00\", or a list of them")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Windows, E> {
                let parts = text.split(',').map(str::trim).filter(|p| !p.is_empty());
                parts
                    .map(|part| DailyWindow::deserialize(StrDeserializer::new(part)))
                    .collect::<Result<_, E>>()
                    .map(Windows)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Windows, A::Error> {
                let mut windows = Vec::new();
                while let Some(window) = list.next_element()? {
                    windows.push(window);
                }
                Ok(Windows(windows))
            }
        }
        d.deserialize_any(OneOrMany)
    }
}

/// What the command line says about keys; what it does not say is `None`.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    /// `--dir`
    pub dir: Option<PathBuf>,
    /// `--coordinator`
    pub coordinator: Option<Address>,
    /// `--name`
    pub name: Option<Label>,
    /// `--token-file`
    pub token_file: Option<PathBuf>,
    /// `--grace-seconds`
    pub grace_seconds: Option<u32>,
    /// `--source`
    pub source: Option<SourceSpec>,
    /// `--device`
    pub device: Option<LaneKind>,
    /// `--threads`
    pub threads: Option<u16>,
    /// `--precision`
    pub precision: Option<Precision>,
    /// `--checkpoint-seconds`
    pub checkpoint_seconds: Option<u32>,
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
        let shown = |path: &Option<PathBuf>| path.as_ref().map(|p| p.display().to_string());
        document.over_flag("dir", shown(&flags.dir));
        document.over_flag("coordinator", flags.coordinator.as_ref());
        document.over_flag("name", flags.name.as_ref());
        document.over_flag("token_file", shown(&flags.token_file));
        document.over_flag("grace_seconds", flags.grace_seconds);
        document.over_flag("source.spec", flags.source.as_ref());
        document.over_flag("training.device", flags.device);
        document.over_flag("training.threads", flags.threads);
        document.over_flag("training.precision", flags.precision);
        document.over_flag("training.checkpoint_seconds", flags.checkpoint_seconds);
        let mut settings: Settings = document.read()?;
        // As given: a path need not be text.
        for (flag, key) in [
            (&flags.dir, &mut settings.dir),
            (&flags.token_file, &mut settings.token_file),
        ] {
            if flag.is_some() {
                key.clone_from(flag);
            }
        }
        let loaded = Self { settings, document };
        loaded.check()?;
        Ok(loaded)
    }

    /// What types alone do not say.
    fn check(&self) -> Result<(), SettingsError> {
        let s = &self.settings;
        let at_least_one = [
            ("grace_seconds", u64::from(s.grace_seconds)),
            (
                "training.checkpoint_seconds",
                u64::from(s.training.checkpoint_seconds),
            ),
            ("limits.memory_mib", s.limits.memory_mib.unwrap_or(1)),
            ("limits.transfer_mib", s.limits.transfer_mib.unwrap_or(1)),
        ];
        for (key, value) in at_least_one {
            if value == 0 {
                return Err(self.fault(key, "is 0, must be 1 or more"));
            }
        }
        for (key, value) in [
            ("limits.memory_mib", s.limits.memory_mib),
            ("limits.transfer_mib", s.limits.transfer_mib),
        ] {
            if let Some(mib) = value.filter(|mib| *mib > MOST_MIB) {
                let says = format!("is {mib}, must be at most {MOST_MIB}; it counts MiB");
                return Err(self.fault(key, says));
            }
        }
        for (key, value) in [
            ("limits.energy_joules", s.limits.energy_joules),
            ("limits.assumed_power_watts", s.limits.assumed_power_watts),
        ] {
            if let Some(value) = value.filter(|v| !(v.is_finite() && *v > 0.0)) {
                let says = format!("is {value}, must be a number above 0");
                return Err(self.fault(key, says));
            }
        }
        let windows = s.limits.window_utc.0.len();
        if windows > MAX_WINDOWS {
            let says = format!("names {windows} spans of the day, at most {MAX_WINDOWS} are taken");
            return Err(self.fault("limits.window_utc", says));
        }
        if s.limits.models.as_ref().is_some_and(Vec::is_empty) {
            let says = "is an empty list, so that no task could ever be taken; name a model, or \
                        leave the key out";
            return Err(self.fault("limits.models", says));
        }
        let token = s.token_file.as_ref().and_then(|path| path.to_str());
        if token.is_some_and(|text| text.trim_start().starts_with(TOKEN_BEGINS)) {
            // The message must not repeat it.
            let says = "holds a join token itself; write the token into a file of mode 0600 and \
                        name that file here";
            return Err(self.fault("token_file", says));
        }
        s.log.check(&self.document)
    }

    fn fault(&self, key: &str, says: impl fmt::Display) -> SettingsError {
        self.document.fault(key, says)
    }

    fn needed<'a, T>(&self, key: &str, value: &'a Option<T>) -> Result<&'a T, SettingsError> {
        value.as_ref().ok_or_else(|| self.document.missing(key))
    }

    /// The node's directory.
    ///
    /// # Errors
    /// [`SettingsError::Missing`].
    pub fn dir(&self) -> Result<&Path, SettingsError> {
        self.needed("dir", &self.settings.dir).map(PathBuf::as_path)
    }

    /// Where the coordinator listens.
    ///
    /// # Errors
    /// [`SettingsError::Missing`].
    pub fn coordinator(&self) -> Result<&Address, SettingsError> {
        self.needed("coordinator", &self.settings.coordinator)
    }

    /// The node's samples.
    ///
    /// # Errors
    /// [`SettingsError::Missing`].
    pub fn source(&self) -> Result<&SourceSpec, SettingsError> {
        self.needed("source.spec", &self.settings.source.spec)
    }

    /// What a task may use.
    #[must_use]
    pub fn limits(&self) -> Limits {
        let keys = &self.settings.limits;
        let bytes = |mib: u64| mib.saturating_mul(1 << 20);
        Limits {
            budget: Budget {
                memory_bytes: keys.memory_mib.map(bytes),
                energy_joules: keys.energy_joules,
                transfer_bytes: keys.transfer_mib.map(bytes),
                windows: keys.window_utc.0.clone(),
            },
            models: keys.models.clone().map(|all| all.into_iter().collect()),
            assumed_power_watts: keys.assumed_power_watts,
        }
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

/// More than any node has: 16 TiB.
const MOST_MIB: u64 = 16 << 20;

#[cfg(test)]
mod tests;
