//! What was seen, made into numbers: stretches in which a node owned something, two owners at once, and rows of trials.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

/// A stretch of time, in microseconds of one clock, with both ends.
pub(crate) type Span = (u64, u64);

/// An answer to a datagram that asked one node for the address.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answer {
    /// Which node was asked.
    pub(crate) asked: u8,
    /// When, and when the answer left a node, in microseconds of the wall clock.
    pub(crate) sent: u64,
    pub(crate) gave: u64,
}

/// Answers of one node that are not farther apart, in microseconds, are of one stretch: ten questions. Two hand-overs, to another and back,
/// take longer, and the other is the only owner between them.
const APART: u64 = 20_000;
/// An answer proves that its node took the question when it was asked, or so long before it came: a frozen server does not make its
/// dispatcher an owner, a frozen dispatcher that sends late is one. In microseconds.
const LATE: u64 = 50_000;

/// When a node owned the address, for certain: from an answer to the asking of the last that was answered.
pub(crate) fn owned(answers: &[Answer], node: u8) -> Vec<Span> {
    let mut of: Vec<&Answer> = answers.iter().filter(|answer| answer.asked == node).collect();
    of.sort_by_key(|answer| answer.gave);
    let mut spans: Vec<Span> = Vec::new();
    let mut last = 0;
    for answer in of {
        let took = answer.sent.max(answer.gave.saturating_sub(LATE)).min(answer.gave);
        match spans.last_mut() {
            Some((from, to)) if answer.gave.saturating_sub(last) <= APART => *to = (*to).max(took).max(*from),
            _ => spans.push((answer.gave, answer.gave)),
        }
        last = answer.gave;
    }
    spans
}

/// How long two or more owned it at once, in microseconds. One answer within another's
/// stretch is one microsecond.
pub(crate) fn overlap(owners: &[Vec<Span>]) -> u64 {
    let mut edges: Vec<(u64, i32)> = Vec::new();
    for (from, to) in owners.iter().flatten() {
        edges.push((*from, 1));
        edges.push((*to + 1, -1));
    }
    edges.sort_unstable();
    let (mut many, mut since, mut sum) = (0, 0, 0);
    for (at, step) in edges {
        if many >= 2 {
            sum += at - since;
        }
        many += step;
        since = at;
    }
    sum
}

/// The longest time in a window in which nobody owned it. Who owned it at `from` did so from there on.
pub(crate) fn gap(owners: &[Vec<Span>], from: u64, to: u64) -> u64 {
    let mut spans: Vec<Span> = owners.iter().flatten().copied().filter(|(_, end)| *end >= from).collect();
    spans.sort_unstable();
    let (mut reached, mut longest) = (from, 0);
    for (begin, end) in spans {
        longest = longest.max(begin.min(to).saturating_sub(reached));
        reached = reached.max(end.min(to));
    }
    longest.max(to.saturating_sub(reached))
}

/// All trials of one fault for one stack.
pub(crate) struct Row {
    pub(crate) stack: String,
    pub(crate) fault: String,
    pub(crate) trials: Vec<Value>,
}

/// Of a number in each valid trial, in microseconds: how many have it, and its quantiles.
pub(crate) struct Spread(Histogram<u64>);

impl Spread {
    pub(crate) fn some(&self) -> bool {
        !self.0.is_empty()
    }
    #[allow(clippy::cast_precision_loss, reason = "for people")]
    pub(crate) fn ms(&self, quantile: f64) -> f64 {
        self.0.value_at_quantile(quantile) as f64 / 1_000.0
    }
    fn text(&self) -> String {
        if !self.some() {
            return "–".into();
        }
        let show = |ms: f64| if ms < 10.0 { format!("{ms:.1}") } else { format!("{ms:.0}") };
        format!("{} / {} / {}", show(self.ms(0.5)), show(self.ms(0.99)), show(self.ms(1.0)))
    }
    fn json(&self) -> Value {
        if !self.some() {
            return Value::Null;
        }
        json!({"n": self.0.len(), "p50": self.ms(0.5), "p99": self.ms(0.99), "max": self.ms(1.0)})
    }
}

