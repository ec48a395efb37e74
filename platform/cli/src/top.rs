//! `apus top`: the cluster on a terminal, live.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use apus_node::view::{Flow, Health};
use ratatui::Frame;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize as _};
use ratatui::symbols::Marker;
use ratatui::text::{Line, Span};
use ratatui::widgets::canvas::{Canvas, Line as Stroke};
use ratatui::widgets::{Block, Clear, Paragraph, Row, Table, Wrap};
use serde_json::{Value, json};

use crate::Trouble;
use crate::args::{Format, TopArgs};
use crate::print::{self, say};
use crate::view::{clock, code, length, node, story};

/// Lines of journals that are kept.
const KEPT: usize = 500;
/// One picture without a terminal, in characters.
const PICTURE: (u16, u16) = (110, 36);

/// What the picture is drawn from.
struct State {
    status: Value,
    /// When that came, and the one before.
    at: Instant,
    rates: Vec<(&'static str, f64)>,
    events: VecDeque<Value>,
    /// What is selected: leases, then services.
    selected: usize,
    /// A story that is shown.
    story: Option<String>,
    paused: bool,
    /// Why nothing new comes.
    trouble: Option<String>,
}

/// What the asking thread brings.
enum News {
    Status(Value),
    Event(Value),
    Story(String),
    Trouble(String),
}

fn each(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

pub(crate) fn top(args: &TopArgs, format: Format) -> Result<u8, Trouble> {
    let control = &args.control;
    if args.once || format == Format::Json {
        let status = apus_node::ask(control, &json!({ "do": "cluster" }))?;
        let code = code(&status);
        if format == Format::Json {
            print::json(&status);
            return Ok(code);
        }
        // Rates need two looks.
        let mut state = State::new(status);
        std::thread::sleep(args.every.min(Duration::from_millis(500)));
        state.take(apus_node::ask(control, &json!({ "do": "cluster" }))?);
        let since = now().saturating_sub(600_000_000);
        apus_node::view::stream(control, &json!({ "do": "events", "since_us": since }), |line| {
            if line.get("end").is_none() {
                state.tell(line.clone());
            }
            Flow::More
        })?;
        say!("{}", picture(&state, PICTURE)?);
        return Ok(code);
    }
    // A first answer before the screen is taken: what is wrong is told in the usual way.
    let first = apus_node::ask(control, &json!({ "do": "cluster" }))?;
    let (news, asks) = (channel(), channel());
    ask_on(control.clone(), args.every, news.0.clone(), asks.1);
    follow(control.clone(), news.0);
    let mut terminal = ratatui::try_init()
        .map_err(|error| Trouble::Usage(format!("no terminal: {error}; `--once` prints a picture")))?;
    let ended = live(&mut terminal, State::new(first), &news.1, &asks.0);
    ratatui::restore();
    ended.map_err(|error| Trouble::Internal(format!("the terminal: {error}")))?;
    Ok(0)
}

fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or(u64::MAX)
}

/// Asks for the status again and again, and for stories when they are wanted.
fn ask_on(control: PathBuf, every: Duration, to: Sender<News>, wanted: Receiver<String>) {
    std::thread::spawn(move || {
        loop {
            let news = match wanted.recv_timeout(every) {
                Ok(of) => match apus_node::ask(&control, &json!({ "do": "why", "of": of })) {
                    Ok(answer) => News::Story(plain(&story(&answer))),
                    Err(error) => News::Story(error.to_string()),
                },
                Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {
                    match apus_node::ask(&control, &json!({ "do": "cluster" })) {
                        Ok(status) => News::Status(status),
                        Err(error) => News::Trouble(error.to_string()),
                    }
                }
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => return,
            };
            if to.send(news).is_err() {
                return;
            }
        }
    });
}

/// Follows the journals; after a break again.
fn follow(control: PathBuf, to: Sender<News>) {
    std::thread::spawn(move || {
        let mut since = now().saturating_sub(600_000_000);
        loop {
            let question = json!({ "do": "events", "since_us": since, "follow": true });
            let told = apus_node::view::stream(&control, &question, |line| {
                since = since.max(line["wall_us"].as_u64().unwrap_or_default() + 1);
                if to.send(News::Event(line.clone())).is_err() { Flow::Enough } else { Flow::More }
            });
            if told.is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_secs(1));
        }
    });
}

