//! A `JUnit` report: one test case a scenario and block of seeds; failing seeds as cases of their own.

use std::fmt::Write as _;

use apus_sim::artifact::scenario_hash;
use apus_sim::report::Verdict;
use apus_sim::runner::Batch;

use crate::VERSION;
use crate::judge::Row;
use crate::print::word;
use crate::run::seeds_of;

/// Text as XML takes it: markup escaped, characters that XML 1.0 does not have replaced.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\t' | '\n' | '\r' => out.push(c),
            '\u{0}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            _ => out.push(c),
        }
    }
    out
}

struct Case {
    world: &'static str,
    name: String,
    seconds: f64,
    properties: Vec<(&'static str, String)>,
    /// Type, message and text.
    failure: Option<(String, String, String)>,
    out: String,
}

impl Case {
    fn write(&self, xml: &mut String) {
        let class = format!("apus.{}", self.world);
        let name = escape(&self.name);
        let _ = writeln!(xml, r#"    <testcase classname="{class}" name="{name}" time="{:.3}">"#, self.seconds);
        let _ = writeln!(xml, "      <properties>");
        for (key, value) in &self.properties {
            let _ = writeln!(xml, r#"        <property name="{key}" value="{}"/>"#, escape(value));
        }
        let _ = writeln!(xml, "      </properties>");
        if let Some((kind, message, text)) = &self.failure {
            let (kind, message) = (escape(kind), escape(message));
            let _ = writeln!(xml, r#"      <failure type="{kind}" message="{message}">{}</failure>"#, escape(text));
        }
        if !self.out.is_empty() {
            let _ = writeln!(xml, "      <system-out>{}</system-out>", escape(&self.out));
        }
        let _ = writeln!(xml, "    </testcase>");
    }
}

/// The block of seeds that one scenario ran.
fn block(row: &Row, batch: &Batch, suite: bool) -> Case {
    let summary = &row.summary;
    let verdict = row.counts_as(!suite);
    let mut failure = None;
    // Failing seeds have cases of their own; what is no seed's fault is told here.
    if verdict != Verdict::Pass && summary.failures.is_empty() {
        let mut why = summary.vacuous(&row.item.scenario);
        why.extend(summary.differing.iter().map(|seed| format!("two runs of seed {seed} differ")));
        if summary.seeds == 0 {
            why.push("no seed ran".into());
        }
        if why.is_empty() {
            why.push("the scenario must show a failure, and did not".into());
        }
        failure = Some((word(verdict).to_lowercase(), why.join("; "), why.join("\n")));
    }
    Case {
        world: row.world.name(),
        name: format!("{} {}", row.item.scenario.name, seeds_of(batch)),
        seconds: summary.took.as_secs_f64(),
        properties: vec![
            ("seeds", summary.seeds.to_string()),
            ("events", summary.events.to_string()),
            ("scenario-hash", format!("{:016x}", scenario_hash(&row.item.text))),
            ("traces", format!("{:032x}", summary.digest)),
        ],
        failure,
        out: String::new(),
    }
}

/// One case a failing seed; none for a scenario that fails as told in a suite.
fn failing(row: &Row, suite: bool) -> Vec<Case> {
    if row.counts_as(!suite) == Verdict::Pass {
        return Vec::new();
    }
    let case = |(seed, violation): (&u64, &apus_sim::report::Violation)| {
        let first = row.first.as_ref().filter(|first| first.seed == *seed);
        let mut properties = vec![("seed", seed.to_string()), ("replay", row.replay(*seed))];
        properties.extend(row.summary.hashes.get(seed).map(|hash| ("trace-hash", format!("{hash:032x}"))));
        if let Some(first) = first {
            properties.extend(first.artifact.iter().map(|kept| ("artifact", kept.path.clone())));
        }
        let text = format!("{} at {} ns: {}", violation.checker, violation.at, violation.what);
        Case {
            world: row.world.name(),
            name: format!("{} seed {seed}", row.item.scenario.name),
            seconds: 0.0,
            properties,
            failure: Some((violation.checker.into(), violation.what.clone(), text)),
            out: first.map_or_else(String::new, |first| first.story.join("\n")),
        }
    };
    row.summary.failures.iter().map(case).collect()
}

pub(crate) fn report(rows: &[Row], batch: &Batch, suite: bool) -> String {
    let cases: Vec<Case> =
        rows.iter().flat_map(|row| std::iter::once(block(row, batch, suite)).chain(failing(row, suite))).collect();
    let failures = cases.iter().filter(|case| case.failure.is_some()).count();
    let seconds: f64 = rows.iter().map(|row| row.summary.took.as_secs_f64()).sum();
    let counts = format!(r#"tests="{}" failures="{failures}" errors="0" time="{seconds:.3}""#, cases.len());
    let mut xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"apus {VERSION}\" {counts}>\n  <testsuite name=\"apus\" {counts}>\n"
    );
    for case in &cases {
        case.write(&mut xml);
    }
    xml + "  </testsuite>\n</testsuites>\n"
}
