//! An operator's day with real processes: what is printed is what the schemas promise, contexts spare
//! options, nodes are tagged, drained and retired, errors say what to do next.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests: their panic is the test's report"
)]

mod desk;

use std::{fs, path::PathBuf};

use serde_json::Value;

use desk::{Desk, Town, text};

#[test]
fn an_operators_day() {
    let desk = Desk::new();

    // Nothing is known yet: every way to say it is named.
    let (code, said) = desk.fails(&["node", "list"]);
    assert_eq!(code, Some(2));
    assert!(said.contains("error: no coordinator is named"), "{said}");
    assert!(
        said.contains("hint: ") && said.contains("context add"),
        "{said}"
    );

    // A deployment, known by name.
    let fleet = desk.path("fleet");
    let Town {
        coordinator,
        address,
        identity,
        release_key,
    } = desk.town();
    let (address, identity) = (address.as_str(), identity.as_str());
    desk.json(2, &["context", "show"]);
    desk.done(&[
        "context",
        "add",
        "other",
        "--coordinator",
        "127.0.0.1:1",
        "--identity",
        identity,
    ]);
    assert_eq!(
        desk.json(2, &["context", "list"]).as_array().unwrap().len(),
        2
    );
    desk.json(2, &["context", "use", "town"]);

    // A model.
    let file = desk.path("post.gguf");
    let source = "builtin:post?post=cloud&train=60&held_out=30";
    let pretrain = [
        "model", "pretrain", "--source", source, "--epochs", "1", "--out", &file,
    ];
    desk.json(2, &pretrain);
    desk.json(2, &["model", "show", &file]);
    desk.json(2, &["model", "push", &file, "--model", "post"]);
    desk.json(2, &["model", "list"]);

    // Two nodes join, one of them works.
    let tokens = desk.json(2, &["node", "token", "--count", "2"]);
    let token = |n: usize| tokens["tokens"][n].as_str().unwrap().to_owned();
    let dirs = [desk.path("a"), desk.path("b")];
    for (n, dir) in dirs.iter().enumerate() {
        let name = ["post-a", "post-b"][n];
        desk.json(
            2,
            &[
                "agent",
                "enrol",
                "--dir",
                dir,
                "--coordinator",
                address,
                "--token",
                &token(n),
                "--name",
                name,
            ],
        );
    }
    let source = "builtin:post?post=1&train=60&held_out=30";
    let run = [
        "agent",
        "run",
        "--dir",
        &dirs[0],
        "--coordinator",
        address,
        "--source",
        source,
    ];
    let (mut agent, _) = desk.start(2, &run);

    // Tags, and what may be done.
    let tagged = desk.json(
        2,
        &[
            "node",
            "tag",
            "post-a",
            "site=chicago",
            "mount=high",
            "old-",
        ],
    );
    assert_eq!(tagged["tags"]["site"], "chicago");
    desk.done(&["node", "tag", "post-a", "mount-"]);
    let drained = desk.json(2, &["node", "drain", "post-b", "--reason", "new cable"]);
    assert_eq!(drained["state"], "draining");
    let chosen = desk.json(2, &["node", "list", "--tag", "site=chicago"]);
    assert_eq!(chosen.as_array().unwrap().len(), 1);
    let chosen = desk.json(2, &["node", "list", "--state", "draining"]);
    assert_eq!(chosen[0]["name"], "post-b");

    // A round, which passes over the node that drains.
    let start = [
        "round",
        "start",
        "--model",
        "post",
        "--minimum",
        "1",
        "--wait",
    ];
    let started = desk.json(2, &start);
    assert_eq!(started["rounds"][0]["phase"], "published", "{started}");
    desk.json(2, &["round", "list"]);
    let round = desk.json(2, &["round", "show", "1"]);
    assert_eq!(round["participants"].as_array().unwrap().len(), 1);
    let shown = desk.json(2, &["node", "show", "post-b"]);
    assert_eq!(shown["rounds"][0]["state"], "skipped");
    assert!(shown["certificate_expires_unix_ms"].as_i64() > Some(0));
    let text_of = desk.done(&["node", "show", "post-b"]);
    assert!(
        text_of.contains("new cable") && text_of.contains("skipped"),
        "{text_of}"
    );
    desk.json(2, &["node", "resume", "post-b"]);
    let undone = desk.done(&["node", "drain", "post-b", "--undo"]);
    assert!(undone.contains("is active"), "{undone}");
    desk.json(2, &["agent", "status", "--dir", &dirs[0]]);

    // What came of it.
    let releases = desk.json(2, &["release", "list", "--model", "post"]);
    assert_eq!(releases.as_array().unwrap().len(), 2);
    let key = release_key.as_str();
    desk.json(2, &["release", "show", "--model", "post", "--key", key]);
    desk.json(2, &["release", "verify", "--dir", &fleet]);

    // Retired: never by accident, and the agent hears of it.
    let (code, said) = desk.fails(&["node", "retire", "post-a"]);
    assert_eq!(code, Some(2));
    assert!(
        said.contains("hint: repeat the command with --yes"),
        "{said}"
    );
    let retired = desk.json(
        2,
        &["node", "retire", "post-a", "--yes", "--reason", "stolen"],
    );
    assert_eq!(retired["state"], "retired");
    assert_eq!(agent.ended(), Some(1));
    let log = fs::read_to_string(desk.temp.path().join("agent-run")).unwrap();
    assert!(log.contains("was retired by an operator (stolen)"), "{log}");
    let (code, said) = desk.fails(&["node", "resume", "post-a"]);
    assert_eq!(code, Some(1));
    assert!(said.contains("refused (retired)"), "{said}");
    let (code, said) = desk.fails(&["node", "show", "nobody"]);
    assert_eq!(code, Some(1));
    assert!(
        said.contains("hint: ") && said.contains("node list"),
        "{said}"
    );

    // Layouts: wide has more columns; no colours where there is no terminal.
    let narrow = desk.done(&["node", "list"]);
    let wide = desk.done(&["node", "list", "--output", "wide"]);
    assert!(
        !narrow.contains("enrolled") && wide.contains("enrolled"),
        "{wide}"
    );
    assert!(!narrow.contains('\u{1b}') && !wide.contains('\u{1b}'));
    let coloured = |no_color: Option<&str>| {
        let mut list = desk.command(&["node", "list"]);
        list.env("CLICOLOR_FORCE", "1").env_remove("NO_COLOR");
        no_color.map(|value| list.env("NO_COLOR", value));
        let output = list.output().expect("the program starts");
        text(&output.stdout).contains('\u{1b}')
    };
    assert!(
        coloured(None),
        "a retired node is red where colours are seen"
    );
    assert!(!coloured(Some("1")), "NO_COLOR");
    assert_eq!(
        desk.fails(&["node", "list", "--json", "--output", "wide"])
            .0,
        Some(2)
    );
    let hints = text(&desk.run(&["node", "token"]).stderr);
    assert!(
        hints.contains("next: ") && !hints.contains('\u{1b}'),
        "{hints}"
    );
    assert_eq!(text(&desk.run(&["node", "token", "--quiet"]).stderr), "");

    // A coordinator that is gone: what was called, and who said so.
    drop(coordinator);
    let (code, said) = desk.fails(&["node", "list"]);
    assert_eq!(code, Some(2));
    assert!(
        said.contains(address) && said.contains("from context town"),
        "{said}"
    );
    let (code, said) = desk.fails(&["node", "list", "--context", "nowhere"]);
    assert_eq!(code, Some(2));
    assert!(said.contains("known are other, town"), "{said}");
    desk.json(2, &["context", "remove", "town"]);
}

