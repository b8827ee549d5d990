//! A small fleet of real processes behind the relay. Everything on its nodes that could give them away
//! is marked: directories, files, columns, labels, cells, pixels, the environment.

use std::{
    fmt::Write as _,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    canaries::{Canaries, Numbers, RUN},
    relay::Relay,
};

/// Longest wait for anything: a slow machine that does other things beside.
const PATIENCE: Duration = Duration::from_secs(300);
/// Rows of a window.
const WINDOW: usize = 64;
const CHANNELS: [&str; 2] = ["acc_x", "acc_y"];
/// Bytes of a picture in CIFAR-10's layout, behind its label.
const PIXELS: usize = 3 * 32 * 32;

/// Runs a command of the program to its end and answers the JSON it prints.
pub(crate) fn json(arguments: &[&str]) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_lamplight"))
        .args(arguments)
        .arg("--json")
        .stdin(Stdio::null())
        .output()
        .expect("the program starts");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {stderr}");
    let out = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(out.trim()).unwrap_or_else(|e| panic!("{arguments:?}: {e}: {out}"))
}

fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let by = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < by, "{what}: not within {PATIENCE:?}");
        sleep(Duration::from_millis(20));
    }
}

/// A process that is killed when it goes out of sight.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a node stands for in the test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// All is well.
    Sound,
    /// Some labels are none of the model's.
    Stranger,
    /// All labels are none of the model's.
    Foreign,
    /// A cell of its table is broken after it has started.
    Broken,
    /// Its table goes away after it has started.
    Gone,
    /// Its own directory is spoiled after it has started.
    Spoiled,
    /// Pictures instead of a table.
    Pictures,
}

/// A node's place on the disk.
pub(crate) struct Node {
    pub(crate) part: Part,
    pub(crate) dir: PathBuf,
    /// As `--source` takes it.
    pub(crate) source: String,
    /// File with the samples.
    data: PathBuf,
    /// Numbers of the table, channel by channel, in order of time.
    pub(crate) values: [Vec<f32>; 2],
    /// A label that the model does not know; some or all of a stranger's or foreigner's samples have it.
    pub(crate) strange: String,
    process: Option<Process>,
}

impl Node {
    /// What `agent status` shows.
    pub(crate) fn status(&self) -> Value {
        json(&["agent", "status", "--dir", &text(&self.dir)])
    }

    pub(crate) fn id(&self) -> String {
        let status = self.status();
        status["node_id"].as_str().expect("enrolled").to_owned()
    }
}

pub(crate) fn text(path: &Path) -> String {
    path.to_str().expect("plain names").to_owned()
}

/// The fleet, its relay and its canaries.
pub(crate) struct Fleet {
    /// Where everything lies.
    pub(crate) root: PathBuf,
    pub(crate) nodes: Vec<Node>,
    pub(crate) relay: Relay,
    pub(crate) canaries: Canaries,
    numbers: Numbers,
    coordinator: SocketAddr,
    _process: Process,
    /// Gone with the fleet.
    _temp: tempfile::TempDir,
}

impl Fleet {
    pub(crate) fn start() -> Self {
        let temp = tempfile::tempdir().expect("temp dir");
        let root = temp.path().to_owned();
        let state = root.join("state");
        json(&["init", "--dir", &text(&state)]);
        let log = fs::File::create(root.join("coordinator.log")).expect("a log");
        let process = Command::new(env!("CARGO_BIN_EXE_lamplight"))
            .args(["coordinator", "run", "--listen", "127.0.0.1:0", "--dir"])
            .arg(&state)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("the program starts");
        let process = Process(process);
        let coordinator = wait_for("the coordinator listens", || {
            fs::read_to_string(state.join("address")).ok()
        });
        let coordinator = coordinator.trim().parse().expect("an address");
        let nodes = root.join("nodes");
        fs::create_dir(&nodes).expect("a directory");
        let relay = Relay::start(&state, coordinator, &nodes);
        let mut canaries = Canaries::default();
        // This machine's own name, where it is nobody's in particular.
        let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let host = host.trim();
        if host.len() >= RUN && !["localhost", "lamplight"].iter().any(|w| host.contains(w)) {
            canaries.text("this host's name", host);
        }
        Self {
            root,
            nodes: Vec::new(),
            relay,
            canaries,
            numbers: Numbers::new(7),
            coordinator,
            _process: process,
            _temp: temp,
        }
    }

