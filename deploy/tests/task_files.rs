//! Task files against a running coordinator: the example works, and each kind of mistake is told with its
//! line and what to do.
//!
//! ```text
//! LAMPLIGHT_UPDATE=1 cargo test -p lamplight --test task_files      writes the kept messages anew
//! ```

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests: their panic is the test's report"
)]

mod desk;

use std::{env, fs, path::Path};

use serde_json::Value;

use desk::{Desk, Process, Town};

/// A coordinator with the model `post`, known as the context in use, and a node that trains.
fn fleet(desk: &Desk) -> (Process, Process) {
    let Town {
        coordinator,
        address,
        ..
    } = desk.town();
    let file = desk.path("post.gguf");
    let source = "builtin:post?post=cloud&train=60&held_out=30";
    desk.done(&[
        "model", "pretrain", "--source", source, "--epochs", "1", "--out", &file,
    ]);
    desk.done(&["model", "push", &file, "--model", "post"]);
    let tokens = desk.json(2, &["node", "token"]);
    let token = desk.path("token");
    fs::write(&token, tokens["tokens"][0].as_str().unwrap()).unwrap();
    let node = desk.path("node");
    let run = [
        "agent",
        "run",
        "--dir",
        &node,
        "--coordinator",
        &address,
        "--token-file",
        &token,
        "--name",
        "post-a",
        "--source",
        "builtin:post?post=1&train=60&held_out=30",
    ];
    let (agent, _) = desk.start(2, &run);
    (coordinator, agent)
}

fn mistakes() -> Vec<(String, String)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tasks");
    let files = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    let mut files: Vec<_> = files
        .filter(|p| p.extension().is_some_and(|e| e == "toml"))
        .collect();
    files.sort();
    files
        .iter()
        .map(|p| {
            (
                p.display().to_string(),
                p.with_extension("txt").display().to_string(),
            )
        })
        .collect()
}

#[test]
fn the_example_works_and_every_mistake_is_told_with_its_remedy() {
    let desk = Desk::new();
    let (_coordinator, _agent) = fleet(&desk);

    // The example as it is printed, for this fleet's model.
    let example = desk
        .done(&["task", "example"])
        .replace("\"demo\"", "\"post\"");
    let task = desk.path("task.toml");
    fs::write(&task, example).unwrap();
    let checked = desk.json(2, &["task", "check", &task]);
    assert_eq!(
        (&checked["rounds"], &checked["nodes"]),
        (&Value::from(3), &Value::from(0))
    );
    let started = desk.json(2, &["round", "start", "--task", &task, "--wait"]);
    let rounds = started["rounds"].as_array().unwrap();
    assert_eq!(rounds.len(), 3);
    for round in rounds {
        assert_eq!(round["phase"], "published", "{round}");
        assert_eq!(round["accepted_deltas"], 1);
    }
    let tasks = desk.json(2, &["task", "list"]);
    assert_eq!(tasks[0]["state"], "done");

    // Who waits for a task that is stopped between two rounds is told so, and does not wait on.
    let hourly = fs::read_to_string(&task)
        .unwrap()
        .replace("#every = \"6h\"", "every = \"6h\"");
    let recurring = desk.path("hourly.toml");
    fs::write(&recurring, hourly).unwrap();
    let (code, said) = std::thread::scope(|scope| {
        let waiting =
            scope.spawn(|| desk.fails(&["round", "start", "--task", &recurring, "--wait"]));
        for _ in 0..300 {
            let tasks = desk.json(2, &["task", "list"]);
            let newest = &tasks[0];
            if newest["next_round_unix_ms"].as_i64() > Some(0) {
                desk.done(&["task", "stop", &newest["task"].to_string()]);
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        waiting.join().unwrap()
    });
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("was stopped: an operator stopped it"),
        "{said}"
    );

    // Mistakes: found before anything is started.
    let update = env::var_os("LAMPLIGHT_UPDATE").is_some();
    let mut differ = String::new();
    let all = mistakes();
    assert!(all.len() >= 12, "{}", all.len());
    for (file, kept) in &all {
        let (code, said) = desk.fails(&["round", "start", "--task", file, "--wait", "--json"]);
        let said = format!(
            "exit code {}\n{}",
            code.unwrap(),
            said.replace(file, "task.toml")
        );
        if update {
            fs::write(kept, &said).unwrap();
        }
        let wanted = fs::read_to_string(kept).unwrap_or_default();
        if said != wanted {
            differ.push_str(&format!("{file}:\n{wanted}----\n{said}\n"));
        }
    }
    assert_eq!(differ, "");
    let tasks = desk.json(2, &["task", "list"]);
    assert_eq!(
        tasks.as_array().unwrap().len(),
        2,
        "nothing was started by mistake"
    );
}

#[test]
fn a_task_that_recurs_is_listed_and_stopped() {
    let desk = Desk::new();
    let (_coordinator, _agent) = fleet(&desk);
    let task = desk.path("task.toml");
    let text = "model = \"post\"\nname = \"nightly\"\n[rounds]\nevery = \"6h\"\n\
                [training]\ntrainable = \"head\"\n[budget]\nmemory_mib = 512\n";
    fs::write(&task, text).unwrap();
    let started = desk.json(2, &["round", "start", "--task", &task]);
    let round = started["round"].to_string();
    let by = std::time::Instant::now() + desk::PATIENCE;
    while desk.json(2, &["round", "show", &round])["phase"] != "published" {
        assert!(std::time::Instant::now() < by, "no release");
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    let listed = &desk.json(2, &["task", "list"])[0];
    assert_eq!(
        (&listed["name"], &listed["state"]),
        (&Value::from("nightly"), &Value::from("running"))
    );
    assert!(listed["next_round_unix_ms"].as_i64() > Some(0));
    let shown = desk.done(&["task", "list"]);
    assert!(shown.contains("6h") && shown.contains("nightly"), "{shown}");
    let stopped = desk.json(2, &["task", "stop", &listed["task"].to_string()]);
    assert_eq!(stopped["state"], "stopped");
    let schema: Value = serde_json::from_str(&desk.done(&["task", "schema"])).unwrap();
    assert_eq!(schema["required"], serde_json::json!(["model"]));
    let (code, said) = desk.fails(&["task", "check", &desk.path("absent.toml")]);
    assert_eq!(code, Some(2));
    assert!(said.contains("lamplight task example >"), "{said}");
}
