//! The command.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

use apus_capture::Group;
use apus_capture::linux::{Capture, Discard, Drainer, Guard, Policy, Replay};

const USAGE: &str = "apus-capture drain --ring FILE --root DIR --match PATTERN... (--into DIR | --discard) [--guard refuse|mark]
    hands over what programs do to the files below DIR that fit; `!PATTERN` takes names out again, the last that fits decides
apus-capture run --ring FILE [--library FILE] -- PROGRAM ARGS...
    starts a program under the library
apus-capture status --ring FILE
    tells whether the order is kept, and what waits";

#[derive(Default)]
struct Args {
    ring: Option<PathBuf>,
    root: Option<PathBuf>,
    patterns: Vec<String>,
    into: Option<PathBuf>,
    discard: bool,
    guard: Option<Policy>,
    library: Option<PathBuf>,
    rest: Vec<String>,
}

impl Args {
    fn read(mut args: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut read = Self::default();
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
            match arg.as_str() {
                "--ring" => read.ring = Some(value()?.into()),
                "--root" => read.root = Some(value()?.into()),
                "--match" => read.patterns.push(value()?),
                "--into" => read.into = Some(value()?.into()),
                "--library" => read.library = Some(value()?.into()),
                "--discard" => read.discard = true,
                "--guard" => {
                    read.guard = Some(match value()?.as_str() {
                        "refuse" => Policy::Refuse,
                        "mark" => Policy::Mark,
                        other => return Err(format!("--guard is refuse or mark, not {other}")),
                    });
                }
                "--" => read.rest = args.by_ref().collect(),
                other => return Err(format!("{other} is no option; see apus-capture --help")),
            }
        }
        Ok(read)
    }

    fn ring(&self) -> Result<&Path, String> {
        self.ring.as_deref().ok_or_else(|| "--ring is missing".to_string())
    }
}

pub(crate) fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let command = args.next().unwrap_or_default();
    let done = match command.as_str() {
        "--help" | "-h" | "help" => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        "drain" => Args::read(args).and_then(|args| drain(&args)),
        "run" => Args::read(args).and_then(|args| run(&args)),
        "status" => Args::read(args).and_then(|args| status(&args)),
        other => Err(format!("`{other}` is no command\n{USAGE}")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("apus-capture: {why}");
            ExitCode::FAILURE
        }
    }
}

fn drain(args: &Args) -> Result<(), String> {
    let ring = args.ring()?.to_path_buf();
    let root = args.root.as_deref().ok_or("--root is missing")?;
    if args.patterns.is_empty() {
        return Err("--match is missing: which files?".into());
    }
    let patterns: Vec<&str> = args.patterns.iter().map(String::as_str).collect();
    let told = |error: io::Error| error.to_string();
    Group::new(root, &patterns).create(&ring).map_err(told)?;
    let mut drainer = Drainer::open(&ring).map_err(told)?;
    if let Some(policy) = args.guard {
        let mut guard = Guard::new(&ring, policy).map_err(told)?;
        std::thread::spawn(move || {
            loop {
                match guard.answer(500) {
                    Ok(verdicts) => {
                        for verdict in verdicts {
                            let path = String::from_utf8_lossy(&verdict.path).into_owned();
                            let done = if verdict.allowed { "changes it, and is not captured" } else { "was refused" };
                            eprintln!(
                                "guard: process {} without the library opens {path} for writing: {done}",
                                verdict.process
                            );
                        }
                    }
                    Err(error) => eprintln!("guard: {error}"),
                }
                if let Err(error) = guard.refresh() {
                    eprintln!("guard: {error}");
                }
            }
        });
    }
    let stop = AtomicBool::new(false);
    let done = match (&args.into, args.discard) {
        (Some(into), false) => drainer.run(&mut Replay::new(into).map_err(told)?, &stop),
        (None, true) => drainer.run(&mut Discard, &stop),
        _ => return Err("either --into or --discard".into()),
    };
    done.map_err(told)
}

fn run(args: &Args) -> Result<(), String> {
    let ring = args.ring()?;
    Capture::at(ring).map_err(|error| error.to_string())?;
    let beside = std::env::current_exe().ok().map(|own| own.with_file_name("libapus_interpose.so"));
    let library = args.library.clone().or(beside).filter(|library| library.exists());
    let library = library.ok_or("libapus_interpose.so does not lie beside this program; name it with --library")?;
    let (program, rest) = args.rest.split_first().ok_or("a program is missing, after --")?;
    let error =
        std::process::Command::new(program).args(rest).env("LD_PRELOAD", library).env("APUS_CAPTURE", ring).exec();
    Err(format!("{program}: {error}"))
}

fn status(args: &Args) -> Result<(), String> {
    let status = Capture::at(args.ring()?).map_err(|error| error.to_string())?.status();
    let list = |words: Vec<&str>| if words.is_empty() { "nothing".to_string() } else { words.join(", ") };
    let order =
        if status.reasons.in_order() { "kept".into() } else { format!("lost: {}", list(status.reasons.words())) };
    let mut text = format!("order: {order}\nlost so far: {} times, by: {}\n", status.lost, list(status.ever.words()));
    let (records, shipped, waiting) = (status.next - 1, status.shipped, status.waiting);
    text += &format!("records: {records}, handed over up to {shipped}, {waiting} bytes wait\n");
    text += &format!("copied before overwriting: {} bytes\n", status.copied);
    if status.untracked {
        text += "files change without records: they are read again and again, consistent at msync at best\n";
    }
    // Whoever reads it may have seen enough.
    let _ = io::Write::write_all(&mut io::stdout(), text.as_bytes());
    Ok(())
}
