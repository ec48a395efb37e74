//! `[remote]`: what other nodes' operators may have done here. Nothing, unless the file says so.

use std::path::PathBuf;

use apus_engine::NodeId;

use crate::hex::hex;
use crate::section::{Section, Value, Wrong, number, text};
use crate::service::{bytes, time};

/// What may be done here, by whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    /// Users, by their numbers at the node where they ask.
    pub users: Vec<u32>,
    /// Nodes from which it may be asked; `None`: all.
    pub nodes: Option<Vec<NodeId>>,
    /// The UDP port of streams; `None`: two above that of the nodes.
    pub port: Option<u16>,
    /// Commands.
    pub exec: Vec<Run>,
    /// Folders.
    pub copy: Vec<Folder>,
}

/// A command that may be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Its absolute path.
    pub command: String,
    /// A pattern for each argument.
    pub args: Vec<String>,
    /// Whether any arguments may follow.
    pub more: bool,
    /// As whom; `None`: as the node.
    pub user: Option<String>,
    /// How long it may take, in microseconds.
    pub time: u64,
    /// How much it may say, in bytes, on both outputs together.
    pub output: u64,
    /// Whether it is given what the asker types.
    pub input: bool,
}

/// A folder that may be copied from or to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folder {
    /// Its absolute path.
    pub folder: PathBuf,
    /// Whether files below it may be copied from here.
    pub read: bool,
    /// Whether files may be put below it.
    pub write: bool,
    /// A file has at most so many bytes.
    pub most: u64,
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Its exit code.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Why it was ended before its end.
    pub cut: Option<String>,
}

/// What came of a copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Length of the file.
    pub bytes: u64,
    /// How much was there already from an earlier attempt.
    pub before: u64,
}

#[cfg(target_os = "linux")]
pub use crate::linux::remote::client::{exec, pull, push};
#[cfg(not(target_os = "linux"))]
pub use elsewhere::{exec, pull, push};

#[cfg(not(target_os = "linux"))]
mod elsewhere {
    use std::io::{Read, Write};
    use std::path::Path;

    use super::{Copied, Ended};
    use crate::Error;

    fn no<T>() -> Result<T, Error> {
        Err(Error::Usage("a node runs on Linux only so far: ask it there".into()))
    }

    /// Runs a command at a node.
    ///
    /// # Errors
    /// Always: only Linux runs nodes.
    pub fn exec(
        _: &Path,
        _: u16,
        _: &[String],
        _: Option<Box<dyn Read + Send>>,
        _: &mut dyn Write,
        _: &mut dyn Write,
    ) -> Result<Ended, Error> {
        no()
    }

    /// Copies a file to a node.
    ///
    /// # Errors
    /// Always: only Linux runs nodes.
    pub fn push(_: &Path, _: &Path, _: u16, _: &str) -> Result<Copied, Error> {
        no()
    }

    /// Copies a file of a node.
    ///
    /// # Errors
    /// Always: only Linux runs nodes.
    pub fn pull(_: &Path, _: u16, _: &str, _: &Path) -> Result<Copied, Error> {
        no()
    }
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    /// To run a command.
    Exec(Vec<String>),
    /// To have a file from here.
    Pull(String),
    /// To put a file here.
    Push(String),
}

/// What is granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Grant {
    Exec { words: Vec<String>, rule: Run },
    Pull { path: String, rule: Folder },
    Push { path: String, rule: Folder },
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asker {
    pub(crate) node: NodeId,
    pub(crate) user: u32,
    /// Zero if the system does not say.
    pub(crate) process: u32,
}

impl std::fmt::Display for Asker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "user {} at node {} (process {})", self.user, self.node.0, self.process)
    }
}

/// Words as a shell would have them, near enough to be read.
pub(crate) fn shown(words: &[String]) -> String {
    let plain = |word: &String| {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "/-_.,:=+@%".contains(c);
        if !word.is_empty() && word.chars().all(is_plain) { word.clone() } else { format!("{word:?}") }
    };
    words.iter().map(plain).collect::<Vec<_>>().join(" ")
}

/// Words that are longer are told by their beginning, and by what tells them from all others. In characters.
const WHOLE: usize = 250;

