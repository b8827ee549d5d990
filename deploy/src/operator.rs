//! The coordinator as an operator sees it.

use std::{env, ffi::OsString, path::PathBuf, str::FromStr, sync::OnceLock};

use anyhow::Context as _;
use indicatif::ProgressBar;
use lamplight_models::{image::ImageInput, quant::gguf};
use lamplight_proto::{
    asks,
    chunk::{Receiving, chunks},
    ids::{Digest, Hasher, Label, ModelName, ModelVersion},
    refusal::{Reason, Refusal},
    tls::{self, Address, Identity, Link, MAX_LISTING_BYTES, MAX_MESSAGE_BYTES},
    version::peer_version,
    wire::{self, models_client::ModelsClient, operator_client::OperatorClient},
};
use prost::bytes::Bytes;

use crate::{
    context::{ContextError, Contexts},
    output::{OrHint as _, fault},
};

/// Where the coordinator is and who calls.
///
/// What is given with the command counts first, then the environment, then the context in use. A
/// context that is named in one of these places fills in what that place leaves open.
// The environment is read here and not by clap, which would not tell it from the command line.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Connection {
    /// The coordinator's address [env: LAMPLIGHT_COORDINATOR]
    #[arg(long, value_name = "HOST:PORT", help_heading = "Fleet")]
    coordinator: Option<Address>,
    /// Directory with the operator's tls.crt, tls.key and ca.crt [env: LAMPLIGHT_IDENTITY]
    #[arg(long, value_name = "DIR", help_heading = "Fleet")]
    identity: Option<PathBuf>,
    /// The fleet's name in `lamplight context list`; the one in use when nothing is given
    /// [env: LAMPLIGHT_CONTEXT]
    #[arg(long, value_name = "NAME", help_heading = "Fleet")]
    context: Option<Label>,
}

/// A connection with nothing left open, and where that came from.
#[derive(Debug, PartialEq, Eq)]
struct Settled {
    coordinator: Address,
    identity: PathBuf,
    sources: [String; 2],
}

/// What this process calls, for errors that tell where to look.
static CALLED: OnceLock<String> = OnceLock::new();

/// What this process calls, and who told it to.
pub(crate) fn described() -> Option<String> {
    CALLED.get().cloned()
}

/// Parses a variable of the environment; an empty one is not there.
fn from_env<T: FromStr>(
    variable: &dyn Fn(&str) -> Option<OsString>,
    name: &str,
) -> anyhow::Result<Option<T>>
where
    T::Err: std::fmt::Display,
{
    let Some(value) = variable(name).filter(|v| !v.is_empty()) else {
        return Ok(None);
    };
    let text = value.to_string_lossy();
    match text.parse() {
        Ok(value) => Ok(Some(value)),
        Err(e) => Err(fault(
            format!("{name}={text:?}: {e}"),
            format!("set {name} anew, or remove it: unset {name}"),
        )),
    }
}

impl Connection {
    /// Makes ready to call; the connection is opened by the first call.
    pub(crate) fn open(&self) -> anyhow::Result<Operator> {
        let settled = self.settle(&|name| env::var_os(name), Contexts::read)?;
        let [from, by] = &settled.sources;
        let described = format!(
            "{} (from {from}) with the identity {} (from {by})",
            settled.coordinator,
            settled.identity.display()
        );
        // One command, one connection.
        CALLED.get_or_init(|| described);
        let identity = Identity::read(&settled.identity).hint(|| {
            format!(
                "the identity comes from {by}; it must be the directory that `lamplight init` \
                 reported, or a copy of it"
            )
        })?;
        Operator::connect(&settled.coordinator, &identity)
    }

    fn settle(
        &self,
        variable: &dyn Fn(&str) -> Option<OsString>,
        contexts: impl FnOnce() -> Result<Contexts, ContextError>,
    ) -> anyhow::Result<Settled> {
        let mut coordinator = (self.coordinator.clone()).map(|a| (a, "--coordinator".to_owned()));
        let mut identity = (self.identity.clone()).map(|d| (d, "--identity".to_owned()));
        let mut name = self.context.clone();
        if name.is_none() {
            let from = |name: &'static str| move |value| (value, name.to_owned());
            if coordinator.is_none() {
                coordinator =
                    from_env(variable, "LAMPLIGHT_COORDINATOR")?.map(from("LAMPLIGHT_COORDINATOR"));
            }
            if identity.is_none() {
                let dir: Option<PathBuf> = from_env(variable, "LAMPLIGHT_IDENTITY")?;
                identity = dir.map(|d| (d, "LAMPLIGHT_IDENTITY".to_owned()));
            }
            name = from_env(variable, "LAMPLIGHT_CONTEXT")?;
        }
        if coordinator.is_none() || identity.is_none() || self.context.is_some() {
            let contexts = contexts()?;
            if let Some(name) = name.as_ref().or(contexts.current()) {
                let context = contexts.get(name)?;
                let source = format!("context {name}");
                coordinator.get_or_insert_with(|| (context.coordinator.clone(), source.clone()));
                identity.get_or_insert_with(|| (context.identity.clone(), source));
            }
        }
        match (coordinator, identity) {
            (Some((coordinator, from)), Some((identity, by))) => Ok(Settled {
                coordinator,
                identity,
                sources: [from, by],
            }),
            (None, _) => Err(fault(
                "no coordinator is named",
                "give --coordinator HOST:PORT and --identity DIR, or keep both under a name: \
                 lamplight context add NAME --coordinator HOST:PORT --identity DIR",
            )),
            (Some((coordinator, from)), None) => Err(fault(
                format!("{coordinator} (from {from}) is to be called, but no identity is named"),
                "give --identity DIR, or set LAMPLIGHT_IDENTITY; `lamplight init` reported the directory",
            )),
        }
    }
}

