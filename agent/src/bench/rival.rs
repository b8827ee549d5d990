//! The other side: a process that runs steps when told to.
//!
//! It writes lines of JSON and reads lines of words:
//!
//! ```text
//!   < {"ready":true,"name":"candle","threads":2,"parameters":272474,…}     once it is warm
//!   > run 12
//!   < {"steps":12,"seconds":0.31}
//!   < {"error":"…"}                                                     and it ends
//! ```
//!
//! It ends when its input does.

use std::{
    io::{BufRead, BufReader, Read as _, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{Against, BenchError, process::Process, timing::Side};

/// Longest line of an answer; no real one comes near it.
const LINE: u64 = 64 << 10;

/// How often people are told that a rival is still awaited.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a rival says of itself when it is ready.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ready {
    /// Always true; it tells this line from others.
    pub ready: bool,
    /// Which engine.
    pub name: String,
    /// Its version.
    #[serde(default)]
    pub version: Option<String>,
    /// Threads it runs on.
    pub threads: u64,
    /// In which numbers it calculates.
    pub precision: String,
    /// Whether its activations lie channels last, where there is a choice.
    #[serde(default)]
    pub channels_last: Option<bool>,
    /// Values its optimizer moves.
    pub parameters: u64,
    /// Most bytes over its size just before the first step.
    #[serde(default)]
    pub peak_bytes: Option<u64>,
    /// Most bytes over its size before there was a network.
    #[serde(default)]
    pub peak_with_model_bytes: Option<u64>,
    /// Rate of its F32 matrix product.
    #[serde(default)]
    pub gemm_gflop_per_s: Option<f64>,
    /// Whether its matrix product has AVX-512 kernels in this build.
    #[serde(default)]
    pub gemm_x86_v4: Option<bool>,
}

/// A line of an answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Line {
    Error { error: String },
    Ready(Box<Ready>),
    Ran { steps: u64, seconds: f64 },
}

/// A rival at work. It ends with this value.
#[derive(Debug)]
pub struct Rival {
    who: Against,
    child: Child,
    into: Option<ChildStdin>,
    out: BufReader<ChildStdout>,
    ready: Ready,
}

impl Rival {
    /// Starts a rival and waits until it is ready. Its words to people go where ours go.
    ///
    /// # Errors
    /// [`BenchError`] when it does not start, or says what is wrong.
    pub fn start(who: Against, mut command: Command) -> Result<Self, BenchError> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|why| BenchError::Start {
            rival: who.name(),
            program: command.get_program().to_string_lossy().into_owned(),
            why,
        })?;
        let (into, out) = (child.stdin.take(), child.stdout.take());
        let Some(out) = out else {
            return Err(ended(who, &mut child));
        };
        let mut out = BufReader::new(out);
        // It may be slow to begin (PyTorch tries memory layouts first), or never come: say what is awaited.
        let (ready, waiting) = mpsc::channel::<()>();
        let first = thread::scope(|scope| {
            scope.spawn(move || {
                let mut seconds = 0;
                while waiting.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                    seconds += PATIENCE.as_secs();
                    tracing::info!(
                        "{} is not ready after {seconds} s; waiting (Ctrl-C ends this)",
                        who.name()
                    );
                }
            });
            let first = read(who, &mut out, &mut child);
            drop(ready);
            first
        });
        match first {
            Ok(Line::Ready(ready)) => Ok(Self {
                who,
                child,
                into,
                out,
                ready: *ready,
            }),
            other => {
                end(&mut child);
                Err(match other {
                    Ok(line) => unexpected(who, &line, "a line that says it is ready"),
                    Err(e) => e,
                })
            }
        }
    }

    /// Refuses a rival that is not our like.
    ///
    /// # Errors
    /// [`BenchError::Differs`].
    pub fn check(&self, threads: usize, parameters: u64) -> Result<(), BenchError> {
        let both = [
            ("threads", self.ready.threads, threads as u64),
            ("parameters", self.ready.parameters, parameters),
        ];
        match both.into_iter().find(|(_, theirs, ours)| theirs != ours) {
            None => Ok(()),
            Some((what, theirs, ours)) => Err(BenchError::Differs {
                rival: self.name(),
                what,
                theirs,
                ours,
            }),
        }
    }

    /// Who it is.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.who.name()
    }

    /// Ends it; what it said of itself stays.
    #[must_use]
    pub fn into_ready(self) -> (Against, Ready) {
        (self.who, self.ready.clone())
    }
}

