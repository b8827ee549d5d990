//! The plug is pulled on real processes in the middle of rounds: no delta is lost, none counts twice.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use serde_json::Value;

const NODES: usize = 2;
const ROUNDS: u64 = 2;
/// Longest wait for anything: a slow machine that does other things beside.
const PATIENCE: Duration = Duration::from_secs(180);

fn lamplight(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lamplight"));
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Runs a command to its end and answers its result.
fn done(arguments: &[&str]) -> String {
    let output = lamplight(arguments).output().expect("the program starts");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {stderr}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn json(arguments: &[&str]) -> Value {
    let out = done(&[arguments, &["--json"]].concat());
    serde_json::from_str(out.trim()).unwrap_or_else(|e| panic!("{arguments:?}: {e}: {out}"))
}

fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
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
    /// Starts one; what it says is kept beside its files.
    fn start(log: &Path, arguments: &[&str]) -> Self {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(log)
            .expect("a log");
        let child = lamplight(arguments)
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn();
        Self(child.expect("the program starts"))
    }

    /// Kills it as a power cut would: nothing is finished, nothing said goodbye.
    fn pull_the_plug(mut self) {
        self.0.kill().expect("killed");
        self.0.wait().expect("ended");
    }

    /// Asks it to end (SIGTERM) and waits until it has.
    fn stop(mut self) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.0.id()).expect("a pid"));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("signalled");
        let status = wait_for("a process ends when asked", || {
            self.0.try_wait().expect("a status")
        });
        assert!(status.success(), "{status}");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A deployment with its processes.
struct Fleet {
    root: PathBuf,
    address: String,
    coordinator: Option<Process>,
    agents: Vec<Option<Process>>,
}

impl Fleet {
    fn new(root: PathBuf, base: &str) -> Self {
        fs::create_dir(&root).expect("a directory");
        let mut fleet = Self {
            root,
            address: "127.0.0.1:0".to_owned(),
            coordinator: None,
            agents: Vec::new(),
        };
        done(&["init", "--dir", &fleet.path("state")]);
        fleet.start_coordinator();
        // Any free port at first, from here on always the same.
        let said = PathBuf::from(fleet.path("state/address"));
        fleet.address = wait_for("the coordinator listens", || fs::read_to_string(&said).ok())
            .trim()
            .to_owned();
        fleet.ask(&["model", "push", base, "--model", "post"]);
        let count = NODES.to_string();
        let made = fleet.ask(&["node", "token", "--count", &count]);
        let tokens = made["tokens"].as_array().expect("tokens");
        for (n, token) in tokens.iter().enumerate() {
            let token = token.as_str().expect("a token");
            fs::write(fleet.path(&format!("token-{n}")), token).expect("written");
            fleet.agents.push(None);
            fleet.start_agent(n);
        }
        wait_for("all nodes join", || {
            let nodes = fleet.ask(&["node", "list"]);
            (nodes.as_array().expect("a list").len() == NODES).then_some(())
        });
        fleet
    }

    fn path(&self, name: &str) -> String {
        self.root.join(name).display().to_string()
    }

    fn start_coordinator(&mut self) {
        let (dir, log) = (self.path("state"), self.root.join("coordinator.log"));
        let arguments = [
            "coordinator",
            "run",
            "--dir",
            &dir,
            "--listen",
            &self.address,
        ];
        self.coordinator = Some(Process::start(&log, &arguments));
    }

    fn start_agent(&mut self, n: usize) {
        let name = format!("node-{n}");
        let (dir, token) = (self.path(&name), self.path(&format!("token-{n}")));
        let source = format!("builtin:post?post={n}&seed=5");
        let arguments = [
            "agent",
            "run",
            "--dir",
            &dir,
            "--coordinator",
            &self.address,
            "--source",
            &source,
            "--name",
            &name,
            "--token-file",
            &token,
            "--checkpoint-seconds",
            "1",
        ];
        self.agents[n] = Some(Process::start(
            &self.root.join(format!("{name}.log")),
            &arguments,
        ));
    }

