//! `apus node` and `apus vip`.

use std::path::Path;
use std::time::Duration;

use apus_node::{Config, Error};
use serde_json::{Value, json};

use crate::args::{Format, NodeCommand, VipArgs, VipCommand};
use crate::operate::{FenceArgs, MaintenanceArgs, Switch};
use crate::print::{self, say};
use crate::{Trouble, VERSION, plan};

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        match error {
            Error::Usage(what) => Self::Usage(what),
            Error::Failed(what) => Self::Internal(what),
        }
    }
}

pub(crate) fn config(file: &Path) -> Result<Config, Trouble> {
    let name = file.display().to_string();
    let text = std::fs::read_to_string(file).map_err(|error| Trouble::Usage(format!("{name}: {error}")))?;
    Config::check(&name, &text)
        .map_err(|all| Trouble::Usage(all.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")))
}

pub(crate) fn node(what: &NodeCommand, format: Format) -> Result<u8, Trouble> {
    match what {
        NodeCommand::Init { config: file } => {
            let config = config(file)?;
            apus_node::init(&config)?;
            if format == Format::Text {
                say!("{}: formatted for node {} of cluster {}", config.folder.display(), config.me.0, config.cluster);
            } else {
                print::json(&json!({ "apus": VERSION, "formatted": config.folder }));
            }
        }
        NodeCommand::Run { config: file } => {
            let config = config(file)?;
            match format {
                Format::Json => apus_node::run_logged(&config, |entry| print::line(entry.json()))?,
                // Under systemd, lines are its journal's.
                Format::Text | Format::Csv if std::env::var_os("JOURNAL_STREAM").is_some() => {
                    apus_node::run_logged(&config, |entry| print::line(crate::view::journal_line(entry)))?;
                }
                Format::Text | Format::Csv => apus_node::run(&config, |line| say!("{line}"))?,
            }
        }
        NodeCommand::Drain { of, dry_run: true, .. } => {
            return plan::tell(&of.control, json!({ "do": "drain", "node": of.node }), format);
        }
        NodeCommand::Drain { of, wait, within, .. } => {
            let drain = json!({ "do": "drain", "node": of.node });
            if !wait {
                return done(&of.control, &drain, format).map(|()| 0);
            }
            apus_node::ask(&of.control, &drain)?;
            let rest = apus_node::wait_drained(&of.control, of.node, Duration::from_secs(*within), |rest| {
                if format == Format::Text {
                    let address = if rest["has_address"] == true { "the address, " } else { "" };
                    say!("node {} has {address}{} slots, {} connections", of.node, rest["slots"], rest["connections"]);
                }
            })?;
            if format == Format::Json { print::json(&rest) } else { say!("node {} rests: restart it at will", of.node) }
        }
        NodeCommand::Fence(args) => return fence(args, format),
        NodeCommand::Unit { config } => print::line(crate::unit::text(config)?.trim_end()),
        NodeCommand::Undrain(of) => done(&of.control, &json!({ "do": "undrain", "node": of.node }), format)?,
        NodeCommand::Clear { config: file } => {
            let config = config(file)?;
            apus_node::clear(&config)?;
            if format == Format::Json {
                let cleared = config.vip.map(|vip| vip.interface);
                print::json(&json!({ "apus": VERSION, "cleared": cleared }));
            } else if let Some(vip) = &config.vip {
                say!("{} and the loopback are as before the node", vip.interface);
            } else {
                say!("there was no address to take away");
            }
        }
    }
    Ok(0)
}

pub(crate) fn vip(args: &VipArgs, format: Format) -> Result<u8, Trouble> {
    let control = &args.control;
    match &args.what {
        VipCommand::Status => {
            let status = apus_node::ask(control, &json!({ "do": "status" }))?;
            if format == Format::Json { print::json(&status) } else { tell_status(&status) }
        }
        VipCommand::Table => {
            let table = apus_node::ask(control, &json!({ "do": "table" }))?;
            if format == Format::Json { print::json(&table) } else { tell_table(&table) }
        }
        VipCommand::Set { v4: None, v6: None, key: None, log2_slots: None, .. } => {
            return Err(Trouble::Usage("nothing to set: give --v4, --v6, --key or --log2-slots".into()));
        }
        VipCommand::Set { v4, v6, key, log2_slots, dry_run } => {
            let set = json!({ "do": "set", "v4": v4, "v6": v6, "key": key, "log2_slots": log2_slots });
            if *dry_run {
                return plan::tell(control, set, format);
            }
            done(control, &set, format)?;
        }
        VipCommand::Trace(what) => return crate::trace::trace(control, what, format),
        VipCommand::Move { to, dry_run: true } => {
            return plan::tell(control, json!({ "do": "move", "node": to }), format);
        }
        VipCommand::Move { to, .. } => done(control, &json!({ "do": "move", "node": to }), format)?,
    }
    Ok(0)
}

fn fence(args: &FenceArgs, format: Format) -> Result<u8, Trouble> {
    let order = json!({
        "do": "fence", "node": args.of.node, "action": args.action.word(), "why": args.why, "force": args.force,
    });
    if args.dry_run {
        return plan::tell(&args.of.control, order, format);
    }
    // As long as a plug-in may take, and what the log needs.
    let answer = apus_node::ask_long(&args.of.control, &order, Duration::from_secs(630))?;
    if format == Format::Json {
        print::json(&answer);
    } else {
        let said = answer["said"].as_str().filter(|said| !said.is_empty()).map(|said| format!(": {said}"));
        say!(
            "node {}: {} done, epoch {}{}",
            args.of.node,
            args.action.word(),
            answer["epoch"],
            said.unwrap_or_default()
        );
    }
    Ok(0)
}

/// `apus maintenance`.
pub(crate) fn maintenance(args: &MaintenanceArgs, format: Format) -> Result<u8, Trouble> {
    let MaintenanceArgs { what, of, why, dry_run, wait, within } = args;
    let on = *what == Switch::On;
    let order = json!({ "do": "maintain", "node": of.node, "on": on, "why": why });
    if *dry_run {
        return plan::tell(&of.control, order, format);
    }
    let answer = apus_node::ask(&of.control, &order)?;
    for warning in answer["warnings"].as_array().into_iter().flatten() {
        print::error(warning.as_str().unwrap_or_default());
    }
    if on && *wait {
        let rest = apus_node::wait_drained(&of.control, of.node, Duration::from_secs(*within), |_| {})?;
        if format == Format::Json { print::json(&rest) } else { say!("node {} is in maintenance, and rests", of.node) }
    } else if format == Format::Json {
        print::json(&answer);
    } else {
        let how = if on { "is in maintenance: its work moves away" } else { "gets work again" };
        say!("node {} {how}; see `apus status`", of.node);
    }
    Ok(0)
}

/// Orders something, and says that it was done.
pub(crate) fn done(control: &Path, order: &Value, format: Format) -> Result<(), Trouble> {
    let answer = apus_node::ask(control, order)?;
    if format == Format::Json {
        print::json(&answer);
    } else {
        say!("done; see `apus vip status`");
    }
    Ok(())
}

fn tell_status(status: &Value) {
    let number = |value: &Value| value.as_u64().map_or("nobody".into(), |node| format!("node {node}"));
    say!("node {} is {}", status["node"], status["state"].as_str().unwrap_or_default());
    let (dispatcher, epoch) = (number(&status["dispatcher"]), &status["epoch"]);
    say!("dispatcher   {dispatcher}, epoch {epoch}; coordinator {}", number(&status["coordinator"]));
    for node in status["nodes"].as_array().into_iter().flatten() {
        let drained = if node["drained"] == true { ", drained" } else { "" };
        let (address, state) =
            (node["address"].as_str().unwrap_or_default(), node["status"].as_str().unwrap_or_default());
        say!("node {:<7} {address} {state}{drained}, weight {}", node["node"], node["weight"]);
    }
    let address = &status["address"];
    for plane in address["tried"].as_array().into_iter().flatten() {
        say!(
            "plane        {}: {}",
            plane["name"].as_str().unwrap_or_default(),
            plane["why"].as_str().unwrap_or_default()
        );
    }
    for (name, count) in address["counters"].as_object().into_iter().flatten().filter(|(_, count)| **count != 0) {
        say!("frames       {name} {count}");
    }
}

fn tell_table(table: &Value) {
    say!("epoch {}, {} slots by {}", table["epoch"], table["slots"], table["key"].as_str().unwrap_or("nothing"));
    for server in table["servers"].as_array().into_iter().flatten() {
        let mac = server["mac"].as_str().unwrap_or_default();
        say!("{mac}  {:>7} slots, formerly {:>7}", server["slots"], server["former"]);
    }
}
