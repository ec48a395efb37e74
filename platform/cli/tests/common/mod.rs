//! Runs the command as a user would, from the root of the repository.

use std::path::{Path, PathBuf};
use std::process::Command;

/// What a run of the command gave.
#[allow(dead_code, reason = "not every test file needs all")]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

#[allow(dead_code, reason = "not every test file needs it")]
impl Ran {
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {}{}", self.stdout, self.stderr))
    }
}

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the repository is there")
}

pub(crate) fn apus(args: &[&str]) -> Ran {
    apus_with(args, &[])
}

pub(crate) fn apus_with(args: &[&str], env: &[(&str, &str)]) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_apus"));
    command.args(args).current_dir(root()).env("COLUMNS", "100").env_remove("NO_COLOR").env_remove("CLICOLOR_FORCE");
    command.env_remove("APUS_CONTROL");
    command.envs(env.iter().copied());
    let out = command.output().expect("the command starts");
    let code = out.status.code().expect("it was not killed");
    assert_ne!(code, 101, "{args:?}: a panic");
    Ran {
        code,
        stdout: String::from_utf8(out.stdout).expect("UTF-8"),
        stderr: String::from_utf8(out.stderr).expect("UTF-8"),
    }
}

/// A folder of its own, empty.
#[allow(dead_code, reason = "not every test file needs one")]
pub(crate) fn temp(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).expect("it can be made");
    dir
}

/// Compares with a stored text; `INSTA_UPDATE=always` writes it anew. Hashes change with every change of the engine: they
/// are left out.
#[allow(dead_code, reason = "not every test file needs one")]
pub(crate) fn snapshot(name: &str, text: &str) {
    let plain: Vec<String> = text.lines().map(|line| without_hashes(line.trim_end())).collect();
    insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true, snapshot_path => "../snapshots" }, {
        insta::assert_snapshot!(name, plain.join("\n"));
    });
}

#[allow(dead_code, reason = "not every test file needs one")]
fn without_hashes(line: &str) -> String {
    let mut out = String::new();
    for word in line.split_inclusive([' ', '(', ')']) {
        let bare = word.trim_end_matches([' ', '(', ')']);
        let hash = (bare.len() == 32 || bare.len() == 16) && bare.chars().all(|c| c.is_ascii_hexdigit());
        if hash {
            out += "<hash>";
            out += &word[bare.len()..];
        } else {
            out += word;
        }
    }
    out
}

/// An entry of the corpus.
#[allow(dead_code, reason = "not every test file needs one")]
pub(crate) fn corpus(name: &str) -> String {
    root().join("scenarios/corpus").join(name).with_extension("json").display().to_string()
}
