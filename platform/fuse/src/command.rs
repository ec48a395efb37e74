//! The command.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use apus_capture::Consumer;
use apus_capture::linux::{Discard, Replay};
use apus_fuse::{Mounted, Options, Transport};

const USAGE: &str = "apus-fuse mount ROOT --match PATTERN... (--copy-to DIR | --discard) [--transport device|ring] [--no-passthrough]
                [--no-realtime] [--no-stay] [--direct PATTERN... | --no-direct] [--queue-mib N] [--stall-ms N]
    mounts over the folder ROOT, and does what programs do to the files that fit over again in DIR; `!PATTERN` takes names out again,
    the last that fits decides; `--direct`: files of these that are written rather than read (*-wal, *-journal, *.wal, *.aof, *.log); ends on SIGTERM or SIGINT, once no program uses ROOT; a second signal takes it away from sight
apus-fuse status ROOT
    tells how requests come, whether the order is kept, and what waits
apus-fuse unmount ROOT [--lazy]
    takes the mount away; `--lazy`: from sight at once, and in truth once no program uses it";

#[derive(Default)]
struct Args {
    root: Option<PathBuf>,
    patterns: Vec<String>,
    copy_to: Option<PathBuf>,
    discard: bool,
    transport: Option<Transport>,
    no_passthrough: bool,
    direct: Vec<String>,
    no_direct: bool,
    no_realtime: bool,
    no_stay: bool,
    queue_mib: Option<usize>,
    stall_ms: Option<u64>,
    lazy: bool,
}

impl Args {
    fn read(mut args: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut read = Self::default();
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
            let number = |text: String| text.parse::<u64>().map_err(|_| format!("{arg} is a number, not {text}"));
            match arg.as_str() {
                "--match" => read.patterns.push(value()?),
                "--copy-to" => read.copy_to = Some(value()?.into()),
                "--discard" => read.discard = true,
                "--direct" => read.direct.push(value()?),
                "--no-direct" => read.no_direct = true,
                "--no-realtime" => read.no_realtime = true,
                "--no-stay" => read.no_stay = true,
                "--no-passthrough" => read.no_passthrough = true,
                "--queue-mib" => {
                    let mib = number(value()?)?;
                    if !(1..=65_536).contains(&mib) {
                        return Err(format!("--queue-mib is 1 to 65536, not {mib}"));
                    }
                    read.queue_mib = usize::try_from(mib).ok();
                }
                "--stall-ms" => read.stall_ms = Some(number(value()?)?),
                "--lazy" => read.lazy = true,
                "--transport" => {
                    read.transport = Some(match value()?.as_str() {
                        "device" => Transport::Device,
                        "ring" => Transport::Ring,
                        other => return Err(format!("--transport is device or ring, not {other}")),
                    });
                }
                other if other.starts_with('-') || read.root.is_some() => {
                    return Err(format!("{other} is no option; see apus-fuse --help"));
                }
                root => read.root = Some(root.into()),
            }
        }
        Ok(read)
    }

    fn root(&self) -> Result<&Path, String> {
        self.root.as_deref().ok_or_else(|| "ROOT is missing: which folder?".to_string())
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
        "mount" => Args::read(args).and_then(mount),
        "status" => Args::read(args).and_then(|args| {
            let text = apus_fuse::status(args.root()?).map_err(|error| error.to_string())?;
            // Whoever reads it may have seen enough.
            let _ = io::Write::write_all(&mut io::stdout(), text.as_bytes());
            Ok(())
        }),
        "unmount" => Args::read(args)
            .and_then(|args| apus_fuse::unmount(args.root()?, args.lazy).map_err(|error| error.to_string())),
        other => Err(format!("`{other}` is no command\n{USAGE}")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("apus-fuse: {why}");
            ExitCode::FAILURE
        }
    }
}

fn mount(args: Args) -> Result<(), String> {
    let told = |error: io::Error| error.to_string();
    let root = args.root()?.to_path_buf();
    if args.patterns.is_empty() {
        return Err("--match is missing: which files?".into());
    }
    let mut options = Options::new(&root, &[]);
    options.patterns = args.patterns;
    options.transport = args.transport;
    options.passthrough = !args.no_passthrough;
    options.realtime = !args.no_realtime;
    options.stay = !args.no_stay;
    if args.no_direct || !args.direct.is_empty() {
        options.direct = args.direct;
    }
    options.queue_bytes = args.queue_mib.map_or(options.queue_bytes, |mib| mib << 20);
    options.stall_ms = args.stall_ms.unwrap_or(options.stall_ms);
    let consumer: Box<dyn Consumer + Send> = match (&args.copy_to, args.discard) {
        (Some(copy), false) => {
            let replay = Replay::new(copy).map_err(|error| format!("{}: {error}", copy.display()))?;
            let below = |path: &Path| path.canonicalize().map_err(told);
            // A dead daemon's mount has no true name; it is taken away below.
            if let Ok(root) = below(&root)
                && below(copy)?.starts_with(&root)
            {
                return Err(format!("{} lies in {}: the copy would be copied", copy.display(), root.display()));
            }
            Box::new(replay)
        }
        (None, true) => Box::new(Discard),
        _ => return Err("either --copy-to or --discard".into()),
    };
    // Before there are threads: all of them leave these signals to this one.
    let signals = Signals::block();
    let mounted = Mounted::new(options, consumer).map_err(told)?;
    eprint!("mounted at {}\n{}", mounted.root().display(), mounted.status());
    let (mut asked, mut said) = (0, false);
    while !mounted.ended() {
        asked += u32::from(signals.wait(Duration::from_millis(200)));
        if asked == 0 {
            continue;
        }
        let done = if asked == 1 { mounted.unmount() } else { apus_fuse::unmount(mounted.root(), true) };
        if let Err(error) = done
            && !std::mem::replace(&mut said, true)
        {
            eprintln!("apus-fuse: {error}; it ends as soon as it can");
        }
    }
    if mounted.finish(Duration::from_secs(60)) { Ok(()) } else { Err("the consumer has not taken all".into()) }
}

/// SIGINT and SIGTERM, waited for rather than handled.
struct Signals(libc::sigset_t);

impl Signals {
    #[allow(unsafe_code, reason = "a signal set is filled by the C library")]
    fn block() -> Self {
        // SAFETY: a set of zeros is one.
        let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
        for signal in [libc::SIGINT, libc::SIGTERM] {
            // SAFETY: the set is there.
            unsafe { libc::sigaddset(&raw mut set, signal) };
        }
        // SAFETY: the set is there; the old one is not asked for.
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
        Self(set)
    }

    /// Whether one came within `limit`.
    fn wait(&self, limit: Duration) -> bool {
        let limit = libc::timespec { tv_sec: 0, tv_nsec: limit.subsec_nanos().into() };
        // SAFETY: set and limit are there; what came is not asked for.
        unsafe { libc::sigtimedwait(&raw const self.0, std::ptr::null_mut(), &raw const limit) > 0 }
    }
}
