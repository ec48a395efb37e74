//! What can be read but makes no sense: each with a mend.

use std::ops::Range;

use apus_engine::{Availability, ConfigError, Mode, Strategy};

use super::budget;
use super::keys::TURMOIL_NODES;
use super::model::{Scenario, Workload};
use super::parse::Parts;
use super::plan;
use super::reader::{Reader, View, list, quote};
use super::suggest::nearest;
use super::units::show_time;
use crate::fault::{Aim, Cost, Fault, Kind, Ns, Target};
use crate::goal::{self, Needs};

pub(super) fn check<'t>(r: &mut Reader<'t>, parts: &mut Parts<'t>) {
    let before = r.count();
    if parts.counted {
        counts(r, parts);
    }
    let counted = parts.counted && r.count() == before;
    services(r, parts, counted);
    if counted {
        files(r, parts);
    }
    expect(r, parts);
    worlds(r, parts, counted);
    for fault in &parts.faults {
        scripted_times(r, &parts.scenario, &fault.view, (fault.what.at, fault.what.lasts));
        needs(r, &parts.scenario, fault.what.kind, &fault.view);
        if counted {
            target(r, &parts.scenario, fault.what.kind, &fault.what.target, &fault.view);
        }
    }
    for fault in &parts.swarm {
        swarm_times(r, &parts.scenario, &fault.view, fault.what.lasts);
        needs(r, &parts.scenario, fault.what.kind, &fault.view);
        if counted {
            target(r, &parts.scenario, fault.what.kind, &fault.what.target, &fault.view);
            swarm_budget(r, &parts.scenario, fault.what.kind, &fault.what.target, &fault.view);
        }
    }
    if r.count() == before && counted {
        scripted_budget(r, parts);
        spares(r, parts);
        knobs(r, parts);
    }
}

fn counts(r: &mut Reader<'_>, parts: &Parts<'_>) {
    let (s, root) = (&parts.scenario, &parts.root);
    if s.members > s.nodes {
        let help = format!("write `members = {}` or fewer, or more `nodes`", s.nodes);
        let message = format!("{} members, but only {} nodes", s.members, s.nodes);
        r.wrong(root.at("members"), "members", message, "at most `nodes`", help);
    } else if s.voters > s.members {
        let help = format!("write `voters = {}` or fewer, or more nodes", s.members);
        let message = format!("{} voters, but only {} members", s.voters, s.members);
        r.wrong(root.at("voters"), "voters", message, "at most `members`, or `nodes` without it", help);
    }
    if s.arbiters >= s.members.min(s.voters.saturating_add(u16::from(s.members > s.voters))) {
        let most = s.voters.saturating_sub(u16::from(s.members <= s.voters));
        let message = format!("{} arbiters among {} voters leave nobody to own anything", s.arbiters, s.voters);
        r.wrong(
            root.at("arbiters"),
            "arbiters",
            message,
            "fewer than there are members",
            format!("write `arbiters = {most}` or fewer"),
        );
    }
}

/// Replicated files need a cold service, and nodes that can run it.
fn files(r: &mut Reader<'_>, parts: &Parts<'_>) {
    let s = &parts.scenario;
    let (Some(files), Some(view)) = (&s.files, &parts.files) else { return };
    let span = |key: &str| if view.get(key).is_some() { view.at(key) } else { view.span.clone() };
    let owners = s.voters.saturating_sub(s.arbiters).min(s.members);
    match s.services.first() {
        None => {
            let help = "add a `[[service]]` whose program changes them";
            r.wrong(view.span.clone(), view.path.clone(), "replicated files need a service", "a service", help);
        }
        Some(service) if service.strategy != Strategy::Cold => {
            let help = "make the first service cold, or take `[files]` out";
            r.wrong(
                view.span.clone(),
                view.path.clone(),
                "the service of replicated files must be cold",
                "a cold service",
                help,
            );
        }
        Some(_) => {}
    }
    if files.copies > owners {
        let message = format!("{} copies need as many nodes that can own something, there are {owners}", files.copies);
        r.wrong(
            span("copies"),
            view.key("copies"),
            message,
            "at most so many",
            format!("write `copies = {owners}` or fewer"),
        );
    } else if u16::from(files.need) > files.copies && files.mode == Mode::Sync {
        let message = format!("{} copies are waited for, there are {}", files.need, files.copies);
        r.wrong(
            span("need"),
            view.key("need"),
            message,
            "at most `copies`",
            format!("write `need = {}` or fewer", files.copies),
        );
    }
}

