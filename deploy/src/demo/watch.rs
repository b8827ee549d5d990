//! Rounds and nodes, live on stderr.

use std::{collections::BTreeMap, time::Duration};

use indicatif::{MultiProgress, ProgressBar};
use lamplight_proto::wire;

use super::fleet::Fleet;
use crate::{command::round::ended, operator::Operator, output};

struct Bars {
    all: MultiProgress,
    rounds: ProgressBar,
    nodes: BTreeMap<String, ProgressBar>,
}

impl Bars {
    fn show(&mut self, list: &[wire::RoundView]) {
        let done = list.iter().filter(|r| ended(r)).count();
        self.rounds.set_position(done as u64);
        let Some(current) = list.iter().rfind(|r| !ended(r)).or(list.last()) else {
            return;
        };
        let last = list.iter().rev().find_map(|r| r.evaluation.as_ref());
        self.rounds.set_message(match last {
            Some(m) => format!(
                "{}, accuracy {}",
                current.phase,
                output::percent(m.accuracy)
            ),
            None => current.phase.clone(),
        });
        for p in &current.participants {
            let bar = self
                .nodes
                .entry(p.name.clone())
                .or_insert_with(|| self.all.add(output::bar(1, &p.name)));
            let steps = u64::from(p.steps.max(1));
            bar.set_length(steps);
            bar.set_position(match p.state.as_str() {
                "accepted" | "uploading" => steps,
                _ => u64::from(p.step),
            });
            bar.set_message(match p.state.as_str() {
                "training" => format!("training, loss {:.3}", p.loss),
                state => state.to_owned(),
            });
        }
    }

    fn clear(&self) {
        self.nodes.values().for_each(ProgressBar::finish_and_clear);
        self.rounds.finish_and_clear();
    }
}

async fn show(operator: &mut Operator, round: u64) -> anyhow::Result<wire::RoundView> {
    let request = wire::ShowRoundRequest { round };
    Ok(operator.calls.show_round(request).await?.into_inner())
}

/// Waits for the task's rounds and answers them.
pub(super) async fn rounds(
    operator: &mut Operator,
    fleet: &mut Fleet,
    task: u64,
    count: u32,
) -> anyhow::Result<Vec<wire::RoundView>> {
    let all = MultiProgress::new();
    let rounds = all.add(output::bar(count.into(), "rounds"));
    let mut bars = Bars {
        all,
        rounds,
        nodes: BTreeMap::new(),
    };
    loop {
        fleet.alive()?;
        let request = wire::ListRoundsRequest { task };
        let mut list = operator
            .calls
            .list_rounds(request)
            .await?
            .into_inner()
            .rounds;
        // A listing has no participants; only the round in hand needs them now.
        if let Some(current) = list.iter_mut().find(|r| !ended(r)) {
            *current = show(operator, current.round).await?;
        }
        bars.show(&list);
        if let Some(r) = list.iter().find(|r| r.phase == "abandoned") {
            bars.clear();
            anyhow::bail!("round {} was abandoned: {}", r.round, r.reason);
        }
        if list.iter().filter(|r| ended(r)).count() >= count as usize {
            bars.clear();
            for round in &mut list {
                *round = show(operator, round.round).await?;
            }
            return Ok(list);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
