//! What operators say of a node: tags, draining, retiring.

use std::{
    fmt,
    io::{self, BufRead as _, IsTerminal as _},
    process::ExitCode,
    str::FromStr,
};

use lamplight_proto::{
    Malformed,
    tag::{self, TagKey},
    wire,
};

use super::which;
use crate::{
    operator::{Connection, Operator},
    output::{Format, OrHint as _, Refused, fault},
    view,
};

/// A tag to set, or the key of one to remove.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Change {
    Set(tag::Tag),
    Remove(TagKey),
}

impl FromStr for Change {
    type Err = Malformed;
    fn from_str(text: &str) -> Result<Self, Malformed> {
        if text.contains('=') {
            return text.parse().map(Self::Set);
        }
        match text.strip_suffix('-') {
            Some(key) => key.parse().map(Self::Remove),
            None => Err(Malformed::new(
                "change of tags",
                format!("{text:?} must be key=value, which sets it, or key-, which removes it"),
            )),
        }
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct Tag {
    /// The node's id, or a name that only one node has
    node: String,
    /// key=value sets a tag, key- removes one
    #[arg(required = true, value_name = "KEY=VALUE|KEY-")]
    changes: Vec<Change>,
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Drain {
    /// The node's id, or a name that only one node has
    node: String,
    /// Why, for whoever looks at the node later
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    reason: String,
    /// Give it work again, as `lamplight node resume` does
    #[arg(long, conflicts_with = "reason")]
    undo: bool,
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Resume {
    /// The node's id, or a name that only one node has
    node: String,
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Retire {
    /// The node's id, or a name that only one node has
    node: String,
    /// Why, for whoever looks at the node later
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    reason: String,
    /// Do not ask; needed where nobody can be asked
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    format: Format,
}

async fn set_state(
    operator: &mut Operator,
    node: String,
    state: wire::NodeState,
    reason: String,
) -> anyhow::Result<view::Node> {
    let request = wire::SetNodeStateRequest {
        node,
        state: state as i32,
        reason,
    };
    let set = operator.calls.set_node_state(request).await.hint(which)?;
    Ok(set.into_inner().into())
}

fn who(node: &view::Node) -> impl fmt::Display {
    format!("{} ({})", node.node_id, node.name)
}

impl Tag {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let mut operator = self.connection.open()?;
        let mut request = wire::TagNodeRequest {
            node: self.node,
            ..wire::TagNodeRequest::default()
        };
        for change in self.changes {
            match change {
                Change::Set(tag) => request.set.push(tag.to_string()),
                Change::Remove(key) => request.remove.push(key.to_string()),
            }
        }
        let node = operator.calls.tag_node(request).await.hint(which)?;
        let node = view::Node::from(node.into_inner());
        self.format.print(&node, |n| {
            let tags: Vec<String> = n.tags.iter().map(|(k, v)| format!("{k}={v}")).collect();
            match tags.is_empty() {
                true => format!("{} has no tags", who(n)),
                false => format!("{} has the tags {}", who(n), tags.join(" ")),
            }
        })
    }
}

impl Drain {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        if self.undo {
            let resume = Resume {
                node: self.node,
                connection: self.connection,
                format: self.format,
            };
            return resume.run().await;
        }
        let mut operator = self.connection.open()?;
        let state = wire::NodeState::Draining;
        let node = set_state(&mut operator, self.node, state, self.reason).await?;
        let code = (self.format).print(&node, |n| match n.phase.as_str() {
            "" | "idle" => format!("{} is draining and has nothing under way", who(n)),
            phase => format!("{} is draining; when last heard of it was {phase}", who(n)),
        })?;
        (self.format).next(&format!("lamplight node resume {}", node.node_id));
        Ok(code)
    }
}

impl Resume {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let mut operator = self.connection.open()?;
        let state = wire::NodeState::Active;
        let node = set_state(&mut operator, self.node, state, String::new()).await?;
        (self.format).print(&node, |n| {
            format!("{} is active: the next round may ask it", who(n))
        })
    }
}

impl Retire {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let mut operator = self.connection.open()?;
        let request = wire::ShowNodeRequest {
            node: self.node,
            rounds: 1,
        };
        // The id from here on: what was confirmed is what is retired.
        let node = operator.calls.show_node(request).await.hint(which)?;
        let node = view::Node::from(node.into_inner());
        if !self.yes && node.state != "retired" {
            confirm(&node)?;
        }
        let state = wire::NodeState::Retired;
        let node = set_state(&mut operator, node.node_id, state, self.reason).await?;
        (self.format).print(&node, |n| format!("{} is retired", who(n)))
    }
}

fn confirm(node: &view::Node) -> anyhow::Result<()> {
    if !io::stdin().is_terminal() {
        return Err(fault(
            format!(
                "retiring {} cannot be undone, and nobody can be asked here",
                who(node)
            ),
            "repeat the command with --yes",
        ));
    }
    anstream::eprint!(
        "Retire {}? It never works here again, and this cannot be undone. Type yes: ",
        who(node)
    );
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    if answer.trim() == "yes" {
        return Ok(());
    }
    Err(Refused("not confirmed; nothing was changed".into()))
        .hint(|| "to give it no new work for a while: lamplight node drain".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_sets_removes_or_says_how() {
        let set = "site=chicago".parse::<Change>();
        assert_eq!(set, Ok(Change::Set("site=chicago".parse().unwrap())));
        let removed = "site-".parse::<Change>();
        assert_eq!(removed, Ok(Change::Remove("site".parse().unwrap())));
        // A value may end so, too.
        assert!(matches!("a=b-".parse(), Ok(Change::Set(_))));
        let e = "site".parse::<Change>().unwrap_err().to_string();
        assert!(e.contains("key=value") && e.contains("key-"), "{e}");
        assert!("-".parse::<Change>().is_err());
    }
}
