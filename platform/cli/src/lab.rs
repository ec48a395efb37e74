//! `apus lab`: a cluster of real nodes in namespaces of this machine; and which scenarios run in the live world.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use apus_lab::{JUDGED, OWN, not_live};
use apus_sim::checker::names::NAMES;
use apus_sim::scenario::{Problems, Scenario, shipped};
use clap::{Args, Subcommand};
use serde_json::json;

use crate::args::Format;
use crate::print::{self, count, say};
use crate::suite::Item;
use crate::{Trouble, VERSION};

const FAULTS: &str = "\
Faults:
  kill          the daemon is killed (SIGKILL); its programs run on
  power-off     the machine loses power: all that runs there is gone, and nothing more is heard of it
  freeze        the daemon is stopped (SIGSTOP); its kernel runs on
  partition     it hears nobody and nobody hears it, clients neither; its port keeps the carrier
  one-way       what it sends is lost
  one-way-in    what is sent to it is lost
  link-down     its port loses the carrier
  loss          --rate percent of its frames are lost, both ways
  starve        its daemon gets --rate percent of one processor, by a control group

NODE is a number, `dispatcher` or `coordinator`. `apus lab heal` undoes everything.";

const DEMO: &str = "\
Exit codes:
  address   0 clients failed for at most a second; 2 for longer
  files     0 up elsewhere within 2 s, with every row that was acknowledged, the rest saved, all trees equal;
            1 a row is lost, the rest is not saved, or trees differ; 2 later
  both      64 what is missing; 70 the machine refuses, or something did not come within 30 s";

/// What loses power in a tour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Demo {
    /// The machine that has the address, while clients ask
    Address,
    /// The machine with a database, while rows are written: its files are on other disks too
    Files,
}

#[derive(Debug, Subcommand)]
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "Linux only"))]
pub(crate) enum LabCommand {
    /// A tour: a lab comes up, a machine loses power, and what came of it
    #[command(after_help = DEMO)]
    Demo {
        /// Which one
        #[arg(value_enum, default_value_t = Demo::Address)]
        what: Demo,
        /// Machines with a node each: 5 if left out, for `files` 3
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(3..=16))]
        nodes: Option<u16>,
        /// Programs of this command alone, even where nginx or `SQLite` is installed
        #[arg(long)]
        plain: bool,
        /// The lab's name: letters and digits. What is left of one of this name is taken away first
        #[arg(long, value_name = "NAME", default_value = "demo")]
        name: String,
    },
    /// Make a lab: machines, a switch, nodes, and a web service behind one address
    Up {
        #[command(flatten)]
        of: OfLab,
        /// Machines with a node each
        #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=16))]
        nodes: u16,
        /// The web server of this command, even where nginx is installed
        #[arg(long)]
        plain: bool,
    },
    /// How each machine and node is
    Status(OfLab),
    /// Let something happen to a node
    #[command(after_help = FAULTS)]
    Fault {
        /// Its number, `dispatcher` or `coordinator`
        node: String,
        /// What
        kind: String,
        /// For loss and starve, in percent
        #[arg(long, value_name = "PERCENT", default_value_t = 10, value_parser = clap::value_parser!(u8).range(1..=100))]
        rate: u8,
        #[command(flatten)]
        of: OfLab,
    },
    /// Undo every fault of a node, or of all, and wait until all serve
    Heal {
        /// Its number; all if left out
        node: Option<u16>,
        #[command(flatten)]
        of: OfLab,
    },
    /// Run a command on a machine
    #[command(after_help = "Example: apus lab exec client -- curl -s http://10.98.0.100/")]
    Exec {
        /// A node's number, or `client`
        machine: String,
        #[command(flatten)]
        of: OfLab,
        /// The command and its arguments
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Take everything away, also what a crash has left
    Down {
        #[command(flatten)]
        of: OfLab,
        /// Every lab of this machine
        #[arg(long)]
        all: bool,
    },
    /// Which shipped scenarios run in the live world, and why the others do not
    Scenarios {
        /// Write it as the table of docs/lab-scenarios.md
        #[arg(long, value_name = "FILE")]
        table: Option<PathBuf>,
    },
    /// A web server that says one line
    #[command(hide = true)]
    Serve { line: String },
    /// The program of a scenario's service
    #[command(hide = true)]
    Program {
        folder: PathBuf,
        starts_in_us: u64,
        beats_us: String,
        /// Where it writes replicated files
        #[arg(long)]
        root: Option<PathBuf>,
        /// Rows a second
        #[arg(long, default_value_t = 100)]
        rate: u32,
        /// Into a table of `SQLite`
        #[arg(long)]
        sqlite: bool,
    },
    /// Clients of a scenario
    #[command(hide = true)]
    Load { target: std::net::SocketAddr, clients: u16, rate: u32 },
}

