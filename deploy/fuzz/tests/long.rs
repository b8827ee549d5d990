//! Inputs longer than fuzzing makes them: a megabyte of what a format nests, repeats or lists.
//!
//! None may overflow the stack, and memory stays within each target's share for every byte.

use lamplight_fuzz::{Answer, target};

const LENGTH: usize = 1 << 20;

fn refused(name: &str, begin: &str, again: &str, end: &str) {
    let target = target(name).unwrap_or_else(|| panic!("there is a target {name}"));
    let times = (LENGTH - begin.len() - end.len()) / again.len();
    let input = [begin, &again.repeat(times), end].concat();
    let (answer, _) = target.run(input.as_bytes());
    assert_eq!(answer, Answer::Refused, "{name}: {begin}{again}…{end}");
}

#[test]
fn deep_json_is_refused() {
    refused("graph", "", "[", "");
    refused("graph", r#"{"input":["#, "[", "");
    refused(
        "graph",
        r#"{"input":[1],"nodes":[{"name":"a","op":{"type":"relu","x":"#,
        "[",
        "",
    );
    let header = (LENGTH as u64 - 8).to_le_bytes();
    let mut container = header.to_vec();
    container.resize(LENGTH, b'[');
    for name in ["container", "delta", "samples", "training"] {
        let (answer, _) = target(name).expect("a target").run(&container);
        assert_eq!(answer, Answer::Refused, "{name}");
    }
}

#[test]
fn deep_settings_are_refused() {
    refused("settings", "", "a.", "a = 1");
    refused("settings", "[", "a.", "a]");
    refused("settings", "[[", "a.", "a]]");
    refused("settings", "tags = ", "[", "");
    refused("settings", "budget = ", "{a=", "");
}

#[test]
fn long_messages_are_refused() {
    // Groups within groups, and empty elements of lists.
    for name in [
        "delta_manifest",
        "release_manifest",
        "round_offer",
        "receipt",
    ] {
        refused(name, "", "\u{b}", "");
        refused(name, "", "\u{4a}\0", "");
        refused(name, "", "\u{6a}\0", "");
    }
}

#[test]
fn long_tables_are_refused() {
    refused(
        "hapt",
        "experiment,subject,first_sample,n_samples\n",
        "\"",
        "",
    );
    refused(
        "hapt",
        "experiment,subject,first_sample,n_samples\n",
        "1,1,0,1\n",
        "",
    );
    refused("csv", "window=1\u{1f526}x,label\n", "9", "");
    refused("csv", "window=1\u{1f526}", "\"", "");
    refused("names", "", "a=b,", "");
    refused("source_spec", "hapt:x?subjects=1", ",1", "");
}
