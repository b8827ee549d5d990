//! Tasks: whom they ask, what they may use, when their rounds begin, and how they end.

use std::time::Duration;

use lamplight_coordinator::{clock::Clock as _, release};
use lamplight_models::delta::Delta;
use lamplight_proto::{
    ids::Digest,
    offer::Trainable,
    refusal::Reason,
    wire::{self, TaskView},
};

use super::{
    node::{Node, refusal},
    server::{DEADLINE, MODEL, Operator, Server, Site, base_file, rounds},
};

const HOUR: Duration = Duration::from_secs(3600);

impl Operator {
    async fn begin(&mut self, request: wire::StartRoundsRequest) -> wire::StartRoundsReply {
        self.0.start_rounds(request).await.unwrap().into_inner()
    }

    async fn task(&mut self, task: u64) -> TaskView {
        let list = self.0.list_tasks(wire::ListTasksRequest {}).await.unwrap();
        let mut tasks = list.into_inner().tasks.into_iter();
        tasks.find(|t| t.task == task).unwrap()
    }

    /// Waits until a task has begun so many rounds; the number of the last one.
    async fn begun(&mut self, task: u64, rounds: u32) -> u64 {
        for _ in 0..500 {
            let list = wire::ListRoundsRequest { task };
            let list = self.0.list_rounds(list).await.unwrap().into_inner().rounds;
            if list.len() >= rounds as usize {
                return list.last().unwrap().round;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("task {task} did not begin round {rounds}");
    }

    async fn stop(&mut self, task: u64) -> TaskView {
        let request = wire::StopTaskRequest { task };
        self.0.stop_task(request).await.unwrap().into_inner()
    }
}

async fn ready() -> (Site, Server, Operator, Node) {
    let site = Site::new();
    let server = site.start().await;
    let mut op = server.operator(&site);
    let node = Node::join(&server, &mut op).await;
    op.push().await;
    (site, server, op, node)
}

fn hourly(rounds_: u32) -> wire::StartRoundsRequest {
    wire::StartRoundsRequest {
        every_seconds: HOUR.as_secs(),
        ..rounds(rounds_, 1)
    }
}

#[tokio::test]
async fn only_nodes_with_the_tags_are_asked() {
    let (_site, server, mut op, a) = ready().await;
    let b = Node::join(&server, &mut op).await;
    let tag = wire::TagNodeRequest {
        node: a.id.to_string(),
        set: vec!["site=chicago".into(), "mount=high".into()],
        remove: vec![],
    };
    op.0.tag_node(tag).await.unwrap();
    let tagged = |tags: &[&str]| wire::StartRoundsRequest {
        cohort_tags: tags.iter().map(ToString::to_string).collect(),
        ..rounds(1, 1)
    };
    let nobody =
        op.0.start_rounds(tagged(&["site=chicago", "mount=low"]))
            .await;
    let e = refusal(nobody.unwrap_err());
    assert!(
        e.message
            .contains("with the tags mount=low, site=chicago has 0 node(s)"),
        "{e}"
    );
    let junk = op.0.start_rounds(tagged(&["Site"])).await.unwrap_err();
    assert_eq!(refusal(junk).reason, Reason::Malformed);

    let started = op
        .begin(tagged(&["site=chicago", "site=paris", "mount"]))
        .await;
    assert_eq!(op.show(started.round).await.cohort_nodes, 1);
    assert!(b.poll().await.is_none());
    assert!(a.poll().await.is_some());
    assert_eq!(op.task(started.task).await.cohort_tags.len(), 3);
}

#[tokio::test]
async fn a_round_of_the_head_takes_the_head_and_nothing_else() {
    let (site, _server, mut op, mut a) = ready().await;
    let mut request = rounds(1, 1);
    request.training.as_mut().unwrap().trainable = "head".into();
    let started = op.begin(request).await;
    let offer = a.offer().await;
    assert_eq!(offer.training.trainable, Trainable::Head);
    assert!(offer.needs.iter().any(|n| n.as_str() == "trainable"));
    let whole = a.make(&offer, 1).await;
    let e = refusal(a.send(&whole).await.unwrap_err());
    assert!(
        matches!(e.reason, Reason::WrongShape | Reason::Oversize),
        "{e}"
    );

    let mut head = Delta::from_bytes(&whole.file).unwrap();
    head.tensors.retain(|name, _| name.starts_with("head."));
    assert!(!head.tensors.is_empty());
    let made = a.wrap(&offer, &head, 5);
    a.send(&made).await.unwrap();
    let view = op.ended(started.round).await;
    assert_eq!(view.phase, "published", "{}", view.reason);
    // Recomputed from the files: base, head's delta, what was to move.
    release::verify(&site.path(), None, None, Some(a.release_key)).unwrap();
}

#[tokio::test]
async fn what_a_round_may_use_reaches_the_node() {
    let (_site, _server, mut op, a) = ready().await;
    let budget = wire::Budget {
        memory_bytes: 1 << 20,
        energy_joules: 7.5,
        transfer_bytes: 1 << 21,
        windows: vec![wire::DailyWindow {
            from_minute: 1320,
            until_minute: 360,
        }],
    };
    op.begin(wire::StartRoundsRequest {
        budget: Some(budget.clone()),
        ..rounds(1, 1)
    })
    .await;
    let offer = a.offer().await;
    assert_eq!(wire::Budget::from(&offer.budget), budget);
    assert!(offer.needs.iter().any(|n| n.as_str() == "budget"));
}

#[tokio::test]
async fn a_task_that_recurs_begins_a_round_an_hour_and_outlives_one_that_came_to_nothing() {
    let (site, _server, mut op, mut a) = ready().await;
    let began = site.clock.now();
    let until = began.after(HOUR * 3);
    let started = op
        .begin(wire::StartRoundsRequest {
            until_unix_ms: until.0,
            ..hourly(0)
        })
        .await;

    // The first at once; the second an hour after the first began.
    a.take_part(1).await;
    assert_eq!(op.ended(started.round).await.phase, "published");
    let task = op.task(started.task).await;
    assert_eq!((task.state.as_str(), task.rounds_begun), ("running", 1));
    assert_eq!(task.next_round_unix_ms, began.after(HOUR).0);
    site.clock.advance(HOUR - Duration::from_secs(1));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(op.task(started.task).await.rounds_begun, 1, "not yet");
    site.clock.advance(Duration::from_secs(1));
    let second = op.begun(started.task, 2).await;
    assert_eq!(op.task(started.task).await.next_round_unix_ms, 0);

    // Nobody delivers: the round is abandoned, the task goes on.
    site.clock.advance(DEADLINE);
    let view = op.ended(second).await;
    assert_eq!(view.phase, "abandoned");
    let task = op.task(started.task).await;
    assert_eq!(task.state, "running");
    assert_eq!(task.reason, view.reason);
    assert_eq!(task.next_round_unix_ms, began.after(HOUR * 2).0);

    // The third is the last: a fourth would begin when the task is to be over.
    site.clock.advance(HOUR);
    let third = op.begun(started.task, 3).await;
    a.take_part(2).await;
    assert_eq!(op.ended(third).await.phase, "published");
    assert_eq!(op.task(started.task).await.state, "done");
}

#[tokio::test]
async fn a_round_that_cannot_begin_is_tried_again_at_the_next_hour() {
    let (site, _server, mut op, mut a) = ready().await;
    let started = op.begin(hourly(2)).await;
    a.take_part(1).await;
    op.ended(started.round).await;
    let drain = wire::SetNodeStateRequest {
        node: a.id.to_string(),
        state: wire::NodeState::Draining as i32,
        reason: "painting".into(),
    };
    op.0.set_node_state(drain.clone()).await.unwrap();
    site.clock.advance(HOUR);
    let mut task = op.task(started.task).await;
    for _ in 0..500 {
        if !task.reason.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        task = op.task(started.task).await;
    }
    assert_eq!((task.state.as_str(), task.rounds_begun), ("running", 1));
    assert!(
        task.reason.contains("0 node(s) (1 more are draining"),
        "{}",
        task.reason
    );
    let active = wire::SetNodeStateRequest {
        state: wire::NodeState::Active as i32,
        ..drain
    };
    op.0.set_node_state(active).await.unwrap();
    site.clock.advance(HOUR);
    let second = op.begun(started.task, 2).await;
    a.take_part(2).await;
    assert_eq!(op.ended(second).await.phase, "published");
    let task = op.task(started.task).await;
    assert_eq!((task.state.as_str(), task.reason.as_str()), ("done", ""));
}

#[tokio::test]
async fn a_stopped_task_ends_with_its_round_and_frees_the_model() {
    let (site, _server, mut op, mut a) = ready().await;
    let started = op.begin(rounds(5, 1)).await;
    let offer = a.offer().await;
    assert_eq!(op.stop(started.task).await.state, "stopping");
    assert_eq!(op.stop(started.task).await.state, "stopping");
    let another = wire::StartRoundsRequest {
        idempotency_key: b"key-2".to_vec().into(),
        ..hourly(0)
    };
    let e = refusal(op.0.start_rounds(another.clone()).await.unwrap_err());
    assert_eq!(e.reason, Reason::Conflict);
    assert!(e.message.contains("lamplight task stop"), "{e}");

    let made = a.make(&offer, 1).await;
    a.send(&made).await.unwrap();
    assert_eq!(op.ended(started.round).await.phase, "published");
    let task = op.task(started.task).await;
    assert_eq!((task.state.as_str(), task.rounds_begun), ("stopped", 1));
    assert!(task.reason.contains("operator"), "{}", task.reason);

    // Between two rounds there is nothing to wait for.
    let started = op.begin(another).await;
    a.take_part(2).await;
    op.ended(started.round).await;
    assert_eq!(op.stop(started.task).await.state, "stopped");
    site.clock.advance(HOUR * 2);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(op.task(started.task).await.rounds_begun, 1);
    let gone = op.0.stop_task(wire::StopTaskRequest { task: 99 }).await;
    assert_eq!(refusal(gone.unwrap_err()).reason, Reason::NotFound);
}

#[tokio::test]
async fn tasks_of_two_models_run_beside_each_other() {
    let (_site, _server, mut op, mut a) = ready().await;
    // The file is there: another model may begin with the same.
    let digest = Digest::of(&base_file());
    let other = wire::PublishModelRequest {
        model: "other".into(),
        digest: digest.to_bytes(),
    };
    op.0.publish_model(other).await.unwrap();
    let one = op.begin(rounds(1, 1)).await;
    let two = op
        .begin(wire::StartRoundsRequest {
            model: "other".into(),
            name: "nightly".into(),
            idempotency_key: b"key-2".to_vec().into(),
            ..rounds(1, 1)
        })
        .await;
    let mut models = Vec::new();
    for seed in 0..2 {
        let offer = a.offer().await;
        models.push(offer.model.to_string());
        let made = a.make(&offer, seed).await;
        a.send(&made).await.unwrap();
    }
    assert_eq!(models, [MODEL, "other"]);
    for started in [one, two] {
        let view = op.ended(started.round).await;
        assert_eq!(
            (view.phase.as_str(), view.release_version),
            ("published", 2)
        );
        assert_eq!(op.task(started.task).await.state, "done");
    }
    assert_eq!(op.task(two.task).await.name, "nightly");
}

/// A task for a second model, whose hours begin so long from now and last an hour.
async fn at_other_hours(
    site: &Site,
    op: &mut Operator,
    begin_in: Duration,
) -> wire::StartRoundsRequest {
    let digest = Digest::of(&base_file());
    let other = wire::PublishModelRequest {
        model: "other".into(),
        digest: digest.to_bytes(),
    };
    op.0.publish_model(other).await.unwrap();
    let minute = |at: i64| u32::try_from(at / 60_000 % 1440).unwrap();
    let from = site.clock.now().after(begin_in).0;
    wire::StartRoundsRequest {
        model: "other".into(),
        idempotency_key: b"other-hours".to_vec().into(),
        budget: Some(wire::Budget {
            windows: vec![wire::DailyWindow {
                from_minute: minute(from),
                until_minute: minute(from + 3_600_000),
            }],
            ..Default::default()
        }),
        ..rounds(1, 1)
    }
}

#[tokio::test]
async fn a_task_outside_its_hours_does_not_keep_nodes_from_another() {
    let (site, _server, mut op, mut a) = ready().await;
    let request = at_other_hours(&site, &mut op, HOUR * 3).await;
    let sleeping = op.begin(request).await;
    let awake = op.begin(rounds(1, 1)).await;
    // The older one may not train now.
    assert_eq!(a.offer().await.model.to_string(), MODEL);
    a.take_part(1).await;
    assert_eq!(op.ended(awake.round).await.phase, "published");
    // With nothing else to do it is offered, so that the node can say what it waits for.
    assert_eq!(a.offer().await.model.to_string(), "other");
    site.clock.advance(HOUR * 3);
    a.take_part(2).await;
    assert_eq!(op.ended(sleeping.round).await.phase, "published");
}

#[tokio::test]
async fn a_rounds_deadline_counts_from_when_its_tasks_hours_begin() {
    let (site, _server, mut op, a) = ready().await;
    let request = at_other_hours(&site, &mut op, HOUR * 3).await;
    let now = site.clock.now();
    let started = op.begin(request).await;
    let deadline = a.offer().await.expires;
    let earliest = now
        .after(HOUR * 3 - Duration::from_secs(60))
        .after(DEADLINE);
    let latest = now.after(HOUR * 3).after(DEADLINE);
    assert!((earliest..=latest).contains(&deadline), "{deadline:?}");
    site.clock.advance(HOUR * 2);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(op.show(started.round).await.phase, "collecting");
    site.clock.advance(HOUR * 2);
    assert_eq!(op.ended(started.round).await.phase, "abandoned");
}

#[tokio::test]
async fn what_makes_no_task_is_refused_with_the_field() {
    let (site, _server, mut op, _a) = ready().await;
    let past = site.clock.now().0 - 1;
    type Spoil<'a> = &'a dyn Fn(&mut wire::StartRoundsRequest);
    let spoiled: [(Spoil<'_>, &str); 7] = [
        (&|r| r.rounds = 0, "rounds is 0"),
        (
            &|r| r.until_unix_ms = 5,
            "until_unix_ms is given without every_seconds",
        ),
        (&|r| r.every_seconds = 1 << 40, "every_seconds is"),
        (&|r| r.codec = "q2".into(), "codec \"q2\" is not known"),
        (&|r| r.name = "two words".into(), "two words"),
        (
            &|r| r.training.as_mut().unwrap().trainable = "everything".into(),
            "known: all, head, bias, norm",
        ),
        (
            &move |r| {
                r.every_seconds = 60;
                r.until_unix_ms = past;
            },
            "name a later time",
        ),
    ];
    for (spoil, says) in spoiled {
        let mut request = rounds(1, 1);
        spoil(&mut request);
        let e = refusal(op.0.start_rounds(request).await.unwrap_err());
        assert_eq!(e.reason, Reason::Malformed, "{says}");
        assert!(e.message.contains(says), "{says}: {e}");
    }
}
