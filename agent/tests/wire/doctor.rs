//! `doctor` finds what is planted: one fault, one test. Each looks at a whole enrolled node beside a
//! coordinator that answers, and sees that nothing else is blamed.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use lamplight_agent::{
    dir::NodeDir,
    doctor::examine,
    enrol,
    home::Home,
    link::{grpc, twin::Twin},
    settings::{Flags, Loaded},
};
use lamplight_models::kernel::isa::Isa;
use lamplight_proto::{
    doctor::{Finding, Machine, Report, State, ThisMachine},
    ids::{Digest, UnixMillis},
    keys::SigningKey,
    tls::{Address, Identity},
    token::JoinToken,
};
use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use tempfile::TempDir;

use super::{SOURCE, base};
use crate::edge::{Authority, serve};

/// This machine, but for what is planted.
#[derive(Debug, Default)]
struct Planted {
    clock_ahead: Duration,
    free_bytes: Option<u64>,
    available_memory: Option<u64>,
    total_memory: Option<u64>,
}

impl Machine for Planted {
    fn now(&self) -> UnixMillis {
        ThisMachine.now().after(self.clock_ahead)
    }
    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        // A disk that is gone is found, but how full this machine's is shall not matter.
        let free = ThisMachine.free_bytes(path)?;
        Ok(self.free_bytes.unwrap_or(free.max(4 << 30)))
    }
    fn available_memory(&self) -> io::Result<u64> {
        // Other tests may leave little.
        Ok(self.available_memory.unwrap_or(4 << 30))
    }
    fn total_memory(&self) -> io::Result<u64> {
        Ok(self.total_memory.unwrap_or(8 << 30))
    }
    fn processors(&self) -> usize {
        4
    }
    fn user(&self) -> Option<u32> {
        ThisMachine.user()
    }
}

struct Node {
    temp: TempDir,
    address: Address,
    /// Lines of its configuration, by table; `""` is the top level.
    lines: Vec<(&'static str, String)>,
}

impl Node {
    /// Enrolled, with a model, and nothing wrong with it.
    async fn well() -> Self {
        let node = Self::new(Authority::new()).await;
        node.enrol().await;
        let model = base();
        let path = node.dir().model(Digest::of(&model));
        fs::write(path, model).expect("a model");
        node
    }

    /// With a token, not yet enrolled.
    async fn new(authority: Authority) -> Self {
        let temp = tempfile::tempdir().expect("temp dir");
        let token = JoinToken::generate(Digest::of(&authority.der())).expect("a token");
        let address = serve(Twin::new("fleet"), Arc::new(authority)).await;
        let address: Address = address.to_string().parse().expect("an address");
        let file = temp.path().join("token");
        fs::write(&file, token.to_string()).expect("written");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("chmod");
        let dir = temp.path().join("node");
        let lines = vec![
            ("", format!("dir = {dir:?}")),
            ("", format!("token_file = {file:?}")),
            ("", format!("coordinator = \"{address}\"")),
            ("source", format!("spec = {SOURCE:?}")),
        ];
        Self {
            temp,
            address,
            lines,
        }
    }

    async fn enrol(&self) {
        let token = fs::read_to_string(self.temp.path().join("token")).expect("a token");
        let token: JoinToken = token.parse().expect("a token");
        let mut home = Home::open(self.dir().root()).expect("opened");
        let name = "post-1".parse().expect("a name");
        let ask = |request| grpc::enrol(&self.address, token.authority(), request);
        enrol::enrol(&mut home, &self.address, &token, &name, ask)
            .await
            .expect("enrolled");
    }

    fn dir(&self) -> NodeDir {
        NodeDir::at(&self.temp.path().join("node"))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir().root().join(name)
    }

    /// Sets a line of the configuration, in place of the one with the same key.
    fn set(&mut self, table: &'static str, line: &str) {
        let key = |line: &str| line.split(" = ").next().map(str::to_owned);
        self.lines
            .retain(|(t, l)| *t != table || key(l) != key(line));
        self.lines.push((table, line.to_owned()));
    }

