//! Every file of the corpus, and everything that ever broke a parser, on every machine.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use lamplight_fuzz::memory::{SMALL_COST, SMALL_INPUT};
use lamplight_fuzz::seeds::seeds;
use lamplight_fuzz::{Answer, TARGETS, Target, target};

/// What the corpus may weigh: it is cloned by everybody.
const MAX_CORPUS_BYTES: u64 = 200 << 10;

fn root(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)
}

/// The files of a target, with their names.
fn files(folder: &str, target: &Target) -> Vec<(String, Vec<u8>)> {
    let dir = root(folder).join(target.name);
    let Ok(entries) = fs::read_dir(&dir) else {
        return Vec::new();
    };
    let mut files: Vec<_> = entries
        .map(|entry| {
            let entry = entry.expect("the folder can be listed");
            let name = entry.file_name().into_string().expect("names are plain");
            (name, fs::read(entry.path()).expect("the file can be read"))
        })
        .collect();
    files.sort();
    files
}

/// Runs in a thread of its own, so that the message says which file it was.
fn run(target: &'static Target, name: &str, bytes: &[u8]) -> (Answer, u64) {
    let at = format!("{}/{name}", target.name);
    let result = std::thread::scope(|scope| scope.spawn(|| target.run(bytes)).join());
    let (answer, spent) = result.unwrap_or_else(|_| panic!("{at} broke a promise, see above"));
    (answer, spent.0)
}

#[test]
fn every_input_of_the_corpus_is_answered_as_its_name_says() {
    for target in TARGETS {
        let files = files("corpus", target);
        let good = files.iter().any(|(name, _)| name.starts_with("good"));
        assert!(good, "{} has no good input to begin with", target.name);
        for (name, bytes) in files {
            let (answer, _) = run(target, &name, &bytes);
            let want = [("good", Answer::Accepted), ("bad", Answer::Refused)]
                .into_iter()
                .find(|(word, _)| name.starts_with(word));
            if let Some((_, want)) = want {
                assert_eq!(answer, want, "{}/{name}", target.name);
            }
        }
    }
}

#[test]
fn what_once_broke_a_parser_does_so_no_more() {
    for target in TARGETS {
        for (name, bytes) in files("regressions", target) {
            run(target, &name, &bytes);
        }
    }
}

/// The rule itself, on small files that claim to be huge. `Target::run` measures and fails above the
/// bound; here it is seen that each target has such files and that they are small.
#[test]
fn a_hostile_kibibyte_costs_at_most_a_mebibyte() {
    for target in TARGETS {
        let hostile: Vec<_> = files("corpus", target)
            .into_iter()
            .filter(|(name, bytes)| name.starts_with("bad") && bytes.len() <= SMALL_INPUT)
            .collect();
        let exempt = ["identity", "release"].contains(&target.name);
        assert!(exempt || !hostile.is_empty(), "{} has none", target.name);
        let mut most = 0;
        for (name, bytes) in hostile {
            let (_, spent) = run(target, &name, &bytes);
            assert!(spent <= SMALL_COST, "{}/{name}: {spent}", target.name);
            most = most.max(spent);
        }
        println!("{:20} at most {most} bytes", target.name);
    }
}

#[test]
fn the_corpus_holds_what_the_writers_make() {
    let bless = std::env::var_os("LAMPLIGHT_BLESS").is_some();
    let mut names = BTreeSet::new();
    for seed in seeds() {
        assert!(target(seed.target).is_some(), "no target {}", seed.target);
        assert!(
            names.insert((seed.target, seed.name)),
            "{} twice",
            seed.name
        );
        let path = root("corpus").join(seed.target).join(seed.name);
        let there = fs::read(&path).ok();
        let stale = match &there {
            None => true,
            Some(bytes) => seed.same_each_time && *bytes != seed.bytes,
        };
        if stale && bless {
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            fs::write(&path, &seed.bytes).expect("written");
        } else {
            assert!(
                !stale,
                "{} is not what is written today; after a change of format run \
                 LAMPLIGHT_BLESS=1 cargo test -p lamplight-fuzz",
                path.display()
            );
        }
    }
    for target in TARGETS {
        for (name, _) in files("corpus", target) {
            let seeded = name.starts_with("good") || name.starts_with("bad");
            let known = names.contains(&(target.name, name.as_str()));
            assert!(known || !seeded, "{}/{name} has no seed", target.name);
        }
    }
}

#[test]
fn the_corpus_is_small_and_every_folder_belongs_to_a_target() {
    let mut bytes = 0;
    for folder in ["corpus", "regressions"] {
        let Ok(entries) = fs::read_dir(root(folder)) else {
            continue;
        };
        for entry in entries {
            let name = entry.expect("listed").file_name();
            let name = name.to_string_lossy();
            let target = target(&name).unwrap_or_else(|| panic!("{folder}/{name} has no target"));
            let sizes = files(folder, target);
            bytes += sizes.iter().map(|(_, b)| b.len() as u64).sum::<u64>();
        }
    }
    assert!(bytes <= MAX_CORPUS_BYTES, "the corpus has {bytes} bytes");
}

#[test]
fn every_target_is_in_the_docs_in_its_own_words() {
    let docs = fs::read_to_string(root("../../docs/fuzzing.md")).expect("the page");
    for target in TARGETS {
        let row = format!("| `{}` | {} |", target.name, target.about);
        assert!(docs.contains(&row), "docs/fuzzing.md lacks the row {row}");
    }
}
