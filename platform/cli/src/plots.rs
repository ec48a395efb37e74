//! Plots of `apus bench dispatch`, each as SVG and as PNG.
//!
//! The PNG is drawn by a small backend of our own, with letters of 5 by 7 dots: fonts differ from machine to machine, and
//! many servers have none.

use std::convert::Infallible;
use std::path::{Path, PathBuf};

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters_backend::text_anchor::{HPos, Pos, VPos};
use plotters_backend::{BackendColor, BackendCoord, BackendTextStyle, DrawingErrorKind};

use crate::Trouble;
use crate::dispatch::{Question, Row};

const WIDTH: u32 = 1_160;
const LEFT: i32 = 260;
const RIGHT: i32 = 900;
const TOP: i32 = 92;
const STEP: i32 = 30;
const TEXT: f64 = 16.0;

const INK: RGBColor = RGBColor(32, 36, 44);
const PALE: RGBColor = RGBColor(218, 222, 228);
const BLUE: RGBColor = RGBColor(45, 105, 175);
const ORANGE: RGBColor = RGBColor(222, 125, 40);
const GREEN: RGBColor = RGBColor(35, 135, 85);

/// A bar for each contender.
struct Plot {
    name: &'static str,
    title: String,
    /// What the colours mean.
    legend: Vec<(RGBColor, String)>,
    /// Ends of the axis.
    from: f64,
    to: f64,
    logarithmic: bool,
    /// A line across all bars, and what it is.
    mark: Option<(f64, String)>,
    bars: Vec<Bar>,
}

struct Bar {
    name: String,
    /// From, to, and the colour; drawn in order.
    parts: Vec<(f64, f64, RGBColor)>,
    /// What is written beside it.
    value: String,
    /// It is ours.
    bold: bool,
}

/// Writes them all, and returns the files.
pub(crate) fn write(dir: &Path, question: &Question, rows: &[Row]) -> Result<Vec<PathBuf>, Trouble> {
    let mut files = Vec::new();
    for plot in [loads(question, rows), moved(question, rows), lookups(question, rows)] {
        let size = (WIDTH, (TOP + STEP * i32::try_from(plot.bars.len()).unwrap_or(0) + 60).unsigned_abs());
        let wrong = |what: String| Trouble::Internal(format!("the plot of {}: {what}", plot.name));
        let mut svg = String::new();
        plot.draw(&SVGBackend::with_string(&mut svg, size).into_drawing_area()).map_err(|e| wrong(e.to_string()))?;
        let mut image = Image::new(size);
        plot.draw(&(&mut image).into_drawing_area()).map_err(|e| wrong(e.to_string()))?;
        for (end, bytes) in [("svg", svg.into_bytes()), ("png", image.png())] {
            let path = dir.join(plot.name).with_extension(end);
            crate::write(&path, bytes)?;
            files.push(path);
        }
    }
    Ok(files)
}

fn about(question: &Question) -> String {
    format!("{} servers, {}, {} clients", question.servers.len(), question.change.name(), question.clients.many())
}

fn bar(row: &Row, parts: Vec<(f64, f64, RGBColor)>, value: String) -> Bar {
    Bar { name: row.kind.name().into(), parts, value, bold: row.kind == apus_hashes::Kind::Balanced }
}

fn loads(question: &Question, rows: &[Row]) -> Plot {
    // What is far off must not hide the others.
    let (from, to) = rows.iter().fold((0.9_f64, 1.1_f64), |(from, to), row| {
        (from.min(row.outcome.load.min).max(0.4), to.max(row.outcome.load.max).min(1.6))
    });
    let bars = rows.iter().map(|row| {
        let (load, floor) = (row.outcome.load, row.floor);
        let parts = vec![(load.min, load.max, BLUE), (floor.min, floor.max, ORANGE)];
        bar(row, parts, format!("{:.3} to {:.3}", load.min, load.max))
    });
    Plot {
        name: "loads",
        title: format!("load of the idlest and the busiest server, over its share: {}", about(question)),
        legend: vec![(BLUE, "found".into()), (ORANGE, "by chance alone".into())],
        from: from - 0.02,
        to: to + 0.02,
        logarithmic: false,
        mark: Some((1.0, "1".into())),
        bars: bars.collect(),
    }
}

