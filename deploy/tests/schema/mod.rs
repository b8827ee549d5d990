//! Checks real output against the schemas that are kept: the part of JSON Schema they are written in.
//!
//! Stricter than the standard where that finds mistakes: a field no schema names is one, and so is a
//! keyword this file does not know.

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::{Map, Value};

/// Panics unless `value` is what the kept schema of a command promises.
pub(crate) fn check(command: &str, value: &Value) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas");
    let file = dir.join(format!("{}.json", command.replace(' ', "-")));
    let text = fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let schema: Value = serde_json::from_str(&text).expect("a schema");
    if let Err(fault) = (Checker { root: &schema }).whole(&schema, value, "$") {
        panic!("`{command}` printed what its schema does not know: {fault}\n{value}");
    }
}

/// Fields of an object that some part of the schema named.
type Named = BTreeSet<String>;

struct Checker<'a> {
    root: &'a Value,
}

impl Checker<'_> {
    /// A value, of which nothing may be left over.
    fn whole(&self, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
        let named = self.part(schema, value, at)?;
        if let Value::Object(fields) = value {
            let surplus: Vec<&String> = fields.keys().filter(|k| !named.contains(*k)).collect();
            if !surplus.is_empty() {
                return Err(format!("{at}: {surplus:?} are in no schema"));
            }
        }
        Ok(())
    }

    fn part(&self, schema: &Value, value: &Value, at: &str) -> Result<Named, String> {
        let schema = match schema {
            Value::Bool(true) => return Ok(every(value)),
            Value::Object(schema) => schema,
            other => return Err(format!("{at}: no schema: {other}")),
        };
        let mut named = Named::new();
        for (keyword, says) in schema {
            named.extend(self.keyword(schema, keyword, says, value, at)?);
        }
        Ok(named)
    }

    fn keyword(
        &self,
        schema: &Map<String, Value>,
        keyword: &str,
        says: &Value,
        value: &Value,
        at: &str,
    ) -> Result<Named, String> {
        let mut named = Named::new();
        match keyword {
            "$schema" | "$defs" | "description" | "format" | "default" => {}
            "$ref" => {
                let path = says.as_str().and_then(|r| r.strip_prefix('#'));
                let target = path.and_then(|p| self.root.pointer(p));
                named = self.part(target.ok_or(format!("{at}: {says}"))?, value, at)?;
            }
            "type" => {
                let kinds = says
                    .as_array()
                    .cloned()
                    .unwrap_or_else(|| vec![says.clone()]);
                if !kinds
                    .iter()
                    .any(|k| is(value, k.as_str().unwrap_or_default()))
                {
                    return Err(format!("{at}: {value} is no {says}"));
                }
            }
            "const" if says != value => return Err(format!("{at}: {value} is not {says}")),
            "const" => {}
            "enum" => {
                if !says.as_array().is_some_and(|all| all.contains(value)) {
                    return Err(format!("{at}: {value} is none of {says}"));
                }
            }
            // Bounds are of numbers; whether it is one, `type` says.
            "minimum" => {
                if value.is_number() && value.as_f64() < says.as_f64() {
                    return Err(format!("{at}: {value} is below {says}"));
                }
            }
            "maximum" => {
                if value.is_number() && value.as_f64() > says.as_f64() {
                    return Err(format!("{at}: {value} is above {says}"));
                }
            }
            // The one pattern there is.
            "pattern" if says == "^[0-9a-f]{64}$" => {
                let text = value.as_str().unwrap_or_default();
                if text.len() != 64 || !text.bytes().all(|b| b"0123456789abcdef".contains(&b)) {
                    return Err(format!("{at}: {value} is no digest"));
                }
            }
            "required" => {
                for field in says.as_array().into_iter().flatten() {
                    let field = field.as_str().unwrap_or_default();
                    if value.get(field).is_none() {
                        return Err(format!("{at}: {field} is missing"));
                    }
                }
            }
            "properties" => {
                for (field, schema) in says.as_object().into_iter().flatten() {
                    if let Some(value) = value.get(field) {
                        self.whole(schema, value, &format!("{at}.{field}"))?;
                        named.insert(field.clone());
                    }
                }
            }
            "additionalProperties" => {
                let listed = schema.get("properties").and_then(Value::as_object);
                for (field, value) in value.as_object().into_iter().flatten() {
                    if listed.is_none_or(|l| !l.contains_key(field)) {
                        self.whole(says, value, &format!("{at}.{field}"))?;
                        named.insert(field.clone());
                    }
                }
            }
            "items" => {
                for (n, value) in value.as_array().into_iter().flatten().enumerate() {
                    self.whole(says, value, &format!("{at}[{n}]"))?;
                }
            }
            "anyOf" | "oneOf" => {
                let options = says.as_array().into_iter().flatten();
                let mut faults = Vec::new();
                let mut fits = false;
                for option in options {
                    match self.part(option, value, at) {
                        Ok(more) => {
                            fits = true;
                            named.extend(more);
                        }
                        Err(fault) => faults.push(fault),
                    }
                }
                if !fits {
                    return Err(faults.join("; or "));
                }
            }
            other => return Err(format!("{at}: the keyword {other:?} is not known here")),
        }
        Ok(named)
    }
}

fn every(value: &Value) -> Named {
    let fields = value.as_object().into_iter().flatten();
    fields.map(|(name, _)| name.clone()).collect()
}

fn is(value: &Value, kind: &str) -> bool {
    match kind {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => false,
    }
}

#[test]
fn a_value_that_differs_in_anything_is_found() {
    let schema = serde_json::json!({
        "type": "object",
        "properties": {
            "n": {"type": "integer", "minimum": 0},
            "t": {"anyOf": [{"$ref": "#/$defs/T"}, {"type": "null"}]},
        },
        "required": ["n"],
        "$defs": {"T": {"type": "array", "items": {"enum": ["a", "b"]}}},
    });
    let found = |value: Value| {
        (Checker { root: &schema })
            .whole(&schema, &value, "$")
            .err()
    };
    assert_eq!(found(serde_json::json!({"n": 1, "t": ["a"]})), None);
    assert_eq!(found(serde_json::json!({"n": 1, "t": null})), None);
    for (value, fault) in [
        (serde_json::json!({"t": null}), "n is missing"),
        (serde_json::json!({"n": "1"}), "$.n"),
        (serde_json::json!({"n": -1}), "below"),
        (serde_json::json!({"n": 1, "t": ["c"]}), "$.t[0]"),
        (serde_json::json!({"n": 1, "m": 2}), "in no schema"),
    ] {
        let said = found(value).expect("a fault");
        assert!(said.contains(fault), "{said}");
    }
}
