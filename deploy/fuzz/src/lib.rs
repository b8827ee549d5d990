//! Fuzz targets: every parser of bytes that come from outside, each behind one function.
//!
//! ```text
//!   corpus/TARGET/*  ──┐                     ┌─> parser     within a bound on memory
//!   libFuzzer        ──┴─> Target::run(bytes)┴─> what it promised (reads back, same bytes, finite …)
//! ```
//!
//! A target panics when a promise is broken; refusing the bytes is an answer like any other. The
//! same functions are called by `tests/corpus.rs`, on every machine and without any tool, and by the
//! program in `bin/fuzz.rs`, guided by coverage; `docs/fuzzing.md` tells how to run it.
//!
//! Reading order: [`TARGETS`], [`memory`] (what an input may cost), [`parts`] (targets that read a
//! directory), the targets ([`models`], [`proto`], [`coordinator`], [`release`], [`agent`], [`sources`],
//! [`settings`]),
//! [`seeds`] (what the corpus begins with).
//!
//! Invariants: a target is a function of its bytes alone, so that an input found once fails again;
//! every file in `corpus` named `good…` is accepted, and every one named `bad…` refused.

pub mod agent;
pub mod coordinator;
pub mod memory;
pub mod models;
pub mod parts;
pub mod proto;
pub mod release;
pub mod seeds;
pub mod settings;
pub mod sources;

use memory::Spent;

/// Whether a parser took an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It became a value of the program.
    Accepted,
    /// It was refused with an error.
    Refused,
}

impl Answer {
    /// What a parser answered.
    fn of<T, E>(result: &Result<T, E>) -> Self {
        match result {
            Ok(_) => Self::Accepted,
            Err(_) => Self::Refused,
        }
    }
}

/// A parser and its promises.
pub struct Target {
    /// Name, also of its folders below `corpus` and `regressions`.
    pub name: &'static str,
    /// What is parsed, and what is checked beside not panicking.
    pub about: &'static str,
    run: fn(&[u8]) -> Answer,
}

impl Target {
    /// Parses an input and checks every promise. Says how it was answered, and the most memory that
    /// one of the target's parsers took.
    ///
    /// # Panics
    /// When a promise is broken: that is what fuzzing looks for.
    pub fn run(&self, input: &[u8]) -> (Answer, Spent) {
        memory::start();
        let answer = (self.run)(input);
        (answer, memory::spent())
    }
}

/// All targets.
pub const TARGETS: &[Target] = &[
    Target {
        name: "gguf",
        about: "model files; what is read is written and read back the same",
        run: models::gguf,
    },
    Target {
        name: "graph",
        about: "graphs as JSON; a small valid one is trained for a step and asked for an answer",
        run: models::graph,
    },
    Target {
        name: "container",
        about: "headers of safetensors containers; what passes, the `safetensors` crate reads, too",
        run: models::container,
    },
    Target {
        name: "delta",
        about: "deltas, whole, in blocks and as the coordinator inspects them; all three agree",
        run: models::delta,
    },
    Target {
        name: "samples",
        about: "samples files; what is read is written and read back the same",
        run: models::samples,
    },
    Target {
        name: "training",
        about: "saved training runs; what is resumed is saved and resumed again",
        run: models::training,
    },
    Target {
        name: "envelope",
        about: "envelopes that nobody signed are not believed; signed ones as their payload deserves",
        run: proto::envelope,
    },
    Target {
        name: "delta_manifest",
        about: "payloads of deltas' manifests; what is read is written and read back the same",
        run: proto::delta_manifest,
    },
    Target {
        name: "release_manifest",
        about: "payloads of releases' manifests, in the same way",
        run: proto::release_manifest,
    },
    Target {
        name: "round_offer",
        about: "payloads of offers, in the same way",
        run: proto::round_offer,
    },
    Target {
        name: "receipt",
        about: "payloads of receipts, in the same way",
        run: proto::receipt,
    },
    Target {
        name: "names",
        about: "ids, names, digests, addresses, join tokens, version headers; shown and read back the same",
        run: proto::names,
    },
    Target {
        name: "chunks",
        about: "sequences of chunks; what is taken follows one another and ends within the promise",
        run: proto::chunks,
    },
    Target {
        name: "refusal",
        about: "refusals in a status' details",
        run: proto::refusal,
    },
    Target {
        name: "identity",
        about: "directories of certificates and keys",
        run: proto::identity,
    },
    Target {
        name: "requests",
        about: "messages that become coordinator requests: starting rounds, enrolling, progress",
        run: coordinator::requests,
    },
    Target {
        name: "certificate_request",
        about: "PKCS#10 requests of joining nodes",
        run: coordinator::certificate_request,
    },
    Target {
        name: "peer",
        about: "certificates, and who they say their holder is",
        run: coordinator::peer,
    },
    Target {
        name: "release",
        about: "state directories by their own hostile owner: `release verify`, all digests made to match",
        run: release::verify,
    },
    Target {
        name: "settings",
        about: "files of settings, with a key of every kind; printed and read back the same",
        run: settings::settings,
    },
    Target {
        name: "agent_settings",
        about: "configuration of an agent; printed and read back the same",
        run: settings::agent,
    },
    Target {
        name: "coordinator_settings",
        about: "configuration of a coordinator, in the same way",
        run: settings::coordinator,
    },
    Target {
        name: "task_file",
        about: "task files of operators",
        run: settings::task,
    },
    Target {
        name: "contexts",
        about: "an operator's fleets; what is read is written and read back the same",
        run: settings::contexts,
    },
    Target {
        name: "source_spec",
        about: "the line that names a data source; shown and read back the same",
        run: agent::source_spec,
    },
    Target {
        name: "hapt",
        about: "directories of recordings: three tables and compressed signals",
        run: sources::hapt,
    },
    Target {
        name: "hapt_published",
        about: "the same in its publisher's layout: blank-separated text",
        run: sources::hapt_published,
    },
    Target {
        name: "csv",
        about: "tables of readings with the options that say how to read them; the same when compressed",
        run: sources::csv,
    },
    Target {
        name: "idx",
        about: "pairs of IDX files; the same when compressed",
        run: sources::idx,
    },
    Target {
        name: "cifar10",
        about: "CIFAR-10's records and class names; the same when compressed",
        run: sources::cifar10,
    },
    Target {
        name: "image",
        about: "JPEG and PNG files, checksums made to match; values from 0 to 1",
        run: sources::image,
    },
    Target {
        name: "task",
        about: "checkpoints of a node's task, behind a digest made to match",
        run: agent::task,
    },
];

/// The target of this name.
#[must_use]
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|t| t.name == name)
}
