use super::*;

fn read(text: &str) -> Result<Loaded, SettingsError> {
    Loaded::of(Document::parse(text, Path::new("agent.toml"))?)
}

/// The example's keys: those that are set, and those that are only shown (`# key = …`).
fn keys_of_example() -> Vec<String> {
    let mut table = String::new();
    let mut keys = Vec::new();
    for line in EXAMPLE.lines() {
        if let Some(name) = line.strip_prefix('[') {
            table = format!("{}.", name.trim_end_matches(']'));
        } else if let Some((key, _)) = line.trim_start_matches("# ").split_once(" = ")
            && key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
        {
            keys.push(format!("{table}{key}"));
        }
    }
    keys.sort();
    keys
}

#[test]
fn the_example_is_read_and_holds_the_defaults() {
    let example = read(EXAMPLE).expect("good").settings;
    let default = Settings::default();
    assert_eq!(example.training, default.training);
    assert_eq!(example.limits, default.limits);
    assert_eq!(example.log, default.log);
    assert_eq!(example.grace_seconds, default.grace_seconds);
    assert!(example.dir.is_some() && example.coordinator.is_some());
    assert!(example.source.spec.is_some());
}

#[test]
fn the_example_shows_every_key_and_no_other() {
    let all = read("").expect("good").explain().expect("json");
    let mut known: Vec<String> = all.into_iter().map(|s| s.key).collect();
    known.sort();
    assert_eq!(keys_of_example(), known);
    // What it shows without setting it is good, too.
    let all_set: Vec<String> = (EXAMPLE.lines())
        .map(|line| match line.strip_prefix("# ") {
            Some(shown)
                if shown
                    .split_once(" = ")
                    .is_some_and(|(k, _)| !k.contains(' ')) =>
            {
                shown.to_owned()
            }
            _ => line.to_owned(),
        })
        .collect();
    let loaded = read(&all_set.join("\n")).expect("good");
    let limits = loaded.limits();
    assert_eq!(limits.budget.memory_bytes, Some(512 << 20));
    assert_eq!(limits.budget.transfer_bytes, Some(64 << 20));
    assert_eq!(limits.budget.energy_joules, Some(2000.0));
    assert_eq!(limits.budget.windows.len(), 2);
    assert_eq!(limits.assumed_power_watts, Some(12.0));
    let models: Vec<String> = (limits.models.iter().flatten())
        .map(ToString::to_string)
        .collect();
    assert_eq!(models, ["post"]);
    let name = loaded.settings.name.as_ref().map(ToString::to_string);
    assert_eq!(name.as_deref(), Some("post-17"));
}