fn services(r: &mut Reader<'_>, parts: &mut Parts<'_>, counted: bool) {
    let s = &parts.scenario;
    let owners = s.members.saturating_sub(s.arbiters);
    for (at, (service, view)) in s.services.iter().zip(&parts.services).enumerate() {
        if !service.name.is_empty() && s.services[..at].iter().any(|other| other.name == service.name) {
            let message = format!("two services are named {}", quote(&service.name));
            r.wrong(
                view.at("name"),
                view.key("name"),
                message,
                "a name of its own",
                format!("write `name = \"{}-2\"`", service.name),
            );
        }
        if service.strategy != Strategy::Hot && service.degree != 1 {
            let message = format!("{} active copies, but the service is not hot", service.degree);
            let help = "write `strategy = \"hot\"`, or take `degree` out";
            r.wrong(view.at("degree"), view.key("degree"), message, "1 unless hot", help);
        } else if counted && u16::from(service.degree) > owners {
            let message = format!("{} copies need as many nodes, there are {owners} that can run one", service.degree);
            r.wrong(
                view.at("degree"),
                view.key("degree"),
                message,
                "at most one copy a node",
                format!("write `degree = {owners}` or fewer"),
            );
        }
        if counted && service.strategy == Strategy::Warm && owners < 2 {
            let help = "add a node, or write `strategy = \"cold\"`";
            r.wrong(
                view.at("strategy"),
                view.key("strategy"),
                "a standby needs a second node",
                "two nodes that can run it",
                help,
            );
        }
        let slowest = service.starts_in.saturating_mul(3) / 2;
        if slowest > service.start_within {
            let message = format!(
                "the service is ready after up to {}, but only {} are allowed",
                show_time(slowest),
                show_time(service.start_within)
            );
            let help = format!("write `start_within = \"{}\"` or more", show_time(slowest));
            let key = if view.get("start_within").is_some() { "start_within" } else { "starts_in" };
            r.wrong(view.at(key), view.key(key), message, "half as much again as `starts_in`", help);
        }
    }
    let names: Vec<&str> = s.services.iter().map(|service| service.name.as_str()).collect();
    for (at, (needs, view)) in parts.requires.iter().zip(&parts.services).enumerate() {
        for (name, span) in needs {
            if names.get(at) == Some(&name.as_str()) {
                let message = format!("{} requires itself", quote(name));
                r.wrong(span.clone(), view.key("requires"), message, "another service", "take it out");
            }
            if names.contains(&name.as_str()) {
                continue;
            }
            let near = nearest(
                name,
                names.iter().copied().enumerate().filter(|(other, _)| *other != at).map(|(_, name)| name),
            );
            let help = near.map_or_else(
                || format!("add a `[[service]]` with this name, or take {} out", quote(name)),
                |near| format!("did you mean `{near}`?"),
            );
            r.wrong(
                span.clone(),
                view.key("requires"),
                format!("there is no service {}", quote(name)),
                format!("one of {}", list(&names)),
                help,
            );
        }
    }
}

