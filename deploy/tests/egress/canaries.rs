//! What must never be seen: marked words and numbers, in every form a program might send them in.
//!
//! Every form is cut into runs of eight bytes, and a run seen anywhere is a finding. So a truncated
//! name is found as well as a whole one, and two numbers of a window as well as all of it.

use std::collections::HashMap;

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE},
};

/// Bytes of a run: few enough to find a fragment, too many to meet by chance.
pub(crate) const RUN: usize = 8;
/// A run of fewer different bytes (zeros, a repeated step) is met everywhere.
const LEAST_DIFFERENT: usize = 4;
/// The places of the table of what is surely not there.
const SIEVE_BITS: u32 = 24;

/// Numbers that look random and are the same in every run of the test.
pub(crate) struct Numbers(u64);

impl Numbers {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// SplitMix64 (Steele, Lea and Flood 2014).
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A word nobody else says: sixteen letters.
    pub(crate) fn word(&mut self) -> String {
        (0..16)
            .map(|_| char::from(b'a' + (self.next() % 26) as u8))
            .collect()
    }
}

/// The runs to look for, each with what it is a run of.
#[derive(Default)]
pub(crate) struct Canaries {
    runs: HashMap<u64, usize>,
    names: Vec<String>,
    sieve: Vec<u64>,
}

/// A run that was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Which canary, in which form.
    pub(crate) what: String,
    /// Where in the bytes searched.
    pub(crate) at: usize,
}

fn slot(run: u64) -> (usize, u64) {
    let hash = run.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - SIEVE_BITS);
    let place = usize::try_from(hash >> 6).expect("24 bits");
    (place, 1 << (hash & 63))
}

impl Canaries {
    fn add(&mut self, what: &str, form: &str, bytes: &[u8]) {
        if self.sieve.is_empty() {
            self.sieve = vec![0; 1 << (SIEVE_BITS - 6)];
        }
        self.names.push(format!("{what} ({form})"));
        let name = self.names.len() - 1;
        for run in bytes.windows(RUN) {
            let different = (run.iter().enumerate()).filter(|(n, b)| !run[..*n].contains(b));
            if different.count() < LEAST_DIFFERENT {
                continue;
            }
            let run = u64::from_le_bytes(run.try_into().expect("eight bytes"));
            self.runs.entry(run).or_insert(name);
            let (place, bit) = slot(run);
            self.sieve[place] |= bit;
        }
    }

    /// Bytes as they are, in hexadecimal digits and in base64 from each of its three beginnings.
    pub(crate) fn bytes(&mut self, what: &str, bytes: &[u8]) {
        self.add(what, "as it is", bytes);
        let hex = hex::encode(bytes);
        self.add(what, "hex", hex.as_bytes());
        self.add(what, "hex", hex.to_ascii_uppercase().as_bytes());
        for skip in 0..3 {
            let Some(rest) = bytes.get(skip..) else {
                continue;
            };
            // A last group that is not whole depends on what follows.
            let whole = &rest[..rest.len() / 3 * 3];
            self.add(what, "base64", STANDARD.encode(whole).as_bytes());
            self.add(what, "base64", URL_SAFE.encode(whole).as_bytes());
        }
    }

    /// A word: in any case, in UTF-16, and as [`Canaries::bytes`].
    pub(crate) fn text(&mut self, what: &str, text: &str) {
        assert!(text.len() >= RUN, "{what} is too short to look for");
        self.bytes(what, text.as_bytes());
        self.add(what, "lower case", text.to_lowercase().as_bytes());
        self.add(what, "upper case", text.to_uppercase().as_bytes());
        let wide: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        self.add(what, "utf-16", &wide);
    }

    /// Numbers in their order: binary of both widths and byte orders, in 32 bits also as
    /// [`Canaries::bytes`], and each in decimal digits.
    pub(crate) fn numbers(&mut self, what: &str, values: &[f32]) {
        let le: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.bytes(&format!("{what}, f32 little-endian"), &le);
        self.binary(what, values);
        for v in values {
            self.digits(what, &v.to_string());
            self.digits(what, &f64::from(*v).to_string());
        }
    }

    /// Numbers in their order, in binary alone.
    pub(crate) fn binary(&mut self, what: &str, values: &[f32]) {
        let le: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.add(what, "f32 little-endian", &le);
        let be: Vec<u8> = values.iter().flat_map(|v| v.to_be_bytes()).collect();
        self.add(what, "f32 big-endian", &be);
        for v in values {
            let wide = f64::from(*v);
            self.add(what, "f64 little-endian", &wide.to_le_bytes());
            self.add(what, "f64 big-endian", &wide.to_be_bytes());
        }
    }

