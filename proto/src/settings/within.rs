//! Whole numbers that have a range of their own.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserializer,
    de::{self, Unexpected, Visitor},
};

/// Reads a whole number from `LEAST` to `MOST`, for `#[serde(deserialize_with = …)]`: whatever else
/// stands there, the message names this range and not that of the Rust type.
///
/// # Errors
/// Anything else than such a number.
pub fn within<'de, D, T, const LEAST: u64, const MOST: u64>(d: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: TryFrom<u64>,
{
    struct Within<T, const LEAST: u64, const MOST: u64>(PhantomData<T>);

    impl<T: TryFrom<u64>, const LEAST: u64, const MOST: u64> Visitor<'_> for Within<T, LEAST, MOST> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a whole number from {LEAST} to {MOST}")
        }

        fn visit_u64<E: de::Error>(self, n: u64) -> Result<T, E> {
            let bad = || E::invalid_value(Unexpected::Unsigned(n), &self);
            if !(LEAST..=MOST).contains(&n) {
                return Err(bad());
            }
            T::try_from(n).map_err(|_| bad())
        }

        fn visit_i64<E: de::Error>(self, n: i64) -> Result<T, E> {
            match u64::try_from(n) {
                Ok(n) => self.visit_u64(n),
                Err(_) => Err(E::invalid_value(Unexpected::Signed(n), &self)),
            }
        }
    }
    d.deserialize_u64(Within::<T, LEAST, MOST>(PhantomData))
}