fn moved(question: &Question, rows: &[Row]) -> Plot {
    let most = rows.iter().map(|row| row.outcome.moves.moved).fold(question.ideal, f64::max) * 100.0;
    let bars = rows.iter().map(|row| {
        let (moved, needless) = (row.outcome.moves.moved * 100.0, row.outcome.moves.needless * 100.0);
        let parts = vec![(0.0, moved - needless, GREEN), (moved - needless, moved, ORANGE)];
        bar(row, parts, format!("{moved:.3} %, {needless:.3} %"))
    });
    Plot {
        name: "moved",
        title: format!("percent of clients moved: {}", about(question)),
        legend: vec![(GREEN, "with need".into()), (ORANGE, "without; the second number".into())],
        from: 0.0,
        to: (most * 1.05).max(0.1),
        logarithmic: false,
        mark: Some((question.ideal * 100.0, format!("least {:.2} %", question.ideal * 100.0))),
        bars: bars.collect(),
    }
}

fn lookups(question: &Question, rows: &[Row]) -> Plot {
    let (from, to) = rows.iter().fold((f64::INFINITY, 0.0_f64), |(from, to), row| {
        (from.min(row.independent.least), to.max(row.dependent.least).max(row.independent.least))
    });
    let from = from / 2.0;
    let bars = rows.iter().map(|row| {
        let (alone, after) = (row.independent.least, row.dependent.least);
        // The longer one below the shorter one.
        let mut parts = vec![(from, after, PALE), (from, alone, BLUE)];
        parts.sort_by(|a, b| b.1.total_cmp(&a.1));
        bar(row, parts, format!("{alone:.1}, {after:.1} ns"))
    });
    Plot {
        name: "lookups",
        title: format!("nanoseconds of a lookup: {}", about(question)),
        legend: vec![(BLUE, "independent".into()), (PALE, "each after another; the second number".into())],
        from,
        to: to * 1.1,
        logarithmic: true,
        mark: None,
        bars: bars.collect(),
    }
}

impl Plot {
    #[allow(clippy::cast_possible_truncation, reason = "a place on paper")]
    fn at(&self, value: f64) -> i32 {
        let value = value.clamp(self.from, self.to);
        let part = if self.logarithmic {
            (value / self.from).ln() / (self.to / self.from).ln()
        } else {
            (value - self.from) / (self.to - self.from)
        };
        LEFT + (part * f64::from(RIGHT - LEFT)).round() as i32
    }