impl Row {
    fn is_valid(trial: &Value) -> bool {
        trial["invalid"].is_null()
    }
    pub(crate) fn invalid(&self) -> usize {
        self.trials.iter().filter(|trial| !Self::is_valid(trial)).count()
    }
    pub(crate) fn spread(&self, of: &str) -> Spread {
        let mut all = Histogram::new(3).expect("three digits");
        for trial in self.trials.iter().filter(|trial| Self::is_valid(trial)) {
            if let Some(us) = trial[of].as_u64() {
                let _ = all.record(us);
            }
        }
        Spread(all)
    }
    /// The longest that two were seen at once: in all trials, for what makes another number invalid does not make this one so.
    pub(crate) fn overlap_ms(&self, of: &str) -> Option<f64> {
        let all = self.trials.iter().filter_map(|trial| trial[of].as_u64());
        #[allow(clippy::cast_precision_loss, reason = "for people")]
        all.max().map(|us| us as f64 / 1_000.0)
    }
    /// Trials in which two were seen at once.
    fn doubled(&self, of: &str) -> usize {
        self.trials.iter().filter(|trial| trial[of].as_u64().is_some_and(|us| us > 0)).count()
    }
    /// Trials in which two were there until the fault was mended.
    fn open(&self, of: &str) -> usize {
        self.trials.iter().filter(|trial| trial[of] == true).count()
    }

    fn overlap_text(&self, of: &str, open: &str) -> String {
        let Some(ms) = self.overlap_ms(of) else { return "–".into() };
        if ms <= 0.0 {
            return "0".into();
        }
        let (doubled, open, all) = (self.doubled(of), self.open(open), self.trials.len());
        let until = if open > 0 { format!(", {open} until mended") } else { String::new() };
        format!("{ms:.1} ({doubled} of {all}{until})")
    }

    pub(crate) fn text(&self) -> String {
        format!(
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            self.stack,
            self.fault,
            self.trials.len(),
            self.invalid(),
            self.spread("detect_us").text(),
            self.spread("outage_us").text(),
            self.spread("heal_us").text(),
            self.overlap_text("overlap_us", "overlap_open"),
            self.spread("service_outage_us").text(),
            self.overlap_text("service_overlap_us", "service_open"),
        )
    }

    pub(crate) fn json(&self) -> Value {
        let mut why = BTreeMap::<&str, usize>::new();
        for trial in &self.trials {
            if let Some(what) = trial["invalid"].as_str() {
                *why.entry(what.split(':').next().unwrap_or(what)).or_default() += 1;
            }
        }
        json!({
            "stack": self.stack,
            "fault": self.fault,
            "trials": self.trials.len(),
            "invalid": self.invalid(),
            "invalid_why": why,
            "detection_ms": self.spread("detect_us").json(),
            "outage_ms": self.spread("outage_us").json(),
            "outage_after_mending_ms": self.spread("heal_us").json(),
            "overlap_ms_max": self.overlap_ms("overlap_us"),
            "overlap_trials": self.doubled("overlap_us"),
            "overlap_until_mended": self.open("overlap_open"),
            "service_outage_ms": self.spread("service_outage_us").json(),
            "service_overlap_ms_max": self.overlap_ms("service_overlap_us"),
            "service_overlap_trials": self.doubled("service_overlap_us"),
        })
    }
}

pub(crate) const HEAD: &str = "\
| stack | fault | trials | invalid | detected after ms: p50 / p99 / max | outage ms | after mending ms | two owners at most ms | service outage ms | two copies at most ms |
|---|---|--:|--:|---|---|---|---|---|---|";

/// Rows of trials, in the order in which they came first.
pub(crate) fn rows(trials: &[Value]) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for trial in trials {
        let (Some(stack), Some(fault)) = (trial["stack"].as_str(), trial["fault"].as_str()) else { continue };
        match rows.iter_mut().find(|row| row.stack == stack && row.fault == fault) {
            Some(row) => row.trials.push(trial.clone()),
            None => rows.push(Row { stack: stack.into(), fault: fault.into(), trials: vec![trial.clone()] }),
        }
    }
    rows
}

/// What is said of our own rows, and not so. Of each fault that is `wanted` there must be a trial.
pub(crate) fn missed(rows: &[Row], ours: &str, planned: &str, wanted: &[&str]) -> Vec<String> {
    let mut wrong = Vec::new();
    for row in rows.iter().filter(|row| row.stack == ours) {
        for (of, what) in
            [("overlap_us", "owners"), ("frames_overlap_us", "dispatchers"), ("service_overlap_us", "copies")]
        {
            if let Some(ms) = row.overlap_ms(of).filter(|ms| *ms > 0.0) {
                wrong.push(format!("{}: two {what} for {ms:.3} ms", row.fault));
            }
        }
        let bound = if row.fault == planned { 20.0 } else { 750.0 };
        let outage = row.spread("outage_us");
        if outage.some() && outage.ms(0.99) > bound {
            wrong.push(format!("{}: outage p99 {:.0} ms, goal {bound} ms", row.fault, outage.ms(0.99)));
        }
        // They are in no quantile, but they are the worst of all.
        for what in ["not recovered in time", "not whole in time", "not settled"] {
            let lasting = |trial: &&Value| trial["invalid"].as_str().is_some_and(|why| why.starts_with(what));
            let lasting = row.trials.iter().filter(lasting).count();
            if lasting > 0 {
                wrong.push(format!("{}: {lasting} of {} {what}", row.fault, row.trials.len()));
            }
        }
        if row.invalid() == row.trials.len() {
            wrong.push(format!("{}: no valid trial", row.fault));
        }
    }
    let none = wanted.iter().filter(|fault| !rows.iter().any(|row| row.stack == ours && row.fault == **fault));
    wrong.extend(none.map(|fault| format!("{fault}: no trial")));
    wrong
}

