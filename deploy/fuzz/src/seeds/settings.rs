//! Files of settings.

use super::Seed;

const ALL: &str = r#"# A key of every kind.
name = "post 1"
listen = "[::]:7443"
epochs = 4
offset = -3
rate = 1e-3
is_on = true
rule = "cosine"
tags = ["site=chicago", 'mount=high']

[budget]
memory_mib = 512
windows = ["22:00-05:30"]

[log]
filter = "info,lamplight_agent::link=debug"
format = "json"
"#;

const CONTEXTS: &str = r#"current = "chicago"

[contexts.chicago]
coordinator = "fleet.example.org:7443"
identity = "/home/ann/chicago/operators/admin"

[contexts.oslo]
coordinator = "[2001:db8::1]:7443"
identity = "/home/ann/oslo"
"#;

pub(super) fn seeds() -> Vec<Seed> {
    let seed = |name, text: String| Seed::new("settings", name, text);
    let example = |target, text: &str| {
        [
            Seed::new(target, "good-every-key", every_key(text)),
            Seed::new(target, "bad-dots", format!("{}a = 1\n", "a.".repeat(500))),
        ]
    };
    let mut all = vec![
        seed("good-all", ALL.into()),
        seed(
            "good-dotted",
            "budget.memory_mib = 5\nlog.filter = \"\"\"\\\n  warn\"\"\"".into(),
        ),
        seed("bad-key", "epoch = 4\n".into()),
        seed("bad-number", "epochs = 99999999999999999999\n".into()),
        seed("bad-filter", "log.filter = \"a=b=c\"\n".into()),
        seed("bad-dots", format!("{}a = 1\n", "a.".repeat(500))),
        seed("bad-headers", format!("[{}a]\n", "a.".repeat(500))),
        seed("bad-brackets", format!("tags = {}", "[".repeat(1000))),
        seed("bad-braces", format!("tags = {}", "{a=".repeat(330))),
        seed(
            "bad-tables",
            (0..140).map(|i| format!("[t{i}]\n")).collect(),
        ),
    ];
    let contexts = |name, text: String| Seed::new("contexts", name, text);
    all.extend([
        contexts("good-two", CONTEXTS.into()),
        contexts(
            "good-inline",
            "contexts = { a = { coordinator = 'a:1', identity = '''/a \"b\"''' } }".into(),
        ),
        contexts("bad-key", CONTEXTS.replace("identity", "identiy")),
        contexts("bad-address", CONTEXTS.replace(":7443", "")),
        contexts("bad-name", CONTEXTS.replace("oslo]", "\"os lo\"]")),
        contexts(
            "bad-tables",
            (0..70).map(|i| format!("[contexts.c{i}]\n")).collect(),
        ),
        contexts("bad-dots", format!("contexts.{}a = 1\n", "a.".repeat(495))),
    ]);
    all.extend(example(
        "agent_settings",
        lamplight_agent::settings::EXAMPLE,
    ));
    all.extend(example(
        "coordinator_settings",
        lamplight_coordinator::settings::EXAMPLE,
    ));
    all.extend(example("task_file", lamplight::task::EXAMPLE));
    all
}

/// An example without its comments, and with the keys that are commented out.
fn every_key(example: &str) -> String {
    let key = |line: &str| {
        let word = line.split(" = ").next().unwrap_or_default();
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        line.contains(" = ") && word.bytes().all(plain)
    };
    let lines = example
        .lines()
        .filter_map(|line| match line.strip_prefix('#') {
            None => (!line.is_empty()).then_some(line),
            Some(comment) => Some(comment.trim_start()).filter(|line| key(line)),
        });
    lines.map(|line| format!("{line}\n")).collect()
}