#[test]
fn shells_and_manuals_get_what_they_need() {
    let desk = Desk::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        for program in ["lamplight", "lamplight-agent", "lamplight-coordinator"] {
            let script = desk.done(&["completions", shell, "--program", program]);
            assert!(script.contains(program), "{shell} {program}");
        }
        let script = desk.done(&["completions", shell]);
        assert!(
            script.contains("retire") && script.contains("valid-hours"),
            "{shell}"
        );
    }
    let dir = desk.path("man");
    let written = desk.json(1, &["man", "--dir", &dir]);
    let pages = written["pages"].as_array().unwrap();
    for page in [
        "lamplight.1",
        "lamplight-node-list.1",
        "lamplight-agent-run.1",
        "lamplight-coordinator-init.1",
    ] {
        assert!(pages.contains(&Value::from(page)), "{page}: {written}");
        let text = fs::read_to_string(PathBuf::from(&dir).join(page)).unwrap();
        assert!(text.contains(".SH SYNOPSIS"), "{page}: {text}");
    }
    assert_eq!(fs::read_dir(&dir).unwrap().count(), pages.len());
    let known = desk.done(&["schema"]);
    for command in known.lines() {
        let words: Vec<&str> = ["schema"].into_iter().chain(command.split(' ')).collect();
        let kept = format!(
            "{}/schemas/{}.json",
            env!("CARGO_MANIFEST_DIR"),
            command.replace(' ', "-")
        );
        assert_eq!(
            desk.done(&words),
            fs::read_to_string(kept).unwrap(),
            "{command}"
        );
    }
    let (code, said) = desk.fails(&["schema", "nothing"]);
    assert_eq!(code, Some(2));
    assert!(
        said.contains("hint: see which commands do: lamplight schema"),
        "{said}"
    );
}
