//! A fleet in processes: the demo as a person runs it, and what it leaves behind.

mod schema;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{Duration, Instant},
};

use serde_json::Value;

fn lamplight(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lamplight"))
        .args(arguments)
        .output()
        .expect("the program starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn last_line_as_json(output: &Output) -> Value {
    let out = text(&output.stdout);
    let line = out.lines().last().unwrap_or_else(|| {
        panic!("nothing on stdout; stderr: {}", text(&output.stderr));
    });
    serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))
}

/// The file of a blob in a kept demo.
fn blob(kept: &Path, digest: &str) -> PathBuf {
    kept.join("coordinator/blobs")
        .join(&digest[..2])
        .join(digest)
}

#[test]
fn a_fleet_learns_and_its_last_release_can_be_recomputed() {
    let dir = tempfile::tempdir().expect("temp dir");
    let kept = dir.path().join("kept");
    let kept_text = kept.display().to_string();
    let output = lamplight(&[
        "demo", "--nodes", "2", "--rounds", "2", "--epochs", "1", "--json", "--keep", &kept_text,
    ]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let report = last_line_as_json(&output);
    schema::check("demo", &report);
    assert_eq!(report["nodes"], 2);
    assert_eq!(report["rounds"], 2);
    let releases = report["releases"].as_array().expect("releases");
    let versions: Vec<_> = releases.iter().map(|r| r["version"].as_u64()).collect();
    assert_eq!(versions, [Some(1), Some(2), Some(3)]);
    let per_node = report["per_node"].as_array().expect("per_node");
    assert_eq!(per_node.len(), 2);
    for node in per_node {
        assert!(node["bytes_up"].as_u64() > Some(0), "{node}");
        assert!(node["bytes_down"].as_u64() > Some(0), "{node}");
        assert!(node["bytes_stayed"].as_u64() > Some(0), "{node}");
    }
    // Two short rounds: better than guessing among the classes, nothing more.
    for key in ["base", "final", "central"] {
        assert!(report["accuracy"][key].as_f64() > Some(0.3), "{report}");
    }
    assert!(report["seconds"].as_f64() > Some(0.0), "{report}");
    for key in ["model_down", "delta_up", "data_stayed"] {
        assert!(report["bytes"][key].as_u64() > Some(0), "{report}");
    }
    let svg = fs::read_to_string(kept.join("accuracy.svg")).expect("a picture");
    assert!(svg.contains("<svg") && svg.contains("</svg>"));

    // Offline, from the files alone.
    let verified = lamplight(&["release", "verify", "--dir", &kept_text, "--json"]);
    assert!(verified.status.success(), "{}", text(&verified.stderr));
    let shown = text(&verified.stdout);
    let last = releases[2]["digest"].as_str().expect("a digest");
    assert!(shown.contains(last), "{shown}");

    // One flipped byte of one delta is found and named.
    let identity = fs::read_dir(kept.join("coordinator/deltas"))
        .expect("rounds")
        .flatten()
        .max_by_key(std::fs::DirEntry::file_name)
        .expect("a round");
    assert!(identity.path().is_dir());
    let victim = delta_named_in(&shown, &kept).expect("the report names a delta");
    let file = blob(&kept, &victim);
    let mut bytes = fs::read(&file).expect("a delta");
    let last_byte = bytes.len() - 1;
    bytes[last_byte] ^= 1;
    fs::write(&file, bytes).expect("written");
    let refused = lamplight(&["release", "verify", "--dir", &kept_text]);
    assert_eq!(refused.status.code(), Some(1), "{}", text(&refused.stdout));
    assert!(
        text(&refused.stderr).contains(&victim),
        "{}",
        text(&refused.stderr)
    );
}

/// A digest in the verification's report that belongs to a delta file: safetensors, not GGUF.
fn delta_named_in(shown: &str, kept: &Path) -> Option<String> {
    let report: Value = serde_json::from_str(shown.trim()).ok()?;
    let mut digests = Vec::new();
    collect(&report, &mut digests);
    digests.into_iter().find(|d| {
        fs::read(blob(kept, d)).is_ok_and(|b| {
            !b.starts_with(b"GGUF") && text(&b[..b.len().min(4096)]).contains("lamplight.codec")
        })
    })
}

fn collect(value: &Value, digests: &mut Vec<String>) {
    match value {
        Value::String(s) if s.len() == 64 => digests.push(s.clone()),
        Value::Array(list) => list.iter().for_each(|v| collect(v, digests)),
        Value::Object(map) => map.values().for_each(|v| collect(v, digests)),
        _ => {}
    }
}

/// By a person's Ctrl-C, and by closing the terminal.
#[test]
#[cfg(target_os = "linux")]
fn an_interrupted_demo_leaves_no_process_behind() {
    use nix::sys::signal::{Signal, kill};
    for signal in [Signal::SIGINT, Signal::SIGHUP] {
        let dir = tempfile::tempdir().expect("temp dir");
        let kept = dir.path().join("kept");
        let kept_text = kept.display().to_string();
        let mut demo = Command::new(env!("CARGO_BIN_EXE_lamplight"))
            .args([
                "demo", "--nodes", "2", "--rounds", "500", "--keep", &kept_text,
            ])
            .spawn()
            .expect("the program starts");
        let by = Instant::now() + Duration::from_secs(120);
        while !kept.join("coordinator/deltas/1").exists() {
            assert!(Instant::now() < by, "no delta was ever accepted");
            assert_eq!(demo.try_wait().expect("status"), None, "the demo ended");
            std::thread::sleep(Duration::from_millis(50));
        }
        assert!(
            processes_that_name(&kept_text).len() >= 3,
            "they can be seen"
        );
        let pid = nix::unistd::Pid::from_raw(i32::try_from(demo.id()).expect("a pid"));
        kill(pid, signal).expect("signalled");
        let status = demo.wait().expect("ended");
        assert_eq!(status.code(), Some(130), "{signal}");
        assert_eq!(processes_that_name(&kept_text), Vec::<String>::new());
    }
}

/// Command lines of running processes that mention `needle`.
#[cfg(target_os = "linux")]
fn processes_that_name(needle: &str) -> Vec<String> {
    let entries = fs::read_dir("/proc").expect("processes");
    entries
        .flatten()
        .filter_map(|e| fs::read(e.path().join("cmdline")).ok())
        .map(|bytes| text(&bytes).replace('\0', " "))
        .filter(|line| line.contains(needle))
        .collect()
}
