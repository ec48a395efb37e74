//! `apus node unit`: the unit that is shipped, for this program and a configuration.

use std::path::Path;

use crate::Trouble;

const UNIT: &str = include_str!("apus.service");

/// The unit's text.
pub(crate) fn text(config: &Path) -> Result<String, Trouble> {
    let failed = |error: std::io::Error| Trouble::Internal(error.to_string());
    let program = std::env::current_exe().map_err(failed)?;
    let config = std::path::absolute(config).map_err(failed)?;
    Ok(UNIT.replace("@PROGRAM@", &word(&program)?).replace("@CONFIG@", &word(&config)?))
}

/// A word of a command in a unit: quoted, with `%` and `$` as they are.
fn word(path: &Path) -> Result<String, Trouble> {
    let text = path.to_str().filter(|text| !text.chars().any(char::is_control));
    let wrong = || Trouble::Usage(format!("{}: a unit cannot have such a path", path.display()));
    let text = text.ok_or_else(wrong)?.replace('%', "%%").replace('$', "$$");
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+%$".contains(c);
    if text.chars().all(plain) {
        return Ok(text);
    }
    Ok(format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_names_this_program_and_odd_paths_are_quoted() {
        let text = text(Path::new("/etc/a b%.toml")).ok().expect("a unit");
        assert!(text.contains(" node run --config \"/etc/a b%%.toml\"\n") && !text.contains('@'), "{text}");
        let check = text.find("ExecReload=").map(|at| &text[at..]).expect("a reload");
        assert!(check.lines().next().is_some_and(|line| line.ends_with(" config check \"/etc/a b%%.toml\"")), "{text}");
        assert!(word(Path::new("/a\nb")).is_err());
    }
}
