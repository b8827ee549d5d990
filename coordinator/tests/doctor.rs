//! `doctor` finds what is planted: one fault, one test. Each looks at a whole deployment, and sees that
//! nothing else is blamed.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests: their panic is the test's report"
)]

mod small;

use std::{
    fs, io,
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use lamplight_coordinator::{
    Config, House, InitOptions,
    doctor::examine,
    init,
    settings::{Flags, Loaded},
};
use lamplight_models::quant::gguf;
use lamplight_proto::{
    doctor::{Finding, Machine, Report, State, ThisMachine},
    ids::{Digest, UnixMillis},
    tls,
};
use tempfile::TempDir;

/// This machine, but for what is planted.
#[derive(Debug, Default)]
struct Planted {
    clock_behind: Duration,
    free_bytes: Option<u64>,
}

impl Machine for Planted {
    fn now(&self) -> UnixMillis {
        let behind = i64::try_from(self.clock_behind.as_millis()).unwrap();
        UnixMillis(ThisMachine.now().0 - behind)
    }
    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        // A disk that is gone is found, but how full this machine's is shall not matter.
        let free = ThisMachine.free_bytes(path)?;
        Ok(self.free_bytes.unwrap_or(free.max(4 << 30)))
    }
    fn available_memory(&self) -> io::Result<u64> {
        Ok(4 << 30)
    }
    fn total_memory(&self) -> io::Result<u64> {
        Ok(8 << 30)
    }
    fn processors(&self) -> usize {
        4
    }
    fn user(&self) -> Option<u32> {
        ThisMachine.user()
    }
}

struct Site {
    temp: TempDir,
    listen: String,
    more: String,
}

impl Site {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        init(&InitOptions {
            dir: temp.path().join("state"),
            deployment: "lamps".parse().unwrap(),
            hosts: vec![],
            operator: "alice".parse().unwrap(),
        })
        .unwrap();
        Self {
            temp,
            listen: "127.0.0.1:0".to_owned(),
            more: String::new(),
        }
    }

    /// With a release; where its file lies.
    fn with_release() -> (Self, PathBuf) {
        let site = Self::new();
        let house = House::open(Config::new(site.path(""))).unwrap();
        let model = gguf::write(&small::model(1)).unwrap();
        let digest = house.blobs.put(&model).unwrap();
        assert_eq!(digest, Digest::of(&model));
        house.push(&"post".parse().unwrap(), digest).unwrap();
        let path = house.blobs.path(digest);
        (site, path)
    }

    fn path(&self, file: &str) -> PathBuf {
        let state = self.temp.path().join("state");
        if file.is_empty() {
            state
        } else {
            state.join(file)
        }
    }

    async fn ask(&self, machine: &Planted) -> Report {
        let file = self.temp.path().join("coordinator.toml");
        let (dir, listen, more) = (self.path(""), &self.listen, &self.more);
        let text = format!("dir = {dir:?}\nlisten = {listen:?}\n{more}\n");
        fs::write(&file, text).unwrap();
        examine(Loaded::read(Some(&file), [], &Flags::default()), machine).await
    }
}

fn faults(report: &Report) -> Vec<&Finding> {
    let bad = |f: &&Finding| f.state == State::Fault;
    report.findings.iter().filter(bad).collect()
}

/// The one fault, found by `check`, in these words, with a remedy; the exit code is 1.
fn only_fault(report: &Report, check: &str, says: &str) {
    assert_eq!(faults(report).len(), 1, "{}", report.text());
    told(report, check, says);
}

fn told(report: &Report, check: &str, says: &str) {
    assert_eq!(report.exit_code(), 1);
    let found = faults(report);
    let fault = found
        .iter()
        .find(|f| f.check == check && f.says.contains(says));
    let fault = fault.unwrap_or_else(|| panic!("not told: {check}: {says}\n{}", report.text()));
    assert!(fault.remedy.is_some(), "{}", report.text());
}

#[tokio::test]
async fn a_deployment_that_is_well_is_told_so_and_left_as_it_was() {
    let (site, _) = Site::with_release();
    let files = || {
        let mut all: Vec<PathBuf> = fs::read_dir(site.path(""))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|p| !p.to_string_lossy().contains(".db-"))
            .collect();
        all.sort();
        all
    };
    let before = files();
    let report = site.ask(&Planted::default()).await;
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
        "disk space",
        "memory",
        "store",
        "release files",
        "release key",
        "certificate",
        "host names",
        "address",
        "clock",
    ] {
        assert!(report.findings.iter().any(|f| f.check == check), "{check}");
    }
    assert_eq!(files(), before);
}

