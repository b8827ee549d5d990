//! Tags of nodes: `site=chicago`, `mount=high`; and filters over them.
//!
//! Tags are the operator's words about a node. A node never names its own: a filter decides who is
//! asked to train, and that is not for those who are asked to settle.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::Malformed;

/// Most tags of one node.
pub const MAX_TAGS: usize = 32;
/// Most terms of one filter.
pub const MAX_TERMS: usize = 64;
/// Bytes of a key.
const MAX_KEY: usize = 32;
/// Bytes of a value.
const MAX_VALUE: usize = 64;

/// Text that came from outside, fit to be shown in an error.
fn shown(text: &str) -> String {
    format!("{:?}", text.chars().take(80).collect::<String>())
}

macro_rules! word {
    ($(#[$doc:meta])* $type:ident, $what:literal, $is:expr, $rule:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $type(String);

        impl $type {
            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = Malformed;
            fn from_str(text: &str) -> Result<Self, Malformed> {
                if $is(text) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(Malformed::new($what, format!("{} must be {}", shown(text), $rule)))
                }
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                String::deserialize(d)?.parse().map_err(D::Error::custom)
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

fn is_key(text: &str) -> bool {
    (1..=MAX_KEY).contains(&text.len())
        && text.as_bytes()[0].is_ascii_lowercase()
        && text.bytes().all(|b| {
            b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-')
        })
}

fn is_value(text: &str) -> bool {
    (1..=MAX_VALUE).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_graphic() && !matches!(b, b'=' | b','))
}

word!(
    /// What a tag is about, e.g. `site`.
    TagKey, "tag key", is_key,
    format_args!(
        "1 to {MAX_KEY} lower-case letters, digits, `.`, `_` or `-`, beginning with a letter"
    )
);
word!(
    /// What a tag says, e.g. `chicago`.
    TagValue, "tag value", is_value,
    format_args!(
        "1 to {MAX_VALUE} printable ASCII characters without spaces, `=` and `,`"
    )
);

/// One word about a node. Written `key=value`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag {
    /// What it is about.
    pub key: TagKey,
    /// What it says.
    pub value: TagValue,
}

impl FromStr for Tag {
    type Err = Malformed;
    fn from_str(text: &str) -> Result<Self, Malformed> {
        let (key, value) = text.split_once('=').ok_or_else(|| {
            Malformed::new(
                "tag",
                format!("{} must be key=value, e.g. site=chicago", shown(text)),
            )
        })?;
        Ok(Self {
            key: key.parse()?,
            value: value.parse()?,
        })
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.key, self.value)
    }
}

impl Serialize for Tag {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Tag {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(D::Error::custom)
    }
}

/// All words about a node: each key once, at most [`MAX_TAGS`]. Serialized as a map.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct Tags(BTreeMap<TagKey, TagValue>);

impl Tags {
    /// Value of a key.
    #[must_use]
    pub fn get(&self, key: &TagKey) -> Option<&TagValue> {
        self.0.get(key)
    }

    /// All of them, by key.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&TagKey, &TagValue)> {
        self.0.iter()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// These tags without the keys of `remove` and with `set`, which may replace values.
    /// A key that is not there is removed already.
    ///
    /// # Errors
    /// A key that is both set and removed or set to two values, and more than [`MAX_TAGS`] tags in the end.
    pub fn changed(
        &self,
        set: impl IntoIterator<Item = Tag>,
        remove: impl IntoIterator<Item = TagKey>,
    ) -> Result<Self, Malformed> {
        let removed: BTreeSet<TagKey> = remove.into_iter().collect();
        let mut given: BTreeMap<TagKey, TagValue> = BTreeMap::new();
        for Tag { key, value } in set {
            if removed.contains(&key) {
                return Err(Malformed::new(
                    "tags",
                    format!("`{key}` is both set to `{value}` and removed; say one of them"),
                ));
            }
            match given.get(&key) {
                Some(other) if *other != value => {
                    return Err(Malformed::new(
                        "tags",
                        format!(
                            "`{key}` is set to `{other}` and to `{value}`; a node has each key once"
                        ),
                    ));
                }
                _ => given.insert(key, value),
            };
        }
        let mut all = self.0.clone();
        all.retain(|key, _| !removed.contains(key));
        all.extend(given);
        if all.len() > MAX_TAGS {
            return Err(Malformed::new(
                "tags",
                format!(
                    "{} tags, a node has at most {MAX_TAGS}; remove some first",
                    all.len()
                ),
            ));
        }
        Ok(Self(all))
    }
}

impl fmt::Display for Tags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        joined(f, self.0.iter().map(|(k, v)| format!("{k}={v}")))
    }
}

impl<'de> Deserialize<'de> for Tags {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let map = BTreeMap::<TagKey, TagValue>::deserialize(d)?;
        let tags = map.into_iter().map(|(key, value)| Tag { key, value });
        Self::default().changed(tags, []).map_err(D::Error::custom)
    }
}

/// One condition of a filter: `key=value`, or `key` alone, which means that the tag is there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Wanted {
    /// The key.
    pub key: TagKey,
    /// Its value, unless any will do.
    pub value: Option<TagValue>,
}