/// That two owners are seen, and one after the other is not taken for two.
pub(crate) fn self_test() {
    let answer = |asked, sent, gave| Answer { asked, sent, gave };
    // Node 0 answers each 2 ms up to 100 ms, node 1 from 90 ms on; then node 2 alone.
    let mut answers: Vec<Answer> = (0..=50).map(|n| answer(0, n * 2_000, n * 2_000 + 300)).collect();
    answers.extend((45..=60).map(|n| answer(1, n * 2_000, n * 2_000 + 300)));
    answers.extend((400..=410).map(|n| answer(2, n * 2_000, n * 2_000 + 300)));
    let spans: Vec<Vec<Span>> = (0..3).map(|node| owned(&answers, node)).collect();
    assert_eq!(spans, [vec![(300, 100_000)], vec![(90_300, 120_000)], vec![(800_300, 820_000)]]);
    assert_eq!(overlap(&spans), 9_701, "two owners are not seen");
    assert_eq!(gap(&spans, 50_000, 820_000), 680_300, "the outage is not seen");
    assert_eq!(overlap(&spans[1..]), 0, "one after the other is called two");
    // A late answer within the reign of another; one that was asked long before is late too.
    let late = [answer(0, 0, 300), answer(1, 1_000, 1_200), answer(1, 9_000, 9_200), answer(0, 200, 5_000)];
    let spans: Vec<Vec<Span>> = (0..2).map(|node| owned(&late, node)).collect();
    assert_eq!(overlap(&spans), 0, "a slow server makes its dispatcher an owner");
    let mut later: Vec<Answer> = (1..=45).map(|n| answer(1, n * 2_000, n * 2_000 + 200)).collect();
    later.extend([answer(0, 0, 300), answer(0, 200, 80_000)]);
    let spans: Vec<Vec<Span>> = (0..2).map(|node| owned(&later, node)).collect();
    assert_eq!(overlap(&spans), 1, "an answer from before the freeze is not seen: {spans:?}");
    // To another and back: one owner at any time.
    let tenure = |node, from: u64| (from..from + 20).map(move |n| answer(node, n * 2_000, n * 2_000 + 300));
    let back: Vec<Answer> = tenure(0, 0).chain(tenure(1, 25)).chain(tenure(0, 50)).collect();
    let spans: Vec<Vec<Span>> = (0..2).map(|node| owned(&back, node)).collect();
    assert_eq!(overlap(&spans), 0, "to another and back is called two owners");
    // Rows: an invalid trial is counted, and its overlap too.
    let trial = |us: u64, invalid: Option<&str>, overlap: u64| json!({"stack": "a", "fault": "b", "outage_us": us, "invalid": invalid, "overlap_us": overlap});
    let made = rows(&[trial(500_000, None, 0), trial(900_000, Some("probes: late"), 7)]);
    let row = &made[0];
    assert_eq!((row.trials.len(), row.invalid(), row.doubled("overlap_us")), (2, 1, 1));
    assert!(row.spread("outage_us").ms(1.0) < 501.0, "an invalid outage is counted");
    assert_eq!(missed(&made, "a", "planned", &[]), ["b: two owners for 0.007 ms"]);
    assert_eq!(missed(&rows(&[trial(21_000, None, 0)]), "a", "b", &[]), ["b: outage p99 21 ms, goal 20 ms"]);
    let lasting = rows(&[trial(9_000, None, 0), trial(9_000_000, Some("not recovered in time: silent"), 0)]);
    assert_eq!(missed(&lasting, "a", "planned", &["b"]), ["b: 1 of 2 not recovered in time"]);
    for why in ["not whole in time: silent", "not settled: it is not"] {
        let lasting = rows(&[trial(9_000, None, 0), trial(9_000, Some(why), 0)]);
        let what = why.split(':').next().unwrap_or(why);
        assert_eq!(missed(&lasting, "a", "planned", &[]), [format!("b: 1 of 2 {what}")]);
    }
    assert_eq!(missed(&rows(&[trial(9_000, Some("probes: late"), 0)]), "a", "planned", &[]), ["b: no valid trial"]);
    assert_eq!(missed(&lasting, "c", "planned", &["b"]), ["b: no trial"]);
}