#[tokio::test]
async fn a_running_coordinator_is_not_disturbed_and_seen_to_run() {
    let (mut site, _) = Site::with_release();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    site.listen = listener.local_addr().unwrap().to_string();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(lamplight_coordinator::run(
        Config::new(site.path("")),
        listener,
        async move {
            stopped.await.ok();
        },
    ));
    while !site.path("address").exists() {
        assert!(!running.is_finished(), "the coordinator ended");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let report = site.ask(&Planted::default()).await;
    assert_eq!(report.exit_code(), 0, "{}", report.text());
    let address = report
        .findings
        .iter()
        .find(|f| f.check == "address")
        .unwrap();
    assert!(
        address.says.contains("this coordinator runs"),
        "{address:?}"
    );
    stop.send(()).unwrap();
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_misspelt_key_is_found_by_configuration() {
    let mut site = Site::new();
    site.more = "thread = 2".to_owned();
    let report = site.ask(&Planted::default()).await;
    only_fault(&report, "configuration", "did you mean `threads`?");
}

#[tokio::test]
async fn a_directory_without_a_deployment_is_found_by_store() {
    let site = Site::new();
    fs::remove_file(site.path("coordinator.db")).unwrap();
    only_fault(
        &site.ask(&Planted::default()).await,
        "store",
        "holds no deployment",
    );
}

#[tokio::test]
async fn an_authoritys_key_that_others_may_read_is_found_by_permissions() {
    let site = Site::new();
    fs::set_permissions(site.path("ca.key"), fs::Permissions::from_mode(0o640)).unwrap();
    let report = site.ask(&Planted::default()).await;
    only_fault(
        &report,
        "permissions",
        "ca.key is open to others (mode 0640)",
    );
}

#[tokio::test]
async fn a_release_key_that_nobody_knows_is_found() {
    let site = Site::new();
    fs::write(site.path("release.pub"), format!("{}\n", "00".repeat(32))).unwrap();
    only_fault(
        &site.ask(&Planted::default()).await,
        "release key",
        "do not fit",
    );
}

#[tokio::test]
async fn a_servers_certificate_that_is_over_and_not_its_keys_is_found() {
    let site = Site::new();
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(2024, 1, 1);
    params.not_after = rcgen::date_time_ymd(2025, 1, 1);
    let ended = params.self_signed(&key).unwrap();
    tls::write_certificate(&site.path("tls.crt"), ended.der()).unwrap();
    let report = site.ask(&Planted::default()).await;
    told(&report, "certificate", "the server's ended on 2025-01-01");
    told(&report, "certificate", "tls.key do not fit");
    assert_eq!(faults(&report).len(), 2, "{}", report.text());
}

#[tokio::test]
async fn a_port_that_another_program_has_is_found_by_address() {
    let mut site = Site::new();
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    site.listen = other.local_addr().unwrap().to_string();
    only_fault(
        &site.ask(&Planted::default()).await,
        "address",
        "another program listens there",
    );
}

#[tokio::test]
async fn a_clock_that_went_back_is_found() {
    let site = Site::new();
    let machine = Planted {
        // Less than what certificates are made to allow for.
        clock_behind: Duration::from_secs(3600),
        ..Planted::default()
    };
    only_fault(
        &site.ask(&machine).await,
        "clock",
        "was written down here before",
    );
}

#[tokio::test]
async fn a_full_disk_is_found() {
    let (site, _) = Site::with_release();
    let machine = Planted {
        free_bytes: Some(1000),
        ..Planted::default()
    };
    only_fault(&site.ask(&machine).await, "disk space", "1000 B free");
}

#[tokio::test]
async fn a_damaged_model_file_is_found_by_release_files() {
    let (site, path) = Site::with_release();
    let mut bytes = fs::read(&path).unwrap();
    bytes[100] ^= 1;
    fs::write(&path, bytes).unwrap();
    only_fault(
        &site.ask(&Planted::default()).await,
        "release files",
        "is damaged",
    );
    fs::remove_file(&path).unwrap();
    only_fault(
        &site.ask(&Planted::default()).await,
        "release files",
        "is missing",
    );
}

#[tokio::test]
async fn flipped_bytes_in_the_database_are_found_by_store() {
    let site = Site::new();
    let path = site.path("coordinator.db");
    let mut bytes = fs::read(&path).unwrap();
    for byte in &mut bytes[4096..4200] {
        *byte = !*byte;
    }
    fs::write(&path, bytes).unwrap();
    told(
        &site.ask(&Planted::default()).await,
        "store",
        "coordinator.db",
    );
}

#[tokio::test]
async fn a_database_of_a_newer_program_is_found_by_store() {
    let site = Site::new();
    let path = site.path("coordinator.db");
    let mut bytes = fs::read(&path).unwrap();
    // SQLite's user_version, big-endian.
    bytes[60..64].copy_from_slice(&99_u32.to_be_bytes());
    fs::write(&path, bytes).unwrap();
    only_fault(
        &site.ask(&Planted::default()).await,
        "store",
        "schema version 99",
    );
}
