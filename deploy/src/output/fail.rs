//! What a person sees when it went wrong: what, and what to do next.

use std::{fmt, io, process::ExitCode};

use lamplight_agent::{
    bench::BenchError,
    home::HomeError,
    run::AgentError,
    source::{SourceError, SpecError},
};
use lamplight_coordinator::release::VerifyFailure;
use lamplight_models::zoo::ZooError;
use lamplight_proto::{
    envelope::VerifyError,
    keys::KeyError,
    refusal::{Reason, Refusal},
    settings::SettingsError,
};

use super::paint::{self, BAD, HINT};
use crate::{context::ContextError, operator};

/// What to do about an error, told on a line of its own.
#[derive(Debug)]
struct Hint(String);

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Errors that know what to do next.
pub(crate) trait OrHint<T> {
    /// Adds what to do next.
    fn hint(self, what: impl FnOnce() -> String) -> anyhow::Result<T>;
}

impl<T, E: Into<anyhow::Error>> OrHint<T> for Result<T, E> {
    fn hint(self, what: impl FnOnce() -> String) -> anyhow::Result<T> {
        self.map_err(|e| e.into().context(Hint(what())))
    }
}

/// An error of our own with what to do next.
pub(crate) fn fault(what: impl fmt::Display, hint: impl Into<String>) -> anyhow::Error {
    anyhow::anyhow!("{what}").context(Hint(hint.into()))
}

/// Somebody said no.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Refused(pub(crate) String);

/// What is shown of an error.
struct Shown {
    /// `refused`, `error`, ….
    kind: String,
    text: String,
    hint: Option<String>,
    code: u8,
}

/// Says what went wrong on stderr: a refusal is 1, anything else 2.
pub(crate) fn failed(error: &anyhow::Error) -> ExitCode {
    let shown = shown(error);
    anstream::eprintln!("{}: {}", paint::paint(BAD, shown.kind), shown.text);
    if let Some(hint) = shown.hint {
        anstream::eprintln!("{}: {hint}", paint::paint(HINT, "hint"));
    }
    ExitCode::from(shown.code)
}

fn shown(error: &anyhow::Error) -> Shown {
    let hint = || error.downcast_ref::<Hint>().map(|h| h.0.clone());
    if let Some(failure) = find::<VerifyFailure>(error) {
        // Files that are not there say nothing about those that are.
        let absent = matches!(
            failure,
            VerifyFailure::NoRelease { .. } | VerifyFailure::Unreadable { .. }
        );
        let next = if absent {
            "--dir names a coordinator's directory, a copy of it, or what `lamplight demo --keep` kept"
        } else {
            "restore the file from a copy that was not changed, and verify again"
        };
        return Shown {
            kind: "not verified".into(),
            text: failure.to_string(),
            hint: Some(hint().unwrap_or_else(|| next.into())),
            code: if absent { 2 } else { 1 },
        };
    }
    // Somebody signed it, but nobody who is believed.
    if find::<VerifyError>(error).is_some() {
        let next =
            "--key names the release key as `release.pub` in the coordinator's directory holds it";
        return Shown {
            kind: "refused".into(),
            text: explain(error),
            hint: Some(hint().unwrap_or_else(|| next.into())),
            code: 1,
        };
    }
    if find::<Refused>(error).is_some() {
        return Shown {
            kind: "refused".into(),
            text: explain(error),
            hint: hint(),
            code: 1,
        };
    }
    let refusal = (error.chain()).find_map(|cause| match cause.downcast_ref::<tonic::Status>() {
        Some(status) => Refusal::in_status(status),
        None => cause.downcast_ref::<Refusal>().cloned(),
    });
    match refusal {
        Some(r) => Shown {
            kind: format!("refused ({})", r.name()),
            text: r.to_string(),
            hint: hint().or_else(|| about_refusal(r.reason).map(Into::into)),
            code: 1,
        },
        // A file with a mistake in it, a directory that is not there: refused before anything is done.
        // The sentence says what to do.
        None if find::<SettingsError>(error).is_some()
            || lamplight_agent::cli::is_refusal(error)
            || lamplight_coordinator::cli::is_refusal(error) =>
        {
            Shown {
                kind: "refused".into(),
                text: explain(error),
                hint: hint(),
                code: 1,
            }
        }
        None => Shown {
            kind: "error".into(),
            text: explain(error),
            hint: hint().or_else(|| about(error)),
            code: 2,
        },
    }
}

fn find<E: std::error::Error + Send + Sync + 'static>(error: &anyhow::Error) -> Option<&E> {
    error.chain().find_map(|cause| cause.downcast_ref())
}

/// What to do about a refusal whose sentence does not say.
fn about_refusal(reason: Reason) -> Option<&'static str> {
    match reason {
        Reason::Protocol => Some("run programs of the same version: lamplight --version"),
        Reason::Unauthenticated => Some(
            "--identity names an operator's directory, as `lamplight init` reported; nodes have other rights",
        ),
        Reason::NotFound => Some(
            "see what there is: lamplight model list, lamplight node list, lamplight round list",
        ),
        Reason::Malformed => Some("`--help` tells what the command takes, with an example"),
        Reason::Oversize => {
            Some("ask whoever runs the coordinator: lamplight coordinator run --max-blob-mib")
        }
        // Their sentences say what to do, or there is nothing an operator can do.
        _ => None,
    }
}

