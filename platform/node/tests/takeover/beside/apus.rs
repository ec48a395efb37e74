//! Apus on the field: three nodes, the address, and a service with one owner.

use std::path::PathBuf;
use std::process::Child;
use std::time::Duration;

use apus_node::{Config, ask, init};
use serde_json::{Value, json};

use super::clock::{boot_us, wall_us};
use super::copy;
use super::faults::{Fault, Stack};
use super::field::{Field, NODES};
use super::stop::until;
use super::tail::Tail;
use crate::cluster::{all_serve, any, end};
use crate::watch::Watch;

pub(crate) const NAME: &str = "Apus";
/// What a daemon tells when it takes another for down.
const DOWN: &[&str] = &["\"down\""];

pub(crate) struct Apus {
    nodes: Vec<Option<Child>>,
    watch: Watch,
    tails: Vec<Tail>,
    copies: PathBuf,
    /// What was told before of two dispatchers.
    /// What was seen before this was told, in microseconds of the wall clock, and so many impostors.
    marked: u64,
    impostors: u64,
    field: Field,
}

impl Drop for Apus {
    fn drop(&mut self) {
        self.nodes.iter_mut().flatten().for_each(end);
    }
}

impl Apus {
    pub(crate) fn new() -> Result<Self, String> {
        let field = Field::new()?;
        let watch = Watch::start(&field.net)?;
        let copies = field.folder("copies")?;
        let tails = (0..NODES).map(|node| Tail::new(field.file(&format!("told{node}")), DOWN)).collect();
        let nodes = (0..NODES).map(|_| None).collect();
        let mut apus = Self { nodes, watch, tails, copies, marked: 0, impostors: 0, field };
        for node in 0..NODES {
            apus.write(node)?;
            apus.start(node)?;
        }
        Ok(apus)
    }

    fn config(&self, node: usize) -> String {
        self.field.file(&format!("node{node}.toml")).display().to_string()
    }

    /// A node's file and its store.
    fn write(&self, node: usize) -> Result<(), String> {
        let file = self.field.net.config(node, apus_engine::wire::VERSION)?;
        let text = std::fs::read_to_string(&file).map_err(|error| error.to_string())?;
        let told = self.field.file(&format!("told{node}"));
        let text = format!(
            "told = \"{}\"\n{text}[[services]]\nname = \"copy\"\ncommand = [\"{}\", \"copy\", \"{}\"]\n\
             strategy = \"cold\"\ncandidates = [0, 1, 2]\n",
            told.display(),
            self.field.exe,
            self.copies.display()
        );
        std::fs::write(&file, &text).map_err(|error| error.to_string())?;
        init(&Config::read(&file, &text).map_err(|error| error.to_string())?).map_err(|error| error.to_string())
    }

    fn start(&mut self, node: usize) -> Result<(), String> {
        let command = [&self.field.exe[..], "node", &self.config(node)];
        let child = self.field.start(&self.field.net.node(node), &command, &format!("node{node}.log"))?;
        self.nodes[node] = Some(child);
        Ok(())
    }

    fn ask(&self, node: usize, question: &Value) -> Result<Value, String> {
        ask(&self.field.file(&format!("control{node}")), question).map_err(|error| error.to_string())
    }

    /// Asks any node.
    fn order(&self, question: &Value) -> Result<(), String> {
        until(5, "an order", || any(NODES, |node| self.ask(node, question)))
    }

    fn number(value: &Value) -> Option<usize> {
        value.as_u64().and_then(|node| usize::try_from(node).ok())
    }

    /// Who dispatches by its own word, and who coordinates.
    fn dispatcher(&self) -> Result<(usize, Option<usize>), String> {
        for node in 0..NODES {
            let status = self.ask(node, &json!({"do": "status"}))?;
            if status["dispatches"] == true && status["dispatcher"] == node {
                return Ok((node, Self::number(&status["coordinator"])));
            }
        }
        Err("nobody dispatches".into())
    }

    /// Where the copy runs, if one does and all nodes serve.
    fn whole(&self) -> Result<usize, String> {
        let mut run = Vec::new();
        for node in 0..NODES {
            all_serve(node, NODES, &self.ask(node, &json!({"do": "table"}))?)?;
            let services = self.ask(node, &json!({"do": "services"}))?;
            let rows = services["services"].as_array().cloned().unwrap_or_default();
            if rows.iter().any(|row| row["name"] == "copy" && row["here"] == true && row["state"] == "ready") {
                run.push(node);
            }
        }
        match run[..] {
            [node] => Ok(node),
            _ => Err(format!("copies are ready on nodes {run:?}")),
        }
    }
}

impl Stack for Apus {
    fn name(&self) -> &'static str {
        NAME
    }
    fn field(&mut self) -> &mut Field {
        &mut self.field
    }
    fn see(&self) -> &Field {
        &self.field
    }
    fn tails(&self) -> &[Tail] {
        &self.tails
    }
    fn copies(&self) -> Option<&PathBuf> {
        Some(&self.copies)
    }
    fn keeps(&self) -> Duration {
        Duration::from_millis(2_500)
    }
    fn daemons(&self, node: usize) -> Vec<u32> {
        self.nodes[node].iter().map(Child::id).collect()
    }

    fn settle(&mut self) -> Result<usize, String> {
        until(40, "the cluster is not whole", || {
            let runs = self.whole()?;
            let (dispatches, _) = self.dispatcher()?;
            if dispatches != runs {
                self.order(&json!({"do": "move", "node": runs}))?;
                // A second order by what was so before would have it go to and fro.
                std::thread::sleep(Duration::from_millis(300));
                return Err(format!("{dispatches} dispatches, the copy is on {runs}"));
            }
            let alive = copy::lives(&self.copies, boot_us().saturating_sub(60_000)).len();
            if alive == 1 { Ok(runs) } else { Err(format!("{alive} copies live")) }
        })
    }

    fn hand_over(&mut self, from: usize) -> Result<(), String> {
        let (_, coordinator) = self.dispatcher()?;
        let others = (1..NODES).map(|more| (from + more) % NODES);
        // To one that does not coordinate, as it has more to do than another.
        let to = others.clone().find(|to| Some(*to) != coordinator).or(others.clone().next());
        self.order(&json!({"do": "move", "node": to}))?;
        self.order(&json!({"do": "move", "what": "copy", "node": to}))
    }

    fn revive(&mut self, node: usize, fault: Fault) -> Result<(), String> {
        if fault != Fault::Kill {
            return Ok(());
        }
        if let Some(mut child) = self.nodes[node].take() {
            let _ = child.wait();
        }
        self.start(node)
    }

    fn dispatchers(&mut self) -> Option<u64> {
        let seen = self.watch.seen_since(self.marked);
        self.marked = wall_us();
        let impostors = seen.impostors - self.impostors;
        self.impostors = seen.impostors;
        // Of one epoch, two would be the worst of all.
        Some(seen.overlap_us.max(if impostors > 0 { u64::MAX / 2 } else { 0 }))
    }
}