    async fn ask(&self, machine: &Planted) -> Report {
        let mut tables: Vec<&str> = self.lines.iter().map(|(table, _)| *table).collect();
        tables.sort_unstable();
        tables.dedup();
        let mut text = String::new();
        for table in tables {
            if !table.is_empty() {
                text.push_str(&format!("[{table}]\n"));
            }
            for (_, line) in self.lines.iter().filter(|(t, _)| *t == table) {
                text.push_str(&format!("{line}\n"));
            }
        }
        let path = self.temp.path().join("agent.toml");
        fs::write(&path, text).expect("written");
        examine(Loaded::read(Some(&path), [], &Flags::default()), machine).await
    }
}

fn faults(report: &Report) -> Vec<&Finding> {
    let bad = |f: &&Finding| f.state == State::Fault;
    report.findings.iter().filter(bad).collect()
}

/// The one fault, found by `check`, in these words, with a remedy; the exit code is 1.
fn only_fault(report: &Report, check: &str, says: &str) {
    let found = faults(report);
    assert_eq!(found.len(), 1, "{}", report.text());
    told(report, check, says);
}

fn told(report: &Report, check: &str, says: &str) {
    assert_eq!(report.exit_code(), 1);
    let found = faults(report);
    let of_check = found.iter().find(|f| f.check == check);
    let fault = of_check.unwrap_or_else(|| panic!("not blamed: {check}\n{}", report.text()));
    assert!(fault.says.contains(says), "{}", report.text());
    assert!(fault.remedy.is_some(), "{}", report.text());
}

#[tokio::test]
async fn a_node_that_is_well_is_told_so_and_left_as_it_was() {
    let node = Node::well().await;
    let files = |node: &Node| {
        let mut all: Vec<PathBuf> = fs::read_dir(node.dir().root())
            .expect("there")
            .map(|entry| entry.expect("an entry").path())
            .filter(|p| !p.to_string_lossy().contains("agent.db-"))
            .collect();
        all.sort();
        all
    };
    let before = files(&node);
    // Beside an agent that holds the directory.
    let running = Home::open(node.dir().root()).expect("free");
    let report = node.ask(&Planted::default()).await;
    drop(running);
    assert_eq!(report.exit_code(), 0, "{}", report.text());
    assert!(
        report.findings.iter().all(|f| f.state == State::Ok),
        "{}",
        report.text()
    );
    for check in [
        "configuration",
        "permissions",
        "disk speed",
        "store",
        "enrolment",
        "certificate",
        "token",
        "reachability",
        "clock",
        "model files",
        "disk space",
        "memory",
        "accelerator",
        "precision",
        "data source",
    ] {
        assert!(report.findings.iter().any(|f| f.check == check), "{check}");
    }
    assert_eq!(files(&node), before);
}

#[tokio::test]
async fn a_node_with_a_token_is_well_before_it_has_enrolled() {
    let node = Node::new(Authority::new()).await;
    let report = node.ask(&Planted::default()).await;
    assert_eq!(report.exit_code(), 0, "{}", report.text());
    assert!(!node.dir().root().exists());
}

#[tokio::test]
async fn a_misspelt_key_is_found_by_configuration() {
    let mut node = Node::well().await;
    node.set("training", "thread = 2");
    let report = node.ask(&Planted::default()).await;
    only_fault(&report, "configuration", "did you mean `training.threads`?");
    assert!(
        report.findings[0].says.contains("agent.toml:7:1"),
        "{}",
        report.text()
    );
}

#[tokio::test]
async fn a_key_that_others_may_read_is_found_by_permissions() {
    let node = Node::well().await;
    let key = node.file("node.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).expect("chmod");
    let report = node.ask(&Planted::default()).await;
    only_fault(
        &report,
        "permissions",
        "node.key is open to others (mode 0644)",
    );
}

#[tokio::test]
async fn a_directory_that_its_owner_may_not_write_is_found_by_permissions() {
    let node = Node::well().await;
    let dir = node.dir().root().to_owned();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o500)).expect("chmod");
    let report = node.ask(&Planted::default()).await;
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).expect("chmod");
    // Who is not root cannot write the probe either.
    told(
        &report,
        "permissions",
        "closed to its own owner's writes (mode 0500)",
    );
}

#[tokio::test]
async fn a_certificate_that_is_over_is_found() {
    let node = Node::well().await;
    let old = Identity::read(node.dir().root()).expect("an identity");
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(Vec::new()).expect("parameters");
    params.not_before = date_time_ymd(2024, 1, 1);
    params.not_after = date_time_ymd(2025, 1, 1);
    let ended = params.self_signed(&key).expect("signed");
    Identity::new(
        ended.der().to_vec(),
        key.serialize_der(),
        old.authority().to_vec(),
    )
    .write(node.dir().root())
    .expect("written");
    let report = node.ask(&Planted::default()).await;
    told(
        &report,
        "certificate",
        "the node's certificate ended on 2025-01-01",
    );
    // The coordinator does not take it either, which shows one step further on.
    assert!(
        faults(&report)
            .iter()
            .all(|f| ["certificate", "reachability"].contains(&f.check))
    );
}