/// Whether the sentence says what to do.
fn advises(error: &anyhow::Error) -> bool {
    find::<SourceError>(error).is_some()
        || find::<SpecError>(error).is_some()
        || find::<ZooError>(error).is_some()
        || find::<ContextError>(error).is_some()
        || find::<HomeError>(error).is_some()
        || find::<AgentError>(error).is_some()
        || find::<BenchError>(error).is_some()
        || find::<KeyError>(error).is_some()
}

/// What to do about a fault nobody gave a hint for, unless its sentence says so.
fn about(error: &anyhow::Error) -> Option<String> {
    if let Some(status) = find::<tonic::Status>(error) {
        let to = operator::described().unwrap_or_else(|| "the coordinator".into());
        return Some(match status.code() {
            tonic::Code::Unavailable | tonic::Code::Unknown | tonic::Code::DeadlineExceeded => {
                format!(
                    "check that the coordinator runs and can be reached, and that the identity is of \
                     its deployment; this command called {to}"
                )
            }
            tonic::Code::Unimplemented => format!(
                "the coordinator is older than this program; upgrade it, or use its version; this \
                 command called {to}"
            ),
            _ => format!("the coordinator's log says why; this command called {to}"),
        });
    }
    if let Some(e) = find::<io::Error>(error) {
        match e.kind() {
            io::ErrorKind::NotFound => return Some("check the path".into()),
            io::ErrorKind::PermissionDenied => {
                return Some("check whose file it is and who may read it: ls -l".into());
            }
            io::ErrorKind::StorageFull => return Some("make room on the disk, then repeat".into()),
            _ => {}
        }
    }
    let general = "LAMPLIGHT_LOG=debug tells more; `--help` tells what the command takes";
    (!advises(error)).then(|| general.into())
}

/// The chain of causes on one line; a gRPC status by its message, without its debris. Hints are told
/// apart.
fn explain(error: &anyhow::Error) -> String {
    let hint = error.downcast_ref::<Hint>().map(|h| h.0.as_str());
    let mut parts: Vec<String> = Vec::new();
    for cause in error.chain() {
        let part = match cause.downcast_ref::<tonic::Status>() {
            Some(s) if s.message().is_empty() => s.code().to_string(),
            Some(s) => s.message().to_owned(),
            None => cause.to_string(),
        };
        if Some(part.as_str()) != hint && !parts.iter().any(|p| p.contains(&part)) {
            parts.push(part);
        }
    }
    parts.join(": ")
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;
    use lamplight_agent::{source::SourceSpec, token_file};
    use lamplight_coordinator::{OpenError, RunError};
    use lamplight_proto::settings::Document;

    use super::*;

    #[test]
    fn a_hint_is_told_apart_from_the_error_however_deep_it_was_given() {
        let missing = io::Error::new(io::ErrorKind::NotFound, "no such file");
        let e = Err::<(), _>(missing)
            .context("fleet/tls.key")
            .hint(|| "run lamplight init".into())
            .context("opening the identity")
            .expect_err("an error");
        let shown = shown(&e);
        assert_eq!(
            shown.text,
            "opening the identity: fleet/tls.key: no such file"
        );
        assert_eq!(shown.hint.as_deref(), Some("run lamplight init"));
        assert_eq!(shown.code, 2);
    }

    #[test]
    fn every_fault_has_a_hint_even_if_nobody_gave_one() {
        for e in [
            anyhow::anyhow!("something"),
            io::Error::new(io::ErrorKind::NotFound, "x").into(),
            io::Error::new(io::ErrorKind::PermissionDenied, "x").into(),
            tonic::Status::unavailable("tcp connect error").into(),
            tonic::Status::unimplemented("").into(),
            tonic::Status::internal("x").into(),
        ] {
            assert!(shown(&e).hint.is_some_and(|h| !h.is_empty()), "{e}");
        }
    }

    #[test]
    fn a_sentence_that_says_what_to_do_gets_no_general_hint() {
        let source: SourceSpec = "images:/nowhere/at/all".parse().unwrap();
        let source = source.open().map(drop).unwrap_err();
        let context = ContextError::NoHome;
        for e in [
            anyhow::Error::from(source).context("opening the source"),
            context.into(),
        ] {
            let shown = shown(&e);
            assert_eq!((shown.code, shown.hint), (2, None), "{}", shown.text);
        }
    }

    #[test]
    fn what_an_agent_or_a_coordinator_refuses_is_1_and_said_as_any_refusal() {
        let not_there = OpenError::NotInitialised("nowhere".into());
        for e in [
            anyhow::Error::from(RunError::Open(not_there)),
            AgentError::NotEnrolled("nowhere".into()).into(),
            token_file::read("/nowhere/token".as_ref())
                .unwrap_err()
                .into(),
            Document::read_file("/nowhere/agent.toml".as_ref())
                .unwrap_err()
                .into(),
        ] {
            let shown = shown(&e);
            assert_eq!((shown.code, shown.kind.as_str()), (1, "refused"), "{e}");
            assert!(shown.text.contains("nowhere"), "{e}");
        }
    }

    #[test]
    fn a_refusal_is_1_and_says_its_reason() {
        let status = tonic::Status::from(Refusal::new(Reason::NotFound, "there is no round 7"));
        let shown = shown(&status.into());
        assert_eq!(
            (shown.code, shown.kind.as_str()),
            (1, "refused (not-found)")
        );
        assert_eq!(shown.text, "there is no round 7");
        assert!(shown.hint.is_some());
    }
}