impl Side for Rival {
    fn seconds(&mut self, steps: usize) -> Result<f64, BenchError> {
        let asked = match &mut self.into {
            Some(into) => writeln!(into, "run {steps}").and_then(|()| into.flush()),
            None => Ok(()),
        };
        // A pipe that broke means that it said why, or is gone: either way reading tells.
        if let Err(e) = asked {
            tracing::debug!("{} does not listen: {e}", self.name());
        }
        match read(self.who, &mut self.out, &mut self.child)? {
            Line::Ran {
                steps: ran,
                seconds,
            } if ran == steps as u64 && seconds.is_finite() && seconds >= 0.0 => Ok(seconds),
            line => Err(unexpected(
                self.who,
                &line,
                "the time of the steps asked for",
            )),
        }
    }

    fn cpu_seconds(&self) -> Option<f64> {
        Process::of(self.child.id()).cpu_seconds()
    }
}

impl Drop for Rival {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// Ends a child, however far it is. It may have ended by itself.
fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

/// The next line; an error the rival tells is one.
fn read(who: Against, out: &mut impl BufRead, child: &mut Child) -> Result<Line, BenchError> {
    let mut line = String::new();
    let broken = |how: String| BenchError::Ended {
        rival: who.name(),
        how,
    };
    match out.take(LINE).read_line(&mut line) {
        Ok(0) => return Err(ended(who, child)),
        Ok(_) => {}
        Err(e) => return Err(broken(e.to_string())),
    }
    match serde_json::from_str(&line) {
        Ok(Line::Error { error }) => Err(BenchError::Says {
            rival: who.name(),
            says: error,
        }),
        Ok(line) => Ok(line),
        Err(_) => Err(BenchError::Answer {
            rival: who.name(),
            line: line.trim_end().chars().take(200).collect(),
            want: "a line of JSON",
        }),
    }
}

fn ended(who: Against, child: &mut Child) -> BenchError {
    BenchError::Ended {
        rival: who.name(),
        // Its output is closed, so it is ending or has ended.
        how: child
            .wait()
            .map_or_else(|e| e.to_string(), |s| s.to_string()),
    }
}

fn unexpected(who: Against, line: &Line, want: &'static str) -> BenchError {
    BenchError::Answer {
        rival: who.name(),
        line: serde_json::to_string(line).unwrap_or_default(),
        want,
    }
}

/// Answers a bench as its rival: says that it is ready, then runs what it is told to.
///
/// # Errors
/// [`BenchError`] when a step fails or a line is not understood; the bench is told, too.
pub fn serve(
    prepared: Result<(Ready, Box<dyn Side>), BenchError>,
    input: impl BufRead,
    output: &mut impl Write,
) -> Result<(), BenchError> {
    let mut say = |line: &Line| {
        let line = serde_json::to_string(line).unwrap_or_default();
        writeln!(output, "{line}").and_then(|()| output.flush())
    };
    let done = prepared.and_then(|(ready, mut side)| {
        say(&Line::Ready(Box::new(ready)))?;
        for line in input.lines() {
            let line = line?;
            let steps = line.strip_prefix("run ").and_then(|n| n.parse().ok());
            let Some(steps) = steps else {
                return Err(BenchError::Answer {
                    rival: "the bench",
                    line,
                    want: "`run STEPS`",
                });
            };
            let seconds = side.seconds(steps)?;
            say(&Line::Ran {
                steps: steps as u64,
                seconds,
            })?;
        }
        Ok(())
    });
    if let Err(e) = &done {
        say(&Line::Error {
            error: e.to_string(),
        })?;
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready() -> Ready {
        Ready {
            ready: true,
            name: "clockwork".into(),
            version: None,
            threads: 2,
            precision: "f32".into(),
            channels_last: None,
            parameters: 10,
            peak_bytes: Some(5),
            peak_with_model_bytes: None,
            gemm_gflop_per_s: None,
            gemm_x86_v4: None,
        }
    }

    struct Clockwork;

    impl Side for Clockwork {
        fn seconds(&mut self, steps: usize) -> Result<f64, BenchError> {
            Ok(steps as f64 / 2.0)
        }
        fn cpu_seconds(&self) -> Option<f64> {
            None
        }
    }

    #[test]
    fn a_server_answers_until_its_input_ends() {
        let mut out = Vec::new();
        serve(
            Ok((ready(), Box::new(Clockwork))),
            &b"run 3\nrun 1\n"[..],
            &mut out,
        )
        .expect("served");
        let lines: Vec<serde_json::Value> = (out.split(|b| *b == b'\n'))
            .filter(|l| !l.is_empty())
            .map(|l| serde_json::from_slice(l).expect("JSON"))
            .collect();
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[0]["ready"], true);
        assert_eq!(lines[1], serde_json::json!({"steps": 3, "seconds": 1.5}));

        for (prepared, input) in [
            (
                Ok((ready(), Box::new(Clockwork) as Box<dyn Side>)),
                &b"go\n"[..],
            ),
            (Err(BenchError::TooLarge { values: 0 }), &b""[..]),
        ] {
            let mut out = Vec::new();
            let e = serve(prepared, input, &mut out).expect_err("a fault");
            let said = String::from_utf8(out).expect("text");
            let last = said.lines().last().expect("a line");
            let last: serde_json::Value = serde_json::from_str(last).expect("JSON");
            assert_eq!(last["error"], e.to_string());
        }
    }

    /// A rival in shell; it says `first`, then `answer` to every line.
    #[cfg(unix)]
    fn shell(first: &str, answer: &str) -> Command {
        let mut command = Command::new("sh");
        let script = format!("echo '{first}'; while read -r line; do {answer}; done");
        command.args(["-c", &script]);
        command
    }

    #[cfg(unix)]
    fn said() -> String {
        serde_json::to_string(&ready()).expect("JSON")
    }

    #[cfg(unix)]
    #[test]
    fn a_process_is_asked_and_answers() {
        let answer = r#"set -- $line; echo "{\"steps\":$2,\"seconds\":0.25}""#;
        let mut rival = Rival::start(Against::Candle, shell(&said(), answer)).expect("started");
        rival.check(2, 10).expect("alike");
        for (threads, parameters, what) in [(1, 10, "threads"), (2, 11, "parameters")] {
            let e = rival.check(threads, parameters).expect_err("unlike");
            assert!(e.to_string().contains(what), "{e}");
        }
        assert_eq!(rival.seconds(4).expect("answered"), 0.25);
        assert_eq!(rival.seconds(7).expect("answered"), 0.25);
        assert_eq!(rival.into_ready(), (Against::Candle, ready()));
    }

    #[cfg(unix)]
    #[test]
    fn whatever_a_process_does_instead_is_told() {
        let start = |first: &str| {
            let e = Rival::start(Against::PyTorch, shell(first, "true")).expect_err("a fault");
            assert!(!e.is_refusal());
            e.to_string()
        };
        assert_eq!(start(r#"{"error":"no torch"}"#), "pytorch: no torch");
        assert!(start("hello").contains("\"hello\" where a line of JSON"));
        assert!(start(r#"{"steps":1,"seconds":1}"#).contains("says it is ready"));
        let missing = Command::new("/nonexistent/python");
        let e = Rival::start(Against::PyTorch, missing).expect_err("a fault");
        assert!(e.to_string().contains("--python"), "{e}");

        let ask = |answer: &str| {
            let mut rival = Rival::start(Against::Candle, shell(&said(), answer)).expect("started");
            rival.seconds(3).expect_err("a fault").to_string()
        };
        assert!(ask("exit 7").contains("exit status: 7"));
        assert!(ask(r#"echo "{\"steps\":2,\"seconds\":1}""#).contains("asked for"));
        assert!(ask(r#"echo "{\"steps\":3,\"seconds\":-1}""#).contains("asked for"));
        assert!(ask(r#"echo "{\"error\":\"diverged\"}""#).contains("candle: diverged"));
    }
}
