//! `apus config`.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::args::Format;
use crate::operate::ConfigCommand;
use crate::print::{self, say};
use crate::{Trouble, VERSION, plan};

/// Something is wrong.
const WRONG: u8 = 1;

pub(crate) fn config(what: &ConfigCommand, format: Format) -> Result<u8, Trouble> {
    match what {
        ConfigCommand::Check { files, here } => check(files, *here, format),
        ConfigCommand::Apply { file, dry_run, control } => apply(file, *dry_run, control, format),
    }
}

fn check(files: &[PathBuf], here: bool, format: Format) -> Result<u8, Trouble> {
    let read = |file: &PathBuf| {
        let name = file.display().to_string();
        match std::fs::read_to_string(file) {
            Ok(text) => Ok((name, text)),
            Err(error) => Err(Trouble::Usage(format!("{name}: {error}"))),
        }
    };
    let texts: Vec<(String, String)> = files.iter().map(read).collect::<Result<_, _>>()?;
    let mut wrong = apus_node::check(&texts);
    if here && wrong.is_empty() {
        wrong = apus_node::check_here(&texts);
    }
    if format == Format::Json {
        let all: Vec<Value> =
            wrong.iter().map(|one| json!({ "file": one.file, "line": one.line, "what": one.what })).collect();
        print::json(&json!({ "apus": VERSION, "files": texts.len(), "wrong": all }));
    } else {
        wrong.iter().for_each(|one| say!("{one}"));
        if wrong.is_empty() {
            texts.iter().for_each(|(name, _)| say!("{name}: nothing is wrong"));
        } else {
            print::error(&print::count(wrong.len() as u64, "mistake"));
        }
    }
    Ok(if wrong.is_empty() { 0 } else { WRONG })
}

fn apply(file: &Path, dry_run: bool, control: &Path, format: Format) -> Result<u8, Trouble> {
    let place = std::path::absolute(file).map_err(|error| Trouble::Usage(format!("{}: {error}", file.display())))?;
    let order = json!({ "do": "apply", "file": place });
    plan::order(control, order, dry_run, format, |answer| {
        say!("applied");
        plan::text(&answer["plan"]);
    })
}
