//! `apus config check`: files of one cluster's nodes, each by itself and all together.

use std::collections::BTreeMap;

use apus_engine::NodeId;
use toml::de::DeTable;

use crate::{Config, ConfigError, Member};

/// Everything that is wrong with files, given with their names. What files of one cluster contradict each other in is found once each
/// is right by itself, and told of the later one.
#[must_use]
pub fn check(files: &[(String, String)]) -> Vec<ConfigError> {
    let mut wrong = Vec::new();
    let mut sound: Vec<(&str, &str, Config)> = Vec::new();
    for (name, text) in files {
        match Config::check(name, text) {
            Ok(config) => sound.push((name, text, config)),
            Err(mut all) => {
                all.sort_by_key(|error| error.line);
                wrong.append(&mut all);
            }
        }
    }
    let mut firsts: BTreeMap<u32, (&str, &Config)> = BTreeMap::new();
    let mut owners: BTreeMap<(u32, NodeId), &str> = BTreeMap::new();
    for (name, text, config) in &sound {
        let mut put = |key: &str, what: String| {
            wrong.push(ConfigError { file: (*name).into(), line: line(text, key), what });
        };
        if let Some(other) = owners.insert((config.cluster, config.me), name) {
            put("node", format!("`node` is {}, as in {other}; each node has a number of its own", config.me.0));
        }
        let (other, first) = firsts.entry(config.cluster).or_insert((name, config));
        for key in contradictions(first, config) {
            put(key, format!("`{key}` is not what {other} says; write the same for all nodes of the cluster"));
        }
    }
    wrong
}

/// What all nodes must have alike, and these two have not.
fn contradictions(one: &Config, other: &Config) -> Vec<&'static str> {
    let nodes = |config: &Config| {
        // Who came later is known to the log, and need not be in every file.
        let mut all: Vec<Member> = config.nodes.iter().filter(|node| !node.joined).cloned().collect();
        all.sort_by_key(|node| node.id);
        all
    };
    let vip = |config: &Config| config.vip.as_ref().map(|vip| (vip.v4, vip.v6, vip.key, vip.log2_slots, vip.seed));
    let services = |config: &Config| -> Vec<_> {
        let of = |service: &crate::Service| (service.engine.clone(), service.candidates.clone(), service.fenced);
        let mut all: Vec<_> = config.services.iter().map(of).collect();
        all.sort_by_key(|(engine, ..)| engine.id);
        all
    };
    let groups = |config: &Config| -> Vec<_> {
        let of = |group: &crate::Group| (group.engine.clone(), group.name.clone(), group.patterns.clone());
        let mut all: Vec<_> = config.groups.iter().map(of).collect();
        all.sort_by_key(|(engine, ..)| engine.id);
        all
    };
    let same = [
        ("port", one.port == other.port),
        ("nodes", nodes(one) == nodes(other)),
        ("vip", vip(one) == vip(other)),
        ("lease", one.lease == other.lease),
        ("services", services(one) == services(other)),
        ("groups", groups(one) == groups(other)),
        ("transport", one.transport == other.transport),
        ("knobs", one.knobs == other.knobs),
    ];
    same.into_iter().filter(|(_, same)| !same).map(|(key, _)| key).collect()
}

/// Where a key of the file is; its first line if it is left out.
pub(crate) fn line(text: &str, key: &str) -> usize {
    let table = DeTable::parse_recoverable(text).0;
    let at = table.get_ref().get_key_value(key).map_or(0, |(key, _)| key.span().start);
    text.get(..at).unwrap_or_default().matches('\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::check;

    const ONE: &str = "cluster = 7\nnode = 0\nlease = \"3s\"\n[[nodes]]\nid = 0\naddress = \"10.0.0.1\"\n[[nodes]]\nid = 1\n\
                       address = \"10.0.0.2\"\n[[services]]\nname = \"web\"\ncommand = [\"/bin/web\"]\n";

    fn said(files: &[(&str, String)]) -> Vec<String> {
        let files: Vec<_> = files.iter().map(|(name, text)| ((*name).to_owned(), text.clone())).collect();
        check(&files).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_mistake_is_told_and_what_follows_from_one_is_not() {
        let bad = ONE
            .replace("cluster = 7", "cluster = -7")
            .replace("\"3s\"", "3")
            .replace("id = 1\n", "id = 1\ncolour = 5\nweight = 70000\n")
            .replace(
                "[\"/bin/web\"]\n",
                "[]\nuser = 5\nlimits = { cpu = 1, memory = \"5Q\" }\nrequires = [\"x\", \"y\"]\nlive = 3\n",
            )
            + "[vip]\nkey = \"colour\"\n";
        let said = said(&[("a.toml", bad)]);
        let want = [
            "a.toml:1: `cluster` must be a number",
            "a.toml:3: `lease` must be a text",
            "a.toml:9: `colour` is not known in a node; known are",
            "a.toml:10: `weight` must be 0 to 65535",
            "a.toml:14: `command` must be the program",
            "a.toml:15: `user` must be a text",
            "a.toml:16: `cpu` must be a text",
            "a.toml:16: `memory` is `5Q`, and must be bytes",
            "a.toml:17: `requires` names `x`, and there is no such service",
            "a.toml:17: `requires` names `y`, and there is no such service",
            "a.toml:18: `live` must be a table, such as",
            "a.toml:19: `vip` has no address",
            "a.toml:19: `vip` lacks `interface`",
            "a.toml:20: `key` is `colour`",
        ];
        for want in want {
            assert!(said.iter().any(|line| line.starts_with(want)), "{want}\n{said:#?}");
        }
        assert_eq!(said.len(), want.len(), "{said:#?}");
        let broken = "cluster = \nnode = 0 0\nlease = \"3s\"\n";
        let said = check(&[("b.toml".into(), broken.into())]);
        assert_eq!(said.iter().map(|error| error.line).collect::<Vec<_>>(), [1, 2], "{said:#?}");
    }

    #[test]
    fn files_of_one_cluster_are_held_against_each_other() {
        let two = ONE.replace("node = 0", "node = 1");
        assert_eq!(said(&[("a", ONE.into()), ("b", two.clone())]), [""; 0]);
        assert_eq!(
            said(&[("a", ONE.into()), ("b", two.replace("cluster = 7", "cluster = 8").replace("3s", "4s"))]),
            [""; 0]
        );
        let other = two
            .replace("3s", "4s")
            .replace("10.0.0.2", "10.0.0.9")
            .replace("name = \"web\"", "name = \"web\"\nfailures = 9");
        let told = said(&[("a", ONE.into()), ("b", other)]);
        let want = [
            "b:4: `nodes` is not what a says",
            "b:3: `lease` is not what a says",
            "b:10: `services` is not what a says",
        ];
        assert_eq!(told.len(), want.len(), "{told:#?}");
        assert!(told.iter().zip(want).all(|(told, want)| told.starts_with(want)), "{told:#?}");
        let twice = said(&[("a", ONE.into()), ("b", ONE.into())]);
        assert_eq!(twice, ["b:2: `node` is 0, as in a; each node has a number of its own"]);
    }
}