#[derive(Debug, Args)]
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "Linux only"))]
pub(crate) struct OfLab {
    /// The lab's name: letters and digits
    #[arg(long, value_name = "NAME", default_value = "main")]
    pub name: String,
}

impl From<apus_lab::Error> for Trouble {
    fn from(error: apus_lab::Error) -> Self {
        match error {
            apus_lab::Error::Usage(what) => Self::Usage(what),
            apus_lab::Error::Failed(what) => Self::Internal(what),
        }
    }
}

/// Refuses what cannot run live: a scenario that was named, with the places in its file; in a suite it is left out.
pub(crate) fn refuse(items: &[Item], suite: bool) -> Result<(), Trouble> {
    let all = items.iter().map(|item| apus_lab::problems(&item.file, &item.text, &item.scenario));
    let wrong: Vec<Problems> = all.filter(|all| !all.is_empty()).map(|all| Problems { all }).collect();
    if !suite && !wrong.is_empty() {
        return Err(Trouble::Scenarios(wrong));
    }
    let carried = items.iter().filter(|item| not_live(&item.scenario).is_empty());
    let missing =
        apus_lab::missing().or_else(|| carried.into_iter().find_map(|item| apus_lab::missing_for(&item.scenario)));
    missing.map_or(Ok(()), |what| Err(Trouble::Usage(format!("--world live: {what}"))))
}

pub(crate) fn lab(what: &LabCommand, format: Format) -> Result<u8, Trouble> {
    match what {
        LabCommand::Scenarios { table } => scenarios(table.as_deref(), format),
        other => act(other, format),
    }
}

/// Why each shipped scenario is not run live; nothing for those that are.
fn shipped_live() -> Vec<(&'static str, Vec<String>)> {
    let reasons = |text: &str, name: &str| match Scenario::parse(name, text) {
        Ok(scenario) => not_live(&scenario).into_iter().map(|reason| reason.what).collect(),
        Err(error) => vec![error.to_string()],
    };
    shipped().iter().map(|(name, text)| (*name, reasons(text, name))).collect()
}

fn scenarios(table: Option<&Path>, format: Format) -> Result<u8, Trouble> {
    let all = shipped_live();
    let carried = all.iter().filter(|(_, why)| why.is_empty()).count();
    if let Some(path) = table {
        crate::write(path, page(&all, carried))?;
        return Ok(0);
    }
    if format == Format::Json {
        let rows: Vec<_> =
            all.iter().map(|(name, why)| json!({"scenario": name, "live": why.is_empty(), "why_not": why})).collect();
        print::json(&json!({"apus": VERSION, "live": carried, "scenarios": rows}));
        return Ok(0);
    }
    for (name, why) in &all {
        say!("{name:<32} {}", why.first().map_or("live", String::as_str));
    }
    say!("{} of {} run live", carried, count(all.len() as u64, "scenario"));
    Ok(0)
}

fn page(all: &[(&str, Vec<String>)], carried: usize) -> String {
    let mut out = format!(
        "# Scenarios in the live world\n\nMade by `apus lab scenarios --table docs/lab-scenarios.md`. {carried} of {} shipped scenarios \
         run live as they are.\n\n## Run\n",
        all.len()
    );
    let names: Vec<String> =
        all.iter().filter(|(_, why)| why.is_empty()).map(|(name, _)| format!("`{name}`")).collect();
    let _ = writeln!(out, "\n{}", names.join(", "));
    out += "\n## Not run\n\n| scenario | why |\n|---|---|\n";
    for (name, why) in all.iter().filter(|(_, why)| !why.is_empty()) {
        let _ = writeln!(out, "| `{name}` | {} |", why.join("; "));
    }
    out += "\n## Checkers\n\n| checker | live |\n|---|---|\n";
    for known in NAMES {
        let own = OWN.iter().find(|(name, _)| *name == known.name);
        let how = match own {
            Some((_, how)) => (*how).to_owned(),
            None if JUDGED.contains(&known.name) => "as it is, on what nodes tell".to_owned(),
            None => "no: it looks into engines, or at packets".to_owned(),
        };
        let _ = writeln!(out, "| `{}` | {how} |", known.name);
    }
    out
}

