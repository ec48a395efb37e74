//! `apus bench repl` alone: what the library is measured with while it is worked on.
//!
//! `apus-repl-bench DIR ROUNDS TURNS [WORKLOADS [WAYS]]`, names with commas between them.

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn main() -> std::io::Result<()> {
    use apus_repl_bench::{KINDS, Plan, WAYS, role, run};

    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [first, rest @ ..] = args.as_slice()
        && first == "role"
    {
        return role(rest);
    }
    let names = |at: usize, all: Vec<&str>| {
        args.get(at).map_or_else(
            || all.iter().map(ToString::to_string).collect(),
            |names| names.split(',').map(str::to_string).collect(),
        )
    };
    let me = std::env::current_exe()?;
    let plan = Plan {
        dir: args.first().map_or_else(|| ".".into(), Into::into),
        rounds: args.get(1).and_then(|rounds| rounds.parse().ok()).unwrap_or(7),
        turns: args.get(2).and_then(|turns| turns.parse().ok()).unwrap_or(4),
        kinds: names(3, KINDS.iter().map(|kind| kind.name).collect()),
        ways: names(4, WAYS.iter().map(|(name, _)| *name).collect()),
        library: me.with_file_name("libapus_interpose.so"),
        me: vec![me.into(), "role".into()],
    };
    let report = run(&plan, &mut |step| {
        if step.done.is_multiple_of(50) {
            eprint!("\r{} {}/{}", step.kind, step.done, step.of);
        }
    })?;
    println!("{}", report.text());
    Ok(())
}

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
fn main() {
    eprintln!("apus-repl-bench: it needs Linux on x86-64");
    std::process::exit(2);
}
