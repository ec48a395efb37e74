//! What a new configuration file would change for a node that runs.

use crate::{Config, Member, Service, Vip};

/// One thing that is another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Different {
    /// Such as `lease` or `services.web.command`.
    pub(crate) what: String,
    pub(crate) effect: &'static str,
}

/// What a copy of a service does at the next start of the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Copies {
    pub(crate) service: String,
    pub(crate) what: &'static str,
    /// What of the service is another one.
    pub(crate) fields: Vec<&'static str>,
}

const ALL: &str = "all nodes must have it alike before any is started anew";

/// Settings that wait for the daemon to be started anew.
pub(crate) fn settings(old: &Config, new: &Config) -> Vec<Different> {
    // Each field by its name: a new one is compared, or this is no program.
    let Config {
        // Another one is refused before.
        cluster: _,
        me: _,
        port,
        folder,
        control,
        nodes: _,
        vip,
        lease,
        // These are told one by one.
        services: _,
        groups,
        reboot,
        fence,
        watchdog,
        transport,
        keys,
        record,
        knobs,
        told,
        http,
        remote,
        // Of the fields above.
        alike: _,
        file: _,
    } = old;
    let place = |vip: &Option<Vip>| vip.as_ref().map(|vip| (vip.interface.clone(), vip.plane.clone()));
    let same = [
        ("port", *port == new.port, ALL),
        ("transport", *transport == new.transport, ALL),
        ("lease", *lease == new.lease, ALL),
        ("knobs", *knobs == new.knobs, ALL),
        (
            "nodes",
            who(old) == who(new),
            "who joined or left since is in the log: `apus cluster join` and `leave` change it",
        ),
        ("vip", vip.is_some() == new.vip.is_some(), ALL),
        ("vip.seed", vip.as_ref().map(|vip| vip.seed) == new.vip.as_ref().map(|vip| vip.seed), ALL),
        (
            "vip.interface",
            place(vip) == place(&new.vip),
            "the address moves to another port of this machine, or to another data plane",
        ),
        (
            "folder",
            *folder == new.folder,
            "programs and log of the old folder stay there: end the node, move it, start it",
        ),
        ("control", *control == new.control, "this socket is then another one"),
        ("keys", *keys == new.keys, "this node shows the certificate that is there"),
        ("record", *record == new.record, "what is kept of the past is cut to this"),
        ("told", *told == new.told, "it is written there from then on"),
        ("http", *http == new.http, "the page and the metrics are there from then on"),
        ("remote", *remote == new.remote, "what operators at other nodes may have done here is then this"),
        ("groups", *groups == new.groups, ALL),
        ("reboot", *reboot == new.reboot, "the hook is then another one"),
        ("fence", *fence == new.fence, "the plug-in is then another one"),
        ("watchdog", *watchdog == new.watchdog, "the device is then another one"),
    ];
    same.into_iter()
        .filter(|(_, same, _)| !same)
        .map(|(what, _, effect)| Different { what: what.into(), effect })
        .collect()
}

/// Nodes but for their weights, which can be changed at once.
fn who(config: &Config) -> Vec<Member> {
    let mut all: Vec<Member> = config.nodes.iter().map(|node| Member { weight: 0, ..node.clone() }).collect();
    all.sort_by_key(|node| node.id);
    all
}

/// What becomes of services.
pub(crate) fn services(old: &[Service], new: &[Service]) -> Vec<Copies> {
    let named = |all: &[Service], name: &str| all.iter().find(|service| service.engine.name == name).cloned();
    let mut all = Vec::new();
    for service in old {
        let name = &service.engine.name;
        let Some(new) = named(new, name) else {
            all.push(Copies { service: name.clone(), what: "stops: the file has no such service", fields: Vec::new() });
            continue;
        };
        let program = program(service, &new);
        let rules = rules(service, &new);
        if !program.is_empty() {
            all.push(Copies { service: name.clone(), what: "is started anew", fields: program });
        }
        if !rules.is_empty() {
            all.push(Copies { service: name.clone(), what: "runs on, by other rules", fields: rules });
        }
    }
    for service in new {
        if named(old, &service.engine.name).is_none() {
            let what = "starts: it is new; all nodes need it in their files";
            all.push(Copies { service: service.engine.name.clone(), what, fields: Vec::new() });
        }
    }
    all
}