#[tokio::test]
async fn a_port_where_nobody_listens_is_found_by_reachability() {
    let mut node = Node::well().await;
    // Bound and let go: nobody else has it now.
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = free.local_addr().expect("an address");
    drop(free);
    node.set("", &format!("coordinator = \"{address}\""));
    let report = node.ask(&Planted::default()).await;
    only_fault(&report, "reachability", "connection: nobody takes calls at");
}

#[tokio::test]
async fn a_name_that_is_none_is_found_by_reachability() {
    let mut node = Node::well().await;
    node.set("", "coordinator = \"no-such-host.invalid:7443\"");
    let report = node.ask(&Planted::default()).await;
    only_fault(
        &report,
        "reachability",
        "name: no-such-host.invalid is not found",
    );
}

#[tokio::test]
async fn another_fleets_coordinator_is_found_by_reachability() {
    let mut node = Node::well().await;
    let other = serve(Twin::new("other"), Arc::new(Authority::new())).await;
    node.set("", &format!("coordinator = \"{other}\""));
    let report = node.ask(&Planted::default()).await;
    only_fault(
        &report,
        "reachability",
        "shows a certificate of another authority",
    );
}

#[tokio::test]
async fn a_certificate_for_another_host_is_found_by_reachability() {
    let node = Node::new(Authority::naming(&["fleet.example"])).await;
    let report = node.ask(&Planted::default()).await;
    only_fault(
        &report,
        "reachability",
        "certificate does not name 127.0.0.1",
    );
}

#[tokio::test]
async fn a_coordinator_that_takes_calls_and_never_answers_does_not_hold_the_doctor() {
    let node = Node::new(Authority::mute()).await;
    let report = node.ask(&Planted::default()).await;
    only_fault(&report, "reachability", "health: no answer within 5 s");
}

#[tokio::test]
async fn a_clock_that_is_ahead_of_the_coordinators_is_found() {
    let node = Node::well().await;
    let machine = Planted {
        clock_ahead: Duration::from_secs(3600),
        ..Planted::default()
    };
    only_fault(
        &node.ask(&machine).await,
        "clock",
        "ahead of the coordinator's",
    );
}

#[tokio::test]
async fn a_full_disk_is_found() {
    let node = Node::well().await;
    let machine = Planted {
        free_bytes: Some(1000),
        ..Planted::default()
    };
    only_fault(&node.ask(&machine).await, "disk space", "1000 B free");
}

#[tokio::test]
async fn a_budget_beyond_the_machines_memory_is_found() {
    let mut node = Node::well().await;
    node.set("limits", "memory_mib = 512");
    let machine = Planted {
        total_memory: Some(256 << 20),
        ..Planted::default()
    };
    let says = "limits.memory_mib allows 512 MiB, but this machine has only 256 MiB";
    only_fault(&node.ask(&machine).await, "memory", says);
}

#[tokio::test]
async fn memory_that_is_taken_just_now_is_a_warning_for_the_agent_may_be_training() {
    let mut node = Node::well().await;
    node.set("limits", "memory_mib = 512");
    let machine = Planted {
        available_memory: Some(1000),
        ..Planted::default()
    };
    let report = node.ask(&machine).await;
    assert_eq!(report.exit_code(), 0, "{}", report.text());
    let memory = report.findings.iter().find(|f| f.check == "memory");
    let memory = memory.expect("looked at");
    assert_eq!(memory.state, State::Warning, "{}", report.text());
    assert!(memory.says.contains("1000 B of 8.0 GiB"), "{}", memory.says);
}

#[tokio::test]
async fn a_budget_too_small_for_the_model_is_found_by_memory() {
    let mut node = Node::well().await;
    node.set("limits", "memory_mib = 1");
    let report = node.ask(&Planted::default()).await;
    only_fault(&report, "memory", "limits.memory_mib allows 1.0 MiB");
    let halves = |report: &Report| {
        let remedy = faults(report)[0].remedy.clone().expect("a remedy");
        remedy.contains("training.precision")
    };
    assert!(halves(&report), "{}", report.text());
    node.set("training", "precision = \"bf16\"");
    let report = node.ask(&Planted::default()).await;
    only_fault(&report, "memory", "limits.memory_mib allows 1.0 MiB");
    assert!(!halves(&report), "there already: {}", report.text());
}