#[cfg(not(target_os = "linux"))]
fn act(_: &LabCommand, _: Format) -> Result<u8, Trouble> {
    Err(Trouble::Usage("a lab is made of namespaces of Linux: run it there".into()))
}

#[cfg(target_os = "linux")]
mod books;
#[cfg(target_os = "linux")]
mod demo;
#[cfg(target_os = "linux")]
use linux::act;

#[cfg(target_os = "linux")]
mod linux {
    use std::process::Command;
    use std::time::{Duration, Instant};

    use apus_lab::{Fault, Lab, Rows, Status, Up};
    use serde_json::Value;

    use super::*;
    use crate::print::BOLD;

    pub(super) fn act(what: &LabCommand, format: Format) -> Result<u8, Trouble> {
        match what {
            LabCommand::Up { of, nodes, plain } => {
                let began = Instant::now();
                let lab = Lab::up(&Up { name: of.name.clone(), nodes: *nodes, plain: *plain })?;
                up(&lab, &of.name, began.elapsed(), format);
            }
            LabCommand::Demo { what: Demo::Address, nodes, plain, name } => {
                return demo::demo(name, nodes.unwrap_or(5), *plain, format);
            }
            LabCommand::Demo { what: Demo::Files, nodes, plain, name } => {
                return books::demo(name, nodes.unwrap_or(3), *plain, format);
            }
            LabCommand::Status(of) => status(&Lab::find(&of.name)?, format),
            LabCommand::Fault { node, kind, rate, of } => {
                let mut lab = Lab::find(&of.name)?;
                let node = number(&lab, node)?;
                lab.fault(node, fault(kind, *rate)?)?;
                done(&format!("n{node}: {kind}"), format);
            }
            LabCommand::Heal { node, of } => {
                let mut lab = Lab::find(&of.name)?;
                let began = Instant::now();
                lab.heal(*node)?;
                if node.is_none() {
                    lab.wait()?;
                }
                let what = node.map_or_else(|| "every node serves".to_owned(), |node| format!("n{node}: healed"));
                done(&format!("{what}, after {:.1} s", began.elapsed().as_secs_f64()), format);
            }
            LabCommand::Exec { machine, of, command } => return exec(&Lab::find(&of.name)?, machine, command),
            LabCommand::Down { of, all } => {
                let names = if *all { Lab::all() } else { vec![of.name.clone()] };
                let mut spaces = 0;
                for name in &names {
                    spaces += Lab::down(name)?;
                }
                let what = if spaces == 0 {
                    "there was nothing".into()
                } else {
                    count(spaces as u64, "namespace") + " removed"
                };
                done(&what, format);
            }
            LabCommand::Serve { line } => apus_lab::serve(line)?,
            LabCommand::Program { folder, starts_in_us, beats_us, root, rate, sqlite } => {
                let beats = beats_us.split(',').filter_map(|beat| beat.parse().ok()).map(Duration::from_micros);
                let kind = if *sqlite { Rows::Sqlite } else { Rows::Files };
                let writes = root.clone().map(|root| (kind, root, *rate));
                apus_lab::program(folder, Duration::from_micros(*starts_in_us), &beats.collect::<Vec<_>>(), writes)?;
            }
            LabCommand::Load { target, clients, rate } => apus_lab::load(*target, *clients, *rate)?,
            LabCommand::Scenarios { .. } => {}
        }
        Ok(0)
    }

    fn done(what: &str, format: Format) {
        if format == Format::Json { print::json(&json!({"apus": VERSION, "done": what})) } else { say!("{what}") }
    }

    /// Which node is meant.
    fn number(lab: &Lab, word: &str) -> Result<u16, Trouble> {
        match word {
            "dispatcher" | "coordinator" => Ok(lab.role(word)?),
            _ => word.trim_start_matches('n').parse().map_err(|_| {
                Trouble::Usage(format!("`{word}` is no node: use a number, `dispatcher` or `coordinator`"))
            }),
        }
    }

