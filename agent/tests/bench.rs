//! `bench` as people and scripts run it: a small network for a few seconds, alone and beside rivals.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;

/// Small enough for a build that is not optimized.
const SMALL: [&str; 8] = [
    "--model",
    "lenet",
    "--batch",
    "2",
    "--repeats",
    "7",
    "--threads",
    "1",
];

fn bench(mode: &str, more: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lamplight-agent"))
        .args(["bench", mode])
        .args(SMALL)
        .args(more)
        .output()
        .expect("the program starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("one line of JSON")
}

/// A program that is started as Python would be, and says or does something else.
#[cfg(unix)]
fn python(dir: &Path, script: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt as _;
    let path = dir.join("python");
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("executable");
    path
}

#[test]
fn a_step_is_timed_and_its_work_and_memory_told() {
    let output = bench("step", &["--json"]);
    let report = json(&output);
    let number = |field: &str| report[field].as_f64().expect(field);
    assert_eq!(report["model"], "lenet");
    assert_eq!(report["input"], serde_json::json!([1, 28, 28]));
    assert_eq!(report["precision"], "f32");
    assert_eq!(number("parameters"), 61706.0);
    assert!(number("images_per_s_min") <= number("images_per_s"));
    assert!(number("images_per_s") <= number("images_per_s_max"));
    let step_ms = 2000.0 / number("images_per_s");
    assert!((number("step_ms") - step_ms).abs() < 1e-6 * step_ms);
    assert!(number("gflop_per_s") > 0.0);
    assert!(report["rival"].is_null() && report["ratio"].is_null());
    if cfg!(target_os = "linux") {
        assert!(number("peak_with_model_bytes") >= number("peak_bytes"));
        assert!(number("images_per_cpu_s") > 0.0);
    }
    let counted = cfg!(feature = "count-allocations");
    assert_eq!(report["allocated_peak_bytes"].is_u64(), counted);
    assert!(text(&output.stderr).contains("repeat 7 of 7"));
}

#[test]
fn candle_takes_turns_in_a_process_of_its_own() {
    let report = json(&bench(
        "step",
        &["--against", "candle", "--json", "--quiet"],
    ));
    assert_eq!(report["rival"], "candle");
    assert_eq!(report["rival_precision"], "f32");
    for field in [
        "ratio",
        "rival_images_per_s",
        "rival_images_per_s_min",
        "rival_images_per_s_max",
        "candle_gemm_gflop_per_s",
    ] {
        assert!(report[field].as_f64().expect(field) > 0.0, "{field}");
    }
    assert!(report["gemm_x86_v4"].is_boolean());
}

#[test]
fn people_get_a_table_and_nothing_else_when_quiet() {
    let output = bench(
        "infer",
        &["--quiet", "--input", "1x16x16", "--classes", "3"],
    );
    let table = text(&output.stdout);
    assert!(table.starts_with("inference of lenet, input 1x16x16, batches of 2, 1 thread(s)"));
    assert!(table.contains("lamplight f32"), "{table}");
    assert_eq!(text(&output.stderr), "");
}

#[cfg(unix)]
#[test]
fn python_is_asked_in_turn() {
    let dir = tempfile::tempdir().expect("temp dir");
    // It notes how it was started, then takes a hundredth of a second for each step, it says.
    let script = r#"printf '%s\n' "$@" > "$0.arguments"
echo '{"ready":true,"name":"pytorch","version":"9.9","threads":1,"precision":"f32","channels_last":true,"parameters":61706,"peak_bytes":5000}'
while read -r run steps; do
  echo "{\"steps\":$steps,\"seconds\":0.0$steps}"
done"#;
    let python = python(dir.path(), script);
    let python = python.display().to_string();
    let report = json(&bench(
        "step",
        &["--against", "pytorch", "--python", &python, "--json"],
    ));
    assert_eq!(report["rival"], "pytorch");
    assert_eq!(report["rival_version"], "9.9");
    assert_eq!(report["rival_channels_last"], true);
    assert_eq!(report["rival_peak_bytes"], 5000);
    assert!(report["rival_images_per_s"].as_f64().expect("a rate") > 0.0);
    assert!(report["candle_gemm_gflop_per_s"].is_null());
    let arguments = fs::read_to_string(format!("{python}.arguments")).expect("noted");
    assert!(arguments.starts_with("-c\n"), "the script is passed itself");
    assert!(arguments.contains("--serve\n--mode\nstep\n--model\nlenet\n--input\n1x28x28\n"));
}

#[cfg(unix)]
#[test]
fn what_python_lacks_is_a_failure_that_says_what_to_do() {
    let dir = tempfile::tempdir().expect("temp dir");
    for (script, says) in [
        (
            r#"echo '{"error":"this Python has no torch; install it"}'; exit 1"#,
            "pytorch: this Python has no torch; install it",
        ),
        ("exit 3", "pytorch ended in the middle: exit status: 3"),
        (
            r#"echo '{"ready":true,"name":"pytorch","threads":2,"precision":"f32","parameters":61706}'"#,
            "2 threads, ours with 1",
        ),
    ] {
        let python = python(dir.path(), script).display().to_string();
        let output = bench("step", &["--against", "pytorch", "--python", &python]);
        assert_eq!(output.status.code(), Some(2));
        let said = text(&output.stderr);
        assert!(said.contains(says), "{said}");
        assert_eq!(text(&output.stdout), "");
    }
    let missing = dir.path().join("nothing").display().to_string();
    let output = bench("infer", &["--against", "pytorch", "--python", &missing]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("give --python a Python that has torch"));
}

/// The real script by the Python of this machine: without torch it says so, with it it works.
#[test]
fn the_script_says_itself_that_torch_is_missing() {
    let python = ["python3", "python"].into_iter().find(|python| {
        let version = Command::new(python).arg("--version").output();
        version.is_ok_and(|v| v.status.success())
    });
    let Some(python) = python else {
        eprintln!("there is no Python here; left out");
        return;
    };
    let output = bench(
        "infer",
        &["--against", "pytorch", "--python", python, "--json"],
    );
    if output.status.success() {
        assert_eq!(json(&output)["rival"], "pytorch");
    } else {
        assert_eq!(output.status.code(), Some(2));
        let said = text(&output.stderr);
        assert!(
            said.contains("has no torch") && said.contains("-m pip install torch"),
            "{said}"
        );
    }
}

#[test]
fn what_does_not_go_together_is_refused_at_once() {
    for (mode, more, says) in [
        ("step", &["--input", "6x128"][..], "--input 1x28x28"),
        ("infer", &["--python", "p"], "--against pytorch"),
    ] {
        let output = bench(mode, more);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("refused: ") && said.contains(says), "{said}");
    }
    let resnet = Command::new(env!("CARGO_BIN_EXE_lamplight-agent"))
        .args([
            "bench",
            "step",
            "--model",
            "resnet18",
            "--against",
            "candle",
        ])
        .output()
        .expect("the program starts");
    assert_eq!(resnet.status.code(), Some(1));
    assert!(text(&resnet.stderr).contains("candle cannot train resnet18"));
}