impl FromStr for Wanted {
    type Err = Malformed;
    fn from_str(text: &str) -> Result<Self, Malformed> {
        let (key, value) = match text.split_once('=') {
            Some((key, value)) => (key, Some(value.parse()?)),
            None => (text, None),
        };
        Ok(Self {
            key: key.parse()?,
            value,
        })
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{}={value}", self.key),
            None => self.key.fmt(f),
        }
    }
}

/// Which nodes are meant: every key must match. A key named several times may have any of the values;
/// a key alone means that the tag is there, also beside values of its own. An empty filter means every
/// node.
///
/// Written as terms joined by commas, serialized as a list of terms; both in one order, so that equal
/// filters read the same.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct TagFilter(
    // No value: any will do.
    BTreeMap<TagKey, BTreeSet<TagValue>>,
);

impl TagFilter {
    /// The filter of these terms.
    ///
    /// # Errors
    /// More than [`MAX_TERMS`] terms.
    pub fn new(terms: impl IntoIterator<Item = Wanted>) -> Result<Self, Malformed> {
        let mut keys: BTreeMap<TagKey, BTreeSet<TagValue>> = BTreeMap::new();
        let mut alone = BTreeSet::new();
        for (n, Wanted { key, value }) in terms.into_iter().enumerate() {
            if n >= MAX_TERMS {
                return Err(Malformed::new(
                    "tag filter",
                    format!(
                        "more than {MAX_TERMS} terms; name fewer, or tag the nodes with one word more"
                    ),
                ));
            }
            match value {
                Some(value) => {
                    keys.entry(key).or_default().insert(value);
                }
                None => {
                    alone.insert(key);
                }
            }
        }
        // Any of a key's terms will do, so the widest one decides.
        keys.extend(alone.into_iter().map(|key| (key, BTreeSet::new())));
        Ok(Self(keys))
    }

    /// The filter of terms as text, e.g. a message's repeated field.
    ///
    /// # Errors
    /// A term that is not `key=value` or `key`, and more than [`MAX_TERMS`] terms.
    pub fn of_terms<T: AsRef<str>>(terms: &[T]) -> Result<Self, Malformed> {
        // Counted first: a hostile list is not worth parsing.
        let parsed: Vec<Wanted> = (terms.iter().take(MAX_TERMS + 1))
            .map(|t| t.as_ref().parse())
            .collect::<Result<_, _>>()?;
        Self::new(parsed)
    }

    /// Whether a node with these tags is meant.
    #[must_use]
    pub fn matches(&self, tags: &Tags) -> bool {
        self.0.iter().all(|(key, values)| {
            tags.get(key)
                .is_some_and(|value| values.is_empty() || values.contains(value))
        })
    }

    /// Whether every node is meant.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The terms, in order of key and value.
    #[must_use]
    pub fn terms(&self) -> Vec<Wanted> {
        let mut terms = Vec::new();
        for (key, values) in &self.0 {
            let wanted = |value| Wanted {
                key: key.clone(),
                value,
            };
            if values.is_empty() {
                terms.push(wanted(None));
            }
            terms.extend(values.iter().map(|v| wanted(Some(v.clone()))));
        }
        terms
    }
}

impl FromStr for TagFilter {
    type Err = Malformed;
    fn from_str(text: &str) -> Result<Self, Malformed> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let terms: Vec<&str> = text.splitn(MAX_TERMS + 1, ',').collect();
        Self::of_terms(&terms)
    }
}

impl fmt::Display for TagFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        joined(f, self.terms().iter().map(ToString::to_string))
    }
}

impl Serialize for TagFilter {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(self.terms().iter().map(ToString::to_string))
    }
}

impl<'de> Deserialize<'de> for TagFilter {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Self::of_terms(&Vec::<String>::deserialize(d)?).map_err(D::Error::custom)
    }
}