/// Clients of one coordinator over one channel.
#[derive(Debug, Clone)]
pub(crate) struct Operator {
    /// Where it is.
    pub(crate) address: Address,
    /// Operator calls.
    pub(crate) calls: OperatorClient<Link>,
    models: ModelsClient<Link>,
}

impl Operator {
    /// Makes ready to call.
    pub(crate) fn connect(address: &Address, identity: &Identity) -> anyhow::Result<Self> {
        let link = tls::connect(address, identity)?;
        Ok(Self {
            address: address.clone(),
            calls: OperatorClient::new(link.clone()).max_decoding_message_size(MAX_LISTING_BYTES),
            models: ModelsClient::new(link).max_decoding_message_size(MAX_MESSAGE_BYTES),
        })
    }

    /// Starts rounds, unless the coordinator is too old to see all that is asked for: it would start
    /// something else.
    pub(crate) async fn start(
        &mut self,
        request: wire::StartRoundsRequest,
    ) -> anyhow::Result<wire::StartRoundsReply> {
        if asks::is_picky(&request) {
            // Any answer names the coordinator's version; this call every version has.
            let answer = self.calls.list_models(wire::ListModelsRequest {}).await?;
            let coordinator = peer_version(answer.metadata().as_ref());
            if let Some(why) = asks::too_much_for(&request, &coordinator) {
                return Err(Refusal::new(Reason::Protocol, why).into());
            }
        }
        Ok(self.calls.start_rounds(request).await?.into_inner())
    }

    /// Lists nodes, unless the coordinator is too old to see which ones: it would list them all.
    pub(crate) async fn list_nodes(
        &mut self,
        request: wire::ListNodesRequest,
    ) -> anyhow::Result<Vec<wire::NodeView>> {
        let answer = self.calls.list_nodes(request.clone()).await?;
        let coordinator = peer_version(answer.metadata().as_ref());
        if let Some(why) = asks::too_much_to_list(&request, &coordinator) {
            return Err(Refusal::new(Reason::Protocol, why).into());
        }
        Ok(answer.into_inner().nodes)
    }

    /// Uploads a blob, going on where an earlier try ended, and answers its digest.
    pub(crate) async fn put_blob(
        &mut self,
        blob: Bytes,
        bar: Option<ProgressBar>,
    ) -> anyhow::Result<Digest> {
        let digest = Digest::of(&blob);
        let total = blob.len() as u64;
        let begun = wire::BeginBlobRequest {
            digest: digest.to_bytes(),
            size: total,
        };
        let mut received = self.calls.begin_blob(begun).await?.into_inner().received;
        if received < total {
            let requests = chunks(blob, received).map(move |chunk| {
                if let Some(bar) = &bar {
                    bar.set_position(chunk.offset + chunk.data.len() as u64);
                }
                wire::PutBlobRequest {
                    digest: digest.to_bytes(),
                    chunk: Some(chunk),
                }
            });
            let stream = tokio_stream::iter(requests);
            received = self.calls.put_blob(stream).await?.into_inner().received;
        }
        anyhow::ensure!(
            received == total,
            "the coordinator has {received} of {total} bytes; run the command again to go on"
        );
        Ok(digest)
    }

    /// Downloads a blob and checks its digest.
    pub(crate) async fn pull(&mut self, digest: Digest, size: u64) -> anyhow::Result<Vec<u8>> {
        let request = wire::PullRequest {
            digest: digest.to_bytes(),
            offset: 0,
        };
        let mut stream = self.models.pull(request).await?.into_inner();
        let mut receiving = Receiving::resume(size, 0, Hasher::new());
        let mut blob = Vec::new();
        while let Some(chunk) = stream.message().await? {
            blob.extend_from_slice(&receiving.take(chunk)?);
        }
        let got = receiving.finish();
        anyhow::ensure!(
            got == digest,
            "pulled bytes have digest {got}, not {digest}; pull again, and if that repeats, look after \
             the coordinator's disk"
        );
        Ok(blob)
    }