fn expect(r: &mut Reader<'_>, parts: &Parts<'_>) {
    let s = &parts.scenario;
    if let (Some(mutant), true) = (s.mutant, s.expect.fails.is_empty()) {
        let help = "add `fails = [\"one-holder\"]`, or whichever checker must find it, to `[expect]`";
        let message = format!("the planted bug `{}` is to be found, but no checker is named for it", mutant.name());
        r.wrong(parts.root.at("mutant"), "mutant", message, "`expect.fails`", help);
    }
    let Some(view) = &parts.expect else { return };
    for (name, span) in &parts.fails {
        if s.expect.except.contains_key(*name) {
            let message = format!("`{name}` must fail and is excepted");
            r.wrong(span.clone(), view.key("fails"), message, "one of both", "take it out of `except`");
        }
    }
    for (name, span) in &parts.sometimes {
        let Some(goal) = goal::named(name) else { continue };
        if let Some((what, help)) = out_of_reach(s, goal.needs) {
            let message = format!("`{name}` can never be reached: {} needs {what}", goal.about);
            r.wrong(span.clone(), view.key("sometimes"), message, "a goal that some seed reaches", help);
        }
    }
    for (key, bound) in [
        ("takeover_within", s.expect.takeover_within),
        ("diagnosis_within", s.expect.diagnosis_within),
        ("news_within", s.expect.news_within),
        ("blackout_within", s.expect.blackout_within),
    ] {
        if bound.is_some_and(|bound| bound > s.duration) {
            let message = format!("the bound is longer than the scenario, which lasts {}", show_time(s.duration));
            r.wrong(
                view.at(key),
                view.key(key),
                message,
                "less than `duration`",
                "write a shorter bound, or a longer `duration`",
            );
        }
    }
    if s.expect.converge_within.is_some_and(|bound| bound > s.heal) {
        let message = format!("the bound is longer than the liveness phase, which lasts {}", show_time(s.heal));
        let help = format!("write `converge_within = \"{0}\"` or less, or a longer `heal`", show_time(s.heal));
        r.wrong(view.at("converge_within"), view.key("converge_within"), message, "at most `heal`", help);
    }
}

/// What a goal lacks, and how to give it.
fn out_of_reach(s: &Scenario, needs: Needs) -> Option<(String, String)> {
    let has = |kind: &str| {
        s.faults.iter().any(|fault| fault.kind.spec().name == kind)
            || s.swarm.iter().any(|fault| fault.kind.spec().name == kind)
    };
    let lack = |what: &str, help: &str| Some((what.to_owned(), help.to_owned()));
    match needs {
        Needs::Service if s.services.is_empty() => lack("a service", "add a `[[service]]`, or take the goal out"),
        Needs::Warm if s.services.iter().all(|service| service.strategy != Strategy::Warm) => {
            lack("a warm service", "add `strategy = \"warm\"` to a service, or take the goal out")
        }
        Needs::Files if s.files.is_none() => lack("replicated files", "add `[files]`, or take the goal out"),
        Needs::Load if s.workload == Workload::None => lack("clients", "add a `[workload]`, or take the goal out"),
        Needs::Unsafe if s.cluster.availability != Some(Availability::Prefer) && s.mutant.is_none() => lack(
            "the 1998 rule or a planted bug",
            "add `availability = \"prefer\"` to `[cluster]`, or take the goal out",
        ),
        Needs::Fault(kind) if !has(kind) => {
            Some((format!("a fault `{kind}`"), format!("add a fault of the kind `{kind}`, or take the goal out")))
        }
        _ => None,
    }
}