fn live(
    terminal: &mut ratatui::DefaultTerminal,
    mut state: State,
    news: &Receiver<News>,
    wanted: &Sender<String>,
) -> std::io::Result<()> {
    loop {
        for one in news.try_iter() {
            match one {
                News::Status(_) | News::Event(_) if state.paused => {}
                News::Status(status) => state.take(status),
                News::Event(event) => state.tell(event),
                News::Story(story) => state.story = Some(story),
                News::Trouble(what) => state.trouble = Some(what),
            }
        }
        terminal.draw(|frame| draw(frame, &state))?;
        if !event::poll(Duration::from_millis(100))? {
            continue;
        }
        let Event::Key(key) = event::read()? else { continue };
        if key.kind == KeyEventKind::Release {
            continue;
        }
        let ends = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            _ if ends => return Ok(()),
            KeyCode::Char('q') => return Ok(()),
            KeyCode::Esc if state.story.take().is_none() => return Ok(()),
            KeyCode::Up => state.selected = state.selected.saturating_sub(1),
            KeyCode::Down => state.selected = (state.selected + 1).min(state.names().len().saturating_sub(1)),
            KeyCode::Char('p') => state.paused = !state.paused,
            KeyCode::Char('w') | KeyCode::Enter => {
                if let Some(of) = state.names().get(state.selected) {
                    let _ = wanted.send(of.clone());
                }
            }
            _ => {}
        }
    }
}

/// One picture as text.
fn picture(state: &State, (width, height): (u16, u16)) -> Result<String, Trouble> {
    let trouble = |error: &dyn std::fmt::Display| Trouble::Internal(error.to_string());
    let mut terminal = Terminal::new(TestBackend::new(width, height)).map_err(|error| trouble(&error))?;
    terminal.draw(|frame| draw(frame, state)).map_err(|error| trouble(&error))?;
    Ok(lines(terminal.backend().buffer()))
}

