//! `Rounds`: for nodes.

use std::time::Duration;

use tonic::{Request, Response, Status};

use lamplight_proto::{
    Malformed,
    budget::Hours,
    cause::{Cause, Heard},
    envelope::Signed,
    ids::{Digest, Lease, NodeId, RoundId, UnixMillis},
    needs,
    offer::RoundOffer,
    version::peer_version,
    wire::{
        Envelope, PollReply, PollRequest, ReportReply, ReportRequest, report_request::Event,
        rounds_server::Rounds,
    },
};

use super::{Desk, malformed};
use crate::{
    fault::Fault,
    house::{House, one_line},
    round::{PhaseName, phase::Phase},
    store::{
        StoreError,
        nodes::{self, NodeState, Sighting},
        participants::{self, State},
        releases, rounds, tasks,
    },
    watch::{Progress, node_phase},
};

/// A node seen again within this time, saying the same, is not written down again: ten thousand
/// polling nodes must not mean thousands of commits a second.
const SIGHTING: Duration = Duration::from_secs(10);
/// Characters of a failure's reason that are kept.
const REASON_CHARS: usize = 300;

/// A parsed poll.
struct Poll {
    phase: &'static str,
    running: Option<Digest>,
    agent_version: String,
}

impl House {
    fn poll(&self, id: &NodeId, poll: &Poll) -> Result<(Duration, Option<Envelope>), Fault> {
        let node = self.node(id)?;
        let now = self.now();
        let is_news = node.phase != poll.phase
            || node.running != poll.running
            || node.agent_version != poll.agent_version
            || is_long_ago(node.last_seen, now);
        if is_news {
            let sighting = Sighting {
                phase: poll.phase,
                running: poll.running,
                agent_version: &poll.agent_version,
                at: now,
            };
            self.store.write(|tx| nodes::seen(tx, id, &sighting))?;
        }
        if node.state == NodeState::Draining {
            // An idle node has nothing under way; whatever a round still wants of it would be new.
            if poll.phase == "idle" {
                self.excuse(&node)?;
            }
            return Ok((self.config.poll_idle, None));
        }
        while let Some(offer) = self.offer(id, now)? {
            let Some(lacking) = needs::lacking(&offer.needs, &poll.agent_version) else {
                let sealed = Signed::seal(offer, &self.release_key);
                return Ok((self.config.poll_active, Some(sealed.signed().to_wire())));
            };
            // Not offered: the agent would ignore what it does not know and do another task. The
            // round stops waiting for it; another one may still want it.
            if !self.give_up(offer.round, id, &lacking)? {
                break;
            }
        }
        let is_active = self
            .store
            .read(|c| participants::is_in_running_round(c, id))?;
        let wait = if is_active {
            self.config.poll_active
        } else {
            self.config.poll_idle
        };
        Ok((wait, None))
    }

    /// The offer of the oldest round that waits for this node and whose task may train at this hour; of
    /// the oldest of all, where none may: the node then says what it waits for. The same each time: same
    /// lease, same expiry, and so the same signature.
    fn offer(&self, node: &NodeId, now: UnixMillis) -> Result<Option<RoundOffer>, Fault> {
        let found = self.store.read(|c| {
            let mut chosen = None;
            for id in participants::waiting_for(c, node)? {
                let gone = |what| gone(what, id);
                let round = rounds::find(c, id)?.ok_or_else(|| gone("participants.round"))?;
                if now >= round.deadline {
                    continue;
                }
                let task = tasks::find(c, round.task)?.ok_or_else(|| gone("rounds.task"))?;
                let may_train = Hours::of(&task.budget.windows).contain(now);
                if may_train || chosen.is_none() {
                    chosen = Some((round, task));
                }
                if may_train {
                    break;
                }
            }
            let Some((round, task)) = chosen else {
                return Ok(None);
            };
            let gone = |what| gone(what, round.id);
            let asked =
                participants::find(c, round.id, node)?.ok_or_else(|| gone("participants.node"))?;
            let base = releases::find(c, &round.model, round.base_version)?
                .ok_or_else(|| gone("rounds.base_version"))?;
            // Names are for people, and two nodes may have the same; seeds must still differ.
            let told_by = if nodes::shares_name(c, node, &asked.name)? {
                format!("{} {node}", asked.name)
            } else {
                asked.name.clone()
            };
            Ok::<_, StoreError>(Some((asked, told_by, round, task, base)))
        })?;
        let Some((asked, told_by, round, task, base)) = found else {
            return Ok(None);
        };
        let mut offer = RoundOffer {
            deployment: self.deployment.clone(),
            node_id: node.clone(),
            round: round.id,
            window: 0,
            model: round.model,
            base_version: base.version,
            base_digest: base.digest,
            base_size: base.size,
            lease: asked.lease,
            expires: round.deadline,
            max_delta_bytes: self
                .base(base.digest)?
                .expected(task.training.trainable)
                .max_delta_bytes,
            codec: task.codec,
            training: task.training.of_node(round.place, &told_by),
            budget: task.budget,
            needs: Vec::new(),
        };
        offer.needs = needs::of(&offer);
        Ok(Some(offer))
    }

