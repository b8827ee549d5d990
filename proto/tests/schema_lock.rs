//! Every number of the protocol keeps its meaning for ever: `schema.lock` says which there were.

use std::{fs, path::Path};

use lamplight_contract::{
    Frozen, Schema,
    lock::{Fault, Lock},
    schema::sources,
};

/// Takes new fields, values and calls into the lock.
const COMMAND: &str =
    "LAMPLIGHT_EXTEND_LOCK=1 cargo test -p lamplight-proto --test schema_lock every_number";

fn path() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/schema.lock")
}

fn locked() -> Lock {
    Lock::parse(&fs::read_to_string(path()).unwrap_or_default())
}

fn text(lock: &Lock) -> String {
    format!(
        "# Every number the protocol ever used, and what it means. Lines are added, never changed or\n\
         # removed. To take in new ones:\n\
         #   {COMMAND}\n{}",
        lock.to_text()
    )
}

#[test]
fn every_number_keeps_its_meaning() {
    let today = Schema::today();
    let mut lock = locked();
    let faults = lock.check(&today);
    let (new, broken): (Vec<Fault>, Vec<Fault>) =
        (faults.into_iter()).partition(|f| matches!(f, Fault::New(_)));
    let said: Vec<String> = broken.iter().map(ToString::to_string).collect();
    assert!(
        said.is_empty(),
        "the protocol breaks its word:\n- {}",
        said.join("\n- ")
    );
    if std::env::var_os("LAMPLIGHT_EXTEND_LOCK").is_some() {
        lock.extend(&today);
        fs::write(path(), text(&lock)).expect("written");
        return;
    }
    let said: Vec<String> = new.iter().map(ToString::to_string).collect();
    assert!(
        said.is_empty(),
        "- {}\nLook them over (docs/compatibility.md); then take them in: {COMMAND}",
        said.join("\n- ")
    );
    let kept = fs::read_to_string(path()).expect("the lock");
    assert_eq!(
        kept,
        text(&lock),
        "the lock is sorted; write it with: {COMMAND}"
    );
}

#[test]
fn no_line_of_a_frozen_version_is_missing() {
    for frozen in Frozen::all() {
        let lacks = locked().lacks(&frozen.schema());
        assert!(lacks.is_empty(), "{}: {lacks:#?}", frozen.name());
    }
}

/// What the lock says of today's protocol with one change in a file.
fn faults(file: &str, from: &str, to: &str) -> Vec<Fault> {
    let dir = tempfile::tempdir().expect("temp dir");
    let there = dir.path().join("lamplight/v1");
    fs::create_dir_all(&there).expect("made");
    for entry in fs::read_dir(sources().join("lamplight/v1")).expect("the protocol") {
        let entry = entry.expect("readable");
        fs::copy(entry.path(), there.join(entry.file_name())).expect("copied");
    }
    let path = there.join(file);
    let before = fs::read_to_string(&path).expect("read");
    assert!(before.contains(from), "{file} holds no {from:?}");
    fs::write(&path, before.replacen(from, to, 1)).expect("written");
    // What is new today is not what is planted here.
    let mut lock = locked();
    lock.extend(&Schema::today());
    lock.check(&Schema::compile(dir.path()))
}

/// The one broken promise a change makes, in words.
fn broken(file: &str, from: &str, to: &str) -> String {
    let all: Vec<String> = (faults(file, from, to).into_iter())
        .filter_map(|f| match f {
            Fault::Broken(said) => Some(said),
            Fault::New(_) => None,
        })
        .collect();
    assert_eq!(all.len(), 1, "{from:?} -> {to:?}: {all:#?}");
    all.into_iter().next().expect("one")
}

#[test]
fn a_field_number_that_is_reused_is_named_with_both_meanings() {
    let said = broken("rounds.proto", "string model = 5;", "string colour = 5;");
    assert_eq!(
        said,
        "field number 5 of lamplight.v1.RoundOffer is reused: it was `model single string` and is \
         now `colour single string`; old peers would read the one as the other. Give `colour` a \
         number of its own, and say `reserved 5; reserved \"model\";`"
    );
}

