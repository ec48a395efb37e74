//! The JSON schema of scenario files, made from the parser's own key tables.

use serde_json::{Map, Value, json};

use super::keys::{ROOT, Shape, TARGETS, Table, Words};
use super::parse::packet_kind_names;
use crate::fault::{Kind, Unit};

const TIME: &str = r"^[0-9]+(\.[0-9]+)? ?(ns|us|µs|ms|s|m|h)$";
const SHARE: &str = r"^[0-9]+(\.[0-9]+)? ?(%|ppm)$";
const BYTES: &str = r"^[0-9]+(\.[0-9]+)? ?(B|[kK]B|MB|GB|KiB|MiB|GiB)$";
const RATE: &str = r"^[0-9]+(\.[0-9]+)? ?(B|[kK]B|MB|GB|KiB|MiB|GiB)/s$";

/// The JSON schema (draft 2020-12) of scenario files, for editors.
#[must_use]
pub fn schema() -> Value {
    let mut out = table(&ROOT);
    out.insert("$schema".into(), "https://json-schema.org/draft/2020-12/schema".into());
    out.insert("title".into(), "Apus scenario".into());
    out.insert("$defs".into(), definitions());
    Value::Object(out)
}

fn definitions() -> Value {
    let target = json!({
        "description": "Whom a fault hits.",
        "oneOf": [
            { "enum": TARGETS },
            { "type": "string", "pattern": "^n[0-9]+$" },
            { "type": "array", "items": { "type": "string", "pattern": "^n[0-9]+$" }, "minItems": 1, "uniqueItems": true },
            { "type": "object", "properties": { "holder": { "type": "integer", "minimum": 0 } }, "required": ["holder"], "additionalProperties": false },
            { "type": "object", "properties": { "some": { "type": "integer", "minimum": 1 } }, "required": ["some"], "additionalProperties": false },
        ],
    });
    json!({
        "time": { "type": "string", "pattern": TIME },
        "share": { "type": "string", "pattern": SHARE },
        "bytes": { "type": "string", "pattern": BYTES },
        "bandwidth": { "type": "string", "pattern": RATE },
        "packet": { "enum": packet_kind_names() },
        "target": target,
    })
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/$defs/{name}") })
}

/// A value, `[least, most]`, or `{ from, to }`.
fn range(one: &Value) -> Value {
    json!({ "oneOf": [
        one,
        { "type": "array", "items": one, "minItems": 2, "maxItems": 2 },
        { "type": "object", "properties": { "from": one, "to": one }, "required": ["from", "to"], "additionalProperties": false },
    ] })
}

fn table(spec: &Table) -> Map<String, Value> {
    let mut properties = Map::new();
    for key in spec.keys {
        let mut value = shape(key.shape);
        if let Value::Object(fields) = &mut value {
            fields.insert("description".into(), describe(key.about, key.default).into());
        }
        properties.insert(key.name.into(), value);
    }
    let required: Vec<&str> = spec.keys.iter().filter(|key| key.default.is_none()).map(|key| key.name).collect();
    let mut out = Map::new();
    out.insert("type".into(), "object".into());
    out.insert("description".into(), spec.about.into());
    out.insert("properties".into(), Value::Object(properties));
    out.insert("required".into(), required.into());
    out.insert("additionalProperties".into(), false.into());
    out
}

fn describe(about: &str, default: Option<&str>) -> String {
    default.map_or_else(|| about.to_owned(), |default| format!("{about} (default: {default})"))
}

fn shape(shape: Shape) -> Value {
    match shape {
        Shape::Text => json!({ "type": "string", "minLength": 1 }),
        Shape::Name => json!({ "type": "string", "pattern": "^[a-z0-9]+(-[a-z0-9]+)*$", "maxLength": 64 }),
        Shape::Word(words) => words_of(words),
        Shape::WordList(words) => json!({ "type": "array", "items": words_of(words), "uniqueItems": true }),
        Shape::NameList => json!({ "type": "array", "items": { "type": "string" } }),
        Shape::Count(least, most) => json!({ "type": "integer", "minimum": least, "maximum": most }),
        Shape::Counts(least, most) => range(&json!({ "type": "integer", "minimum": least, "maximum": most })),
        Shape::Flag => json!({ "type": "boolean" }),
        Shape::Time(..) => reference("time"),
        Shape::Times(..) => range(&reference("time")),
        Shape::TimeList(..) => json!({ "type": "array", "items": reference("time") }),
        Shape::Share(_) => reference("share"),
        Shape::Shares(_) => range(&reference("share")),
        Shape::Sizes => {
            let any = json!({ "oneOf": [
                reference("time"), reference("share"), reference("bytes"), reference("bandwidth"), reference("packet"),
                { "type": "integer", "minimum": 1 },
            ] });
            range(&any)
        }
        Shape::Target => reference("target"),
        Shape::Reasons => {
            json!({ "type": "object", "propertyNames": words_of(Words::Checkers), "additionalProperties": { "type": "string", "minLength": 1 } })
        }
        Shape::Table(spec) => Value::Object(table(spec)),
        Shape::Tables(spec) => json!({ "type": "array", "items": Value::Object(table(spec)) }),
        Shape::ByKind(spec) => by_kind(spec),
    }
}

fn words_of(words: Words) -> Value {
    json!({ "enum": words.all() })
}

/// One table for each kind of fault, with only the keys that the kind has.
fn by_kind(spec: &Table) -> Value {
    let kinds = Kind::ALL.iter().map(|kind| {
        let mut one = table(spec);
        let row = kind.spec();
        if let Some(Value::Object(properties)) = one.get_mut("properties") {
            for (key, has) in [("for", row.lasts), ("rate", row.rate.is_some()), ("size", row.size.is_some())] {
                if !has {
                    properties.remove(key);
                }
            }
            if let Some((unit, ..)) = row.size {
                properties.insert("size".into(), range(&size(*kind, unit)));
            }
        }
        one.insert("description".into(), row.about.into());
        (row.name.to_owned(), Value::Object(one))
    });
    json!({ "type": "object", "properties": kinds.collect::<Map<_, _>>(), "additionalProperties": false })
}

fn size(kind: Kind, unit: Unit) -> Value {
    match unit {
        _ if kind == Kind::DropKind => reference("packet"),
        Unit::Time => reference("time"),
        Unit::Bytes => reference("bytes"),
        Unit::Ppm => reference("share"),
        Unit::Count => json!({ "type": "integer", "minimum": 1 }),
        Unit::Bandwidth => reference("bandwidth"),
    }
}