fn worlds<'t>(r: &mut Reader<'t>, parts: &Parts<'t>, counted: bool) {
    if parts.worlds.is_empty() && parts.scenario.worlds.is_empty() && parts.root.get("worlds").is_some() {
        let help = "write `worlds = [\"heap\"]`";
        if r.count() == 0 {
            r.wrong(parts.root.at("worlds"), "worlds", "no world is named", "at least one", help);
        }
    }
    for (world, span) in &parts.worlds {
        if *world == "turmoil" && counted && parts.scenario.nodes > TURMOIL_NODES {
            let message = format!("{} nodes are too many for the world `turmoil`", parts.scenario.nodes);
            let help = format!("take `turmoil` out, or write `nodes = {TURMOIL_NODES}` or fewer");
            r.wrong(span.clone(), "worlds", message, format!("at most {TURMOIL_NODES} nodes"), help);
        }
    }
    let kinds = parts.faults.iter().map(|fault| (fault.what.kind, &fault.view, fault.view.at("kind")));
    let drawn = parts.swarm.iter().map(|fault| (fault.what.kind, &fault.view, fault.view.span.clone()));
    for (kind, view, span) in kinds.chain(drawn) {
        let spec = kind.spec();
        let lacks = parts.worlds.iter().find(|(world, _)| !spec.worlds.contains(world));
        if let Some((world, _)) = lacks {
            let message = format!("the world `{world}` does not carry `{}`", spec.name);
            let help = format!("take `{world}` out of `worlds`, or the fault out of the scenario");
            r.wrong(
                span,
                view.path.clone(),
                message,
                format!("a kind that all worlds carry; this one: {}", list(spec.worlds)),
                help,
            );
        }
    }
}

fn scripted_times<'t>(r: &mut Reader<'t>, s: &Scenario, view: &View<'t>, (at, lasts): ((Ns, Ns), (Ns, Ns))) {
    let end = show_time(s.duration);
    if at.1 >= s.duration {
        let message = format!("the fault starts at {}, the safety phase ends at {end}", show_time(at.1));
        r.wrong(
            view.at("at"),
            view.key("at"),
            message,
            format!("before {end}"),
            "start it earlier, or write a longer `duration`",
        );
    } else if at.1.saturating_add(lasts.1) > s.duration {
        let message = format!(
            "the fault would last until {}, the safety phase ends at {end}",
            show_time(at.1.saturating_add(lasts.1))
        );
        let help = format!("write `for = \"{}\"` or less, or a longer `duration`", show_time(s.duration - at.1));
        r.wrong(view.at("for"), view.key("for"), message, "an end within `duration`", help);
    }
}

fn swarm_times<'t>(r: &mut Reader<'t>, s: &Scenario, view: &View<'t>, lasts: (Ns, Ns)) {
    let most = s.duration.saturating_sub(plan::quiet(s));
    if lasts.1 > most {
        let (given, end) = (show_time(lasts.1), show_time(s.duration));
        let message = format!("a fault of {given} does not fit into a safety phase of {end} with a quiet start");
        let help = format!(
            "write `for = [\"{}\", \"{}\"]`, or a longer `duration`",
            show_time(lasts.0.min(most)),
            show_time(most)
        );
        r.wrong(view.at("for"), view.key("for"), message, format!("at most {}", show_time(most)), help);
    }
}

/// What a kind needs of the rest of the scenario.
fn needs<'t>(r: &mut Reader<'t>, s: &Scenario, kind: Kind, view: &View<'t>) {
    let name = kind.spec().name;
    let (lacks, help) = match kind {
        _ if kind.spec().aim == Aim::Programs && s.services.is_empty() => ("a service", "add a `[[service]]`"),
        Kind::OddSizes | Kind::RetryStorm if !matches!(s.workload, Workload::Notes { .. }) => {
            ("clients that put notes into the log", "add `[workload]` with `kind = \"notes\"`")
        }
        Kind::LoadSpike if s.workload == Workload::None => ("clients", "add a `[workload]`"),
        _ => return,
    };
    let span = if view.get("kind").is_some() { view.at("kind") } else { view.span.clone() };
    r.wrong(
        span,
        view.path.clone(),
        format!("`{name}` needs {lacks}"),
        lacks,
        format!("{help}, or take the fault out"),
    );
}