    /// Round numbers, at most a dozen.
    fn ticks(&self) -> Vec<f64> {
        if self.logarithmic {
            let all = (-3..9).flat_map(|power| [1.0, 2.0, 5.0].map(|digit| digit * 10.0_f64.powi(power)));
            let all: Vec<f64> = all.filter(|tick| (self.from..=self.to).contains(tick)).collect();
            return if all.len() > 12 { all.into_iter().filter(|t| t.log10().fract() == 0.0).collect() } else { all };
        }
        let rough = (self.to - self.from) / 8.0;
        let power = 10.0_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|digit| digit * power).find(|step| *step >= rough);
        let step = step.unwrap_or(rough);
        let first = (self.from / step).ceil();
        (0..12).map(|i| (first + f64::from(i)) * step).take_while(|tick| *tick <= self.to).collect()
    }

    fn draw<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
        let text = |words: String, at: (i32, i32), h: HPos, color: RGBColor| {
            let style = ("sans-serif", TEXT).into_font().color(&color).pos(Pos::new(h, VPos::Center));
            area.draw(&Text::new(words, at, style))
        };
        area.fill(&WHITE)?;
        text(self.title.clone(), (20, 24), HPos::Left, INK)?;
        let mut x = 20;
        for (color, words) in &self.legend {
            area.draw(&Rectangle::new([(x, 45), (x + 14, 59)], color.filled()))?;
            text(words.clone(), (x + 22, 52), HPos::Left, INK)?;
            x += 60 + 12 * i32::try_from(words.chars().count()).unwrap_or(0);
        }
        let bottom = TOP + STEP * i32::try_from(self.bars.len()).unwrap_or(0);
        for tick in self.ticks() {
            let x = self.at(tick);
            area.draw(&PathElement::new([(x, TOP - 4), (x, bottom)], PALE))?;
            // No more digits than it needs.
            let words = format!("{tick:.3}");
            let words = words.trim_end_matches('0').trim_end_matches('.').to_owned();
            text(words, (x, bottom + 16), HPos::Center, INK)?;
        }
        for (bar, y) in self.bars.iter().zip((TOP..).step_by(30)) {
            let middle = y + STEP / 2;
            let color = if bar.bold { GREEN } else { INK };
            text(bar.name.clone(), (LEFT - 14, middle), HPos::Right, color)?;
            let thick = [9, 4];
            for ((from, to, fill), thick) in bar.parts.iter().zip(if self.name == "loads" { thick } else { [9, 9] }) {
                // A thing that is there must be seen.
                let (from, to) = (self.at(*from), self.at(*to).max(self.at(*from) + i32::from(to > from)));
                if to > from {
                    area.draw(&Rectangle::new([(from, middle - thick), (to, middle + thick)], fill.filled()))?;
                }
            }
            text(bar.value.clone(), (RIGHT + 14, middle), HPos::Left, color)?;
        }
        if let Some((value, words)) = &self.mark {
            let x = self.at(*value);
            area.draw(&PathElement::new([(x, TOP - 6), (x, bottom)], INK))?;
            text(words.clone(), (x, TOP - 14), HPos::Center, INK)?;
        }
        area.draw(&PathElement::new([(LEFT, bottom), (RIGHT, bottom)], INK))?;
        area.present()
    }
}

/// Rows of dots, three bytes each.
struct Image {
    size: (u32, u32),
    dots: Vec<u8>,
}

impl Image {
    fn new(size: (u32, u32)) -> Self {
        Self { size, dots: vec![255; size.0 as usize * size.1 as usize * 3] }
    }

    /// As a file (PNG, second edition): each row without a filter, all packed as one stream.
    fn png(&self) -> Vec<u8> {
        let row = self.size.0 as usize * 3;
        let raw: Vec<u8> = self.dots.chunks(row).flat_map(|row| std::iter::once(&0).chain(row)).copied().collect();
        let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
        let mut chunk = |kind: &[u8; 4], bytes: &[u8]| {
            let body = [kind.as_slice(), bytes].concat();
            file.extend(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
            file.extend(&body);
            file.extend(crc32(&body).to_be_bytes());
        };
        // Eight bits a colour, three colours, no interlacing.
        let head = [&self.size.0.to_be_bytes()[..], &self.size.1.to_be_bytes(), &[8, 2, 0, 0, 0]].concat();
        chunk(b"IHDR", &head);
        chunk(b"IDAT", &miniz_oxide::deflate::compress_to_vec_zlib(&raw, 9));
        chunk(b"IEND", &[]);
        file
    }
}

fn crc32(bytes: &[u8]) -> u32 {
    let bit = |rest: u32, _| if rest & 1 == 1 { 0xedb8_8320 ^ (rest >> 1) } else { rest >> 1 };
    !bytes.iter().fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), bit))
}

type Drawn = Result<(), DrawingErrorKind<Infallible>>;

impl DrawingBackend for &mut Image {
    type ErrorType = Infallible;

    fn get_size(&self) -> (u32, u32) {
        self.size
    }

    fn ensure_prepared(&mut self) -> Drawn {
        Ok(())
    }

    fn present(&mut self) -> Drawn {
        Ok(())
    }