    /// The arguments of an operator's command.
    fn operator<'a>(&'a self, identity: &'a str, command: &[&'a str]) -> Vec<&'a str> {
        [
            command,
            &["--coordinator", &self.address, "--identity", identity],
        ]
        .concat()
    }

    fn ask(&self, command: &[&str]) -> Value {
        let identity = self.path("state/operators/admin");
        json(&self.operator(&identity, command))
    }

    /// Starts the rounds and answers the command that waits for their end.
    fn begin(&self) -> Process {
        let identity = self.path("state/operators/admin");
        let (rounds, minimum) = (ROUNDS.to_string(), NODES.to_string());
        let command = [
            "round",
            "start",
            "--model",
            "post",
            "--rounds",
            &rounds,
            "--minimum",
            &minimum,
            "--epochs",
            "4",
            "--wait",
        ];
        let log = self.root.join("round.log");
        Process::start(&log, &self.operator(&identity, &command))
    }

    /// Deltas that a round keeps on disk.
    fn kept(&self, round: u64) -> usize {
        fs::read_dir(self.path(&format!("state/deltas/{round}"))).map_or(0, Iterator::count)
    }

    fn log(&self, name: &str) -> String {
        fs::read_to_string(self.root.join(name)).unwrap_or_default()
    }
}

/// Plays a task; with `crashes`, the coordinator and a node are killed in the middle of every round.
/// Answers the digests of all releases.
fn play(root: PathBuf, base: &str, crashes: bool) -> Vec<String> {
    let mut fleet = Fleet::new(root, base);
    let mut waiting = fleet.begin();
    if crashes {
        for round in 1..=ROUNDS {
            let n = usize::try_from(round).expect("small") % NODES;
            // Once in the middle of training, ...
            let log = format!("node-{n}.log");
            wait_for("a node trains", || {
                (fleet.log(&log).matches("task begun").count() as u64 >= round).then_some(())
            });
            fleet.agents[n].take().expect("running").pull_the_plug();
            // ... and once as the first delta is being kept: its receipt may never have been heard.
            wait_for("a delta is kept", || (fleet.kept(round) > 0).then_some(()));
            fleet.coordinator.take().expect("running").pull_the_plug();
            assert!(Path::new(&fleet.path("state/address")).exists(), "stale");
            fleet.start_agent(n);
            sleep(Duration::from_millis(300));
            fleet.start_coordinator();
        }
    }
    let status = wait_for("the rounds end", || waiting.0.try_wait().expect("a status"));
    assert!(status.success(), "{status}: {}", fleet.log("round.log"));

    for round in 1..=ROUNDS {
        let view = fleet.ask(&["round", "show", &round.to_string()]);
        assert_eq!(view["phase"], "published", "{view}");
        let participants = view["participants"].as_array().expect("participants");
        assert_eq!(participants.len(), NODES);
        assert!(participants.iter().all(|p| p["state"] == "accepted"));
    }
    let releases = fleet.ask(&["release", "list", "--model", "post"]);
    let releases = releases.as_array().expect("releases");
    let deltas: Vec<_> = releases.iter().map(|r| r["deltas"].as_u64()).collect();
    let all = Some(NODES as u64);
    assert_eq!(deltas, [Some(0), all, all], "each delta counts once");
    for agent in fleet.agents.iter_mut().filter_map(Option::take) {
        agent.stop();
    }
    for n in 0..NODES {
        let status = json(&[
            "agent",
            "status",
            "--dir",
            &fleet.path(&format!("node-{n}")),
        ]);
        assert_eq!(status["phase"], "idle");
        assert_eq!(status["receipts"], ROUNDS, "{status}");
        let tasks = status["tasks"].as_array().expect("tasks");
        assert_eq!(tasks.len() as u64, ROUNDS, "no task was begun twice");
    }
    fleet.coordinator.take().expect("running").stop();
    done(&["release", "verify", "--dir", &fleet.path("state")]);
    let digest = |r: &Value| r["digest"].as_str().expect("a digest").to_owned();
    releases.iter().map(digest).collect()
}

#[test]
fn a_fleet_whose_plug_is_pulled_in_every_round_makes_the_same_releases() {
    let dir = tempfile::tempdir().expect("temp dir");
    let base = dir.path().join("base.gguf").display().to_string();
    done(&[
        "model",
        "pretrain",
        "--source",
        "builtin:post?post=cloud",
        "--out",
        &base,
        "--epochs",
        "1",
    ]);
    let calm = play(dir.path().join("calm"), &base, false);
    let crashed = play(dir.path().join("crashed"), &base, true);
    assert_eq!(calm, crashed);
}
