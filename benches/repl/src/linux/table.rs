//! What was measured, as text.

use std::fmt::Write as _;

use super::compare::Report;
use super::ways::WAYS;
use crate::stats::median;

impl Report {
    /// Tables in Markdown, one a workload.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for row in &self.rows {
            let (rounds, slots) = row.cells.first().map_or((0, 0), |cell| (cell.ratios.len(), cell.nanos.len()));
            let _ = writeln!(
                text,
                "\n{}: {rounds} rounds, {slots} slots of {} operations\n",
                row.kind.about, row.kind.count
            );
            let _ = writeln!(
                text,
                "| way | ns an operation: median (least, greatest) | time against none [95 %] | processor against none [95 %] | beside, ns an operation |"
            );
            let _ = writeln!(text, "|---|---|---|---|---|");
            for cell in &row.cells {
                let (least, greatest) = cell.spread();
                let _ = writeln!(
                    text,
                    "| {} | {:.0} ({least:.0}, {greatest:.0}) | {:.3} [{:.3}, {:.3}] | {:.3} [{:.3}, {:.3}] | {:.0} |",
                    cell.way,
                    median(&cell.nanos),
                    cell.ratio.median,
                    cell.ratio.low,
                    cell.ratio.high,
                    cell.processor.median,
                    cell.processor.low,
                    cell.processor.high,
                    cell.beside
                );
            }
        }
        let _ = writeln!(text);
        for (name, about) in WAYS.iter().filter(|(name, _)| self.seen.iter().any(|(way, _)| way == name)) {
            let seen = self.seen.iter().find(|(way, seen)| way == name && !seen.is_empty());
            let _ =
                writeln!(text, "{name}: {about}{}", seen.map_or_else(String::new, |(_, seen)| format!(" ({seen})")));
        }
        for (name, why) in &self.left_out {
            let _ = writeln!(text, "{name}: not available: {why}");
        }
        text
    }
}
