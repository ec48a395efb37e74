//! Torn copies, lag and cost of systems that keep copies of files: `benches/compare-replication` builds and starts it.

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn main() -> std::io::Result<std::process::ExitCode> {
    use apus_repl_bench::{Moments, moments, role, text};
    use std::io::{IsTerminal as _, Write as _};

    const USAGE: &str = "compare-replication [--moments N] [--lag SECONDS] [--rounds N] [--workloads NAME,…] [--systems NAME,…] [--dir DIR] [--keep DIR] [--seed N]
    workloads: sqlite, redis, git; systems: apus, apus-live, lsyncd, syncthing. N is of each workload under each system; --rounds 0: their cost is not measured.";
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [first, rest @ ..] = args.as_slice()
        && first == "role"
    {
        return role(rest).map(|()| std::process::ExitCode::SUCCESS);
    }
    let me = std::env::current_exe()?;
    let mut plan = Moments {
        dir: std::env::temp_dir(),
        moments: 340,
        lag: std::time::Duration::from_secs(10),
        rounds: 7,
        workloads: Vec::new(),
        systems: Vec::new(),
        keep: None,
        seed: 1,
        library: me.with_file_name("libapus_interpose.so"),
        me: vec![me.into(), "role".into()],
    };
    let wrong = |what: String| std::io::Error::new(std::io::ErrorKind::InvalidInput, format!("{what}\n{USAGE}"));
    for pair in args.chunks(2) {
        let [name, value] = pair else {
            if pair[0] == "--help" {
                println!("{USAGE}");
                return Ok(std::process::ExitCode::SUCCESS);
            }
            return Err(wrong(format!("{} needs a value", pair[0])));
        };
        let number = || value.parse::<u64>().map_err(|_| wrong(format!("{name} {value}: want a number")));
        let names = || value.split(',').map(str::to_string).collect();
        match name.as_str() {
            "--moments" => plan.moments = usize::try_from(number()?).map_err(|_| wrong("too many moments".into()))?,
            "--rounds" => plan.rounds = usize::try_from(number()?).map_err(|_| wrong("too many rounds".into()))?,
            "--lag" => plan.lag = std::time::Duration::from_secs(number()?),
            "--seed" => plan.seed = number()?,
            "--dir" => plan.dir = value.into(),
            "--keep" => plan.keep = Some(value.into()),
            "--workloads" => plan.workloads = names(),
            "--systems" => plan.systems = names(),
            other => return Err(wrong(format!("{other} is no option"))),
        }
    }
    let shown = std::io::stderr().is_terminal();
    let outcome = moments(&plan, &mut |line| {
        if shown {
            let _ = write!(std::io::stderr(), "\r\x1b[K{line}");
        }
    });
    if shown {
        eprintln!();
    }
    let outcome = match outcome {
        Ok(outcome) => outcome,
        // As it reads: it may be of several lines.
        Err(error) => {
            eprintln!("compare-replication: {error}");
            return Ok(std::process::ExitCode::from(70));
        }
    };
    println!("{}", text(&outcome));
    // What others do is told, what ours does is judged.
    let torn = outcome.parts.iter().any(|part| part.system.starts_with("apus") && part.torn > 0);
    Ok(std::process::ExitCode::from(u8::from(torn)))
}

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
fn main() {
    eprintln!("compare-replication: it needs Linux on x86-64");
    std::process::exit(2);
}
