//! Groups of files over all nodes: each copy by its own word, and how far it is behind by the word of who writes.

use std::collections::BTreeMap;

use apus_engine::NodeId;
use serde_json::{Value, json};

fn each(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// A row for each group, from what nodes say of themselves.
#[must_use]
pub fn files(own: &[(NodeId, &Value)]) -> Value {
    let mut groups: BTreeMap<u64, Vec<(u16, &Value)>> = BTreeMap::new();
    for (node, own) in own {
        for row in each(&own["files"]) {
            groups.entry(row["id"].as_u64().unwrap_or_default()).or_default().push((node.0, row));
        }
    }
    groups.values().map(|rows| group(rows)).collect()
}

fn group(rows: &[(u16, &Value)]) -> Value {
    let newest = |(_, row): &&(u16, &Value)| row["era"].as_u64();
    let writer = rows.iter().filter(|(_, row)| row["doing"] == "writes").max_by_key(newest);
    let Some((_, any)) = rows.first() else { return Value::Null };
    let mut all: Vec<Value> = Vec::new();
    for (node, row) in rows {
        let told = writer.and_then(|(_, writer)| each(&writer["copies"]).find(|copy| copy["node"] == *node));
        all.push(copy(*node, Some(row), told));
    }
    // Of those that do not answer the writer's word is all there is.
    for told in writer.into_iter().flat_map(|(_, writer)| each(&writer["copies"])) {
        let node = told["node"].as_u64().and_then(|node| u16::try_from(node).ok()).unwrap_or(u16::MAX);
        if !rows.iter().any(|(known, _)| *known == node) {
            all.push(copy(node, None, Some(told)));
        }
    }
    all.sort_by_key(|copy| copy["node"].as_u64());
    json!({
        "group": any["group"], "id": any["id"], "mode": any["mode"], "need": any["need"], "resource": any["resource"],
        "writer": writer.map(|(node, _)| node), "era": writer.map(|(_, row)| &row["era"]),
        "end": writer.map(|(_, row)| &row["end"]), "waiting": writer.map(|(_, row)| &row["waiting"]),
        "capture": writer.map(|(_, row)| &row["capture"]), "copies": all,
    })
}

fn copy(node: u16, own: Option<&Value>, told: Option<&Value>) -> Value {
    let mut copy = json!({ "node": node, "answers": own.is_some() });
    for (key, value) in own.and_then(Value::as_object).into_iter().flatten() {
        if !matches!(&**key, "group" | "id" | "mode" | "need" | "copies" | "capture" | "waiting" | "resource") {
            copy[key] = value.clone();
        }
    }
    for key in [
        "follows",
        "compares",
        "behind",
        "behind_bytes",
        "behind_us",
        "behind_more",
        "lags",
        "left_behind",
        "scrubs",
        "scrubbing",
    ] {
        copy[key] = told.map_or(Value::Null, |told| told[key].clone());
    }
    if copy["trouble"].is_null() {
        copy["trouble"] = told.map_or(Value::Null, |told| told["trouble"].clone());
    }
    copy
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_copy_is_told_by_its_own_word_and_by_its_writers() {
        let zero = json!({ "files": [{ "group": "books", "id": 3, "mode": "sync", "need": 2, "doing": "writes", "era": 9, "end": 40,
            "applied": 40, "waiting": 1, "capture": { "in_order": true }, "copies": [
                { "node": 1, "follows": true, "behind": 4, "behind_us": 900 }, { "node": 2, "behind": 39, "trouble": "its disk is full" }] }] });
        let one = json!({ "files": [{ "group": "books", "id": 3, "mode": "sync", "doing": "follows", "of": 0, "era": 9, "end": 38,
            "applied": 36, "orphans": 2 }] });
        let told = files(&[(NodeId(0), &zero), (NodeId(1), &one)]);
        let row = &told[0];
        assert_eq!((&row["writer"], &row["end"], &row["capture"]["in_order"]), (&json!(0), &json!(40), &json!(true)));
        let copies: Vec<&Value> = each(&row["copies"]).collect();
        assert_eq!(copies.len(), 3);
        assert_eq!(
            (&copies[1]["applied"], &copies[1]["behind"], &copies[1]["orphans"]),
            (&json!(36), &json!(4), &json!(2))
        );
        assert_eq!(
            (&copies[2]["answers"], &copies[2]["behind"], &copies[2]["trouble"]),
            (&json!(false), &json!(39), &json!("its disk is full"))
        );
        // Nobody writes.
        let told = files(&[(NodeId(1), &one)]);
        assert_eq!((&told[0]["writer"], &told[0]["copies"][0]["behind"]), (&Value::Null, &Value::Null));
    }
}
