//! An operator's desk for tests: commands of the built program, their JSON checked against the kept
//! schemas, contexts in a directory of their own.

#![allow(dead_code, reason = "each test uses a part")]

use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::{Child, Command, Output, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use serde_json::Value;

#[path = "../schema/mod.rs"]
mod schema;

/// Longest wait for anything: a slow machine that does other things beside.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

pub(crate) struct Desk {
    pub(crate) temp: tempfile::TempDir,
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A deployment of this desk, known as the context in use, and its coordinator.
pub(crate) struct Town {
    pub(crate) coordinator: Process,
    pub(crate) address: String,
    pub(crate) identity: String,
    /// Public half of its release key.
    pub(crate) release_key: String,
}

impl Desk {
    pub(crate) fn new() -> Self {
        Self {
            temp: tempfile::tempdir().unwrap(),
        }
    }

    /// Makes a deployment in the directory `fleet`, starts its coordinator, and adds both as a context.
    pub(crate) fn town(&self) -> Town {
        let dir = self.path("fleet");
        let made = self.json(1, &["init", "--dir", &dir, "--deployment", "town"]);
        let identity = made["operator_identity"].as_str().unwrap().to_owned();
        let release_key = made["release_key"].as_str().unwrap().to_owned();
        let run = ["coordinator", "run", "--dir", &dir];
        let listen = ["--listen", "127.0.0.1:0"];
        let (coordinator, serving) = self.start(2, &[&run[..], &listen].concat());
        let address = serving["address"].as_str().unwrap().to_owned();
        let add = [
            "context",
            "add",
            "town",
            "--coordinator",
            &address,
            "--identity",
            &identity,
        ];
        assert_eq!(self.json(2, &add)["in_use"], true);
        Town {
            coordinator,
            address,
            identity,
            release_key,
        }
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.temp.path().join(name).display().to_string()
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
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

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments)
            .output()
            .expect("the program starts")
    }

    pub(crate) fn done(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            text(&output.stderr)
        );
        text(&output.stdout)
    }

    /// Runs a command of so many words with `--json` and checks what it prints.
    pub(crate) fn json(&self, words: usize, arguments: &[&str]) -> Value {
        let out = self.done(&[arguments, &["--json"]].concat());
        let value = serde_json::from_str(out.trim())
            .unwrap_or_else(|e| panic!("{arguments:?}: {e}: {out}"));
        schema::check(&arguments[..words].join(" "), &value);
        value
    }

    /// A command that ends badly: its exit code, and what it says.
    pub(crate) fn fails(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let output = self.run(arguments);
        assert!(!output.status.success(), "{arguments:?}");
        assert_eq!(text(&output.stdout), "", "{arguments:?}");
        (output.status.code(), text(&output.stderr))
    }

    /// Starts a program that stays, and answers it with the line of JSON it says first.
    pub(crate) fn start(&self, words: usize, arguments: &[&str]) -> (Process, Value) {
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
pub(crate) struct Process(Child);

impl Process {
    pub(crate) fn ended(&mut self) -> Option<i32> {
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