#[tokio::test]
async fn each_precision_is_well_and_told_with_what_the_processor_multiplies() {
    let here = Isa::best();
    let multiplies = if here.multiplies_bf16() {
        format!("this processor multiplies bfloat16 ({here}), so that bf16 saves memory and time")
    } else {
        format!(
            "this processor does not multiply bfloat16 ({here}), so that bf16 saves memory, but"
        )
    };
    let auto = if here.multiplies_bf16() {
        "bf16"
    } else {
        "f32"
    };
    let mut node = Node::well().await;
    for (word, settled, shown) in [
        ("f32", "f32", "f32"),
        ("bf16", "bf16", "bf16"),
        ("auto", auto, &*format!("auto, which is {auto} here")),
    ] {
        node.set("training", &format!("precision = {word:?}"));
        let report = node.ask(&Planted::default()).await;
        assert_eq!(report.exit_code(), 0, "{}", report.text());
        let says = |check: &str| {
            let found = report.findings.iter().find(|f| f.check == check);
            let found = found.expect("looked at");
            assert_eq!(found.state, State::Ok, "{found:?}");
            found.says.clone()
        };
        let want = format!("training.precision is {shown}; {multiplies}");
        let said = says("precision");
        assert!(said.starts_with(&want), "{said}");
        let said = says("memory");
        assert!(
            said.contains(&format!("to train in {settled} on")),
            "{said}"
        );
    }
    node.set("training", "precision = \"f16\"");
    let report = node.ask(&Planted::default()).await;
    only_fault(
        &report,
        "configuration",
        "must be one of `f32`, `bf16`, `auto`",
    );
}

#[cfg(not(any(feature = "cuda", feature = "metal")))]
#[tokio::test]
async fn a_device_that_is_not_there_is_found_by_accelerator() {
    let mut node = Node::well().await;
    node.set("training", "device = \"cuda\"");
    let report = node.ask(&Planted::default()).await;
    only_fault(&report, "accelerator", "`cuda` is not in this build");
    // What it multiplies, nobody asked.
    assert!(report.findings.iter().all(|f| f.check != "precision"));
}

#[tokio::test]
async fn recordings_with_a_broken_table_are_found_by_data_source() {
    let mut node = Node::well().await;
    let data = node.temp.path().join("har");
    fs::create_dir(&data).expect("made");
    let table = "experiment,subject,first_sample,n_samples\n1,5,0,many\n";
    fs::write(data.join("experiments.csv"), table).expect("written");
    node.set(
        "source",
        &format!("spec = \"hapt:{}?subject=5\"", data.display()),
    );
    let report = node.ask(&Planted::default()).await;
    only_fault(&report, "data source", "line 2: `n_samples` is `many`");
}

#[tokio::test]
async fn flipped_bytes_in_the_database_are_found_by_store() {
    let node = Node::well().await;
    let path = node.dir().database();
    let mut bytes = fs::read(&path).expect("a database");
    // The second page's header and cells; the first says that this is SQLite.
    for byte in &mut bytes[4096..4200] {
        *byte = !*byte;
    }
    fs::write(&path, bytes).expect("written");
    told(&node.ask(&Planted::default()).await, "store", "agent.db");
}

#[tokio::test]
async fn a_database_of_a_newer_agent_is_found_by_store() {
    let node = Node::well().await;
    let path = node.dir().database();
    let mut bytes = fs::read(&path).expect("a database");
    // SQLite's user_version, big-endian.
    bytes[60..64].copy_from_slice(&99_u32.to_be_bytes());
    fs::write(&path, bytes).expect("written");
    only_fault(&node.ask(&Planted::default()).await, "store", "newer agent");
}

#[tokio::test]
async fn a_key_that_did_not_enrol_is_found_by_enrolment() {
    let node = Node::well().await;
    fs::remove_file(node.file("node.key")).expect("removed");
    SigningKey::load_or_create(&node.file("node.key")).expect("another");
    only_fault(
        &node.ask(&Planted::default()).await,
        "enrolment",
        "node.key belongs to node-",
    );
}

#[tokio::test]
async fn a_token_that_is_none_is_found() {
    let node = Node::new(Authority::new()).await;
    fs::write(node.temp.path().join("token"), "lamp1_cut").expect("written");
    let report = node.ask(&Planted::default()).await;
    only_fault(&report, "token", "copy it whole");
}

#[tokio::test]
async fn a_damaged_model_file_is_a_warning_for_it_is_pulled_again() {
    let node = Node::well().await;
    let path = node.dir().model(Digest::of(&base()));
    let mut bytes = fs::read(&path).expect("a model");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&path, bytes).expect("written");
    let report = node.ask(&Planted::default()).await;
    assert_eq!(report.exit_code(), 0, "{}", report.text());
    let of_check = report.findings.iter().find(|f| f.check == "model files");
    let found = of_check.expect("looked at");
    assert_eq!(found.state, State::Warning);
    assert!(found.says.contains("is damaged"), "{found:?}");
}
