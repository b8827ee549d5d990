//! How the command line feels: exit codes, errors that name the remedy. Help is compared in
//! `src/snapshots.rs`.

mod schema;

use std::process::{Command, Output};

fn lamplight(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lamplight"))
        .args(arguments)
        .env_remove("LAMPLIGHT_COORDINATOR")
        .env_remove("LAMPLIGHT_IDENTITY")
        .env_remove("LAMPLIGHT_CONTEXT")
        // No contexts of whoever runs the tests.
        .env("LAMPLIGHT_CONTEXTS", "/nonexistent/contexts.toml")
        .output()
        .expect("the program starts")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs an agent of a coordinator that nobody is.
fn run_agent(node: &str) -> [&str; 8] {
    [
        "agent",
        "run",
        "--dir",
        node,
        "--coordinator",
        "localhost:1",
        "--source",
        "builtin:post?post=1",
    ]
}

#[test]
fn failures_are_2_and_name_the_thing() {
    let dir = tempfile::tempdir().expect("temp dir");
    let missing = dir.path().join("missing.gguf").display().to_string();
    let output = lamplight(&["model", "show", &missing]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("missing.gguf"),
        "{}",
        stderr(&output)
    );

    let broken = dir.path().join("broken.gguf");
    std::fs::write(&broken, b"GGUF but not really").expect("written");
    let output = lamplight(&["model", "show", &broken.display().to_string()]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("broken.gguf"),
        "{}",
        stderr(&output)
    );

    let output = lamplight(&["demo", "--keep", &dir.path().display().to_string()]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("is not empty"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn a_task_on_standard_input_is_read_whole_or_refused() {
    let dir = tempfile::tempdir().expect("temp dir");
    let file = dir.path().join("task.toml");
    let check = |text: String| {
        std::fs::write(&file, text).expect("written");
        Command::new(env!("CARGO_BIN_EXE_lamplight"))
            .args(["task", "check", "-"])
            .stdin(std::fs::File::open(&file).expect("opened"))
            .output()
            .expect("the program starts")
    };
    let task = "model = \"post\"\n".to_owned();
    assert_eq!(check(task.clone()).status.code(), Some(0));
    // What comes after the first MiB would be another task.
    let long = format!("{task}{}\n[rounds]\ncount = 5\n", "#".repeat(1 << 20));
    let output = check(long);
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(
        said.contains("standard input has more than the 1048576 bytes"),
        "{said}"
    );
}

#[test]
fn an_operator_without_an_identity_is_told_where_it_comes_from() {
    let output = lamplight(&[
        "node",
        "list",
        "--coordinator",
        "127.0.0.1:1",
        "--identity",
        "nowhere",
    ]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("lamplight init"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn a_deployment_is_made_once() {
    let dir = tempfile::tempdir().expect("temp dir");
    let fleet = dir.path().join("fleet").display().to_string();
    let output = lamplight(&["init", "--dir", &fleet, "--deployment", "test", "--json"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let key = dir.path().join("fleet/release.key");
    let before = std::fs::read(&key).expect("a key");
    let again = lamplight(&["init", "--dir", &fleet, "--deployment", "test"]);
    assert_eq!(again.status.code(), Some(1), "{}", stderr(&again));
    assert_eq!(std::fs::read(&key).expect("the key"), before);
}

#[test]
fn a_database_that_a_newer_program_wrote_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().expect("temp dir");
    let fleet = dir.path().join("fleet").display().to_string();
    let node = dir.path().join("node").display().to_string();
    assert!(lamplight(&["init", "--dir", &fleet]).status.success());
    let run_coordinator = ["coordinator", "run", "--dir", &fleet];
    let run_agent = run_agent(&node);
    // Makes its database, then says that it is not enrolled.
    assert_eq!(lamplight(&run_agent).status.code(), Some(1));
    for (database, run) in [
        (
            dir.path().join("fleet/coordinator.db"),
            &run_coordinator[..],
        ),
        (dir.path().join("node/agent.db"), &run_agent[..]),
    ] {
        let mut bytes = std::fs::read(&database).expect("a database");
        // SQLite's user_version, big-endian.
        bytes[60..64].copy_from_slice(&99_u32.to_be_bytes());
        std::fs::write(&database, &bytes).expect("written");
        let output = lamplight(run);
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        assert!(stderr(&output).contains("newer"), "{}", stderr(&output));
        assert_eq!(std::fs::read(&database).expect("there"), bytes);
    }
}

#[test]
fn an_example_configuration_is_good_and_what_is_printed_of_it_as_well() {
    let dir = tempfile::tempdir().expect("temp dir");
    for program in ["agent", "coordinator"] {
        let example = lamplight(&[program, "config", "example"]);
        assert!(example.status.success(), "{}", stderr(&example));
        let file = dir.path().join(format!("{program}.toml"));
        std::fs::write(&file, &example.stdout).expect("written");
        let file = file.display().to_string();
        let checked = lamplight(&[program, "config", "check", "--config", &file]);
        assert!(checked.status.success(), "{}", stderr(&checked));

        let printed = lamplight(&[program, "config", "print", "--config", &file]);
        std::fs::write(&file, &printed.stdout).expect("written");
        let again = lamplight(&[program, "config", "check", "--config", &file, "--json"]);
        assert!(again.status.success(), "{}", stderr(&again));
        let said: serde_json::Value = serde_json::from_slice(&again.stdout).expect("json");
        assert_eq!(said["good"], true);

        std::fs::write(&file, "dir = \"d\"\ngrace_secs = 3\n").expect("written");
        let bad = lamplight(&[program, "config", "check", "--config", &file]);
        assert_eq!(bad.status.code(), Some(1));
        let says =
            format!("{program}.toml:2:1: unknown key `grace_secs`; did you mean `grace_seconds`?");
        assert!(stderr(&bad).contains(&says), "{}", stderr(&bad));
        // A doctor tells the same, as its finding.
        let doctor = lamplight(&[program, "doctor", "--config", &file, "--json"]);
        assert_eq!(doctor.status.code(), Some(1), "{}", stderr(&doctor));
        let report: serde_json::Value = serde_json::from_slice(&doctor.stdout).expect("json");
        assert_eq!(report["findings"][0]["check"], "configuration");
        assert_eq!(report["findings"][0]["state"], "fault");
    }
}

#[test]
fn a_configuration_in_the_environment_counts_and_a_slip_in_a_name_is_told() {
    let print = |name: &str, value: &str| {
        Command::new(env!("CARGO_BIN_EXE_lamplight"))
            .args(["agent", "config", "print", "--json"])
            .env(name, value)
            .output()
            .expect("the program starts")
    };
    let good = print("LAMPLIGHT_AGENT__TRAINING__THREADS", "3");
    assert!(good.status.success(), "{}", stderr(&good));
    let all: Vec<serde_json::Value> = serde_json::from_slice(&good.stdout).expect("json");
    let threads = all
        .iter()
        .find(|s| s["key"] == "training.threads")
        .expect("a key");
    assert_eq!(threads["value"], 3);
    assert_eq!(
        threads["from"],
        "environment variable LAMPLIGHT_AGENT__TRAINING__THREADS"
    );
    for (name, says) in [
        (
            "LAMPLIGHT_AGENT__TRAINING__THREAD",
            "did you mean LAMPLIGHT_AGENT__TRAINING__THREADS?",
        ),
        (
            "LAMPLIGHT_AGENT_TRAINING_THREADS",
            "two underscores between the parts",
        ),
    ] {
        let bad = print(name, "3");
        assert_eq!(bad.status.code(), Some(1));
        assert!(stderr(&bad).contains(says), "{}", stderr(&bad));
    }
}

#[test]
fn a_fresh_deployment_is_well() {
    let dir = tempfile::tempdir().expect("temp dir");
    let fleet = dir.path().join("fleet").display().to_string();
    assert!(lamplight(&["init", "--dir", &fleet]).status.success());
    let listen = ["--listen", "127.0.0.1:0"];
    let output = lamplight(&[&["coordinator", "doctor", "--dir", &fleet], &listen[..]].concat());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("0 fault(s)"), "{text}");
}

#[test]
fn a_new_deployment_is_reported_on_stdout_and_what_to_do_next_on_stderr() {
    let dir = tempfile::tempdir().expect("temp dir");
    let init = |name: &str, more: &[&str]| {
        let fleet = dir.path().join(name).display().to_string();
        let output = lamplight(&[&["init", "--dir", &fleet], more].concat());
        assert!(output.status.success(), "{}", stderr(&output));
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(printed.contains(&fleet), "{printed}");
        assert!(!printed.contains("next, "), "{printed}");
        stderr(&output)
    };
    let said = init("a", &[]);
    assert!(said.starts_with("next, "), "{said}");
    assert!(said.contains("lamplight coordinator run"), "{said}");
    for (name, quiet) in [("b", "--quiet"), ("c", "-q"), ("d", "--json")] {
        assert_eq!(init(name, &[quiet]), "", "{quiet}");
    }
}

#[test]
fn a_quiet_command_says_warnings_and_errors_whatever_the_filter() {
    let dir = tempfile::tempdir().expect("temp dir");
    let node = dir.path().join("node").display().to_string();
    let said = |flag: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_lamplight"))
            .args([&run_agent(&node)[..], flag].concat())
            .env("LAMPLIGHT_LOG", "info")
            .output()
            .expect("the program starts");
        // Nobody has enrolled there.
        assert_eq!(output.status.code(), Some(1));
        stderr(&output)
    };
    let loud = said(&[]);
    assert!(
        loud.contains("INFO") && loud.contains("refused: "),
        "{loud}"
    );
    let quiet = said(&["--quiet"]);
    assert!(quiet.starts_with("refused: "), "{quiet}");
    assert_eq!(quiet.lines().count(), 1, "{quiet}");
}

#[test]
fn what_is_not_there_is_refused_alike_by_agent_and_coordinator() {
    let dir = tempfile::tempdir().expect("temp dir");
    let nowhere = dir.path().join("nowhere").display().to_string();
    let coordinator = ["--coordinator", "localhost:1"];
    for words in [
        vec!["agent", "status", "--dir", &nowhere],
        [&["agent", "enrol", "--dir", &nowhere], &coordinator[..]].concat(),
        vec!["agent", "config", "check", "--config", &nowhere],
        vec![
            "coordinator",
            "run",
            "--dir",
            &nowhere,
            "--listen",
            "127.0.0.1:0",
        ],
        vec!["coordinator", "config", "check", "--config", &nowhere],
    ] {
        let output = lamplight(&words);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{words:?}: {said}");
        assert!(said.starts_with("refused: "), "{words:?}: {said}");
        // The sentence says what to do, and why only once.
        assert!(
            said.contains("; ") && !said.contains("hint: "),
            "{words:?}: {said}"
        );
        assert!(said.matches("os error").count() < 2, "{words:?}: {said}");
    }
}

#[test]
fn results_are_chosen_with_output_or_its_short_form() {
    let dir = tempfile::tempdir().expect("temp dir");
    let fleet = dir.path().join("fleet").display().to_string();
    assert!(lamplight(&["init", "--dir", &fleet]).status.success());
    let doctor = [
        "coordinator",
        "doctor",
        "--dir",
        &fleet,
        "--listen",
        "127.0.0.1:0",
    ];
    for json in [&["--json"][..], &["--output", "json"]] {
        let output = lamplight(&[&doctor[..], json].concat());
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("json");
        assert!(report["findings"].is_array(), "{report}");
    }
    let table = lamplight(&[&doctor[..], &["--output", "table"]].concat());
    assert!(String::from_utf8_lossy(&table.stdout).contains("0 fault(s)"));
}

#[test]
fn an_empty_variable_counts_as_not_set() {
    let with = |words: &[&str], variables: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lamplight"));
        command.args(words);
        for name in variables {
            command.env(name, "");
        }
        command.output().expect("the program starts")
    };
    let output = with(
        &["agent", "config", "print", "--json"],
        &[
            "LAMPLIGHT_LOG",
            "LAMPLIGHT_AGENT_CONFIG",
            "LAMPLIGHT_AGENT__TRAINING__THREADS",
        ],
    );
    assert!(output.status.success(), "{}", stderr(&output));
    let all: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).expect("json");
    assert!(all.iter().all(|s| s["from"] == "default"), "{all:?}");

    let output = with(
        &["coordinator", "config", "print"],
        &["LAMPLIGHT_COORDINATOR_CONFIG", "LAMPLIGHT_COORDINATOR_DIR"],
    );
    assert!(output.status.success(), "{}", stderr(&output));
    // An empty token is none: it is the token that is asked for, not another spelling of it.
    let dir = tempfile::tempdir().expect("temp dir");
    let node = dir.path().join("node").display().to_string();
    let enrol = [
        "agent",
        "enrol",
        "--dir",
        &node,
        "--coordinator",
        "localhost:1",
    ];
    let output = with(&enrol, &["LAMPLIGHT_TOKEN"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("a join token is needed"),
        "{}",
        stderr(&output)
    );
    // What must be given is asked for.
    let output = with(&["init"], &["LAMPLIGHT_COORDINATOR_DIR"]);
    assert!(stderr(&output).contains("--dir"), "{}", stderr(&output));
    assert!(!output.status.success());
}

#[test]
fn a_bench_beside_candle_prints_what_its_schema_says() {
    let output = lamplight(&[
        "agent",
        "bench",
        "infer",
        "--model",
        "lenet",
        "--batch",
        "1",
        "--threads",
        "1",
        "--repeats",
        "7",
        "--against",
        "candle",
        "--json",
    ]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let report = serde_json::from_slice(&output.stdout).expect("one line of JSON");
    schema::check("agent bench infer", &report);
    assert_eq!(report["rival"], "candle");
}

#[test]
fn layers_are_timed_one_by_one_beside_what_the_machine_could_do() {
    let words = "agent bench layers --model lenet --batch 1 --threads 1 --repeats 7 --json";
    let output = lamplight(&words.split(' ').collect::<Vec<_>>());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let report: serde_json::Value =
        serde_json::from_slice(&output.stdout).expect("one line of JSON");
    schema::check("agent bench layers", &report);
    assert_eq!(report["layers"].as_array().map(Vec::len), Some(5));
}

#[test]
fn a_bench_that_cannot_be_is_refused_with_what_to_do() {
    let output = lamplight(&[
        "agent",
        "bench",
        "step",
        "--model",
        "tcn",
        "--against",
        "candle",
    ]);
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(said.contains("refused: candle cannot train tcn"), "{said}");
    assert!(said.contains("--against pytorch"), "{said}");
}