#[test]
fn a_value_that_cannot_be_is_told_with_line_and_remedy() {
    for (text, want) in [
        (
            "grace_seconds = 0",
            "agent.toml:1:17: `grace_seconds` is 0, must be 1 or more",
        ),
        (
            "[training]\nthreads = 5000",
            "agent.toml:2:11: `training.threads` is 5000, must be a whole number from 1 to 1024",
        ),
        (
            "[training]\nthreads = 0",
            "agent.toml:2:11: `training.threads` is 0, must be a whole number from 1 to 1024",
        ),
        (
            "[training]\nthreads = -1",
            "agent.toml:2:11: `training.threads` is -1, must be a whole number from 1 to 1024",
        ),
        (
            "[training]\nthreads = \"two\"",
            "agent.toml:2:11: `training.threads` is the text \"two\", must be a whole number from 1 to \
             1024",
        ),
        (
            "[training]\ndevice = \"gpu\"",
            "agent.toml:2:10: `training.device` is \"gpu\", must be one of `cpu`, `cuda`, `metal`",
        ),
        (
            "[training]\nprecision = \"f16\"",
            "agent.toml:2:13: `training.precision` is \"f16\", must be one of `f32`, `bf16`, `auto`",
        ),
        (
            "[training]\nprecision = 16",
            "agent.toml:2:13: `training.precision` is 16, must be ",
        ),
        (
            "[limits]\nmemory = 5",
            "agent.toml:2:1: unknown key `limits.memory`; did you mean `limits.memory_mib`?",
        ),
        (
            "[limits]\nmemory_mib = 1073741824",
            "agent.toml:2:14: `limits.memory_mib` is 1073741824, must be at most 16777216",
        ),
        (
            "[limits]\nenergy_joules = nan",
            "agent.toml:2:17: `limits.energy_joules` is NaN, must be a number above 0",
        ),
        (
            "[limits]\nwindow_utc = \"22-6\"",
            "agent.toml:2:14: `limits.window_utc` does not fit: \"22-6\" is not HH:MM-HH:MM in UTC, \
             e.g. 22:00-06:00",
        ),
        (
            "[limits]\nwindow_utc = [\"22:00-06:00\", 7]",
            "agent.toml:2:30: `limits.window_utc[1]` is 7, must be a text in quotes",
        ),
        (
            "[limits]\nwindow_utc = 7",
            "agent.toml:2:14: `limits.window_utc` is 7, must be a span",
        ),
        (
            "[limits]\nmodels = []",
            "agent.toml:2:10: `limits.models` is an empty list",
        ),
        (
            "[limits]\nmodels = [\"a b\"]",
            "agent.toml:2:11: `limits.models[0]` does not fit: model name is malformed",
        ),
        (
            "coordinator = \"fleet\"",
            "agent.toml:1:15: `coordinator` does not fit: address is malformed: \"fleet\" is not \
             host:port",
        ),
        (
            "[source]\nspec = \"nonsense\"",
            "agent.toml:2:8: `source.spec` does not fit: source `nonsense` is of no known kind",
        ),
        (
            "[log]\nfilter = \"a=b\"",
            "agent.toml:2:10: `log.filter` is \"a=b\", which is no filter",
        ),
        (
            "[log]\nformat = \"xml\"",
            "agent.toml:2:10: `log.format` is \"xml\", must be one of `text`, `json`",
        ),
    ] {
        let e = read(text).expect_err(text).to_string();
        assert!(e.starts_with(want), "{e}\n{want}");
    }
}

#[test]
fn a_token_that_stands_where_its_file_belongs_is_not_shown() {
    for text in [
        "token_file = \"lamp1_c2VjcmV0\"",
        "token = \"lamp1_c2VjcmV0\"",
    ] {
        let e = read(text).expect_err(text);
        assert!(!e.to_string().contains("c2Vj"), "{e}");
        assert!(e.to_string().starts_with("agent.toml:1:"), "{e}");
    }
}

#[test]
fn flags_and_variables_count_more_than_the_file() {
    let text = "dir = \"/a\"\n[training]\nthreads = 2\ncheckpoint_seconds = 5\n";
    let document = Document::parse(text, Path::new("agent.toml")).expect("good");
    let variables = [
        ("LAMPLIGHT_AGENT__TRAINING__THREADS", "3"),
        (
            "LAMPLIGHT_AGENT__LIMITS__WINDOW_UTC",
            "22:00-06:00,12:00-13:00",
        ),
        ("LAMPLIGHT_AGENT__TRAINING__CHECKPOINT_SECONDS", "6"),
        ("LAMPLIGHT_LOG", "debug"),
        ("LAMPLIGHT_AGENT_CONFIG", "agent.toml"),
    ];
    let flags = Flags {
        threads: Some(4),
        ..Flags::default()
    };
    let variables = variables.map(|(k, v)| (OsString::from(k), OsString::from(v)));
    let loaded = Loaded::layered(document, variables, &flags).expect("good");
    assert_eq!(loaded.settings.training.threads, 4);
    assert_eq!(loaded.settings.training.checkpoint_seconds, 6);
    assert_eq!(loaded.settings.limits.window_utc.0.len(), 2);
    assert_eq!(loaded.settings.log.filter, "debug");
    let explained = loaded.explain().expect("json");
    let threads = explained.iter().find(|s| s.key == "training.threads");
    assert_eq!(
        threads.map(|s| s.from.to_string()),
        Some("--threads".into())
    );
}