fn lines(buffer: &Buffer) -> String {
    let width = usize::from(buffer.area.width).max(1);
    let rows =
        buffer.content.chunks(width).map(|row| row.iter().map(ratatui::buffer::Cell::symbol).collect::<String>());
    rows.map(|row| row.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// Without colours.
fn plain(text: &str) -> String {
    anstream::adapter::strip_str(text).to_string()
}

impl State {
    fn new(status: Value) -> Self {
        Self {
            status,
            at: Instant::now(),
            rates: Vec::new(),
            events: VecDeque::new(),
            selected: 0,
            story: None,
            paused: false,
            trouble: None,
        }
    }

    /// A newer status: what was counted meanwhile becomes rates.
    fn take(&mut self, status: Value) {
        let passed = self.at.elapsed().as_secs_f64().max(0.001);
        self.rates = rates(&self.status, &status, passed);
        (self.status, self.at, self.trouble) = (status, Instant::now(), None);
    }

    fn tell(&mut self, event: Value) {
        let quiet = matches!(word(&event["kind"]), "committed" | "follows" | "voted" | "polls" | "heard");
        if quiet {
            return;
        }
        if self.events.len() == KEPT {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    /// What can be asked about, in the order in which it is shown.
    fn names(&self) -> Vec<String> {
        let lease = |lease: &Value| match word(&lease["name"]) {
            "the address" => "vip".to_owned(),
            name => name.to_owned(),
        };
        each(&self.status["leases"]).map(lease).collect()
    }
}

/// What happened in a second, from two looks.
fn rates(old: &Value, new: &Value, passed: f64) -> Vec<(&'static str, f64)> {
    let count = |status: &Value, place: &str| status.pointer(place).and_then(Value::as_u64);
    let rate = |places: &[&str]| {
        let sum = |status| places.iter().filter_map(|place| count(status, place)).sum::<u64>();
        let known = places.iter().any(|place| count(new, place).is_some());
        known.then(|| sum(new).saturating_sub(sum(old)) as f64 / passed)
    };
    [
        ("packets sent", &["/counters/transport/probes-sent", "/counters/transport/packets-sent"][..]),
        ("packets received", &["/counters/transport/probes-received", "/counters/transport/packets-received"]),
        (
            "packets lost or refused",
            &[
                "/counters/transport/probes-dropped",
                "/counters/transport/probes-failed",
                "/counters/transport/packets-refused",
                "/counters/transport/packets-stale",
            ],
        ),
        ("frames sent on", &["/counters/frames/transmit"]),
        ("frames served here", &["/counters/frames/local"]),
        ("journal entries", &["/counters/journal/put"]),
    ]
    .into_iter()
    .filter_map(|(name, places)| rate(places).map(|rate| (name, rate)))
    .collect()
}

const fn colour(level: &str) -> Color {
    match level.as_bytes() {
        b"error" => Color::Red,
        b"warning" => Color::Yellow,
        _ => Color::Reset,
    }
}

fn state_colour(status: &str) -> Color {
    match status {
        "up" | "ready" => Color::Green,
        "suspect" | "starting" | "standby" | "promoting" | "blocked" | "stopping" => Color::Yellow,
        _ => Color::Red,
    }
}

fn draw(frame: &mut Frame<'_>, state: &State) {
    let status = &state.status;
    let alarms: Vec<&Value> = each(&status["alarms"]).collect();
    let shown = u16::try_from(alarms.len().min(4)).unwrap_or(4);
    let leases = each(&status["leases"]).count();
    let services = each(&status["services"]).count();
    let [head, warn, middle, below] = Layout::vertical([
        Constraint::Length(2),
        Constraint::Length(shown),
        Constraint::Length(17),
        Constraint::Min(4),
    ])
    .areas(frame.area());
    header(frame, state, head);
    let lines: Vec<Line<'_>> = alarms
        .iter()
        .take(4)
        .map(|alarm| {
            let mark =
                Span::styled(" ! ", Style::new().fg(colour(word(&alarm["level"]))).add_modifier(Modifier::REVERSED));
            Line::from(vec![
                mark,
                " ".into(),
                word(&alarm["what"]).to_owned().into(),
                Span::styled(format!("  {}", word(&alarm["mend"])), Color::DarkGray),
            ])
        })
        .collect();
    frame.render_widget(Paragraph::new(lines), warn);
    let [left, right] = Layout::horizontal([Constraint::Length(38), Constraint::Min(40)]).areas(middle);
    ring(frame, status, left);
    let lease_rows = u16::try_from(leases.clamp(1, 6)).unwrap_or(6) + 2;
    let service_rows = u16::try_from(services.clamp(1, 6)).unwrap_or(6) + 3;
    let [top, mid, bottom] =
        Layout::vertical([Constraint::Length(lease_rows), Constraint::Length(service_rows), Constraint::Min(3)])
            .areas(right);
    lease_pane(frame, state, top);
    service_pane(frame, status, mid);
    rate_pane(frame, state, bottom);
    event_pane(frame, state, below);
    if let Some(story) = &state.story {
        let area = frame.area();
        let [_, area, _] =
            Layout::vertical([Constraint::Percentage(15), Constraint::Percentage(70), Constraint::Percentage(15)])
                .areas(area);
        frame.render_widget(Clear, area);
        let text = Paragraph::new(story.as_str()).wrap(Wrap { trim: false });
        frame.render_widget(text.block(Block::bordered().title(" why ").title_bottom(" esc ")), area);
    }
}

fn header(frame: &mut Frame<'_>, state: &State, area: Rect) {
    let status = &state.status;
    let health = Health::of(status);
    let tone = match health {
        Health::Good => Color::Green,
        Health::Degraded => Color::Yellow,
        Health::NoQuorum => Color::Red,
    };
    let mut first = vec![
        format!("cluster {}", status["cluster"]).bold(),
        format!(", as node {} sees it  ", status["node"]).into(),
        Span::styled(format!(" {} ", health.name()), Style::new().fg(tone).add_modifier(Modifier::REVERSED)),
    ];
    if state.paused {
        first.push("  paused".yellow());
    }
    if let Some(trouble) = &state.trouble {
        first.push(format!("  {trouble}").red());
    }
    let quorum = &status["quorum"];
    let second = format!(
        "coordinator {}, term {}; {} of {} voters up; log #{}, epoch {}",
        node(&status["coordinator"]),
        status["term"],
        quorum["up"],
        quorum["of"],
        status["commit"],
        status["epoch"].as_u64().map_or_else(|| "–".into(), |epoch| epoch.to_string()),
    );
    frame.render_widget(Paragraph::new(vec![Line::from(first), Line::from(second)]), area);
}

/// The nodes in a circle, and who tests whom.
fn ring(frame: &mut Frame<'_>, status: &Value, area: Rect) {
    let nodes: Vec<&Value> = each(&status["nodes"]).collect();
    let many = nodes.len().max(1) as f64;
    let radius = if nodes.len() > 1 { 0.72 } else { 0.0 };
    let place = |at: usize| {
        let angle = std::f64::consts::FRAC_PI_2 - at as f64 * std::f64::consts::TAU / many;
        (radius * angle.cos(), radius * angle.sin())
    };
    let rank = |number: &Value| nodes.iter().position(|node| node["node"] == *number);
    let canvas = Canvas::default()
        .block(Block::bordered().title(" nodes "))
        .marker(Marker::Braille)
        .x_bounds([-1.15, 1.15])
        .y_bounds([-1.0, 1.0])
        .paint(|c| {
            for test in each(&status["tests"]) {
                if let (Some(from), Some(to)) = (rank(&test[0]), rank(&test[1])) {
                    let ((x1, y1), (x2, y2)) = (place(from), place(to));
                    c.draw(&Stroke { x1, y1, x2, y2, color: Color::DarkGray });
                }
            }
            c.layer();
            for (at, one) in nodes.iter().enumerate() {
                let (x, y) = place(at);
                let mark = if one["coordinator"] == true { "*" } else { "" };
                let name = format!(" {mark}{} {} ", one["node"], word(&one["status"]));
                let style = Style::new().fg(state_colour(word(&one["status"]))).add_modifier(Modifier::BOLD);
                // A label begins at its place.
                let x = x - 0.03 * name.chars().count() as f64;
                c.print(x, y, Line::styled(name, style));
                let drained = if one["maintenance"].is_object() { "maintenance" } else { "drained" };
                let roles: Vec<&str> = [("dispatcher", "address"), ("drained", drained)]
                    .into_iter()
                    .filter(|(field, _)| one[*field] == true)
                    .map(|(_, role)| role)
                    .collect();
                if !roles.is_empty() {
                    c.print(x, y - 0.14, Line::styled(format!(" {} ", roles.join(", ")), Color::Cyan));
                }
            }
        });
    frame.render_widget(canvas, area);
}

fn lease_pane(frame: &mut Frame<'_>, state: &State, area: Rect) {
    let block = Block::bordered().title(" leases ");
    let inner = block.inner(area);
    frame.render_widget(block, area);
    // What time has passed since the node told it is gone.
    let gone = u64::try_from(state.at.elapsed().as_millis()).unwrap_or_default();
    let wide = usize::from(inner.width).saturating_sub(48);
    let lines: Vec<Line<'_>> = each(&state.status["leases"])
        .enumerate()
        .map(|(at, lease)| {
            let selected = if at == state.selected { "▸" } else { " " };
            let name: String = word(&lease["name"]).chars().take(16).collect();
            let holder = node(&lease["holder"]);
            let epoch = lease["epoch"].as_u64().map_or_else(String::new, |epoch| format!("epoch {epoch}"));
            let whole = lease["lease_ms"].as_u64().unwrap_or(1).max(1);
            let left = lease["left_ms"].as_u64().map(|left| left.saturating_sub(gone));
            let full = left.map_or(0, |left| usize::try_from(left.min(whole) * wide as u64 / whole).unwrap_or(0));
            let bar = format!("{}{}", "█".repeat(full), "░".repeat(wide - full));
            let low = left.is_some_and(|left| left * 7 < whole);
            let said = match (&lease["holder"], left) {
                (Value::Null, _) => String::new(),
                (_, Some(left)) => length(left),
                (_, None) => "not known".into(),
            };
            let tone = if lease["holder"].is_null() || low { Color::Red } else { Color::Cyan };
            Line::from(vec![
                format!("{selected}{name:<16} {holder:<8} {epoch:<10} ").into(),
                Span::styled(bar, tone),
                format!(" {said:>9}").into(),
            ])
        })
        .collect();
    let lines = if lines.is_empty() { vec![Line::from("nothing is held in this cluster")] } else { lines };
    let from = state.selected.saturating_sub(usize::from(inner.height).saturating_sub(1));
    frame.render_widget(Paragraph::new(lines).scroll((u16::try_from(from).unwrap_or(0), 0)), inner);
}

fn service_pane(frame: &mut Frame<'_>, status: &Value, area: Rect) {
    let number = |value: &Value| value.as_u64().map_or_else(|| "–".into(), |number| number.to_string());
    let rows = each(&status["services"]).map(|one| {
        let state = word(&one["state"]).to_owned();
        let tone = state_colour(&state);
        let others = each(&one["copies"]).filter(|copy| copy["node"] != one["node"]);
        let others: Vec<String> = others.map(|copy| format!("{} {}", copy["node"], word(&copy["state"]))).collect();
        Row::new(vec![
            Span::raw(format!("{}.{}", word(&one["name"]), one["slot"])),
            Span::raw(number(&one["node"])),
            Span::styled(state, tone),
            Span::raw(number(&one["pid"])),
            Span::raw(one["running_ms"].as_u64().map_or_else(|| "–".into(), length)),
            Span::raw(number(&one["restarts"])),
            Span::raw(others.join(", ")),
        ])
    });
    let widths = [
        Constraint::Length(16),
        Constraint::Length(5),
        Constraint::Length(12),
        Constraint::Length(8),
        Constraint::Length(8),
        Constraint::Length(8),
        Constraint::Min(5),
    ];
    let head = Row::new(["service", "node", "state", "pid", "runs for", "restarts", "others"]).fg(Color::DarkGray);
    let table = Table::new(rows, widths).header(head).block(Block::bordered().title(" services "));
    frame.render_widget(table, area);
}

fn rate_pane(frame: &mut Frame<'_>, state: &State, area: Rect) {
    let rates = state.rates.iter().map(|(name, rate)| format!("{name} {rate:.1}/s")).collect::<Vec<_>>().join("   ");
    let mut lines = vec![Line::from(rates)];
    for group in each(&state.status["files"]) {
        let lags = each(&group["copies"]).filter(|copy| copy["node"] != group["writer"]).map(|copy| {
            let [behind, bytes, time] = crate::repl::lag(group, copy);
            if behind == "–" {
                format!("{} –", copy["node"])
            } else {
                format!("{} {behind}, {bytes}, {time}", copy["node"])
            }
        });
        let lags = lags.collect::<Vec<_>>().join("; ");
        lines.push(Line::from(format!(
            "files {} of {}, behind: {lags}",
            word(&group["group"]),
            node(&group["writer"])
        )));
    }
    let text = Paragraph::new(lines).wrap(Wrap { trim: true });
    frame.render_widget(text.block(Block::bordered().title(format!(" rates of node {} ", state.status["node"]))), area);
}

fn event_pane(frame: &mut Frame<'_>, state: &State, area: Rect) {
    let block = Block::bordered().title(" events ").title_bottom(" ↑↓ select  enter why  p pause  q end ");
    let inner = block.inner(area);
    let from = state.events.len().saturating_sub(usize::from(inner.height));
    let lines: Vec<Line<'_>> = state
        .events
        .range(from..)
        .map(|event| {
            let at = clock(event["at_us"].as_u64().unwrap_or_default());
            Line::from(vec![
                Span::styled(at, Color::DarkGray),
                format!("  node {:<3} ", event["node"]).into(),
                Span::styled(word(&event["text"]).to_owned(), colour(word(&event["level"]))),
            ])
        })
        .collect();
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

/// What a node could tell, for pictures in tests.
#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> Value {
        json!({
            "apus": "0.1.0", "cluster": 7, "node": 0, "state": "running", "term": 4, "commit": 12, "epoch": 9, "coordinator": 0,
            "dispatcher": 1, "quorum": {"of": 3, "up": 2, "needed": 2, "has": true},
            "nodes": [
                {"node": 0, "status": "up", "coordinator": true}, {"node": 1, "status": "up", "dispatcher": true},
                {"node": 2, "status": "down"}
            ],
            "tests": [[0, 1], [1, 0], [0, 2], [1, 2]],
            "leases": [
                {"name": "the address", "holder": 1, "epoch": 9, "left_ms": 60_000, "lease_ms": 60_000},
                {"name": "web.0", "holder": null, "epoch": 7, "left_ms": null, "lease_ms": 60_000}
            ],
            "services": [{"name": "web", "slot": 0, "node": null, "state": "nobody's", "copies": [{"node": 1, "state": "standby"}]}],
            "files": [{"group": "books", "writer": 0, "copies": [
                {"node": 0}, {"node": 1, "behind": 4, "behind_bytes": 12_345, "behind_us": 7_000}, {"node": 2, "behind": null}]}],
            "alarms": [{"level": "error", "about": "node 2", "what": "node 2 is down", "mend": "start it"}],
            "counters": {"transport": {"probes-sent": 100, "packets-sent": 20}, "journal": {"put": 5}},
        })
    }

    #[test]
    fn the_picture_shows_everything() {
        let mut state = State::new(status());
        let mut later = status();
        later["counters"]["transport"]["probes-sent"] = 150.into();
        state.rates = rates(&status(), &later, 2.0);
        let told = json!({"node": 1, "kind": "armed", "level": "info", "text": "holds the address by e9", "at_us": 0});
        state.tell(told.clone());
        state.tell(json!({"kind": "committed", "text": "commits #9"}));
        let text = picture(&state, PICTURE).unwrap_or_else(|_| panic!("it is drawn"));
        // The time of day is that of this machine's zone.
        let text = text.replace(&clock(0), "00:00:00.000");
        // What is left of the first lease gets less while this runs.
        let text: Vec<String> = text
            .lines()
            .map(|line| {
                if line.contains("the address") && line.contains("epoch") {
                    line[..line.find('█').unwrap_or(0)].into()
                } else {
                    line.to_owned()
                }
            })
            .collect();
        insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true, snapshot_path => "../tests/snapshots" }, {
            insta::assert_snapshot!("top", text.join("\n"));
        });
    }

    #[test]
    fn a_small_terminal_and_an_empty_answer_are_no_trouble() {
        for size in [(1, 1), (20, 5), (40, 12), (300, 100)] {
            for status in
                [status(), json!({}), json!({"nodes": [{}], "leases": [{}], "services": [{}], "alarms": [{}]})]
            {
                let mut state = State::new(status);
                state.story = Some("a story\n".repeat(50));
                state.selected = 1_000;
                assert!(picture(&state, size).is_ok());
            }
        }
    }
}
