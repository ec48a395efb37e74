//! `apus exec`, `apus cp`.

use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use apus_node::remote::{self, Ended};
use serde_json::json;

use crate::args::{CpArgs, ExecArgs, Format, node};
use crate::print::{self, say};
use crate::{Trouble, VERSION};

/// A command that was ended before its end, as `timeout` has it.
const CUT: u8 = 124;

/// Lines of one node among those of others.
struct Lines {
    node: u16,
    to: Box<dyn Write + Send>,
    one: Arc<Mutex<()>>,
    line: Vec<u8>,
}

/// A line is at most so long before it is broken.
const LINE: usize = 8 << 10;

impl Lines {
    fn put(&mut self) -> io::Result<()> {
        let _one_at_a_time = self.one.lock().unwrap_or_else(PoisonError::into_inner);
        let mut line = format!("node {}: ", self.node).into_bytes();
        line.append(&mut self.line);
        line.push(b'\n');
        self.to.write_all(&line)?;
        self.to.flush()
    }

    /// What has no end of its own.
    fn end(&mut self) -> io::Result<()> {
        if self.line.is_empty() { Ok(()) } else { self.put() }
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for byte in bytes {
            if *byte == b'\n' {
                self.put()?;
            } else {
                self.line.push(*byte);
                if self.line.len() == LINE {
                    self.put()?;
                }
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What a shell would make of it.
fn code(ended: &Ended) -> u8 {
    if ended.cut.is_some() {
        return CUT;
    }
    match (ended.code, ended.signal) {
        (Some(code), _) => u8::try_from(code & 255).unwrap_or(u8::MAX),
        (None, Some(signal)) => u8::try_from(128 + (signal & 127)).unwrap_or(u8::MAX),
        (None, None) => u8::MAX,
    }
}

fn input(args: &ExecArgs) -> Option<Box<dyn Read + Send>> {
    // Only if it is asked for: in a loop of a shell, what is there to be read is the loop's.
    args.input.then(|| Box::new(io::stdin()) as Box<dyn Read + Send>)
}

pub(crate) fn exec(args: &ExecArgs, format: Format) -> Result<u8, Trouble> {
    if args.input && args.nodes.len() > 1 {
        return Err(Trouble::Usage("--input is for one node".into()));
    }
    let one = Arc::new(Mutex::new(()));
    let run = |node: u16, input: Option<Box<dyn Read + Send>>| -> Result<u8, apus_node::Error> {
        if format == Format::Json {
            let (mut out, mut err) = (Vec::new(), Vec::new());
            let ended = remote::exec(&args.control, node, &args.command, input, &mut out, &mut err)?;
            print::line(json!({
                "apus": VERSION, "node": node, "code": ended.code, "signal": ended.signal, "cut": ended.cut,
                "out": String::from_utf8_lossy(&out), "err": String::from_utf8_lossy(&err), "exit_code": code(&ended),
            }));
            return Ok(code(&ended));
        }
        let ended = if args.nodes.len() == 1 {
            remote::exec(&args.control, node, &args.command, input, &mut io::stdout(), &mut io::stderr())?
        } else {
            let lines = |to| Lines { node, to, one: one.clone(), line: Vec::new() };
            let (mut out, mut err) = (lines(Box::new(io::stdout())), lines(Box::new(io::stderr())));
            let ended = remote::exec(&args.control, node, &args.command, input, &mut out, &mut err)?;
            let _ = (out.end(), err.end());
            ended
        };
        if let Some(cut) = &ended.cut {
            print::error(&format!("node {node}: it was ended, because {cut}"));
        }
        Ok(code(&ended))
    };
    if let [node] = args.nodes[..] {
        return Ok(run(node, input(args))?);
    }
    let results: Vec<_> = std::thread::scope(|scope| {
        let run = &run;
        let tasks: Vec<_> = args.nodes.iter().map(|node| (*node, scope.spawn(move || run(*node, None)))).collect();
        tasks.into_iter().map(|(node, task)| (node, task.join())).collect()
    });
    let mut worst = 0;
    for (node, result) in results {
        let code = match result {
            Ok(Ok(code)) => code,
            Ok(Err(error)) => {
                let trouble = Trouble::from(error);
                if let Trouble::Usage(what) | Trouble::Internal(what) = &trouble {
                    print::error(&format!("node {node}: {what}"));
                    if format == Format::Json {
                        let code = trouble.code();
                        print::line(json!({ "apus": VERSION, "node": node, "error": what, "exit_code": code }));
                    }
                }
                trouble.code()
            }
            Err(_) => crate::INTERNAL,
        };
        worst = worst.max(code);
    }
    Ok(worst)
}

/// `2:/srv/file`, or a file of this machine.
fn side(word: &str) -> Option<(u16, &str)> {
    let (who, path) = word.split_once(':').filter(|(_, path)| path.starts_with('/'))?;
    Some((node(who).ok()?, path))
}

pub(crate) fn cp(args: &CpArgs, format: Format) -> Result<u8, Trouble> {
    let copied = match (side(&args.from), side(&args.to)) {
        (None, Some((node, path))) => {
            let from = Path::new(&args.from);
            // Into a folder, as `cp` has it, where the path ends so.
            let name = from.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let path = if path.ends_with('/') { format!("{path}{name}") } else { path.to_owned() };
            remote::push(&args.control, from, node, &path)?
        }
        (Some((node, path)), None) => remote::pull(&args.control, node, path, Path::new(&args.to))?,
        (Some(_), Some(_)) => {
            return Err(Trouble::Usage("both are at nodes: copy by way of this machine, in two steps".into()));
        }
        (None, None) => {
            let mend = "write such as `2:/srv/file` for a file at node 2, its path from the root";
            return Err(Trouble::Usage(format!("neither is at a node: {mend}")));
        }
    };
    if format == Format::Json {
        print::json(&json!({ "apus": VERSION, "bytes": copied.bytes, "before": copied.before }));
    } else if copied.before > 0 {
        say!("{} bytes, of which {} were there before", copied.bytes, copied.before);
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_side_is_at_a_node_or_here() {
        assert_eq!(side("2:/srv/a:b"), Some((2, "/srv/a:b")));
        assert_eq!(side("n2:/a"), Some((2, "/a")));
        for here in ["a", "/a", "2:a", "x:/a", "./2:/a", ":/a", ""] {
            assert_eq!(side(here), None, "{here}");
        }
    }

    #[test]
    fn a_code_is_what_a_shell_would_make_of_it() {
        let ended = |code, signal, cut: Option<&str>| Ended { code, signal, cut: cut.map(str::to_owned) };
        let codes = [
            ended(Some(0), None, None),
            ended(Some(7), None, None),
            ended(None, Some(9), None),
            ended(None, Some(9), Some("x")),
        ];
        assert_eq!(codes.each_ref().map(code), [0, 7, 137, CUT]);
    }
}
