//! The walk-through of `docs/first-hour.md`, run as it is written.
//!
//! Blocks marked `sh server` and `sh node` are run by a shell, in their order, each machine in a
//! directory of its own; those marked `background` stay. What stands for the two machines is replaced:
//! the server's name and port by an address on this machine, `/var/lib/lamplight` by a directory.
//! Blocks marked `sh install` put the program on a path; the test puts the one just built there.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests: their panic is the test's report"
)]

use std::{
    env, fs,
    net::TcpListener,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

/// Longest wait for the coordinator to listen.
const PATIENCE: Duration = Duration::from_secs(60);

/// One block of commands.
struct Block {
    machine: String,
    stays: bool,
    text: String,
}

fn blocks(page: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        let Some(mark) = line.strip_prefix("```") else {
            continue;
        };
        let text: Vec<&str> = lines.by_ref().take_while(|l| *l != "```").collect();
        let words: Vec<&str> = mark.split(' ').collect();
        assert_eq!(words[0], "sh", "a block that is not run: {mark}");
        blocks.push(Block {
            machine: words[1].to_owned(),
            stays: words.get(2) == Some(&"background"),
            text: text.join("\n"),
        });
    }
    blocks
}

/// A program that stays, with all it started; gone with the test.
struct Stays(Child);

impl Drop for Stays {
    fn drop(&mut self) {
        let group = nix::unistd::Pid::from_raw(-i32::try_from(self.0.id()).unwrap());
        // Gone already is as good.
        let _ = nix::sys::signal::kill(group, nix::sys::signal::Signal::SIGKILL);
        let _ = self.0.wait();
    }
}

struct Walk {
    temp: tempfile::TempDir,
    port: u16,
}

impl Walk {
    fn home(&self, machine: &str) -> PathBuf {
        self.temp.path().join(machine)
    }

    fn shell(&self, block: &Block) -> Command {
        let home = self.home(&block.machine);
        let text = (block.text)
            .replace(
                "fleet.example.org:7443",
                &format!("127.0.0.1:{}", self.port),
            )
            .replace("0.0.0.0:7443", &format!("127.0.0.1:{}", self.port))
            .replace(
                "/var/lib/lamplight",
                &self.temp.path().join("var").display().to_string(),
            );
        let program = Path::new(env!("CARGO_BIN_EXE_lamplight"));
        let mut path = vec![program.parent().unwrap().to_owned()];
        path.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
        let mut command = Command::new("sh");
        command
            .args(["-euc", &text])
            .current_dir(&home)
            .env("PATH", env::join_paths(path).unwrap())
            .env("HOME", &home)
            .env("XDG_CONFIG_HOME", home.join("config"))
            .env_remove("LAMPLIGHT_CONTEXTS")
            .env_remove("LAMPLIGHT_COORDINATOR")
            .env_remove("LAMPLIGHT_IDENTITY")
            .env_remove("LAMPLIGHT_CONTEXT")
            .stdin(Stdio::null());
        command
    }

    /// Runs a block to its end and answers what it printed.
    fn run(&self, block: &Block) -> String {
        let output = self.shell(block).output().expect("a shell");
        let (out, said) = (
            String::from_utf8_lossy(&output.stdout).into_owned(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        );
        assert!(output.status.success(), "{}\n{out}\n{said}", block.text);
        out
    }

    fn start(&self, block: &Block, name: &str) -> Stays {
        let log = fs::File::create(self.temp.path().join(name)).unwrap();
        let mut command = self.shell(block);
        // A group of its own: the shell and what it started end together.
        command.process_group(0);
        let child = command.stdout(Stdio::null()).stderr(log).spawn();
        Stays(child.expect("a shell"))
    }

    fn wait_for(&self, file: &Path) {
        let by = Instant::now() + PATIENCE;
        while fs::read(file).map_or(true, |b| b.is_empty()) {
            assert!(Instant::now() < by, "{} did not appear", file.display());
            sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn the_first_hour_goes_as_it_is_written() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/first-hour.md");
    let blocks = blocks(&fs::read_to_string(page).expect("the page"));
    // A port that was free a moment ago.
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let walk = Walk {
        temp: tempfile::tempdir().unwrap(),
        port,
    };
    for machine in ["server", "node"] {
        fs::create_dir_all(walk.home(machine)).unwrap();
    }
    let mut stay = Vec::new();
    let mut printed = String::new();
    let mut installs = 0;
    for (n, block) in blocks.iter().enumerate() {
        match block.machine.as_str() {
            "install" => installs += 1,
            _ if block.stays => {
                stay.push(walk.start(block, &format!("block-{n}")));
                if block.machine == "server" {
                    walk.wait_for(&walk.temp.path().join("var/fleet/address"));
                }
            }
            "server" | "node" => {
                printed.push_str(&walk.run(block));
                let token = walk.home("server").join("token");
                if block.text.contains("> token") {
                    // The way you trust.
                    fs::copy(token, walk.home("node").join("token")).unwrap();
                }
            }
            other => panic!("no such machine: {other}"),
        }
    }
    assert_eq!((installs, stay.len()), (2, 2));
    // The page promises a fine-tuned model, two rounds, a release that was checked, and receipts.
    for promised in [
        "published",
        "post-17",
        "site=chicago",
        "receipts    2",
        "recomputed",
    ] {
        assert!(
            printed.contains(promised),
            "`{promised}` is not in:\n{printed}"
        );
    }
}