    fn fault(kind: &str, rate: u8) -> Result<Fault, Trouble> {
        const ALL: [&str; 9] =
            ["kill", "power-off", "freeze", "partition", "one-way", "one-way-in", "link-down", "loss", "starve"];
        Ok(match kind {
            "kill" => Fault::Kill,
            "power-off" => Fault::PowerOff,
            "freeze" => Fault::Freeze,
            "partition" => Fault::Partition,
            "one-way" => Fault::OneWay,
            "one-way-in" => Fault::OneWayIn,
            "link-down" => Fault::LinkDown,
            "loss" => Fault::Loss(u32::from(rate) * 10_000),
            "starve" => Fault::Starve(rate.into()),
            other => {
                let near = apus_sim::scenario::nearest(other, ALL.into_iter());
                let near = near.map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
                return Err(Trouble::Usage(format!("there is no fault `{other}`{near} They are {}", ALL.join(", "))));
            }
        })
    }

    /// Runs a command in a namespace; its exit code is ours.
    fn exec(lab: &Lab, machine: &str, command: &[String]) -> Result<u8, Trouble> {
        let node = if machine == "client" { None } else { Some(number(lab, machine)?) };
        if node.is_some_and(|node| node >= lab.nodes()) {
            return Err(Trouble::Usage(format!("there is no node {machine}: they are 0 to {}", lab.nodes() - 1)));
        }
        let ran = Command::new("ip").args(["netns", "exec", &lab.space(node)]).args(command).status();
        let ran = ran.map_err(|error| Trouble::Internal(format!("ip: {error}")))?;
        Ok(ran.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
    }

    fn up(lab: &Lab, name: &str, took: Duration, format: Format) {
        let nodes = lab.nodes();
        if format == Format::Json {
            let nodes: Vec<Value> = (0..nodes)
                .map(|node| {
                    json!({"node": node, "namespace": lab.space(Some(node)), "address": Lab::node_address(node),
                           "control": lab.control(node)})
                })
                .collect();
            let all = json!({"apus": VERSION, "lab": name, "address": Lab::address(), "web": lab.web,
                             "client": lab.space(None), "files": lab.files(), "nodes": nodes});
            return print::json(&all);
        }
        let of = if name == "main" { String::new() } else { format!(" --name {name}") };
        let last = nodes - 1;
        say!("{BOLD}lab {name}{BOLD:#}: {} serve after {:.1} s", count(nodes.into(), "node"), took.as_secs_f64());
        say!("machines    {} to n{last}, {} to {}", lab.space(Some(0)), Lab::node_address(0), Lab::node_address(last));
        say!("clients     {}", lab.space(None));
        say!("service     web, {} on every node, at http://{}/", lab.web, Lab::address());
        say!("files       {}", lab.files().display());
        say!("");
        say!("ask it      apus lab exec{of} client -- curl -s http://{}/", Lab::address());
        say!("look        apus lab status{of};  apus vip status --control {}", lab.control(0).display());
        say!("break it    apus lab fault{of} dispatcher power-off;  apus lab fault --help");
        say!("mend it     apus lab heal{of}");
        say!("end it      apus lab down{of}");
    }

    fn status(lab: &Lab, format: Format) {
        let all = lab.status();
        if format == Format::Json {
            let row = |status: &Status| {
                json!({"node": status.node, "machine": status.machine, "daemon": status.daemon, "faults": status.faults,
                       "web": status.web, "says": status.says})
            };
            return print::json(&json!({"apus": VERSION, "nodes": all.iter().map(row).collect::<Vec<_>>()}));
        }
        say!(
            "{BOLD}{:<6}{:<12}{:<9}{:<12}{:<12}{:<12}{:<10}faults{BOLD:#}",
            "node",
            "machine",
            "daemon",
            "sees up",
            "dispatcher",
            "coordinator",
            "web"
        );
        for status in all {
            let up =
                status.says["nodes"].as_array().map(|nodes| nodes.iter().filter(|node| node["status"] == "up").count());
            let node = |value: &Value| value.as_u64().map_or_else(|| "-".to_owned(), |node| format!("n{node}"));
            let up = up.map_or_else(|| "-".to_owned(), |up| format!("{up} of {}", lab.nodes()));
            let faults = if status.faults.is_empty() { "-".to_owned() } else { status.faults.join(", ") };
            say!(
                "{:<6}{:<12}{:<9}{:<12}{:<12}{:<12}{:<10}{faults}",
                format!("n{}", status.node),
                status.machine,
                status.daemon,
                up,
                node(&status.says["dispatcher"]),
                node(&status.says["coordinator"]),
                status.web
            );
        }
    }
}
