//! What people and scripts have learnt by heart, kept in files: the help of every command of the three
//! programs, and the schema of everything printed as JSON. A change shows up in review.
//!
//! ```text
//! LAMPLIGHT_UPDATE=1 cargo test -p lamplight --lib snapshots      writes both anew
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::Path,
};

use clap::Command;

use crate::command::{schema, shell::Program};

/// Set to write what is kept anew.
const UPDATE: &str = "LAMPLIGHT_UPDATE";
/// Columns that help is wrapped to, whatever the terminal.
const WIDTH: usize = 100;
/// Commands that print something else than a result.
const WITHOUT_JSON: [&str; 2] = ["completions", "schema"];

/// The same on every machine: fixed width, no values out of this machine's environment.
fn settled(command: Command) -> Command {
    let names: Vec<String> = (command.get_subcommands())
        .map(|c| c.get_name().to_owned())
        .collect();
    let command = (command.term_width(WIDTH)).mut_args(|a| a.hide_env_values(true));
    (names.iter()).fold(command, |c, name| c.mut_subcommand(name, settled))
}

/// All commands of a program with their paths, e.g. `node list`.
fn all(program: Program) -> Vec<(String, Command)> {
    fn walk(command: &Command, path: &str, out: &mut Vec<(String, Command)>) {
        out.push((path.to_owned(), command.clone()));
        let own = |c: &&Command| c.get_name() != "help";
        for deeper in command.get_subcommands().filter(own) {
            walk(deeper, format!("{path} {}", deeper.get_name()).trim(), out);
        }
    }
    let mut root = settled(program.command());
    root.build();
    let mut out = Vec::new();
    walk(&root, "", &mut out);
    out
}

fn prints_json(command: &Command) -> bool {
    command
        .get_arguments()
        .any(|a| a.get_long() == Some("json"))
}

/// Compares with the files of a directory below the crate's, or writes them.
fn compare(dir: &str, fresh: &BTreeMap<String, String>) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join(dir);
    let entries = fs::read_dir(&dir).into_iter().flatten().flatten();
    let there: BTreeSet<String> = entries
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect();
    if env::var_os(UPDATE).is_some() {
        fs::create_dir_all(&dir).unwrap();
        for stale in there.iter().filter(|n| !fresh.contains_key(*n)) {
            fs::remove_file(dir.join(stale)).unwrap();
        }
        for (name, text) in fresh {
            fs::write(dir.join(name), text).unwrap();
        }
        return;
    }
    let mut faults = Vec::new();
    for stale in there.iter().filter(|n| !fresh.contains_key(*n)) {
        faults.push(format!("{stale}: there is no such command any more"));
    }
    for (name, text) in fresh {
        match fs::read_to_string(dir.join(name)) {
            Err(_) => faults.push(format!("{name}: not kept yet")),
            Ok(kept) if kept == *text => {}
            Ok(kept) => {
                let mut lines = kept.lines().zip(text.lines()).enumerate();
                let differing = lines.find(|(_, (was, is))| was != is);
                let (line, (was, is)) = differing.unwrap_or((0, ("of another", "number of lines")));
                faults.push(format!("{name}:{}: was {was:?}, is {is:?}", line + 1));
            }
        }
    }
    assert!(
        faults.is_empty(),
        "{} differs:\n{}\nif that is meant: {UPDATE}=1 cargo test -p lamplight --lib snapshots",
        dir.display(),
        faults.join("\n")
    );
}

#[test]
fn the_help_of_every_command_is_as_kept() {
    let mut fresh = BTreeMap::new();
    for program in Program::ALL {
        for (path, mut command) in all(program) {
            // The other two programs, which are kept under their own names.
            let another = |name: &str| path.starts_with(&format!("{name} "));
            if program == Program::Lamplight && (another("agent") || another("coordinator")) {
                continue;
            }
            let name = format!("{} {path}", program.name());
            let file = format!("{}.txt", name.trim().replace(' ', "-"));
            let file = match (program, path.as_str()) {
                // Not the file of the program of that name.
                (Program::Lamplight, "agent" | "coordinator") => format!("busybox-{path}.txt"),
                _ => file,
            };
            fresh.insert(file, command.render_long_help().to_string());
        }
    }
    assert!(fresh.len() > 30, "{} commands", fresh.len());
    compare("snapshots/help", &fresh);
}

#[test]
fn every_command_has_an_example_and_prints_json() {
    for program in Program::ALL {
        for (path, mut command) in all(program) {
            if command.get_subcommands().next().is_some() {
                continue;
            }
            let help = command.render_long_help().to_string();
            let name = format!("{} {path}", program.name());
            assert!(help.contains("Example"), "{name} has no example: {help}");
            let should = !WITHOUT_JSON.contains(&path.as_str());
            assert_eq!(prints_json(&command), should, "{name}: --json: {help}");
        }
    }
}

#[test]
fn the_schema_of_everything_printed_as_json_is_as_kept() {
    let printing: BTreeSet<String> = (all(Program::Lamplight).into_iter())
        .filter(|(_, c)| prints_json(c))
        .map(|(path, _)| path)
        .collect();
    let known: BTreeSet<String> = (schema::TABLE.iter())
        .map(|(name, _)| (*name).to_owned())
        .collect();
    assert_eq!(
        printing, known,
        "commands with --json, and those of `lamplight schema`"
    );
    let fresh = (schema::TABLE.iter())
        .map(|(name, make)| {
            let text = serde_json::to_string_pretty(&make()).unwrap();
            (format!("{}.json", name.replace(' ', "-")), text + "\n")
        })
        .collect();
    compare("schemas", &fresh);
}
