//! In which numbers a step calculates.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::lane::Lane;

/// In which numbers a step calculates. Parameters, gradients, moments and statistics stay F32 in
/// every case, and so do files and deltas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// 32-bit floats throughout.
    #[default]
    F32,
    /// Activations and their gradients in bfloat16 (8 bits of mantissa, the range of F32), products
    /// summed in F32.
    Bf16,
    /// What this machine is fastest in; a run settles on it when it begins.
    Auto,
}

impl Precision {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::F32, Self::Bf16, Self::Auto];

    /// As people and files write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Auto => "auto",
        }
    }

    /// Whether it is the usual one, which files then need not mention.
    #[must_use]
    pub fn is_usual(&self) -> bool {
        *self == Self::default()
    }

    /// What [`Precision::Auto`] means on this lane: bfloat16 where its host multiplies that, else F32.
    /// The others mean themselves; where a processor lacks the instructions, bfloat16 saves memory but
    /// no time.
    #[must_use]
    pub fn settled(self, lane: &dyn Lane) -> Self {
        match self {
            Self::F32 | Self::Bf16 => self,
            Self::Auto if lane.host().isa().multiplies_bf16() && !lane.offloads() => Self::Bf16,
            Self::Auto => Self::F32,
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// No precision has the name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no precision is called {name:?}; known: {}", Precision::ALL.map(Precision::name).join(", "))]
pub struct UnknownPrecision {
    /// What was asked for.
    pub name: String,
}

impl FromStr for Precision {
    type Err = UnknownPrecision;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL.into_iter().find(|p| p.name() == text);
        known.ok_or_else(|| UnknownPrecision {
            name: text.chars().take(64).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::{cpu::Cpu, isa::Isa};
    use crate::lane::CpuLane;

    #[test]
    fn names_read_back_and_are_those_of_files() {
        for precision in Precision::ALL {
            assert_eq!(precision.to_string().parse(), Ok(precision));
            let json = serde_json::to_string(&precision).unwrap();
            assert_eq!(json, format!("\"{precision}\""));
            assert_eq!(serde_json::from_str::<Precision>(&json).unwrap(), precision);
        }
        let e = "f16".parse::<Precision>().unwrap_err();
        assert_eq!(
            e.to_string(),
            "no precision is called \"f16\"; known: f32, bf16, auto"
        );
    }

    #[test]
    fn a_run_settles_on_what_there_is() {
        for &isa in Isa::available() {
            let lane = CpuLane::on(Cpu::with(isa, 1));
            let fast = isa.multiplies_bf16();
            let want = if fast {
                Precision::Bf16
            } else {
                Precision::F32
            };
            assert_eq!(Precision::Auto.settled(&lane), want, "{isa}");
            assert_eq!(Precision::F32.settled(&lane), Precision::F32);
            assert_eq!(Precision::Bf16.settled(&lane), Precision::Bf16);
        }
    }
}
