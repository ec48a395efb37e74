//! The plot: for each fault and stack, how long clients were not answered, and whether two owned the address.

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;

use super::judge::Row;

const WIDTH: u32 = 1_160;
const LEFT: i32 = 420;
const RIGHT: i32 = 960;
const TOP: i32 = 96;
const STEP: i32 = 24;
const TEXT: f64 = 15.0;

const INK: RGBColor = RGBColor(32, 36, 44);
const PALE: RGBColor = RGBColor(218, 222, 228);
const RED: RGBColor = RGBColor(196, 48, 43);
const COLOURS: [RGBColor; 5] = [
    RGBColor(45, 105, 175),
    RGBColor(222, 125, 40),
    RGBColor(176, 142, 30),
    RGBColor(35, 135, 85),
    RGBColor(120, 80, 160),
];
/// Ends of the axis, in milliseconds.
const FROM: f64 = 1.0;
const TO: f64 = 100_000.0;

#[allow(clippy::cast_possible_truncation, reason = "a place on the paper")]
fn at(ms: f64) -> i32 {
    let part = (ms.clamp(FROM, TO) / FROM).log10() / (TO / FROM).log10();
    LEFT + (f64::from(RIGHT - LEFT) * part).round() as i32
}

/// Writes an SVG.
pub(crate) fn write(file: &Path, rows: &[Row]) -> Result<(), String> {
    let rows: Vec<&Row> = rows.iter().filter(|row| row.spread("outage_us").some()).collect();
    let mut faults: Vec<&str> = Vec::new();
    let mut stacks: Vec<&str> = Vec::new();
    for row in &rows {
        if !faults.contains(&row.fault.as_str()) {
            faults.push(&row.fault);
        }
        if !stacks.contains(&row.stack.as_str()) {
            stacks.push(&row.stack);
        }
    }
    let lines = i32::try_from(rows.len() + faults.len()).unwrap_or(0);
    let size = (WIDTH, (TOP + STEP * lines + 60).unsigned_abs());
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, size).into_drawing_area();
        draw(&area, &rows, &faults, &stacks).map_err(|error| format!("the plot: {error}"))?;
        area.present().map_err(|error| format!("the plot: {error}"))?;
    }
    std::fs::write(file, text).map_err(|error| format!("{}: {error}", file.display()))
}

fn draw<B: DrawingBackend>(
    area: &DrawingArea<B, Shift>,
    rows: &[&Row],
    faults: &[&str],
    stacks: &[&str],
) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
    area.fill(&WHITE)?;
    let font = |size: f64| ("sans-serif", size).into_font();
    let write = |text: &str, x: i32, y: i32, size: f64, colour: RGBColor| {
        area.draw(&Text::new(text.to_owned(), (x, y), font(size).color(&colour)))
    };
    write("How long clients are not answered, and two owners of one address", 20, 18, 21.0, INK)?;
    write(
        "bar: median, line: to the longest (logarithmic); red: two nodes answered for the address, at most",
        20,
        48,
        TEXT,
        INK,
    )?;
    let bottom = TOP + STEP * i32::try_from(rows.len() + faults.len()).unwrap_or(0);
    for (ms, name) in
        [(1.0, "1 ms"), (10.0, "10 ms"), (100.0, "0.1 s"), (1_000.0, "1 s"), (10_000.0, "10 s"), (TO, "100 s")]
    {
        let x = at(ms);
        area.draw(&PathElement::new(vec![(x, TOP - 6), (x, bottom)], PALE))?;
        write(name, x - 14, TOP - 24, 13.0, INK)?;
        write(name, x - 14, bottom + 8, 13.0, INK)?;
    }
    let mut y = TOP;
    for fault in faults {
        write(fault, 20, y + 5, TEXT, INK)?;
        y += STEP;
        for row in rows.iter().filter(|row| row.fault == *fault) {
            let outage = row.spread("outage_us");
            let number = stacks.iter().position(|stack| *stack == row.stack).unwrap_or(0);
            let colour = COLOURS[number % COLOURS.len()];
            write(&row.stack, 40, y + 5, TEXT, colour)?;
            let middle = y + STEP / 2;
            area.draw(&Rectangle::new(
                [(LEFT, y + 5), (at(outage.ms(0.5)).max(LEFT + 2), y + STEP - 5)],
                colour.filled(),
            ))?;
            area.draw(&PathElement::new(vec![(LEFT, middle), (at(outage.ms(1.0)), middle)], INK))?;
            let label = format!("{:.0} / {:.0} ms", outage.ms(0.5), outage.ms(1.0));
            write(&label, RIGHT + 8, y + 5, 13.0, INK)?;
            if let Some(ms) = row.overlap_ms("overlap_us").filter(|ms| *ms > 0.0) {
                write(&format!("two: {ms:.0} ms"), RIGHT + 110, y + 5, 13.0, RED)?;
            }
            y += STEP;
        }
    }
    Ok(())
}
