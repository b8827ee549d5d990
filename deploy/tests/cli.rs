//! How the command line feels: exit codes, errors that name the remedy. Help is compared in
//! `src/snapshots.rs`.

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
    let run_agent = [
        "agent",
        "run",
        "--dir",
        &node,
        "--coordinator",
        "localhost:1",
        "--source",
        "builtin:post?post=1",
    ];
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
