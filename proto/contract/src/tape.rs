//! Recorded calls: one line of JSON per message, both directions, in order.
//!
//! ```text
//!   {"is":"call","call":7,"caller":"node","path":"/lamplight.v1.Rounds/Poll","headers":{…}}
//!   {"is":"request","call":7,"of":"lamplight.v1.PollRequest","hex":"…","reads":{…}}
//!   {"is":"answer","call":7,"headers":{…}}
//!   {"is":"reply","call":7,"of":"lamplight.v1.PollReply","hex":"…","reads":{…}}
//!   {"is":"end","call":7,"code":0}
//! ```
//!
//! `hex` is what travelled, whole; `reads` is what the version that was recorded made of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use tonic::Status;

use crate::schema::Schema;

/// The recording's name beside a version's protocol.
pub const FILE: &str = "round.jsonl";

/// Headers by name.
pub type Headers = BTreeMap<String, String>;

/// Calls of one shape that are kept of each caller: a poll without work is like the next one.
const ALIKE: usize = 2;

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
enum Line {
    Call {
        call: usize,
        caller: String,
        path: String,
        headers: Headers,
    },
    Request {
        call: usize,
        #[serde(flatten)]
        said: Said,
    },
    Answer {
        call: usize,
        headers: Headers,
    },
    Reply {
        call: usize,
        #[serde(flatten)]
        said: Said,
    },
    End {
        call: usize,
        #[serde(flatten)]
        end: End,
    },
}

/// One message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Said {
    /// The message's full name.
    pub of: String,
    /// The bytes, hexadecimal.
    pub hex: String,
    /// What they mean.
    pub reads: Json,
}

impl Said {
    /// The bytes.
    ///
    /// # Panics
    /// When the recording is damaged.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        hex::decode(&self.hex).expect("hexadecimal")
    }
}

/// How a call ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// gRPC status code; 0 is well.
    pub code: i32,
    /// In words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Details, hexadecimal: a refusal.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub details: String,
}

impl End {
    /// The status.
    ///
    /// # Panics
    /// When the recording is damaged.
    #[must_use]
    pub fn status(&self) -> Status {
        let details = hex::decode(&self.details).expect("hexadecimal");
        Status::with_details(self.code.into(), self.message.clone(), details.into())
    }
}

/// One call, from its first header to its status.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Call {
    /// Whose: `node`, `operator` or `stranger` (no certificate yet).
    pub caller: String,
    /// E.g. `/lamplight.v1.Rounds/Poll`.
    pub path: String,
    /// What came along.
    pub headers: Headers,
    /// What the caller said.
    pub requests: Vec<Said>,
    /// What came along with the answer.
    pub answer: Headers,
    /// What the coordinator said.
    pub replies: Vec<Said>,
    /// How it ended; nothing when the conversation stopped before.
    pub end: Option<End>,
}

impl Call {
    /// What tells one kind of call from another: which fields are set, not to what.
    fn shape(&self) -> (String, String, BTreeSet<String>, Option<i32>) {
        fn fields(at: &str, value: &Json, out: &mut BTreeSet<String>) {
            match value {
                Json::Object(map) => {
                    for (name, value) in map {
                        fields(&format!("{at}.{name}"), value, out);
                    }
                }
                Json::Array(list) => {
                    for value in list {
                        fields(at, value, out);
                    }
                }
                _ => {
                    out.insert(at.to_owned());
                }
            }
        }
        let mut set = BTreeSet::new();
        for said in self.requests.iter().chain(&self.replies) {
            fields(&said.of, &said.reads, &mut set);
        }
        let code = self.end.as_ref().map(|e| e.code);
        (self.caller.clone(), self.path.clone(), set, code)
    }
}

/// Takes down calls as they happen.
#[derive(Debug)]
pub struct Tape {
    schema: Schema,
    calls: Mutex<Vec<Call>>,
}

impl Tape {
    /// An empty tape; messages are read by this schema.
    #[must_use]
    pub fn new(schema: Schema) -> Self {
        Self {
            schema,
            calls: Mutex::default(),
        }
    }