fn target<'t>(r: &mut Reader<'t>, s: &Scenario, kind: Kind, target: &Target, view: &View<'t>) {
    if let Some((message, help)) = bad_target(s, kind, target) {
        r.wrong(view.at("target"), view.key("target"), message, "a target that the fault can hit", help);
    }
}

/// Why a kind cannot be aimed like this, and how to mend it.
fn bad_target(s: &Scenario, kind: Kind, target: &Target) -> Option<(String, String)> {
    let name = kind.spec().name;
    let say = |message: String, help: &str| Some((message, help.to_owned()));
    if let Target::Nodes(nodes) = target
        && let Some(node) = nodes.iter().find(|node| node.0 >= s.nodes)
    {
        let last = s.nodes - 1;
        return say(
            format!("there is no node `{node}`"),
            &format!("the nodes are `n0` to `n{last}`; write more `nodes` for more"),
        );
    }
    if kind == Kind::AddNode {
        return match target {
            Target::Nodes(nodes) if nodes.iter().all(|node| node.0 >= s.members) => None,
            _ if s.members < s.nodes => say(
                "only a machine that is no member can be added".into(),
                &format!("write `target = \"n{}\"`", s.members),
            ),
            _ => say(
                "every machine is a member already".into(),
                &format!("write `members = {}` and `target = \"n{}\"`", s.nodes.saturating_sub(1).max(1), s.nodes - 1),
            ),
        };
    }
    if kind == Kind::MoveHolder && matches!(target, Target::Dispatcher | Target::Holder(0) | Target::All) {
        return say(
            "the dispatcher cannot be moved to itself or to all".into(),
            "write `target = \"bystander\"` or a node",
        );
    }
    let whole = match target {
        Target::All => true,
        Target::Nodes(nodes) => nodes.len() >= usize::from(s.members),
        Target::Some(n) => *n >= s.members,
        _ => s.members < 2,
    };
    if kind.spec().aim == Aim::Cut && whole {
        return say(
            if s.members < 2 {
                format!("one node alone cannot be cut off: `{name}` has no links to cut")
            } else {
                format!("`{name}` cuts the target off from the rest, but there is no rest")
            },
            if s.members < 2 {
                "write more `nodes`, or take the fault out"
            } else {
                "aim at some of the nodes, such as `target = \"half\"`"
            },
        );
    }
    match target {
        Target::Some(n) if *n > s.members => say(
            format!("{n} nodes are more than there are members"),
            &format!("write `{{ some = {} }}` or fewer", s.members),
        ),
        Target::Minority if s.voters < 3 => {
            say(format!("a minority of {} voters is nobody", s.voters), "write `voters = 3` or more, or another target")
        }
        Target::Half if s.members < 2 => {
            say("half of one node is nobody".into(), "write more `nodes`, or another target")
        }
        Target::Follower if s.voters < 2 => {
            say("with one voter there is no follower".into(), "write `voters = 3`, or another target")
        }
        Target::Bystander if s.members < 2 => {
            say("one node alone is no bystander".into(), "write more `nodes`, or another target")
        }
        Target::Holder(resource) => {
            let last = s.services.iter().map(|service| u16::from(service.degree)).sum::<u16>();
            (*resource > last).then(|| {
                let message = format!(
                    "there is no resource {resource}: 0 is the dispatcher, then come the copies of the services"
                );
                (message, format!("the last one is {{ holder = {last} }}"))
            })
        }
        _ => None,
    }
}

fn swarm_budget<'t>(r: &mut Reader<'t>, s: &Scenario, kind: Kind, target: &Target, view: &View<'t>) {
    let (least, most) = (budget::least(s, kind, target), budget::minority(s));
    if least > most {
        let message = format!(
            "`{}` takes out {least} of {} voters; a swarm may take out {most}, so it would always be dropped",
            kind.spec().name,
            s.voters
        );
        let help = "aim at fewer nodes, write more `voters`, or script it as a `[[fault]]`";
        r.wrong(view.at("target"), view.key("target"), message, "a minority of the voters", help);
    }
}

