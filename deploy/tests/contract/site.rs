//! A deployment of real processes whose calls all go through a relay.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::Arc,
    thread::sleep,
    time::{Duration, Instant},
};

use lamplight_contract::{Aged, Frozen, Plan, Relay, tape::Tape};
use serde_json::Value;

/// Longest wait for anything: a slow machine that does other things beside.
const PATIENCE: Duration = Duration::from_secs(120);

/// Agents: one that has samples to learn from, and one that has none and says so.
pub(crate) const SOURCES: [&str; 2] = [
    "builtin:post?post=1&seed=7&train=40&held_out=20",
    "builtin:post?post=2&seed=7&train=0&held_out=20",
];

/// The program of this build.
pub(crate) const OURS: &str = env!("CARGO_BIN_EXE_lamplight");

fn run(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Which program plays whom.
#[derive(Debug, Clone)]
pub(crate) struct Cast {
    pub(crate) coordinator: String,
    pub(crate) agent: String,
    /// One side is made old by the relay.
    pub(crate) aged: Option<(Aged, Frozen)>,
}

impl Cast {
    /// This build's programs.
    pub(crate) fn ours(aged: Option<(Aged, Frozen)>) -> Self {
        Self {
            coordinator: OURS.to_owned(),
            agent: OURS.to_owned(),
            aged,
        }
    }
}

pub(crate) fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let by = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < by, "{what}: not within {PATIENCE:?}");
        sleep(Duration::from_millis(20));
    }
}

/// A process that is killed when it goes out of sight.
struct Process(Child);

impl Process {
    fn start(program: &str, log: &Path, arguments: &[&str]) -> Self {
        let log = fs::File::create(log).expect("a log");
        let child = run(program, arguments)
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn();
        Self(child.expect("the program starts"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A coordinator, a relay before it, and who calls through the relay.
pub(crate) struct Site {
    pub(crate) relay: Relay,
    cast: Cast,
    root: PathBuf,
    processes: Vec<Process>,
    _dir: tempfile::TempDir,
}

impl Site {
    /// Starts a coordinator and a relay.
    pub(crate) fn new(cast: Cast, tape: Option<Arc<Tape>>) -> Self {
        let dir = tempfile::tempdir().expect("temp dir");
        let root = dir.path().to_owned();
        let state = root.join("state");
        let arguments = ["init", "--dir", state.to_str().expect("text")];
        let made = run(&cast.coordinator, &arguments).output();
        let made = made.expect("the program starts");
        assert!(made.status.success(), "{made:?}");
        let arguments = [
            "coordinator",
            "run",
            "--dir",
            state.to_str().expect("text"),
            "--listen",
            "127.0.0.1:0",
            "--poll-active-ms",
            "50",
            "--poll-idle-ms",
            "200",
        ];
        let coordinator =
            Process::start(&cast.coordinator, &root.join("coordinator.log"), &arguments);
        let said = state.join("address");
        let address = wait_for("the coordinator listens", || fs::read_to_string(&said).ok());
        let mut callers = vec![("operator".to_owned(), state.join("operators/admin"))];
        for n in 0..SOURCES.len() {
            callers.push(("node".to_owned(), root.join(format!("node-{n}"))));
        }
        let relay = Relay::start(Plan {
            upstream: address.trim().parse().expect("an address"),
            state,
            callers,
            aged: cast.aged.clone(),
            tape,
        });
        Self {
            relay,
            cast,
            root,
            processes: vec![coordinator],
            _dir: dir,
        }
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.root.join(name).display().to_string()
    }

    /// Runs an operator's command through the relay.
    pub(crate) fn operator(&self, command: &[&str]) -> Output {
        let identity = self.path("state/operators/admin");
        let address = self.relay.address.to_string();
        let to = ["--coordinator", &address, "--identity", &identity, "--json"];
        let output = run(OURS, &[command, &to].concat()).output();
        output.expect("the program starts")
    }

    /// The result of an operator's command.
    pub(crate) fn ask(&self, command: &[&str]) -> Value {
        let output = self.operator(command);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command:?}: {said}");
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{command:?}: {e}"))
    }

    /// Starts all agents and waits until the coordinator has heard a poll of each.
    pub(crate) fn start_agents(&mut self) {
        let count = SOURCES.len().to_string();
        let made = self.ask(&["node", "token", "--count", &count]);
        let tokens = made["tokens"].as_array().expect("tokens");
        let address = self.relay.address.to_string();
        for (n, (source, token)) in SOURCES.iter().zip(tokens).enumerate() {
            let file = self.path(&format!("token-{n}"));
            fs::write(&file, token.as_str().expect("a token")).expect("written");
            let arguments = [
                "agent",
                "run",
                "--dir",
                &self.path(&format!("node-{n}")),
                "--coordinator",
                &address,
                "--source",
                source,
                "--token-file",
                &file,
            ];
            let log = self.root.join(format!("node-{n}.log"));
            self.processes
                .push(Process::start(&self.cast.agent, &log, &arguments));
        }
        wait_for("all nodes poll", || {
            let nodes = self.ask(&["node", "list"]);
            let nodes = nodes.as_array().expect("a list");
            let heard = |n: &&Value| n["last_seen_unix_ms"].as_i64() > Some(0);
            (nodes.iter().filter(heard).count() == SOURCES.len()).then_some(())
        });
    }

    /// What a program has logged.
    pub(crate) fn log(&self, name: &str) -> String {
        fs::read_to_string(self.root.join(format!("{name}.log"))).unwrap_or_default()
    }

    /// What a node says of itself.
    pub(crate) fn status(&self, node: usize) -> Value {
        let dir = self.path(&format!("node-{node}"));
        let arguments = ["agent", "status", "--dir", &dir, "--json"];
        let output = run(&self.cast.agent, &arguments).output();
        serde_json::from_slice(&output.expect("the program starts").stdout).expect("JSON")
    }
}