#[test]
fn precision_is_f32_until_somebody_says_otherwise() {
    let with = |variable: Option<&str>, flag| {
        let text = "[training]\nprecision = \"auto\"\n";
        let document = Document::parse(text, Path::new("agent.toml")).expect("good");
        let name = OsString::from("LAMPLIGHT_AGENT__TRAINING__PRECISION");
        let variables = variable.map(|v| (name, OsString::from(v)));
        let flags = Flags {
            precision: flag,
            ..Flags::default()
        };
        let loaded = Loaded::layered(document, variables, &flags)?;
        let explained = loaded.explain().expect("json").into_iter();
        let from = explained.filter(|s| s.key == "training.precision");
        let from: Vec<String> = from.map(|s| s.from.to_string()).collect();
        assert_eq!(from.len(), 1, "{from:?}");
        Ok::<_, SettingsError>((loaded.settings.training.precision, from.concat()))
    };
    let silent = read("").expect("good").settings.training.precision;
    assert_eq!(silent, Precision::F32);
    let (precision, _) = with(None, None).expect("good");
    assert_eq!(precision, Precision::Auto);
    let (precision, from) = with(Some("bf16"), None).expect("good");
    assert_eq!(precision, Precision::Bf16);
    assert!(
        from.contains("LAMPLIGHT_AGENT__TRAINING__PRECISION"),
        "{from}"
    );
    let (precision, from) = with(Some("bf16"), Some(Precision::F32)).expect("good");
    assert_eq!((precision, from.as_str()), (Precision::F32, "--precision"));
    let e = with(Some("half"), None)
        .expect_err("no such word")
        .to_string();
    assert!(
        e.contains("`training.precision` is \"half\", must be one of `f32`, `bf16`, `auto`"),
        "{e}"
    );
}

#[test]
fn an_empty_variable_is_as_good_as_none_whatever_its_name() {
    let text = "dir = \"/a\"\n[training]\nthreads = 2\n[log]\nfilter = \"warn\"\n";
    let document = Document::parse(text, Path::new("agent.toml")).expect("good");
    let variables = [
        "LAMPLIGHT_AGENT__TRAINING__THREADS",
        "LAMPLIGHT_AGENT__COORDINATOR",
        "LAMPLIGHT_AGENT_TRAINING_THREADS",
        "LAMPLIGHT_LOG",
    ];
    let variables = variables.map(|name| (OsString::from(name), OsString::new()));
    let loaded = Loaded::layered(document, variables, &Flags::default()).expect("good");
    assert_eq!(loaded.settings.training.threads, 2);
    assert_eq!(loaded.settings.log.filter, "warn");
    assert_eq!(loaded.settings.coordinator, None);
}

#[test]
fn what_is_printed_is_a_configuration_that_says_the_same() {
    let all_set = EXAMPLE
        .replace("# memory_mib", "memory_mib")
        .replace("# window", "window");
    let loaded = read(&all_set).expect("good");
    let printed = lamplight_proto::settings::to_toml(&loaded.explain().expect("json"));
    let again = read(&printed).expect(&printed);
    assert_eq!(again.settings, loaded.settings);
    assert!(printed.contains("# models is not set"), "{printed}");
    assert!(printed.contains("threads = 1  # agent.toml:"), "{printed}");
}

#[test]
fn what_is_missing_is_told_with_every_way_to_give_it() {
    let nothing = Loaded::read(None, [], &Flags::default()).expect("no key is needed yet");
    let e = nothing.source().expect_err("missing").to_string();
    assert_eq!(
        e,
        "configuration: `source.spec` is missing; write it into a file and give --config, set \
         LAMPLIGHT_AGENT__SOURCE__SPEC, or give --source"
    );
    let e = read("")
        .expect("good")
        .dir()
        .expect_err("missing")
        .to_string();
    assert!(
        e.starts_with("agent.toml: `dir` is missing; write it there, set"),
        "{e}"
    );
}