/// All of them, or the first characters, and length and hash of the words with a zero byte after each: `printf '%s\\0' … | sha256sum`.
fn brief(words: &[String]) -> String {
    let shown = shown(words);
    if shown.chars().count() <= WHOLE {
        return shown;
    }
    let (mut sum, mut bytes) = (apus_quic::Sum::new(), 0);
    for part in words.iter().flat_map(|word| [word.as_bytes(), &[0]]) {
        sum.add(part);
        bytes += part.len();
    }
    format!("{}… ({bytes} bytes, SHA-256 {})", shown.chars().take(WHOLE).collect::<String>(), hex(&sum.end()))
}

impl std::fmt::Display for Wish {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exec(words) => write!(f, "run {}", brief(words)),
            Self::Pull(path) => write!(f, "copy {} from there", brief(std::slice::from_ref(path))),
            Self::Push(path) => write!(f, "copy a file to {} there", brief(std::slice::from_ref(path))),
        }
    }
}

impl Wish {
    /// A word for journal and counters.
    pub(crate) const fn kind(&self) -> &'static str {
        match self {
            Self::Exec(_) => "exec",
            Self::Pull(_) | Self::Push(_) => "copy",
        }
    }
}

/// Whether a text is of a pattern, in which `*` stands for any characters, also none.
fn fits(pattern: &str, word: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| word.strip_prefix(first)) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

impl Run {
    fn fits(&self, words: &[String]) -> bool {
        let Some((name, args)) = words.split_first() else { return false };
        let many = if self.more { args.len() >= self.args.len() } else { args.len() == self.args.len() };
        *name == self.command && many && self.args.iter().zip(args).all(|(pattern, word)| fits(pattern, word))
    }
}

/// The part of a path below a folder, as the two are written.
fn below<'p>(folder: &std::path::Path, path: &'p str) -> Option<&'p str> {
    let folder = folder.to_str()?.trim_end_matches('/');
    path.strip_prefix(folder)?.strip_prefix('/').filter(|rest| !rest.is_empty())
}

/// Judges a wish; `None` for a policy: the file has no `[remote]`.
///
/// # Errors
/// Why it is refused, and how to mend it.
pub(crate) fn judge(policy: Option<&Remote>, by: Asker, wish: &Wish) -> Result<Grant, String> {
    let off = "remote execution and copy are off at this node: its file has no `[remote]`";
    let policy = policy.ok_or_else(|| off.to_owned())?;
    if !policy.users.contains(&by.user) {
        return Err(format!("user {} is not among `users` of its `[remote]`", by.user));
    }
    if policy.nodes.as_ref().is_some_and(|nodes| !nodes.contains(&by.node)) {
        return Err(format!("node {} is not among `nodes` of its `[remote]`", by.node.0));
    }
    let folder = |path: &str, may: fn(&Folder) -> bool, what: &str| {
        // The innermost says.
        let found = policy.copy.iter().filter_map(|rule| Some((rule, below(&rule.folder, path)?)));
        let inner = found.max_by_key(|(rule, _)| rule.folder.as_os_str().len());
        let (rule, path) =
            inner.ok_or_else(|| format!("no `[[remote.copy]]` of its file has a folder above {path:?}"))?;
        if may(rule) {
            return Ok((path.to_owned(), rule.clone()));
        }
        Err(format!("`[[remote.copy]]` of {} has no `{what} = true`", rule.folder.display()))
    };
    match wish {
        Wish::Exec(words) => {
            let rule = policy.exec.iter().find(|rule| rule.fits(words)).cloned();
            let refused =
                || format!("no `[[remote.exec]]` of its file has this command with these arguments: {}", brief(words));
            Ok(Grant::Exec { words: words.clone(), rule: rule.ok_or_else(refused)? })
        }
        Wish::Pull(path) => folder(path, |rule| rule.read, "read").map(|(path, rule)| Grant::Pull { path, rule }),
        Wish::Push(path) => folder(path, |rule| rule.write, "write").map(|(path, rule)| Grant::Push { path, rule }),
    }
}