#[test]
fn a_field_that_changes_type_or_label_is_named() {
    for (from, to) in [
        ("uint64 base_size = 8;", "bytes base_size = 8;"),
        ("string codec = 12;", "repeated string codec = 12;"),
        ("Training training = 13;", "Optimizer training = 13;"),
    ] {
        let said = broken("rounds.proto", from, to);
        assert!(
            said.contains("lamplight.v1.RoundOffer changes from"),
            "{said}"
        );
        assert!(said.contains("Add a field with a new number"), "{said}");
    }
    // Out of its `oneof`: an old peer would still clear the others when it sees it.
    let said = broken(
        "rounds.proto",
        "    Sgd sgd = 1;\n    AdamW adamw = 2;\n  }",
        "    Sgd sgd = 1;\n  }\n  AdamW adamw = 2;",
    );
    assert!(
        said.contains("`adamw oneof:kind lamplight.v1.AdamW`"),
        "{said}"
    );
}

#[test]
fn a_field_that_vanishes_leaves_number_and_name_reserved() {
    let field = "string model = 5;";
    for half in ["", "reserved 5;", "reserved \"model\";"] {
        let said = broken("rounds.proto", field, half);
        assert!(
            said.contains("field `model` = 5 of lamplight.v1.RoundOffer vanished"),
            "{said}"
        );
        assert!(said.contains("`reserved 5; reserved \"model\";`"), "{said}");
    }
    let whole = faults("rounds.proto", field, "reserved 5; reserved \"model\";");
    assert_eq!(whole, [], "reserved, it may go");
}

#[test]
fn a_name_does_not_move_to_another_number() {
    let all = faults(
        "rounds.proto",
        "string codec = 12;",
        "reserved 12; string codec = 99;",
    );
    let said: Vec<String> = all.iter().map(ToString::to_string).collect();
    let moved = "`codec` of lamplight.v1.RoundOffer had another number before";
    assert!(said.iter().any(|s| s.contains(moved)), "{said:#?}");
}

#[test]
fn an_enum_number_keeps_its_name() {
    let said = broken(
        "rounds.proto",
        "SCHEDULE_COSINE = 2;",
        "SCHEDULE_LINEAR = 2;",
    );
    assert!(
        said.contains(
            "number 2 of enum lamplight.v1.Schedule changes its meaning from SCHEDULE_COSINE to \
             SCHEDULE_LINEAR"
        ),
        "{said}"
    );
    let said = broken("common.proto", "    REASON_REPLAY = 8;\n", "");
    assert!(said.contains("value REASON_REPLAY = 8 of enum"), "{said}");
    assert!(said.contains("reserved 8"), "{said}");
}

#[test]
fn a_call_keeps_its_messages_and_stays() {
    for (from, to) in [
        ("rpc Report(ReportRequest)", "rpc Report(PollRequest)"),
        (
            "rpc Report(ReportRequest)",
            "rpc Report(stream ReportRequest)",
        ),
        ("returns (ReportReply)", "returns (PollReply)"),
    ] {
        let said = broken("rounds.proto", from, to);
        assert!(
            said.contains("rpc lamplight.v1.Rounds/Report changes from"),
            "{said}"
        );
    }
    let said = broken(
        "rounds.proto",
        "  rpc Report(ReportRequest) returns (ReportReply);\n",
        "",
    );
    assert!(
        said.contains("rpc lamplight.v1.Rounds/Report vanished"),
        "{said}"
    );
}

#[test]
fn new_things_are_taken_only_once_they_are_in_the_lock() {
    let (from, to) = (
        "string codec = 12;",
        "string codec = 12; uint32 shade = 9999;",
    );
    let all = faults("rounds.proto", from, to);
    let line = "message lamplight.v1.RoundOffer 9999 shade single uint32";
    assert_eq!(all, [Fault::New(line.to_owned())]);
    assert!(all[0].to_string().contains("not in the lock yet"));
}

#[test]
fn a_lock_reads_back_as_it_was_written() {
    let lock = Lock::of(&Schema::today());
    assert_eq!(Lock::parse(&text(&lock)), lock);
    assert_eq!(lock.check(&Schema::today()), []);
}