    fn calls(&self) -> MutexGuard<'_, Vec<Call>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with(&self, call: usize, act: impl FnOnce(&mut Call)) {
        act(&mut self.calls()[call]);
    }

    /// A call begins; answers its number.
    pub fn begin(&self, caller: &str, path: &str, headers: Headers) -> usize {
        let mut calls = self.calls();
        calls.push(Call {
            caller: caller.to_owned(),
            path: path.to_owned(),
            headers,
            ..Call::default()
        });
        calls.len() - 1
    }

    fn said(&self, of: &str, bytes: &[u8]) -> Said {
        let message = self.schema.message(of).expect("a message of the protocol");
        Said {
            of: of.to_owned(),
            hex: hex::encode(bytes),
            reads: self.schema.read(&message, bytes),
        }
    }

    /// The caller says something.
    pub fn request(&self, call: usize, of: &str, bytes: &[u8]) {
        let said = self.said(of, bytes);
        self.with(call, |c| c.requests.push(said));
    }

    /// The answer begins.
    pub fn answer(&self, call: usize, headers: Headers) {
        self.with(call, |c| c.answer = headers);
    }

    /// The coordinator says something.
    pub fn reply(&self, call: usize, of: &str, bytes: &[u8]) {
        let said = self.said(of, bytes);
        self.with(call, |c| c.replies.push(said));
    }

    /// The call is over.
    pub fn end(&self, call: usize, status: Result<(), &Status>) {
        let end = match status {
            Ok(()) => End::default(),
            Err(status) => End {
                code: status.code() as i32,
                message: status.message().to_owned(),
                details: hex::encode(status.details()),
            },
        };
        self.with(call, |c| c.end = Some(end));
    }

    /// The calls that ended, in the order they began, without those that are like two before them.
    #[must_use]
    pub fn tidy(&self) -> Vec<Call> {
        let mut seen: BTreeMap<_, usize> = BTreeMap::new();
        let calls = self.calls();
        let ended = calls.iter().filter(|c| c.end.is_some());
        ended
            .filter(|call| {
                let count = seen.entry(call.shape()).or_default();
                *count += 1;
                *count <= ALIKE
            })
            .cloned()
            .collect()
    }
}

/// Writes calls as lines.
///
/// # Panics
/// When the file cannot be written.
pub fn write(path: &Path, calls: &[Call]) {
    let mut text = String::new();
    for (call, c) in calls.iter().enumerate() {
        let begin = Line::Call {
            call,
            caller: c.caller.clone(),
            path: c.path.clone(),
            headers: c.headers.clone(),
        };
        let requests = c.requests.iter().map(|said| Line::Request {
            call,
            said: said.clone(),
        });
        let answer = Line::Answer {
            call,
            headers: c.answer.clone(),
        };
        let replies = c.replies.iter().map(|said| Line::Reply {
            call,
            said: said.clone(),
        });
        let end = c.end.clone().map(|end| Line::End { call, end });
        let lines = (std::iter::once(begin).chain(requests).chain([answer]))
            .chain(replies)
            .chain(end);
        for line in lines {
            let line = serde_json::to_string(&line).expect("serializable");
            writeln!(text, "{line}").expect("written");
        }
    }
    std::fs::write(path, text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

/// Reads calls from lines.
///
/// # Panics
/// When the file cannot be read or is damaged.
#[must_use]
pub fn read(path: &Path) -> Vec<Call> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut calls: Vec<Call> = Vec::new();
    for (n, line) in text.lines().enumerate() {
        let line: Line = serde_json::from_str(line)
            .unwrap_or_else(|e| panic!("{} line {}: {e}", path.display(), n + 1));
        let last = calls.len().wrapping_sub(1);
        let number = match &line {
            Line::Call { call, .. }
            | Line::Request { call, .. }
            | Line::Answer { call, .. }
            | Line::Reply { call, .. }
            | Line::End { call, .. } => *call,
        };
        let want = match line {
            Line::Call { .. } => calls.len(),
            _ => last,
        };
        assert_eq!(number, want, "{} line {}", path.display(), n + 1);
        match line {
            Line::Call {
                caller,
                path,
                headers,
                ..
            } => calls.push(Call {
                caller,
                path,
                headers,
                ..Call::default()
            }),
            Line::Request { said, .. } => calls[last].requests.push(said),
            Line::Answer { headers, .. } => calls[last].answer = headers,
            Line::Reply { said, .. } => calls[last].replies.push(said),
            Line::End { end, .. } => calls[last].end = Some(end),
        }
    }
    calls
}