fn each<'t>(section: &Section<'t>, key: &str, name: &'static str) -> Result<Vec<Section<'t>>, Wrong> {
    let Some(value) = section.get(key) else { return Ok(Vec::new()) };
    let wrong = || (value.span(), format!("`{key}` must be a list of tables: write a `[[remote.{key}]]` for each"));
    let one = |entry: &'t Value<'t>| section.below(entry, name, "{ … }").map_err(|_| wrong());
    value.get_ref().as_array().ok_or_else(wrong)?.iter().map(one).collect()
}

fn numbers<T: TryFrom<u64>>(value: &Value<'_>, key: &str, want: &str) -> Result<Vec<T>, Wrong> {
    let wrong = || (value.span(), format!("`{key}` must be a list of {want}, such as [0]"));
    value.get_ref().as_array().ok_or_else(wrong)?.iter().map(|one| number(one, key, want)).collect()
}

fn absolute<'t>(section: &Section<'t>, key: &str, such: &str) -> Result<(&'t Value<'t>, &'t str), Wrong> {
    let value = section.need(key, &format!("\"{such}\""))?;
    let word = text(value, key)?;
    let dots = word.split('/').any(|part| part == ".." || part == ".");
    if !word.starts_with('/') || dots || word.contains('\0') {
        return Err((value.span(), format!("`{key}` is `{word}`, and must be an absolute path, such as `{such}`")));
    }
    Ok((value, word))
}

fn run(section: &Section<'_>) -> Result<Run, Wrong> {
    section.known(&["command", "args", "user", "time", "output", "input"]);
    let (_, command) = absolute(section, "command", "/usr/bin/uptime")?;
    let mut args = Vec::new();
    let mut more = false;
    if let Some(value) = section.get("args") {
        let want = "`args` must be a list: a pattern for each argument, in which `*` stands for any characters; \"...\" at the end for \
                    any more arguments";
        let wrong = || (value.span(), want.to_owned());
        for one in value.get_ref().as_array().ok_or_else(wrong)? {
            let word = text(one, "args").map_err(|_| wrong())?;
            if more {
                return Err((one.span(), "`...` stands at the end of `args` or nowhere".into()));
            }
            if word == "..." {
                more = true;
            } else {
                args.push(word.to_owned());
            }
        }
    }
    let time = match section.get("time") {
        None => 30_000_000,
        Some(value) => {
            let time = time(value, "time")?.0;
            if !(1_000..=3_600_000_000).contains(&time) {
                return Err((value.span(), "`time` must be 1ms to 1h".into()));
            }
            time
        }
    };
    Ok(Run {
        command: command.into(),
        args,
        more,
        user: section.get("user").map(|value| text(value, "user").map(str::to_owned)).transpose()?,
        time,
        output: section.get("output").map_or(Ok(1 << 20), |value| bytes(value, "output"))?,
        input: section.flag("input", false),
    })
}

fn folder(section: &Section<'_>) -> Result<Folder, Wrong> {
    section.known(&["folder", "read", "write", "most"]);
    let (value, folder) = absolute(section, "folder", "/srv/files")?;
    if folder.trim_end_matches('/').is_empty() {
        return Err((value.span(), "`folder` is the whole disk: name one below it".into()));
    }
    let (read, write) = (section.flag("read", false), section.flag("write", false));
    if !read && !write {
        return Err((section.span.clone(), "it allows nothing: write `read = true`, `write = true`, or both".into()));
    }
    let most = section.get("most").map_or(Ok(1 << 30), |value| bytes(value, "most"))?;
    Ok(Folder { folder: folder.into(), read, write, most })
}