    /// Runs an operator's command, straight to the coordinator.
    pub(crate) fn ask(&self, command: &[&str]) -> Value {
        let identity = text(&self.root.join("state/operators/admin"));
        let address = self.coordinator.to_string();
        let connection = ["--coordinator", &address, "--identity", &identity];
        json(&[command, &connection].concat())
    }

    /// Makes a model of data that nobody hides, and its first release.
    pub(crate) fn publish(&self, model: &str, source: &str, more: &[&str]) {
        let file = text(&self.root.join(format!("{model}.gguf")));
        let pretrain = [
            "model", "pretrain", "--source", source, "--out", &file, "--epochs", "2",
        ];
        json(&[&pretrain, more].concat());
        self.ask(&["model", "push", &file, "--model", model]);
    }

    /// A table of nobody in particular, as a source.
    pub(crate) fn cloud_table(&mut self) -> String {
        let dir = self.root.join("cloud");
        fs::create_dir(&dir).expect("a directory");
        let mut numbers = Numbers::new(99);
        let rows = rows(&mut numbers, &["low", "high"].repeat(8));
        let table = rows.iter().fold("acc_x,acc_y,label\n".to_owned(), |t, r| {
            t + &format!("{:.9},{:.9},{}\n", r.values[0], r.values[1], r.label)
        });
        fs::write(dir.join("cloud.csv"), table).expect("written");
        let columns = CHANNELS.join(",");
        format!(
            "csv:{}?window={WINDOW}&columns={columns}&rate_hz=50",
            text(&dir)
        )
    }

    /// Pictures of nothing, as a source.
    pub(crate) fn cloud_pictures(&mut self) -> String {
        let dir = self.root.join("cloud-pictures");
        fs::create_dir(&dir).expect("a directory");
        let pictures = pictures(&mut Numbers::new(98));
        fs::write(dir.join("cloud.bin"), pictures).expect("written");
        format!("cifar10:{}", text(&dir))
    }

    /// A word that must never be seen.
    pub(crate) fn secret(&mut self, what: &str) -> String {
        let word = self.numbers.word();
        self.canaries.text(what, &word);
        word
    }

    /// Makes a node's data and directory, and starts its agent.
    pub(crate) fn join(&mut self, part: Part) {
        let n = self.nodes.len();
        let whose = format!("{part:?}'s");
        let home = self.secret(&format!("{whose} directory"));
        let place = self.secret(&format!("{whose} data directory"));
        let place = self.root.join("data").join(place);
        fs::create_dir_all(&place).expect("a directory");
        let name = self.secret(&format!("{whose} data file"));
        let node = if part == Part::Pictures {
            let data = place.join(format!("{name}.bin"));
            let bytes = pictures(&mut self.numbers);
            for picture in bytes.chunks(1 + PIXELS) {
                self.canaries
                    .pixels(&format!("{whose} pixels"), &picture[1..]);
            }
            fs::write(&data, bytes).expect("written");
            Node {
                part,
                dir: self.root.join("nodes").join(home),
                source: format!("cifar10:{}", text(&place)),
                data,
                values: Default::default(),
                strange: String::new(),
                process: None,
            }
        } else {
            self.table(part, &whose, &place.join(format!("{name}.csv")), &home)
        };
        let made = self.ask(&["node", "token"]);
        let token = self.root.join(format!("token-{n}"));
        let secret = made["tokens"][0].as_str().expect("a token");
        fs::write(&token, secret).expect("written");
        self.nodes.push(node);
        self.run(n, &token);
    }