    /// How images become the input of a model's newest release; `None` when it says nothing of images,
    /// or there is none.
    pub(crate) async fn image_input(
        &mut self,
        model: &ModelName,
    ) -> anyhow::Result<Option<ImageInput>> {
        let request = wire::ListReleasesRequest {
            model: model.to_string(),
        };
        let releases = self.calls.list_releases(request).await?.into_inner();
        let Some(newest) = releases.releases.last() else {
            return Ok(None);
        };
        let file = self.pull(newest.digest.parse()?, newest.size).await?;
        let about = || format!("{model} version {}", newest.version);
        let parsed = gguf::read(&file).with_context(about)?;
        parsed.image_input().with_context(about)
    }

    /// The signed manifest of a release; version 0 asks for the newest.
    pub(crate) async fn release(
        &mut self,
        model: &ModelName,
        version: ModelVersion,
    ) -> anyhow::Result<wire::Envelope> {
        let request = wire::GetReleaseRequest {
            model: model.to_string(),
            version: version.0,
        };
        self.models
            .get_release(request)
            .await?
            .into_inner()
            .manifest
            .context("the coordinator answered no manifest")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contexts(dir: &std::path::Path) -> Contexts {
        let file = dir.join("contexts.toml");
        std::fs::write(
            &file,
            "current = \"one\"\n\
             [contexts.one]\ncoordinator = \"one:1\"\nidentity = \"/one\"\n\
             [contexts.two]\ncoordinator = \"two:2\"\nidentity = \"/two\"\n",
        )
        .unwrap();
        Contexts::read_from(file).unwrap()
    }

    fn settled(flags: &Connection, variables: &[(&str, &str)]) -> anyhow::Result<Settled> {
        let dir = tempfile::tempdir().unwrap();
        let variable = |name: &str| {
            let found = variables.iter().find(|(n, _)| *n == name)?;
            Some(OsString::from(found.1))
        };
        flags.settle(&variable, || Ok(contexts(dir.path())))
    }

    fn check(flags: Connection, variables: &[(&str, &str)], want: (&str, &str)) {
        let got = settled(&flags, variables).unwrap();
        let identity = got.identity.display().to_string();
        assert_eq!(
            (got.coordinator.to_string().as_str(), identity.as_str()),
            want,
            "{flags:?} {variables:?}"
        );
    }

    #[test]
    fn the_command_counts_before_the_environment_and_that_before_the_context_in_use() {
        let flags =
            |coordinator: Option<&str>, identity: Option<&str>, context: Option<&str>| Connection {
                coordinator: coordinator.map(|a| a.parse().unwrap()),
                identity: identity.map(Into::into),
                context: context.map(|c| c.parse().unwrap()),
            };
        let nothing = flags(None, None, None);
        let both = [
            ("LAMPLIGHT_COORDINATOR", "env:3"),
            ("LAMPLIGHT_IDENTITY", "/env"),
        ];
        check(nothing.clone(), &[], ("one:1", "/one"));
        check(
            nothing.clone(),
            &[("LAMPLIGHT_CONTEXT", "two")],
            ("two:2", "/two"),
        );
        check(nothing.clone(), &both, ("env:3", "/env"));
        check(nothing.clone(), &both[..1], ("env:3", "/one"));
        check(flags(Some("cli:4"), None, None), &both, ("cli:4", "/env"));
        check(
            flags(Some("cli:4"), Some("/cli"), None),
            &both,
            ("cli:4", "/cli"),
        );
        // A context named with the command counts before the environment, too.
        check(flags(None, None, Some("two")), &both, ("two:2", "/two"));
        check(
            flags(None, Some("/cli"), Some("two")),
            &both,
            ("two:2", "/cli"),
        );
        // Empty is not there.
        check(nothing, &[("LAMPLIGHT_COORDINATOR", "")], ("one:1", "/one"));
    }

    #[test]
    fn what_is_missing_or_wrong_is_named_with_the_remedy() {
        let none = || Contexts::read_from("/nowhere/at/all".into());
        let nothing = Connection::default();
        let e = nothing.settle(&|_| None, none).unwrap_err();
        assert!(format!("{e:?}").contains("context add"), "{e:?}");
        let coordinator = Connection {
            coordinator: Some("a:1".parse().unwrap()),
            ..Connection::default()
        };
        let e = coordinator.settle(&|_| None, none).unwrap_err();
        assert!(format!("{e:?}").contains("--identity"), "{e:?}");
        let e = settled(&nothing, &[("LAMPLIGHT_COORDINATOR", "no port")]).unwrap_err();
        assert!(format!("{e:?}").contains("LAMPLIGHT_COORDINATOR"), "{e:?}");
        let unknown = Connection {
            context: Some("three".parse().unwrap()),
            ..Connection::default()
        };
        let e = settled(&unknown, &[]).unwrap_err();
        assert!(format!("{e:?}").contains("known are one, two"), "{e:?}");
    }
}
