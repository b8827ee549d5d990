use std::{ffi::OsString, path::Path};

use serde::{Deserialize, Serialize};

use super::*;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Node {
    dir: String,
    #[serde(default)]
    training: Training,
    #[serde(default)]
    limits: Limits,
    #[serde(default)]
    tasks: Vec<Task>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Training {
    threads: u16,
    rate: f64,
    device: Device,
}

impl Default for Training {
    fn default() -> Self {
        Self {
            threads: 1,
            rate: 0.1,
            device: Device::Cpu,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Device {
    Cpu,
    Cuda,
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Limits {
    memory_mib: Option<u64>,
    models: Option<Vec<String>>,
    quiet: Option<bool>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Task {
    model: crate::ids::ModelName,
    codec: Codec,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Codec {
    Plain,
    Sparse { keep: f64 },
}

const GOOD: &str = r#"
dir = "/var/lib/node"

[training]
threads = 2
device = "cuda"

[[tasks]]
model = "post"
codec = "plain"

[[tasks]]
model = "tcn"
codec = { sparse = { keep = 0.1 } }
"#;

fn read(text: &str) -> Result<Node, SettingsError> {
    parse(text, Path::new("node.toml"))
}

#[test]
fn a_file_reads_as_its_type_with_defaults_where_it_is_silent() {
    let node = read(GOOD).expect("good");
    assert_eq!(node.training.threads, 2);
    assert_eq!(node.training.device, Device::Cuda);
    assert!((node.training.rate - 0.1).abs() < 1e-12);
    assert_eq!(node.limits, Limits::default());
    assert_eq!(node.tasks[1].codec, Codec::Sparse { keep: 0.1 });
}

/// Every message names file, line and column, key, both values and a way out.
#[test]
fn every_fault_is_told_with_its_line_and_what_to_do() {
    let cases = [
        (
            "dir = \"d\"\n[training]\nthread = 2\n",
            "node.toml:3:1: unknown key `training.thread`; did you mean `training.threads`?",
        ),
        (
            "dir = \"d\"\n[training]\nthreads = 2\ndir = \"e\"\n",
            "node.toml:4:1: unknown key `training.dir`; it belongs above the first [table] of the file",
        ),
        (
            "dir = \"d\"\ncolour = 1\n",
            "node.toml:2:1: unknown key `colour`; known here: `dir`, `training`, `limits`, `tasks`",
        ),
        (
            "dir = \"d\"\n  [training]\n  threads = \"two\"\n",
            "node.toml:3:13: `training.threads` is the text \"two\", must be a whole number from 0 to 65535",
        ),
        (
            "dir = \"d\"\ntraining.threads = 70000\n",
            "node.toml:2:20: `training.threads` is 70000, must be a whole number from 0 to 65535",
        ),
        (
            "dir = \"d\"\ntraining.threads = -1\n",
            "node.toml:2:20: `training.threads` is -1, must be a whole number from 0 to 65535",
        ),
        (
            "dir = 5\n",
            "node.toml:1:7: `dir` is 5, must be a text in quotes",
        ),
        (
            "dir = \"d\"\ntraining = 1\n",
            "node.toml:2:12: `training` is 1, must be a table",
        ),
        (
            "dir = \"d\"\n[limits]\nmodels = \"post\"\n",
            "node.toml:3:10: `limits.models` is the text \"post\", must be a list in brackets",
        ),
        (
            "dir = \"d\"\n[limits]\nquiet = \"yes\"\n",
            "node.toml:3:9: `limits.quiet` is the text \"yes\", must be true or false",
        ),
        (
            "dir = \"d\"\n[training]\ndevice = \"cudaa\"\n",
            "node.toml:3:10: `training.device` is \"cudaa\", must be one of `cpu`, `cuda`; did you mean `cuda`?",
        ),
        (
            "[training]\nthreads = 1\n",
            "node.toml: `dir` is missing; write it there",
        ),
        (
            "dir = \"d\"\n\n[[tasks]]\nmodel = \"a\"\ncodec = \"plain\"\n[[tasks]]\nmodel = \"b\"\n",
            "node.toml:6:1: `tasks[1].codec` is missing; write it there",
        ),
        (
            "dir = \"d\"\n[[tasks]]\nmodel = \"../x\"\ncodec = \"plain\"\n",
            "node.toml:3:9: `tasks[0].model` does not fit: model name is malformed",
        ),
        (
            "dir = \"d\"\n[[tasks]]\nmodel = \"x\"\ncodec = { sparse = { keeps = 1 } }\n",
            "node.toml:4:22: unknown key `tasks[0].codec.sparse.keeps`; did you mean `tasks[0].codec.sparse.keep`?",
        ),
        (
            "dir = \"d\"\ndir = \"e\"\n",
            "node.toml:2:1: duplicate key; correct this line",
        ),
        ("dir = \"d\n", "node.toml:1:9: "),
        (
            "dir = \"d\"\ntraining.threads = 99999999999999999999999999999999999999999\n",
            "which is too large a number",
        ),
    ];
    for (text, want) in cases {
        let e = read(text).expect_err(text).to_string();
        assert!(
            e.starts_with(want) || e.contains(want),
            "{text}\n{e}\n{want}"
        );
        assert!(!e.contains('\n'), "{e}");
    }
}

#[test]
fn the_first_fault_of_a_file_is_told_first() {
    let e = read("dir = 1\n[limits]\nmemory_mib = true\n[training]\nthreads = []\n");
    assert!(
        e.expect_err("faults")
            .to_string()
            .starts_with("node.toml:1:")
    );
    let e = read("dir = \"d\"\n[training]\nthreads = []\n[limits]\nmemory_mib = true\n");
    assert!(
        e.expect_err("faults")
            .to_string()
            .starts_with("node.toml:3:")
    );
}

const FLAGS: &[(&str, &str)] = &[("training.threads", "--threads"), ("dir", "--dir")];

const VARIABLES: Variables = Variables {
    prefix: "LAMPLIGHT_NODE",
    named: &[("RATE", "training.rate")],
    spared: &["LAMPLIGHT_NODE_CONFIG"],
};

fn layered(
    text: &str,
    variables: &[(&str, &str)],
    threads: Option<u16>,
) -> Result<Document, SettingsError> {
    let mut document = Document::parse(text, Path::new("node.toml"))?.with_flags(FLAGS);
    let variables = (variables.iter()).map(|(k, v)| (OsString::from(k), OsString::from(v)));
    document.over_environment(&VARIABLES, variables)?;
    document.over_flag("training.threads", threads);
    Ok(document)
}

#[test]
fn a_flag_beats_a_variable_and_a_variable_beats_the_file() {
    let variables = [
        ("LAMPLIGHT_NODE__TRAINING__THREADS", "3"),
        ("LAMPLIGHT_NODE__TRAINING__RATE", "0.5"),
        ("LAMPLIGHT_NODE__LIMITS__MODELS", "post, tcn"),
        ("LAMPLIGHT_NODE__LIMITS__QUIET", "true"),
        // Somebody else's.
        ("LAMPLIGHT_NODE_CONFIG", "x"),
        ("LAMPLIGHT_NODE_PORT_7443_TCP", "tcp://10.0.0.1:7443"),
        ("LAMPLIGHT_NODE_SERVICE_HOST", "10.0.0.1"),
        ("LAMPLIGHT_NODES", "x"),
    ];
    let text = "dir = \"d\"\n[training]\nthreads = 2\n";
    let document = layered(text, &variables, Some(4)).expect("layers");
    let node: Node = document.read().expect("good");
    assert_eq!(node.training.threads, 4);
    assert!((node.training.rate - 0.5).abs() < 1e-12);
    assert_eq!(node.limits.models, Some(vec!["post".into(), "tcn".into()]));
    assert_eq!(node.limits.quiet, Some(true));

    let effective = serde_json::to_value(&node).expect("json");
    let explained = document.explain(&effective);
    let from = |key: &str| {
        let found = explained.iter().find(|s| s.key == key);
        found.map(|s| format!("{} {}", s.value, s.from)).expect(key)
    };
    assert_eq!(from("dir"), "\"d\" node.toml:1:7");
    assert_eq!(from("training.threads"), "4 --threads");
    let rate = "0.5 environment variable LAMPLIGHT_NODE__TRAINING__RATE";
    assert_eq!(from("training.rate"), rate);
    assert_eq!(from("training.device"), "\"cpu\" default");
    assert_eq!(from("limits.memory_mib"), "null default");

    let without = layered(text, &variables[1..], None).expect("layers");
    assert_eq!(without.read::<Node>().expect("good").training.threads, 2);
    // A variable with a name of its own, beside the one that is made of the key.
    let rate = |variables: &[(&str, &str)]| {
        let document = layered(text, variables, None).expect("layers");
        document.read::<Node>().expect("good").training.rate
    };
    assert!((rate(&[("RATE", "0.7")]) - 0.7).abs() < 1e-12);
    assert!((rate(&[variables[1], ("RATE", "0.7")]) - 0.5).abs() < 1e-12);
}

#[test]
fn an_empty_variable_sets_nothing_and_is_no_slip() {
    let variables = [
        ("LAMPLIGHT_NODE__TRAINING__THREADS", ""),
        ("LAMPLIGHT_NODE__NO_SUCH_KEY", ""),
        ("LAMPLIGHT_NODE_THREADS", ""),
        ("RATE", ""),
    ];
    let text = "dir = \"d\"\n[training]\nthreads = 2\nrate = 0.5\n";
    let document = layered(text, &variables, None).expect("layers");
    let node: Node = document.read().expect("good");
    assert_eq!(node.training.threads, 2);
    assert!((node.training.rate - 0.5).abs() < 1e-12);
    assert!(
        !document
            .place("training.threads")
            .to_string()
            .contains("variable")
    );
}

#[test]
fn a_variable_that_names_no_key_is_an_error_and_its_value_is_not_shown() {
    let cases = [
        (
            "LAMPLIGHT_NODE__TRAINING__THREAD",
            "environment variable LAMPLIGHT_NODE__TRAINING__THREAD: unknown key \
             `training.thread`; did you mean LAMPLIGHT_NODE__TRAINING__THREADS?",
        ),
        (
            "LAMPLIGHT_NODE_TRAINING__THREADS",
            "environment variable LAMPLIGHT_NODE_TRAINING__THREADS names no key; keys are \
             LAMPLIGHT_NODE__TABLE__KEY",
        ),
        ("LAMPLIGHT_NODE__", "unknown key ``"),
        (
            "LAMPLIGHT_NODE__DIR__X",
            "environment variable LAMPLIGHT_NODE__DIR__X names no key; `dir` is no table (node.toml:1:7)",
        ),
    ];
    for (name, want) in cases {
        let read = layered("dir = \"d\"\n", &[(name, "hush")], None)
            .and_then(|document| document.read::<Node>());
        let e = read.expect_err(name).to_string();
        assert!(e.contains(want), "{e}\n{want}");
        assert!(!e.contains("hush"), "{e}");
    }
    let e = layered(
        "dir = \"d\"\n",
        &[("LAMPLIGHT_NODE__TRAINING__THREADS", "two")],
        None,
    )
    .and_then(|document| document.read::<Node>())
    .expect_err("no number");
    assert_eq!(
        e.to_string(),
        "environment variable LAMPLIGHT_NODE__TRAINING__THREADS: `training.threads` is the text \
         \"two\", must be a whole number from 0 to 65535"
    );
}

#[test]
fn a_later_fault_is_told_where_its_key_stands() {
    let document = layered(GOOD, &[("LAMPLIGHT_NODE__TRAINING__RATE", "9")], None).expect("layers");
    for (key, want) in [
        (
            "training.threads",
            "node.toml:5:11: `training.threads` is 0",
        ),
        ("tasks[1].model", "node.toml:13:9: `tasks[1].model` is 0"),
        ("tasks[1].codec.sparse.keep", "node.toml:14:29: "),
        (
            "training.rate",
            "environment variable LAMPLIGHT_NODE__TRAINING__RATE: ",
        ),
        ("training.device", "node.toml:6:10: "),
        // Nobody gave it: its table, else the file.
        ("tasks[0].lane", "node.toml:8:1: `tasks[0].lane` is 0"),
        ("limits.quiet", "node.toml: `limits.quiet` is 0"),
    ] {
        let e = document.fault(key, "is 0").to_string();
        assert!(e.starts_with(want), "{e}\n{want}");
    }
    assert_eq!(
        document.missing("dir").to_string(),
        "node.toml: `dir` is missing; write it there, set LAMPLIGHT_NODE__DIR, or give --dir"
    );
}

#[test]
fn files_that_are_no_settings_cost_little_and_are_named() {
    let dir = tempfile::tempdir().expect("temp dir");
    let path = dir.path().join("node.toml");
    let e = Document::read_file(&path).expect_err("missing").to_string();
    assert!(e.contains("node.toml cannot be read"), "{e}");
    // The cause stands in the sentence, and would be told once more as a link of the chain.
    let e = Document::read_file(&path).expect_err("missing");
    assert!(std::error::Error::source(&e).is_none());
    std::fs::write(&path, [0xff, 0xfe]).expect("written");
    let e = Document::read_file(&path).expect_err("bytes").to_string();
    assert!(e.contains("not UTF-8"), "{e}");
    std::fs::write(&path, vec![b'#'; 2 << 20]).expect("written");
    let e = Document::read_file(&path).expect_err("large").to_string();
    assert!(e.contains("2097152 bytes, more than the 1048576"), "{e}");
    // A pipe says nothing of its length, and is read no further than needed.
    let endless = Document::read_stream(std::io::repeat(b'#'), Path::new("standard input"));
    let e = endless.expect_err("endless").to_string();
    assert!(
        e.contains("standard input has more than the 1048576 bytes"),
        "{e}"
    );
    let whole = std::io::Read::take(std::io::repeat(b'#'), 1 << 20);
    assert!(Document::read_stream(whole, Path::new("standard input")).is_ok());
    assert!(matches!(
        Document::read_file(dir.path()),
        Err(SettingsError::Read { .. })
    ));
    // Deeply nested values end in an error, not in a full stack.
    for open in ["[", "{a="] {
        let e = read(&format!("dir = {}", open.repeat(100_000)));
        assert!(matches!(e, Err(SettingsError::Syntax { .. })), "{e:?}");
    }
    let e = read(&format!("{} = 1", vec!["a"; 100_000].join(".")));
    assert!(e.is_err());
}