    /// A number in decimal digits; one of few digits is nobody's in particular.
    pub(crate) fn digits(&mut self, what: &str, text: &str) {
        self.add(what, "decimal", text.as_bytes());
    }

    /// Bytes of pictures: as [`Canaries::bytes`], centred on zero, and as numbers.
    pub(crate) fn pixels(&mut self, what: &str, pixels: &[u8]) {
        self.bytes(what, pixels);
        let centred: Vec<u8> = pixels.iter().map(|p| p ^ 0x80).collect();
        self.add(what, "i8", &centred);
        for scale in [1.0, 1.0 / 255.0] {
            let floats = pixels.iter().map(|p| f32::from(*p) * scale);
            let le: Vec<u8> = floats.flat_map(f32::to_le_bytes).collect();
            self.add(what, "f32 little-endian", &le);
        }
        // As the reader makes it: divided, which rounds otherwise than multiplied.
        let floats = pixels.iter().map(|p| f32::from(*p) / 255.0);
        let le: Vec<u8> = floats.flat_map(f32::to_le_bytes).collect();
        self.add(what, "f32 little-endian", &le);
    }

    /// The first run of every canary that `bytes` hold.
    pub(crate) fn find(&self, bytes: &[u8]) -> Vec<Seen> {
        let mut seen: Vec<Seen> = Vec::new();
        for (at, run) in bytes.windows(RUN).enumerate() {
            let run = u64::from_le_bytes(run.try_into().expect("eight bytes"));
            let (place, bit) = slot(run);
            if self.sieve.get(place).is_none_or(|bits| bits & bit == 0) {
                continue;
            }
            let Some(name) = self.runs.get(&run) else {
                continue;
            };
            let what = &self.names[*name];
            if !seen.iter().any(|s| s.what == *what) {
                let what = what.clone();
                seen.push(Seen { what, at });
            }
        }
        seen
    }

    /// How many runs are looked for.
    pub(crate) fn len(&self) -> usize {
        self.runs.len()
    }
}

#[test]
fn a_canary_is_found_whole_in_part_and_in_every_form_and_nothing_else_is() {
    let mut numbers = Numbers::new(1);
    let word = numbers.word();
    let values: Vec<f32> = (0..8).map(|_| numbers.next() as f32 / 1e19).collect();
    let pixels: Vec<u8> = (0..32).map(|_| numbers.next() as u8).collect();
    let mut canaries = Canaries::default();
    canaries.text("a word", &word);
    canaries.numbers("a window", &values);
    canaries.pixels("a picture", &pixels);

    let middle = values.iter().skip(3).take(2);
    let hidden: Vec<(&str, Vec<u8>)> = vec![
        ("a word", format!("cannot read /home/{word}.csv").into()),
        ("a word", word[4..12].into()),
        ("a word", word.to_uppercase().into()),
        ("a word", hex::encode(&word).into()),
        ("a word", STANDARD.encode(format!("x{word}")).into()),
        ("a word", STANDARD.encode(format!("xy{word}z")).into()),
        (
            "a word",
            word.encode_utf16().flat_map(u16::to_le_bytes).collect(),
        ),
        (
            "a window",
            middle.clone().flat_map(|v| v.to_le_bytes()).collect(),
        ),
        (
            "a window",
            middle.clone().flat_map(|v| v.to_be_bytes()).collect(),
        ),
        ("a window", f64::from(values[5]).to_le_bytes().to_vec()),
        ("a window", format!("loss {}", values[2]).into()),
        ("a picture", pixels[20..28].to_vec()),
        (
            "a picture",
            pixels[3..12].iter().map(|p| p ^ 0x80).collect(),
        ),
        (
            "a picture",
            pixels[8..10]
                .iter()
                .flat_map(|p| (f32::from(*p) / 255.0).to_le_bytes())
                .collect(),
        ),
    ];
    for (what, bytes) in hidden {
        let bytes = [b"before".as_slice(), &bytes, b"behind"].concat();
        let seen = canaries.find(&bytes);
        assert!(
            seen.iter().any(|s| s.what.starts_with(what)),
            "{what} in {bytes:?}: {seen:?}"
        );
    }
    let innocent: Vec<u8> = (0..1 << 20).map(|_| numbers.next() as u8).collect();
    assert_eq!(canaries.find(&innocent), []);
    assert_eq!(canaries.find(&[0; 1000]), []);
    assert_eq!(canaries.find(b"short"), []);
}
