//! A coordinator and agents as processes of their own. Nothing outlives the demo, unless it is
//! killed with SIGKILL.

use std::{
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use lamplight_models::train::Precision;
use lamplight_proto::{keys, tls::Address, wire};
use nix::{sys::signal, unistd::Pid};
use tokio::process::{Child, Command};

use super::scenario::NodePlan;
use crate::operator::Operator;

/// How long processes may take to end when asked to; a little more than their own grace.
const GRACE: Duration = Duration::from_secs(15);

struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// An error that names the process, if it has ended.
    fn alive(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => anyhow::bail!(
                "{} ended by itself ({status}); its log ends:\n{}",
                self.name,
                tail(&self.log)
            ),
        }
    }

    fn ask_to_end(&self) {
        if let Some(pid) = self.child.id().and_then(|id| i32::try_from(id).ok()) {
            // Gone already is as good.
            let _ = signal::kill(Pid::from_raw(pid), signal::Signal::SIGTERM);
        }
    }

    async fn end(&mut self, by: Instant) -> anyhow::Result<()> {
        let left = by.saturating_duration_since(Instant::now());
        if let Ok(status) = tokio::time::timeout(left, self.child.wait()).await {
            let status = status?;
            anyhow::ensure!(
                status.success(),
                "{} ended with {status}; its log ends:\n{}",
                self.name,
                tail(&self.log)
            );
            return Ok(());
        }
        self.child.kill().await?;
        anyhow::bail!(
            "{} did not end within {} s and was killed; its log ends:\n{}",
            self.name,
            GRACE.as_secs(),
            tail(&self.log)
        )
    }
}

/// The last lines of a log.
fn tail(log: &Path) -> String {
    let read = || {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(2000)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&bytes).into_owned())
    };
    read().unwrap_or_else(|e| format!("{}: {e}", log.display()))
}

/// Resolves when a person or the system asks this process to end.
pub(super) async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let both = signal(SignalKind::terminate())
        // The terminal was closed.
        .and_then(|term| signal(SignalKind::hangup()).map(|hup| (term, hup)));
    let Ok((mut terminate, mut hangup)) = both else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
}

/// The processes of a demo.
pub(super) struct Fleet {
    program: PathBuf,
    dir: PathBuf,
    coordinator: Option<Process>,
    agents: Vec<Process>,
}

impl Fleet {
    pub(super) fn new(dir: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(dir.join("logs"))?;
        Ok(Self {
            program: std::env::current_exe().context("this program's own path")?,
            dir: dir.to_owned(),
            coordinator: None,
            agents: Vec::new(),
        })
    }

    fn spawn(&self, name: &str, arguments: Vec<String>) -> anyhow::Result<Process> {
        let log = self.dir.join("logs").join(format!("{name}.log"));
        let file = File::create(&log)?;
        let mut command = Command::new(&self.program);
        command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            // A Ctrl-C in the terminal reaches the demo alone, which then ends them in order.
            .process_group(0)
            .kill_on_drop(true);
        let child = command
            .spawn()
            .with_context(|| format!("{name} did not start"))?;
        Ok(Process {
            name: name.to_owned(),
            child,
            log,
        })
    }

    /// Starts the coordinator and waits until it listens.
    pub(super) async fn start_coordinator(
        &mut self,
        home: &Path,
        within: Duration,
    ) -> anyhow::Result<Address> {
        let arguments = [
            "coordinator",
            "run",
            "--dir",
            &home.display().to_string(),
            "--listen",
            "127.0.0.1:0",
        ];
        let process = self.spawn("coordinator", arguments.map(str::to_owned).to_vec())?;
        let process = self.coordinator.insert(process);
        let address = home.join("address");
        let by = Instant::now() + within;
        loop {
            process.alive()?;
            if let Ok(text) = std::fs::read_to_string(&address) {
                return Ok(text.trim().parse()?);
            }
            anyhow::ensure!(
                Instant::now() < by,
                "the coordinator was not ready after {} s; its log ends:\n{}",
                within.as_secs(),
                tail(&process.log)
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Starts one agent, which enrols by itself.
    pub(super) fn start_agent(
        &mut self,
        plan: &NodePlan,
        coordinator: &Address,
        token: &str,
        precision: Precision,
    ) -> anyhow::Result<()> {
        let home = self.dir.join("nodes").join(&plan.name);
        std::fs::create_dir_all(&home)?;
        let token_file = home.join("join-token");
        keys::write_secret(&token_file, token.as_bytes())?;
        let arguments = [
            "agent",
            "run",
            "--dir",
            &home.display().to_string(),
            "--coordinator",
            &coordinator.to_string(),
            "--source",
            &plan.source.to_string(),
            "--token-file",
            &token_file.display().to_string(),
            "--name",
            &plan.name,
            "--threads",
            "1",
            "--precision",
            precision.name(),
        ];
        let process = self.spawn(&plan.name, arguments.map(str::to_owned).to_vec())?;
        self.agents.push(process);
        Ok(())
    }

    /// An error that names the first process that has ended by itself.
    pub(super) fn alive(&mut self) -> anyhow::Result<()> {
        self.coordinator
            .iter_mut()
            .chain(&mut self.agents)
            .try_for_each(Process::alive)
    }

    /// Waits until this many nodes have joined.
    pub(super) async fn wait_enrolled(
        &mut self,
        operator: &mut Operator,
        want: usize,
        within: Duration,
    ) -> anyhow::Result<Vec<wire::NodeView>> {
        let by = Instant::now() + within;
        loop {
            self.alive()?;
            let request = wire::ListNodesRequest::default();
            let nodes = operator.calls.list_nodes(request).await?.into_inner().nodes;
            if nodes.len() >= want {
                return Ok(nodes);
            }
            anyhow::ensure!(
                Instant::now() < by,
                "{} of {want} nodes had joined after {} s",
                nodes.len(),
                within.as_secs()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Ends the agents; the first that did not end well is the error.
    pub(super) async fn stop_agents(&mut self) -> anyhow::Result<()> {
        let mut agents = std::mem::take(&mut self.agents);
        agents.iter().for_each(Process::ask_to_end);
        let by = Instant::now() + GRACE;
        let mut result = Ok(());
        for agent in &mut agents {
            result = result.and(agent.end(by).await);
        }
        result
    }

    /// Ends everything, agents first.
    pub(super) async fn stop(&mut self) -> anyhow::Result<()> {
        let agents = self.stop_agents().await;
        let coordinator = match self.coordinator.take() {
            Some(mut process) => {
                process.ask_to_end();
                process.end(Instant::now() + GRACE).await
            }
            None => Ok(()),
        };
        agents.and(coordinator)
    }

    /// Shows what the coordinator logged last, after a failure.
    pub(super) fn explain(&self) {
        let log = self.dir.join("logs").join("coordinator.log");
        if log.exists() {
            eprintln!("the coordinator's log ends:\n{}", tail(&log));
        }
    }
}
