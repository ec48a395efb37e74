//! `apus man`.

use std::path::Path;

use clap::{Command, CommandFactory as _};
use serde_json::json;

use crate::args::{Cli, Format};
use crate::print::{self, say};
use crate::{Trouble, VERSION};

/// Writes a page for the command and each of its commands, but hidden ones.
pub(crate) fn pages(dir: &Path, format: Format) -> Result<u8, Trouble> {
    let mut root = Cli::command();
    root.build();
    let mut written = Vec::new();
    page(dir, root, &mut written)?;
    if format == Format::Json {
        print::json(&json!({ "apus": VERSION, "written": written }));
    } else {
        say!("{}: {}", dir.display(), print::count(written.len() as u64, "page"));
    }
    Ok(0)
}

fn page(dir: &Path, command: Command, written: &mut Vec<String>) -> Result<(), Trouble> {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
    let below: Vec<Command> =
        command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help").cloned().collect();
    let mut bytes = Vec::new();
    let text = clap_mangen::Man::new(command).title(name.to_uppercase()).date("").manual("Apus");
    text.render(&mut bytes).map_err(|error| Trouble::Internal(error.to_string()))?;
    let file = format!("{name}.1");
    crate::write(&dir.join(&file), bytes)?;
    written.push(file);
    below.into_iter().try_for_each(|sub| page(dir, sub, written))
}