    /// A table whose titles, labels, notes and cells are marked.
    fn table(&mut self, part: Part, whose: &str, data: &Path, home: &str) -> Node {
        let [label, group, note] = ["label column", "group column", "note column"]
            .map(|what| self.secret(&format!("{whose} {what}")));
        let person = self.secret(&format!("{whose} group"));
        let mut labels = ["low", "high"].repeat(5);
        let strange = self.secret(&format!("{whose} label"));
        match part {
            Part::Stranger => labels.extend([strange.as_str(); 2]),
            Part::Foreign => labels.fill(&strange),
            _ => {}
        }
        let rows = rows(&mut self.numbers, &labels);
        let mut table = format!("acc_x,acc_y,{label},{group},{note}\n");
        for (n, row) in rows.iter().enumerate() {
            let [x, y] = row.values.map(|v| format!("{v:.9}"));
            self.canaries.digits(&format!("{whose} cell"), &x);
            self.canaries.digits(&format!("{whose} cell"), &y);
            let said = if n % WINDOW == 0 {
                self.secret(&format!("{whose} note"))
            } else {
                String::new()
            };
            writeln!(table, "{x},{y},{},{person},{said}", row.label).expect("text");
        }
        fs::write(data, table).expect("written");
        // As the reader has them: 32 bits.
        let cell = |v: f64| format!("{v:.9}").parse::<f32>().expect("a number");
        let values = [0, 1].map(|c| rows.iter().map(|r| cell(r.values[c])).collect::<Vec<_>>());
        for (channel, values) in CHANNELS.iter().zip(&values) {
            self.canaries.numbers(&format!("{whose} {channel}"), values);
        }
        let steps: Vec<f32> = (values[0].iter().zip(&values[1]))
            .flat_map(|(x, y)| [*x, *y])
            .collect();
        self.canaries.numbers(&format!("{whose} steps"), &steps);
        let dir = data.parent().expect("a directory");
        let columns = CHANNELS.join(",");
        let options =
            format!("window={WINDOW}&label={label}&group={group}&columns={columns}&rate_hz=50");
        Node {
            part,
            dir: self.root.join("nodes").join(home),
            source: format!("csv:{}?{options}", text(dir)),
            data: data.to_owned(),
            values,
            strange,
            process: None,
        }
    }

