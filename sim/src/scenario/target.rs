//! Whom a fault hits: a role, a node, a list of nodes, or a small table.

use apus_engine::NodeId;
use toml::de::{DeTable, DeValue};

use super::keys::{self, Shape};
use super::mend::expected;
use super::parse::small;
use super::reader::{Reader, Value, View, join, quote};
use super::suggest::nearest;
use crate::fault::{Aim, Kind, Target};

pub(super) fn default_target<'t>(r: &mut Reader<'t>, view: &View<'t>, kind: Kind) -> Option<Target> {
    if view.get("target").is_some() {
        return None; // It was read, and refused.
    }
    match (kind, kind.spec().aim) {
        (Kind::AddNode, _) => {
            let help = "name a machine beyond `members`, such as `target = \"n5\"`";
            r.wrong(
                view.span.clone(),
                view.key("target"),
                "`add-node` needs a target",
                "a machine that is no member yet",
                help,
            );
            None
        }
        (Kind::CrashAll | Kind::Knobs | Kind::LoadSpike | Kind::RetryStorm | Kind::OddSizes, _) | (_, Aim::Links) => {
            Some(Target::All)
        }
        _ => Some(Target::Random),
    }
}

pub(super) fn read_target<'t>(r: &mut Reader<'t>, view: &View<'t>) -> Option<Target> {
    let value = view.get("target")?;
    let key = view.key("target");
    match value.get_ref() {
        DeValue::String(text) => target_word(r, value, &key, text),
        DeValue::Array(array) if array.iter().next().is_some() => {
            let mut nodes = Vec::new();
            for (at, value) in array.iter().enumerate() {
                let node = node(r, value, &format!("{key}[{at}]"))?;
                if nodes.contains(&node) {
                    r.wrong(
                        value.span(),
                        &key,
                        format!("`{node}` is here twice"),
                        "each node once",
                        "take one of them out",
                    );
                }
                nodes.push(node);
            }
            nodes.sort_unstable();
            Some(Target::Nodes(nodes))
        }
        DeValue::Table(table) => target_table(r, value, &key, table),
        _ => {
            r.wrong(
                value.span(),
                key,
                "this is no target",
                expected(Shape::Target),
                "write for example `target = \"leader\"` or `[\"n0\", \"n1\"]`",
            );
            None
        }
    }
}

fn target_word(r: &mut Reader<'_>, value: &Value<'_>, key: &str, text: &str) -> Option<Target> {
    Some(match text {
        "all" => Target::All,
        "random" => Target::Random,
        "voter" => Target::Voter,
        "minority" => Target::Minority,
        "half" => Target::Half,
        "leader" => Target::Leader,
        "follower" => Target::Follower,
        "dispatcher" => Target::Dispatcher,
        "bystander" => Target::Bystander,
        _ => return node(r, value, key).map(|node| Target::Nodes(vec![node])),
    })
}

/// `n3`.
fn node(r: &mut Reader<'_>, value: &Value<'_>, key: &str) -> Option<NodeId> {
    let DeValue::String(text) = value.get_ref() else {
        r.wrong(
            value.span(),
            key,
            "this is no node",
            "a node such as `\"n2\"`",
            "write nodes as `\"n0\"`, `\"n1\"`, …",
        );
        return None;
    };
    let number =
        text.strip_prefix('n').filter(|digits| !digits.is_empty() && digits.chars().all(|c| c.is_ascii_digit()));
    if let Some(node) = number.and_then(|digits| digits.parse().ok()) {
        return Some(NodeId(node));
    }
    let near = nearest(text, keys::TARGETS.iter().copied());
    let help = match near {
        Some(near) => format!("did you mean `{near}`?"),
        None if text.parse::<u16>().is_ok() => format!("write `\"n{text}\"`"),
        None => "nodes are written `\"n0\"`, `\"n1\"`, …".to_owned(),
    };
    r.wrong(value.span(), key, format!("there is no target {}", quote(text)), expected(Shape::Target), help);
    None
}

fn target_table<'t>(r: &mut Reader<'t>, value: &'t Value<'t>, key: &str, table: &'t DeTable<'t>) -> Option<Target> {
    let entries: Vec<_> = table.iter().collect();
    let [(name, inner)] = entries[..] else {
        r.wrong(
            value.span(),
            key,
            "this is no target",
            "`{ holder = 1 }` or `{ some = 2 }`",
            "write exactly one of the two keys",
        );
        return None;
    };
    let path = join(key, name.get_ref());
    match name.get_ref().as_ref() {
        "holder" => small(r.one_number(inner, path, Shape::Count(0, 999), (0, 999))).map(Target::Holder),
        "some" => {
            small(r.one_number(inner, path, Shape::Count(1, keys::MOST_NODES), (1, keys::MOST_NODES))).map(Target::Some)
        }
        other => {
            let near = nearest(other, ["holder", "some"].into_iter()).unwrap_or("holder");
            let message = format!("a target has no key {}", quote(other));
            r.wrong(name.span(), path, message, "`holder` or `some`", format!("did you mean `{near}`?"));
            None
        }
    }
}