/// What makes a keeper replace the program.
fn program(old: &Service, new: &Service) -> Vec<&'static str> {
    let (one, other) = (&old.spec, &new.spec);
    let same = [
        // By its number, a copy is another one.
        ("id", old.engine.id == new.engine.id),
        ("command", one.command == other.command),
        ("user", one.user == other.user),
        ("environment", one.environment == other.environment),
        ("directory", one.directory == other.directory),
        ("limits", one.limits == other.limits),
        ("ready", one.readiness == other.readiness),
        ("live", one.liveness == other.liveness),
        ("heartbeats", one.watchdog == other.watchdog),
        ("stop", (one.stop_signal, one.grace) == (other.stop_signal, other.grace)),
        ("promote", one.promote == other.promote),
        ("output", (one.log_bytes, one.log_files) == (other.log_bytes, other.log_files)),
        ("before, after", one.hooks == other.hooks),
        ("core", one.core == other.core),
    ];
    same.into_iter().filter(|(_, same)| !same).map(|(field, _)| field).collect()
}

/// What only the engine looks at.
fn rules(old: &Service, new: &Service) -> Vec<&'static str> {
    let (one, other) = (&old.engine, &new.engine);
    let same = [
        ("strategy", one.strategy == other.strategy),
        ("replicas", one.degree == other.degree),
        ("requires", one.requires == other.requires),
        ("candidates", old.candidates == new.candidates),
        ("heartbeats", one.heartbeats == other.heartbeats || old.spec.watchdog != new.spec.watchdog),
        ("start_within", one.start_within == other.start_within),
        (
            "backoff",
            (one.backoff, one.backoff_max, one.stable_after) == (other.backoff, other.backoff_max, other.stable_after),
        ),
        ("failures", (one.failures, one.within) == (other.failures, other.within)),
        ("may_reboot", one.may_reboot == other.may_reboot),
        ("fenced", old.fenced == new.fenced),
    ];
    same.into_iter().filter(|(_, same)| !same).map(|(field, _)| field).collect()
}

#[cfg(test)]
mod tests {
    use super::{services, settings};
    use crate::Config;

    const ONE: &str = "cluster = 7\nnode = 0\nlease = \"3s\"\n[[nodes]]\nid = 0\naddress = \"10.0.0.1\"\n[[services]]\nname = \"web\"\n\
                       command = [\"/bin/web\"]\n[[services]]\nname = \"job\"\ncommand = [\"/bin/job\"]\n";

    #[test]
    fn what_waits_for_a_new_start_is_told_and_who_is_started_anew() {
        let read = |text: &str| Config::read("x", text).expect("it is good");
        let old = read(ONE);
        assert!(settings(&old, &old).is_empty() && services(&old.services, &old.services).is_empty());
        let new = ONE
            .replace("3s", "4s")
            .replace("\"/bin/web\"]", "\"/bin/web\", \"-v\"]\nfailures = 9")
            .replace("\"job\"", "\"task\"");
        let new = read(&new);
        let far =
            read(&ONE.replacen("[[nodes]]", "remote = { exec = [{ command = \"/usr/bin/uptime\" }] }\n[[nodes]]", 1));
        let told = |all: Vec<super::Different>| all.into_iter().map(|one| one.what).collect::<Vec<_>>();
        assert_eq!(told(settings(&old, &new)), ["lease"]);
        assert_eq!(told(settings(&old, &far)), ["remote"]);
        let said: Vec<String> = services(&old.services, &new.services)
            .into_iter()
            .map(|one| format!("{} {} ({})", one.service, one.what, one.fields.join(", ")))
            .collect();
        assert_eq!(
            said,
            [
                "web is started anew (command)",
                "web runs on, by other rules (failures)",
                "job stops: the file has no such service ()",
                "task starts: it is new; all nodes need it in their files ()",
            ]
        );
    }
}