    /// Notes how a task goes. Answers whether the round still waits for this node.
    fn report(
        &self,
        node: &NodeId,
        round: RoundId,
        lease: Lease,
        told: Told,
    ) -> Result<bool, Fault> {
        let caller = self.node(node)?;
        // While it works a node reports and does not poll: that it is heard of must not depend on polls.
        let doing = match &told {
            Told::Progress(progress) => progress.phase,
            Told::Waiting(_) => "idle",
            Told::Failure(_) => caller.phase.as_str(),
        };
        let now = self.now();
        if caller.phase != doing || is_long_ago(caller.last_seen, now) {
            (self.store).write(|tx| nodes::heard(tx, node, doing, now))?;
        }
        let asked = self.store.read(|c| participants::find(c, round, node))?;
        let is_waited_for = |p: &participants::Participant| {
            p.lease == lease && matches!(p.state, State::Offered | State::Refused)
        };
        let Some(asked) = asked.filter(is_waited_for) else {
            return Ok(false);
        };
        match told {
            Told::Failure(heard) => {
                // What was written down when the delta was refused says more than the node's echo.
                let echo = heard.cause == Some(Cause::Refused) && asked.state == State::Refused;
                let reason = if echo {
                    asked.reason
                } else {
                    one_line(&heard.to_string(), REASON_CHARS)
                };
                self.give_up(round, node, &reason)?;
                Ok(false)
            }
            Told::Waiting(heard) => {
                let wanted = self.phase(round, is_collecting)?;
                if wanted {
                    self.watch.rests(round, node);
                }
                let reason = one_line(&heard.to_string(), REASON_CHARS);
                if wanted && asked.reason != reason {
                    tracing::info!(round = round.0, node = %node, reason, "node waits");
                    self.store
                        .write(|tx| participants::waits(tx, round, node, &reason))?;
                }
                Ok(wanted)
            }
            Told::Progress(progress) => {
                let wanted = self.phase(round, is_collecting)?;
                if wanted {
                    if asked.state == State::Offered && !asked.reason.is_empty() {
                        // It waits no longer.
                        self.store
                            .write(|tx| participants::waits(tx, round, node, ""))?;
                    }
                    self.watch.note(round, node, progress);
                }
                Ok(wanted)
            }
        }
    }
}

fn gone(what: &'static str, round: RoundId) -> StoreError {
    StoreError::Damaged {
        column: what,
        fault: format!("what is gone, for round {round}"),
    }
}

fn is_collecting(phase: &Phase) -> bool {
    phase.name() == PhaseName::Collecting
}

/// Whether a node's last sign of life has to be written down anew.
fn is_long_ago(seen: Option<UnixMillis>, now: UnixMillis) -> bool {
    seen.is_none_or(|t| t.after(SIGHTING) <= now)
}

enum Told {
    Progress(Progress),
    Failure(Heard),
    Waiting(Heard),
}

#[tonic::async_trait]
impl Rounds for Desk {
    async fn poll(&self, request: Request<PollRequest>) -> Result<Response<PollReply>, Status> {
        let node = self.node(&request)?;
        let agent_version = peer_version(request.metadata().as_ref());
        let r = request.into_inner();
        let poll = Poll {
            phase: node_phase(&r.phase).map_err(malformed)?,
            running: match r.running_digest.len() {
                0 => None,
                _ => Some(Digest::try_from(&r.running_digest[..]).map_err(malformed)?),
            },
            agent_version,
        };
        let (wait, offer) = self.ask(move |house| house.poll(&node, &poll)).await?;
        Ok(Response::new(PollReply {
            wait_ms: u32::try_from(wait.as_millis()).unwrap_or(u32::MAX),
            offer,
            coordinator_unix_ms: self.house.now().0,
        }))
    }

    async fn report(
        &self,
        request: Request<ReportRequest>,
    ) -> Result<Response<ReportReply>, Status> {
        let node = self.node(&request)?;
        let r = request.into_inner();
        let lease = Lease::try_from(&r.lease[..]).map_err(malformed)?;
        let told = match r.event {
            Some(Event::Progress(p)) => Told::Progress(p.try_into().map_err(malformed)?),
            Some(Event::Failure(f)) => Told::Failure(f.into()),
            Some(Event::Waiting(w)) => Told::Waiting(w.into()),
            None => return Err(malformed(Malformed::new("report", "event is missing"))),
        };
        let round = RoundId(r.round);
        let wanted = self
            .ask(move |house| house.report(&node, round, lease, told))
            .await?;
        Ok(Response::new(ReportReply { wanted }))
    }
}