    fn draw_pixel(&mut self, (x, y): BackendCoord, color: BackendColor) -> Drawn {
        let (Ok(x), Ok(y)) = (u32::try_from(x), u32::try_from(y)) else { return Ok(()) };
        let at = (y as usize * self.size.0 as usize + x as usize) * 3;
        if x < self.size.0
            && y < self.size.1
            && let Some(dot) = self.dots.get_mut(at..at + 3)
        {
            let (r, g, b) = color.rgb;
            for (old, new) in dot.iter_mut().zip([r, g, b]) {
                let mixed = f64::from(*old) * (1.0 - color.alpha) + f64::from(new) * color.alpha;
                #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between two bytes")]
                let mixed = mixed.round() as u8;
                *old = mixed;
            }
        }
        Ok(())
    }

    fn estimate_text_size<S: BackendTextStyle>(
        &self,
        text: &str,
        style: &S,
    ) -> Result<(u32, u32), DrawingErrorKind<Infallible>> {
        let scale = scale(style.size()).unsigned_abs();
        let many = u32::try_from(text.chars().count()).unwrap_or(0);
        Ok(((6 * many).saturating_sub(1) * scale, 7 * scale))
    }

    fn draw_text<S: BackendTextStyle>(&mut self, text: &str, style: &S, (x, y): BackendCoord) -> Drawn {
        let scale = scale(style.size());
        let (width, height) = self.estimate_text_size(text, style)?;
        let (width, height) = (i32::try_from(width).unwrap_or(0), i32::try_from(height).unwrap_or(0));
        let left = match style.anchor().h_pos {
            HPos::Left => x,
            HPos::Center => x - width / 2,
            HPos::Right => x - width,
        };
        let top = match style.anchor().v_pos {
            VPos::Top => y,
            VPos::Center => y - height / 2,
            VPos::Bottom => y - height,
        };
        for (letter, left) in text.chars().zip((left..).step_by(6 * scale.unsigned_abs() as usize)) {
            // These hang below the line.
            let top = if "gpqy".contains(letter) { top + 2 * scale } else { top };
            for (row, y) in glyph(letter).iter().zip((top..).step_by(scale.unsigned_abs() as usize)) {
                for column in (0..5).filter(|column| row >> (4 - column) & 1 == 1) {
                    let from = (left + column * scale, y);
                    let to = (from.0 + scale - 1, y + scale - 1);
                    self.draw_rect(from, to, &style.color(), true)?;
                }
            }
        }
        Ok(())
    }
}

/// Dots of a letter's dot.
#[allow(clippy::cast_possible_truncation, reason = "small")]
fn scale(size: f64) -> i32 {
    ((size / 8.0).round() as i32).max(1)
}

/// Rows of five dots from the top; letters are small ones, and what has no shape is a frame.
fn glyph(letter: char) -> [u8; 7] {
    let small = letter.to_ascii_lowercase();
    if small == ' ' {
        return [0; 7];
    }
    let found = GLYPHS.iter().find(|(known, _)| *known == small);
    found.map_or([31, 17, 17, 17, 17, 17, 31], |(_, rows)| *rows)
}