/// Reads `[remote]`; `nodes` are those of the cluster, if those were read.
pub(crate) fn remote<'t>(file: &Section<'t>, value: &'t Value<'t>, nodes: Option<&[NodeId]>) -> Result<Remote, Wrong> {
    let section = file.below(value, "`remote`", "remote = { exec = [{ command = \"/usr/bin/uptime\" }] }")?;
    section.known(&["users", "nodes", "port", "exec", "copy"]);
    let from = match section.get("nodes") {
        None => None,
        Some(value) => {
            let all: Vec<u16> = numbers(value, "nodes", "nodes' numbers")?;
            if let Some(unknown) = all.iter().find(|node| nodes.is_some_and(|nodes| !nodes.contains(&NodeId(**node)))) {
                let what = format!("`nodes` names node {unknown}, which is not among the cluster's: add it there");
                return Err((value.span(), what));
            }
            Some(all.into_iter().map(NodeId).collect())
        }
    };
    let remote = Remote {
        users: section.get("users").map_or_else(|| Ok(vec![0]), |value| numbers(value, "users", "users' numbers"))?,
        nodes: from,
        port: section
            .get("port")
            .map(|value| number(value, "port", "1 to 65535"))
            .transpose()?
            .filter(|port| *port > 0),
        exec: each(&section, "exec", "a `[[remote.exec]]`")?.iter().map(run).collect::<Result<_, _>>()?,
        copy: each(&section, "copy", "a `[[remote.copy]]`")?.iter().map(folder).collect::<Result<_, _>>()?,
    };
    if remote.exec.is_empty() && remote.copy.is_empty() {
        let what = "`[remote]` allows nothing: write a `[[remote.exec]]`, a `[[remote.copy]]`, or take it out";
        return Err((section.span, what.into()));
    }
    Ok(remote)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;

    const HEAD: &str = "cluster = 7\nnode = 0\n[[nodes]]\nid = 0\naddress = \"127.0.0.1\"\n[[services]]\nname = \"web\"\n\
                        command = [\"/bin/true\"]\n";
    const FULL: &str = r#"[remote]
users = [0, 1000]
nodes = [0]
port = 7500
[[remote.exec]]
command = "/bin/systemctl"
args = ["status", "apus*"]
user = "nobody"
time = "5s"
output = "64K"
input = true
[[remote.exec]]
command = "/bin/echo"
args = ["..."]
[[remote.copy]]
folder = "/srv/files"
read = true
[[remote.copy]]
folder = "/srv/files/in"
write = true
most = "2M"
"#;

    fn policy(text: &str) -> Result<Option<Remote>, String> {
        Config::read("x", &format!("{HEAD}{text}")).map(|config| config.remote).map_err(|error| error.to_string())
    }

    fn words(words: &[&str]) -> Wish {
        Wish::Exec(words.iter().map(|word| (*word).to_owned()).collect())
    }

    const ROOT: Asker = Asker { node: NodeId(0), user: 0, process: 1 };

    #[test]
    fn a_long_wish_is_told_by_its_hash() {
        let wish = |tail: &str| words(&["/bin/sh", "-c", &("x".repeat(1_000) + tail)]).to_string();
        // As `printf '%s\0' /bin/sh -c xx…a | sha256sum` has it.
        let sum = "ba423ca7de11063ebd5b15b9a94be5bcac819f959342d9550945f6f9cd11fb3b";
        assert!(wish("a").ends_with(&format!("x… (1013 bytes, SHA-256 {sum})")), "{}", wish("a"));
        assert!(wish("a").starts_with("run /bin/sh -c xxx") && wish("a").chars().count() < 350);
        assert_ne!(wish("a"), wish("b"));
        assert_eq!(words(&["/bin/echo", "a b"]).to_string(), "run /bin/echo \"a b\"");
        assert!(Wish::Push("/x".repeat(400)).to_string().contains("(801 bytes, SHA-256 "));
    }

    #[test]
    fn a_star_stands_for_anything_and_nothing_else_does() {
        for (pattern, word) in [
            ("", ""),
            ("a", "a"),
            ("*", ""),
            ("*", "a/b"),
            ("a*", "a"),
            ("a*c", "abbc"),
            ("*b*", "abc"),
            ("a*b*c", "abc"),
        ] {
            assert!(fits(pattern, word), "{pattern} {word}");
        }
        for (pattern, word) in
            [("", "a"), ("a", ""), ("a", "ab"), ("a*", "ba"), ("a*a", "a"), ("*b", "abc"), ("a*b*b", "ab"), ("?", "a")]
        {
            assert!(!fits(pattern, word), "{pattern} {word}");
        }
    }

    #[test]
    fn what_is_not_allowed_is_refused_with_the_reason() {
        let policy = policy(FULL).expect("it is good");
        let may = |by: Asker, wish: &Wish| judge(policy.as_ref(), by, wish);
        let told = |by, wish: Wish, part: &str| {
            let why = may(by, &wish).expect_err(part);
            assert!(why.contains(part), "{wish}: {why}");
        };
        assert!(judge(None, ROOT, &words(&["/bin/echo"])).is_err_and(|why| why.contains("are off")));
        let granted = may(ROOT, &words(&["/bin/systemctl", "status", "apus.service"])).expect("it may");
        assert!(matches!(granted, Grant::Exec { rule: Run { time: 5_000_000, output: 65_536, input: true, .. }, .. }));
        assert!(may(ROOT, &words(&["/bin/echo", "a", "b"])).is_ok() && may(ROOT, &words(&["/bin/echo"])).is_ok());
        for wish in [
            &["/bin/systemctl", "status"][..],
            &["/bin/systemctl", "stop", "apus"],
            &["/bin/systemctl", "status", "apus", "x"],
            &["/bin/systemctl", "status", "nginx"],
            &["systemctl", "status", "apus"],
            &["/bin/sh", "-c", "id"],
            &[],
        ] {
            told(ROOT, words(wish), "no `[[remote.exec]]`");
        }
        told(Asker { user: 7, ..ROOT }, words(&["/bin/echo"]), "user 7 is not among");
        told(Asker { node: NodeId(2), ..ROOT }, words(&["/bin/echo"]), "node 2 is not among");
        assert!(may(Asker { user: 1000, ..ROOT }, &Wish::Pull("/srv/files/a".into())).is_ok());
        let Ok(Grant::Push { path, rule }) = may(ROOT, &Wish::Push("/srv/files/in/a/b".into())) else {
            panic!("it may")
        };
        assert_eq!((path.as_str(), rule.most), ("a/b", 2 << 20));
        told(ROOT, Wish::Push("/srv/files/a".into()), "has no `write = true`");
        // The inner folder says, not the outer one.
        told(ROOT, Wish::Pull("/srv/files/in/a".into()), "has no `read = true`");
        for path in ["/srv/filesystem", "/etc/shadow", "/srv/files", "/srv/files/", "a", ""] {
            told(ROOT, Wish::Pull(path.into()), "has a folder above");
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line_and_how_to_mend_it() {
        for (from, to, said) in [
            (
                "port = 7500",
                "prt = 1",
                "x:12: `prt` is not known in `remote`; known are users, nodes, port, exec, copy",
            ),
            ("[0, 1000]", "[\"root\"]", "x:10: `users` must be users' numbers"),
            ("[0, 1000]", "0", "x:10: `users` must be a list of users' numbers"),
            ("nodes = [0]", "nodes = [4]", "x:11: `nodes` names node 4"),
            ("\"/bin/systemctl\"", "\"systemctl\"", "x:14: `command` is `systemctl`, and must be an absolute path"),
            ("\"/bin/echo\"", "\"/bin/../echo\"", "x:21: `command` is `/bin/../echo`"),
            ("args = [\"...\"]", "args = [\"...\", \"a\"]", "x:22: `...` stands at the end"),
            ("args = [\"...\"]", "args = \"a\"", "x:22: `args` must be a list"),
            ("\"5s\"", "\"2h\"", "x:17: `time` must be 1ms to 1h"),
            (
                "input = true",
                "inptu = true",
                "x:19: `inptu` is not known in a `[[remote.exec]]`; known are command, args",
            ),
            ("input = true", "input = 1", "x:19: `input` must be true or false"),
            ("\"/srv/files\"", "\"/\"", "x:24: `folder` is the whole disk"),
            ("read = true", "", "x:23: it allows nothing"),
            ("most = \"2M\"", "most = \"2Q\"", "x:29: `most` is `2Q`, and must be bytes"),
        ] {
            let error = policy(&FULL.replacen(from, to, 1)).expect_err(to);
            assert!(error.contains(said), "{to}: {error}");
        }
        assert!(policy("[remote]\nusers = [0]\n").is_err_and(|error| error.contains("x:9: `[remote]` allows nothing")));
        assert_eq!(policy(""), Ok(None));
    }
}