fn joined(f: &mut fmt::Formatter<'_>, words: impl Iterator<Item = String>) -> fmt::Result {
    for (n, word) in words.enumerate() {
        if n > 0 {
            f.write_str(",")?;
        }
        f.write_str(&word)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn tags(words: &[&str]) -> Tags {
        let set = words.iter().map(|w| w.parse::<Tag>().unwrap());
        Tags::default().changed(set, []).unwrap()
    }

    fn filter(text: &str) -> TagFilter {
        text.parse().unwrap()
    }

    #[test]
    fn a_tag_that_could_not_be_read_back_is_refused() {
        for bad in [
            "",
            "=",
            "site",
            "site=",
            "=chicago",
            "Site=x",
            "1site=x",
            "-a=x",
            "si te=x",
            "site=a b",
            "site=a,b",
            "site=a=b",
            "site=ä",
            "site=\u{7}",
            &format!("{}=x", "k".repeat(33)),
            &format!("k={}", "v".repeat(65)),
        ] {
            let e = bad.parse::<Tag>().unwrap_err().to_string();
            assert!(e.contains("must be"), "{bad:?}: {e}");
        }
        for good in [
            "site=chicago",
            "a=1",
            "rev.2_b-=V/1:2;~!",
            &format!("{}={}", "k".repeat(32), "v".repeat(64)),
        ] {
            assert_eq!(good.parse::<Tag>().unwrap().to_string(), good);
        }
    }

    #[test]
    fn every_key_must_match_one_of_its_values() {
        let node = tags(&["site=chicago", "mount=high"]);
        for yes in [
            "",
            "site",
            "site=chicago",
            "site=oslo,site=chicago",
            "site,mount=high",
            "site,site=chicago",
            "site,site=oslo",
            "site=oslo,site",
        ] {
            assert!(filter(yes).matches(&node), "{yes:?}");
        }
        for no in [
            "roof",
            "site=oslo",
            "site=chicago,mount=low",
            "site,site=oslo,roof",
            "site=chicago,roof",
        ] {
            assert!(!filter(no).matches(&node), "{no:?}");
        }
        assert!(!filter("site").matches(&Tags::default()));
        assert!(!filter("site,site=oslo").matches(&Tags::default()));
    }

    #[test]
    fn a_key_alone_beside_its_values_is_the_key_alone() {
        for text in [
            "site,site=oslo",
            "site=oslo,site",
            "site=oslo,site,site=rome",
        ] {
            assert_eq!(filter(text), filter("site"), "{text}");
            assert_eq!(filter(text).to_string(), "site");
        }
    }

    #[test]
    fn tags_are_set_replaced_and_removed_together() {
        let was = tags(&["site=chicago", "mount=high"]);
        let key = |k: &str| k.parse::<TagKey>().unwrap();
        let now = was
            .changed(
                ["site=oslo".parse().unwrap(), "a=b".parse().unwrap()],
                [key("mount"), key("gone")],
            )
            .unwrap();
        assert_eq!(now.to_string(), "a=b,site=oslo");
        let both = was.changed(["site=oslo".parse().unwrap()], [key("site")]);
        assert!(both.unwrap_err().to_string().contains("both set"));
        let two = was.changed(["a=1".parse().unwrap(), "a=2".parse().unwrap()], []);
        assert!(two.unwrap_err().to_string().contains("each key once"));
    }

    #[test]
    fn a_node_has_at_most_so_many_tags_and_a_filter_so_many_terms() {
        let many = |n: usize| (0..n).map(|i| format!("k{i}=v").parse::<Tag>().unwrap());
        assert!(Tags::default().changed(many(MAX_TAGS), []).is_ok());
        let e = Tags::default().changed(many(MAX_TAGS + 1), []).unwrap_err();
        assert!(e.to_string().contains("33 tags"), "{e}");
        let terms: Vec<String> = (0..=MAX_TERMS).map(|i| format!("k=v{i}")).collect();
        assert!(TagFilter::of_terms(&terms[1..]).is_ok());
        assert!(TagFilter::of_terms(&terms).is_err());
        assert!(terms.join(",").parse::<TagFilter>().is_err());
    }

    fn a_tag() -> impl Strategy<Value = Tag> {
        // Few keys and values, so that they meet.
        ("[a-c]", "[x-z]").prop_map(|(k, v)| Tag {
            key: k.parse().unwrap(),
            value: v.parse().unwrap(),
        })
    }

    fn a_wanted() -> impl Strategy<Value = Wanted> {
        (a_tag(), any::<bool>()).prop_map(|(t, named)| Wanted {
            key: t.key,
            value: named.then_some(t.value),
        })
    }

    fn some_tags() -> impl Strategy<Value = Tags> {
        vec(a_tag(), 0..4).prop_map(|list| {
            list.into_iter()
                .fold(Tags::default(), |all, t| all.changed([t], []).unwrap())
        })
    }

    proptest! {
        #[test]
        fn tags_that_parse_read_back_the_same(text in "[a-zA-Z0-9._=, -]{0,12}") {
            if let Ok(tag) = text.parse::<Tag>() {
                prop_assert_eq!(tag.to_string(), text);
            }
        }

        #[test]
        fn a_filter_reads_back_from_its_text(terms in vec(a_wanted(), 0..6)) {
            let f = TagFilter::new(terms).unwrap();
            prop_assert_eq!(f.to_string().parse::<TagFilter>().unwrap(), f.clone());
            prop_assert_eq!(TagFilter::new(f.terms()).unwrap(), f);
        }

        #[test]
        fn a_filter_means_what_its_terms_say(terms in vec(a_wanted(), 0..6), node in some_tags()) {
            let f = TagFilter::new(terms.clone()).unwrap();
            // Said again, slowly: for each key a term names, the node has it, and one of the terms with
            // this key names the node's value or none at all.
            let expected = terms.iter().all(|t| {
                let Some(has) = node.get(&t.key) else { return false };
                terms.iter().filter(|o| o.key == t.key).any(|o| o.value.as_ref().is_none_or(|v| v == has))
            });
            prop_assert_eq!(f.matches(&node), expected);
        }

        #[test]
        fn no_text_makes_a_parser_panic(text in ".{0,100}") {
            let _ = text.parse::<Tag>();
            let _ = text.parse::<TagFilter>();
        }
    }
}