    /// Starts a node's agent in a marked environment.
    fn run(&mut self, n: usize, token: &Path) {
        let [user, host, folder] = ["user", "host", "working directory"]
            .map(|what| self.secret(&format!("node {n}'s {what}")));
        let folder = self.root.join(folder);
        fs::create_dir(&folder).expect("a directory");
        let log = fs::File::create(self.root.join(format!("node-{n}.log"))).expect("a log");
        let node = &mut self.nodes[n];
        let address = self.relay.address.to_string();
        let process = Command::new(env!("CARGO_BIN_EXE_lamplight"))
            .args(["agent", "run", "--coordinator", &address])
            .args(["--source", &node.source])
            .arg("--dir")
            .arg(&node.dir)
            .arg("--token-file")
            .arg(token)
            .env("USER", &user)
            .env("LOGNAME", &user)
            .env("HOSTNAME", &host)
            .env("HOME", &folder)
            .env("PWD", &folder)
            .current_dir(&folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("the program starts");
        node.process = Some(Process(process));
    }

    /// Waits until every node has joined.
    pub(crate) fn joined(&self) {
        wait_for("all nodes join", || {
            let nodes = self.ask(&["node", "list"]);
            (nodes.as_array().expect("a list").len() == self.nodes.len()).then_some(())
        });
    }

    /// Spoils what is to be spoiled. Answers the word in the broken cell.
    pub(crate) fn spoil(&mut self) -> String {
        let cell = self.secret("the broken cell");
        for node in &self.nodes {
            match node.part {
                Part::Broken => {
                    let table = fs::read_to_string(&node.data).expect("a table");
                    let (first, last) = table.trim_end().rsplit_once('\n').expect("rows");
                    let (_, rest) = last.split_once(',').expect("cells");
                    fs::write(&node.data, format!("{first}\n{cell},{rest}\n")).expect("written");
                }
                Part::Gone => fs::remove_file(&node.data).expect("removed"),
                Part::Spoiled => {
                    let models = node.dir.join("models");
                    fs::remove_dir_all(&models).expect("removed");
                    fs::write(&models, "no directory").expect("written");
                }
                Part::Sound | Part::Stranger | Part::Foreign | Part::Pictures => {}
            }
        }
        cell
    }

    /// Starts a task for hours that are far from now. Answers what a node says of it.
    pub(crate) fn wait_for_hours(&self, model: &str) -> String {
        let now = std::time::UNIX_EPOCH
            .elapsed()
            .expect("after 1970")
            .as_secs();
        let hour = |ahead: u64| (now / 3600 + ahead) % 24;
        let (from, until) = (hour(11), hour(12));
        let task = format!(
            "model = \"{model}\"\n[budget]\nwindow_utc = [\"{from:02}:00-{until:02}:00\"]\n"
        );
        let file = self.root.join("task.toml");
        fs::write(&file, task).expect("written");
        let started = self.ask(&["round", "start", "--task", &text(&file)]);
        let round = started["round"].to_string();
        wait_for("a node waits", || {
            let shown = self.ask(&["round", "show", &round]);
            let nodes = shown["participants"].as_array().expect("nodes").clone();
            let mut reasons = nodes.iter().filter_map(|p| p["reason"].as_str());
            reasons.find(|r| !r.is_empty()).map(str::to_owned)
        })
    }

    /// The numbers as the model sees them are secrets, too: with this normalisation.
    pub(crate) fn hide_normalised(&mut self, mean: &[f32], std: &[f32]) {
        for node in &self.nodes {
            let channel = |c: usize| {
                let (mean, factor) = (mean[c], 1.0 / std[c]);
                node.values[c]
                    .iter()
                    .map(move |v| (v - mean) * factor)
                    .collect::<Vec<_>>()
            };
            if node.part == Part::Pictures {
                continue;
            }
            let what = format!("{:?}'s normalised values", node.part);
            let (x, y) = (channel(0), channel(1));
            self.canaries.binary(&what, &x);
            self.canaries.binary(&what, &y);
            let steps: Vec<f32> = x.iter().zip(&y).flat_map(|(x, y)| [*x, *y]).collect();
            self.canaries.binary(&what, &steps);
        }
    }

    pub(crate) fn of(&self, part: Part) -> &Node {
        let mut all = self.nodes.iter();
        all.find(|n| n.part == part).expect("it has joined")
    }
}

struct Row {
    values: [f64; 2],
    label: String,
}

/// Windows of these labels, one after the other. Each value has more digits than 32 bits hold.
fn rows(numbers: &mut Numbers, labels: &[&str]) -> Vec<Row> {
    let mut rows = Vec::new();
    for label in labels {
        let level = if *label == "low" { -0.5 } else { 0.5 };
        for _ in 0..WINDOW {
            // From -1/2 to 1/2 around the level, by 53 of its bits.
            let mut value = || (numbers.next() >> 11) as f64 / (1_u64 << 53) as f64 - 0.5 + level;
            rows.push(Row {
                values: [value(), value()],
                label: (*label).to_owned(),
            });
        }
    }
    rows
}

/// Records of CIFAR-10's layout: four each of two classes, of noise.
fn pictures(numbers: &mut Numbers) -> Vec<u8> {
    let mut bytes = Vec::new();
    for n in 0..8 {
        bytes.push(n % 2);
        bytes.extend((0..PIXELS).map(|_| numbers.next() as u8));
    }
    bytes
}
