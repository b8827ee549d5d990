//! Options of a source: `name=value`, joined by `&`.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use super::{Keep, SpecError, Split, value};

/// Options still to be taken.
pub(super) struct Options(BTreeMap<String, String>);

impl Options {
    pub(super) fn parse(text: &str, kind: &'static str, known: &[&str]) -> Result<Self, SpecError> {
        let mut options = BTreeMap::new();
        for option in text.split('&').filter(|option| !option.is_empty()) {
            let (name, value) = option.split_once('=').ok_or_else(|| SpecError::NoValue {
                got: option.to_owned(),
            })?;
            if !known.contains(&name) {
                return Err(SpecError::Unknown {
                    got: name.to_owned(),
                    kind,
                    known: known.join(", "),
                });
            }
            if options.insert(name.to_owned(), value.to_owned()).is_some() {
                return Err(SpecError::Twice {
                    name: name.to_owned(),
                });
            }
        }
        Ok(Self(options))
    }

    pub(super) fn take(&mut self, name: &str) -> Option<String> {
        self.0.remove(name)
    }

    pub(super) fn number<T>(
        &mut self,
        name: &str,
        default: T,
        range: std::ops::RangeInclusive<T>,
    ) -> Result<T, SpecError>
    where
        T: FromStr + PartialOrd + fmt::Display,
    {
        let Some(text) = self.take(name) else {
            return Ok(default);
        };
        // A NaN lies in no range.
        let fits = text.parse().ok().filter(|number| range.contains(number));
        let want = format!("a number from {} to {}", range.start(), range.end());
        fits.ok_or_else(|| value(name, &text, &want))
    }

    pub(super) fn keep(&mut self, names: &[&str]) -> Result<Keep, SpecError> {
        let split = match self.take("split") {
            None => Split::InTime,
            Some(split) if split == "all" => Split::All,
            Some(split) if split == "time" => Split::InTime,
            Some(other) => return Err(value("split", &other, "`time` or `all`")),
        };
        let Some(list) = self.take("classes") else {
            let classes = None;
            return Ok(Keep { classes, split });
        };
        let mut classes = Vec::new();
        for part in list.split(',') {
            let place = names.iter().position(|name| *name == part.trim());
            match place {
                Some(class) if !classes.contains(&class) => classes.push(class),
                _ => {
                    let want = format!("different names out of {}", names.join(","));
                    return Err(value("classes", &list, &want));
                }
            }
        }
        classes.sort_unstable();
        let classes = Some(classes);
        Ok(Keep { classes, split })
    }
}