#[rustfmt::skip]
const GLYPHS: &[(char, [u8; 7])] = &[
    ('0', [14, 17, 19, 21, 25, 17, 14]), ('1', [4, 12, 4, 4, 4, 4, 14]), ('2', [14, 17, 1, 2, 4, 8, 31]),
    ('3', [31, 2, 4, 2, 1, 17, 14]), ('4', [2, 6, 10, 18, 31, 2, 2]), ('5', [31, 16, 30, 1, 1, 17, 14]),
    ('6', [6, 8, 16, 30, 17, 17, 14]), ('7', [31, 1, 2, 4, 8, 8, 8]), ('8', [14, 17, 17, 14, 17, 17, 14]),
    ('9', [14, 17, 17, 15, 1, 2, 12]),
    ('a', [0, 0, 14, 1, 15, 17, 15]), ('b', [16, 16, 22, 25, 17, 17, 30]), ('c', [0, 0, 14, 16, 16, 17, 14]),
    ('d', [1, 1, 13, 19, 17, 17, 15]), ('e', [0, 0, 14, 17, 31, 16, 14]), ('f', [6, 9, 8, 28, 8, 8, 8]),
    ('g', [15, 17, 17, 17, 15, 1, 14]), ('h', [16, 16, 22, 25, 17, 17, 17]), ('i', [4, 0, 12, 4, 4, 4, 14]),
    ('j', [2, 0, 6, 2, 2, 18, 12]), ('k', [16, 16, 18, 20, 24, 20, 18]), ('l', [12, 4, 4, 4, 4, 4, 14]),
    ('m', [0, 0, 26, 21, 21, 17, 17]), ('n', [0, 0, 22, 25, 17, 17, 17]), ('o', [0, 0, 14, 17, 17, 17, 14]),
    ('p', [30, 17, 17, 17, 30, 16, 16]), ('q', [15, 17, 17, 17, 15, 1, 1]), ('r', [0, 0, 22, 25, 16, 16, 16]),
    ('s', [0, 0, 14, 16, 14, 1, 30]), ('t', [8, 8, 28, 8, 8, 9, 6]), ('u', [0, 0, 17, 17, 17, 19, 13]),
    ('v', [0, 0, 17, 17, 17, 10, 4]), ('w', [0, 0, 17, 17, 21, 21, 10]), ('x', [0, 0, 17, 10, 4, 10, 17]),
    ('y', [17, 17, 17, 17, 15, 1, 14]), ('z', [0, 0, 31, 2, 4, 8, 31]),
    ('-', [0, 0, 0, 31, 0, 0, 0]), ('.', [0, 0, 0, 0, 0, 12, 12]), (',', [0, 0, 0, 0, 12, 4, 8]),
    ('%', [24, 25, 2, 4, 8, 19, 3]), ('/', [0, 1, 2, 4, 8, 16, 0]), ('(', [2, 4, 8, 8, 8, 4, 2]),
    (')', [8, 4, 2, 2, 2, 4, 8]), (':', [0, 12, 12, 0, 12, 12, 0]), (';', [0, 12, 12, 0, 12, 4, 8]),
    ('+', [0, 4, 4, 31, 4, 4, 0]), ('=', [0, 0, 31, 0, 31, 0, 0]),
];

#[cfg(test)]
mod tests {
    use super::*;

    /// What was packed can be unpacked again, and is the picture.
    #[test]
    fn a_png_holds_its_dots() {
        let mut image = Image::new((9, 4));
        (&mut image).draw_rect((1, 1), (3, 2), &RED, true).expect("it is inside");
        let file = image.png();
        assert_eq!(file[..8], *b"\x89PNG\r\n\x1a\n");
        assert_eq!((&file[12..16], &file[16..24]), (&b"IHDR"[..], &[0, 0, 0, 9, 0, 0, 0, 4][..]));
        assert_eq!(crc32(b"IEND"), 0xae42_6082, "the only one of an empty chunk");
        let data = u32::from_be_bytes([file[33], file[34], file[35], file[36]]) as usize;
        let raw = miniz_oxide::inflate::decompress_to_vec_zlib(&file[41..41 + data]).expect("it is packed");
        assert_eq!(raw.len(), 4 * (1 + 27));
        assert_eq!(raw[28 + 1..28 + 1 + 6], [255, 255, 255, 255, 0, 0]);
    }

    #[test]
    fn letters_differ() {
        for (i, (letter, rows)) in GLYPHS.iter().enumerate() {
            assert!(rows.iter().all(|row| *row < 32) && glyph(*letter) == *rows, "{letter}");
            assert!(GLYPHS[..i].iter().all(|(_, other)| other != rows), "{letter}");
        }
        for name in apus_hashes::Kind::ALL.iter().map(|kind| kind.name()) {
            assert!(name.chars().all(|letter| GLYPHS.iter().any(|(known, _)| *known == letter)), "{name}");
        }
    }
}
