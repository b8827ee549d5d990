//! An operator's day with real processes: what is printed is what the schemas promise, contexts spare
//! options, nodes are tagged, drained and retired, errors say what to do next.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests: their panic is the test's report"
)]

mod schema;

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use serde_json::Value;

/// Longest wait for anything: a slow machine that does other things beside.
const PATIENCE: Duration = Duration::from_secs(180);

struct Desk {
    temp: tempfile::TempDir,
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl Desk {
    fn path(&self, name: &str) -> String {
        self.temp.path().join(name).display().to_string()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lamplight"));
        for variable in [
            "LAMPLIGHT_COORDINATOR",
            "LAMPLIGHT_IDENTITY",
            "LAMPLIGHT_CONTEXT",
        ] {
            command.env_remove(variable);
        }
        command.env(
            "LAMPLIGHT_CONTEXTS",
            self.temp.path().join("home/contexts.toml"),
        );
        command.args(arguments).stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments)
            .output()
            .expect("the program starts")
    }

    fn done(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            text(&output.stderr)
        );
        text(&output.stdout)
    }

    /// Runs a command of so many words with `--json` and checks what it prints.
    fn json(&self, words: usize, arguments: &[&str]) -> Value {
        let out = self.done(&[arguments, &["--json"]].concat());
        let value = serde_json::from_str(out.trim())
            .unwrap_or_else(|e| panic!("{arguments:?}: {e}: {out}"));
        schema::check(&arguments[..words].join(" "), &value);
        value
    }

    /// A command that ends badly: its exit code, and what it says.
    fn fails(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let output = self.run(arguments);
        assert!(!output.status.success(), "{arguments:?}");
        assert_eq!(text(&output.stdout), "", "{arguments:?}");
        (output.status.code(), text(&output.stderr))
    }

    /// Starts a program that stays, and answers it with the line of JSON it says first.
    fn start(&self, words: usize, arguments: &[&str]) -> (Process, Value) {
        let log = fs::File::create(self.temp.path().join(arguments[..words].join("-"))).unwrap();
        let mut child = (self.command(&[arguments, &["--json"]].concat()))
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("the program starts");
        let mut line = String::new();
        let said = BufReader::new(child.stdout.take().unwrap()).read_line(&mut line);
        let process = Process(child);
        said.expect("a line");
        let value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line:?}"));
        schema::check(&arguments[..words].join(" "), &value);
        (process, value)
    }
}

/// A process that is killed when it goes out of sight.
struct Process(Child);

impl Process {
    fn ended(&mut self) -> Option<i32> {
        let by = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.0.try_wait().expect("a status") {
                return status.code();
            }
            assert!(Instant::now() < by, "a process did not end");
            sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn an_operators_day() {
    let desk = Desk {
        temp: tempfile::tempdir().unwrap(),
    };

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
    let made = desk.json(1, &["init", "--dir", &fleet, "--deployment", "town"]);
    let identity = made["operator_identity"].as_str().unwrap();
    let listen = [
        "coordinator",
        "run",
        "--dir",
        &fleet,
        "--listen",
        "127.0.0.1:0",
    ];
    let (coordinator, serving) = desk.start(2, &listen);
    let address = serving["address"].as_str().unwrap();
    let add = [
        "context",
        "add",
        "town",
        "--coordinator",
        address,
        "--identity",
        identity,
    ];
    assert_eq!(desk.json(2, &add)["in_use"], true);
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
    let key = made["release_key"].as_str().unwrap();
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
    let desk = Desk {
        temp: tempfile::tempdir().unwrap(),
    };
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
