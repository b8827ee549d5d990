//! Takes down a whole conversation of this version's programs, for the tests of later versions.

use std::{fs, sync::Arc};

use lamplight_contract::{
    Frozen, Schema,
    schema::{golden, sources, this_version},
    tape::{self, Tape},
};

use crate::{
    recorded_model,
    site::{Cast, Site},
};

/// Freezes this version: its protocol and one conversation with every call.
///
/// `cargo test -p lamplight --test contract record -- --ignored`
#[test]
#[ignore = "writes a recording into proto/tests/golden; once per version, see docs/compatibility.md"]
fn record() {
    let (major, minor) = this_version();
    let dir = golden().join(format!("v{major}.{minor}"));
    let file = dir.join(tape::FILE);
    assert!(
        !file.exists(),
        "{} is there; what is frozen stays. To record this version anew before it is published, \
         remove the directory first",
        file.display()
    );
    let last = Frozen::all().pop().expect("an earlier version");
    let model = recorded_model(&last);
    let tape = Arc::new(Tape::new(Schema::today()));
    converse(&mut Site::new(Cast::ours(None), Some(tape.clone())), model);

    let to = dir.join("proto/lamplight/v1");
    fs::create_dir_all(&to).expect("made");
    for entry in fs::read_dir(sources().join("lamplight/v1")).expect("the protocol") {
        let entry = entry.expect("readable");
        fs::copy(entry.path(), to.join(entry.file_name())).expect("copied");
    }
    tape::write(&file, &tape.tidy());
}

/// Everything that programs say to one another, at least once.
fn converse(site: &mut Site, model: Vec<u8>) {
    let file = site.path("base.gguf");
    fs::write(&file, model).expect("written");
    site.ask(&["model", "push", &file, "--model", "post"]);
    site.ask(&["model", "list"]);
    site.start_agents();
    site.ask(&[
        "round",
        "start",
        "--model",
        "post",
        "--batch",
        "8",
        "--minimum",
        "1",
        "--wait",
    ]);
    site.ask(&["round", "list"]);
    let view = site.ask(&["round", "show", "1"]);
    assert_eq!(view["phase"], "published", "{view:#}");
    site.ask(&["release", "list", "--model", "post"]);
    let key = fs::read_to_string(site.path("state/release.pub")).expect("a key");
    site.ask(&["release", "show", "--model", "post", "--key", key.trim()]);
    // A refusal.
    let refused = site.operator(&["round", "start", "--model", "nobody-s"]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
}