/// Scripted faults may do anything but make it impossible to heal.
fn scripted_budget(r: &mut Reader<'_>, parts: &Parts<'_>) {
    let s = &parts.scenario;
    if s.expect.except.contains_key("converges") || s.expect.fails.iter().any(|name| name == "converges") {
        return;
    }
    let mut gone: Vec<Fault> = Vec::new();
    for fault in &parts.faults {
        let f = &fault.what;
        if f.kind.spec().cost != Cost::Disk {
            continue;
        }
        let drawn = matches!(f.target, Target::All | Target::Nodes(_));
        let least = budget::least(s, f.kind, &f.target);
        if !drawn && least < 2 {
            continue; // It may hit the same node as another one.
        }
        gone.push(Fault {
            at: f.at.0,
            lasts: 0,
            kind: f.kind,
            target: f.target.clone(),
            rate_ppm: 0,
            size: 0,
            scripted: None,
        });
        let hit = budget::together(s, gone.iter()).max(least);
        if hit > budget::minority(s) {
            let message =
                format!("the disks of {hit} of {} voters are lost: what was decided is lost with them", s.voters);
            let help = "aim at fewer voters, or add `converges = \"a majority is lost for good\"` to `expect.except`";
            r.wrong(
                fault.view.at("target"),
                fault.view.key("target"),
                message,
                format!("at most {}", budget::minority(s)),
                help,
            );
            return;
        }
    }
}

/// Machines that are no members must be added by somebody.
fn spares(r: &mut Reader<'_>, parts: &Parts<'_>) {
    let s = &parts.scenario;
    let added = s
        .faults
        .iter()
        .map(|fault| (fault.kind, &fault.target))
        .chain(s.swarm.iter().map(|fault| (fault.kind, &fault.target)));
    if s.members < s.nodes && !added.into_iter().any(|(kind, _)| kind == Kind::AddNode) {
        let message = format!("{} machines are no members, and nobody adds them", s.nodes - s.members);
        let help = format!(
            "add a `[[fault]]` with `kind = \"add-node\"` and `target = \"n{}\"`, or take `members` out",
            s.members
        );
        r.wrong(parts.root.at("members"), "members", message, "an `add-node` fault", help);
    }
}

/// What the engine itself refuses.
fn knobs(r: &mut Reader<'_>, parts: &Parts<'_>) {
    let configs = plan::base(&parts.scenario);
    let Err(error) = configs.check() else { return };
    let (span, key, help) = match &error {
        ConfigError::OutOfRange { knob, want } => place_knob(parts, knob, want),
        ConfigError::BadDependency(service) => {
            let view = parts.services.get(usize::from(service.0));
            let span = view.map_or(0..0, |view| view.at("requires"));
            (
                span,
                format!("service[{}].requires", service.0),
                "take one of the requirements of the circle out".to_owned(),
            )
        }
        _ => (0..0, String::new(), "change the topology".to_owned()),
    };
    r.wrong(span, key, format!("the engine refuses this: {error}"), "", help);
}

/// Where a knob of the engine stands in the file, or the nearest that it is compared with.
fn place_knob(parts: &Parts<'_>, knob: &str, want: &str) -> (Range<usize>, String, String) {
    let name = knob.rsplit('.').next().unwrap_or(knob);
    let name = if name == "drift_ppm" { "drift" } else { name };
    let help = format!("`{name}` must be {want}");
    let Some(view) = &parts.cluster else { return (0..0, format!("cluster.{name}"), help) };
    let relatives: &[&str] = match name {
        "election" | "lease" => &["heartbeat"],
        "deadline_floor" => &["deadline_ceiling"],
        "convict" => &["observers"],
        _ => &[],
    };
    let place = [name].into_iter().chain(relatives.iter().copied()).find(|key| view.get(key).is_some()).unwrap_or(name);
    (view.at(place), view.key(place), help)
}
