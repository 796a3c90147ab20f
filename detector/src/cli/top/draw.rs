//! A [`View`] on a screen of any size: 80 columns show what matters, wider ones more of each row.

use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Paragraph, RenderDirection, Row, Sparkline, Table, TableState};

use super::super::{figures, mode, printable, status};
use super::panel;
use super::view::{Panel, Sort, View, rate};
use crate::admin::protocol::{Action, Fingerprint};
use crate::config::Mode;

/// Less is no place for it.
const SMALLEST: (u16, u16) = (60, 12);
/// Columns of a name, and of a word and a figure, before a sparkline.
const LABEL: u16 = 10;
const FIGURE: u16 = 32;

/// Lines of what came of the last key.
const SAID: usize = 4;

const KEYS: [(&str, &str); 8] = [
    ("↑↓", "move"),
    ("e", "explain"),
    ("b", "block"),
    ("u", "unblock"),
    ("a", "allow"),
    ("s", "sort"),
    ("p", "pause"),
    ("q", "quit"),
];
const ANSWERS: [(&str, &str); 2] = [("y", "yes, do it"), ("any other key", "leave it")];
const READING: [(&str, &str); 2] = [("↑↓", "scroll"), ("any other key", "back")];

/// Draws everything.
pub fn draw(view: &View, frame: &mut Frame<'_>) {
    let area = frame.area();
    if area.width < SMALLEST.0 || area.height < SMALLEST.1 {
        let (width, height) = SMALLEST;
        let what = format!("detector top wants {width} columns and {height} lines; q quits");
        return frame.render_widget(Paragraph::new(what), area);
    }
    let (style, said) = said(view, area.width.into());
    let [head, figures, gap, table, note, keys] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(3),
        Constraint::Length(1),
        Constraint::Min(3),
        Constraint::Length(said.len() as u16),
        Constraint::Length(1),
    ])
    .areas(area);
    frame.render_widget(head_line(view, head.width), head);
    draw_figures(view, frame, figures);
    frame.render_widget(Paragraph::new(""), gap);
    draw_table(view, frame, table);
    frame.render_widget(Paragraph::new(said.into_iter().map(Line::from).collect::<Vec<_>>()).style(style), note);
    let shown = match view.panel {
        Panel::None => &KEYS[..],
        Panel::Question { .. } => &ANSWERS[..],
        Panel::Text { .. } => &READING[..],
    };
    frame.render_widget(key_line(shown), keys);
    panel::draw(view, frame, table);
}

/// A colour where there are any.
pub(super) fn paint(view: &View, colour: Color) -> Style {
    if view.colour { Style::default().fg(colour) } else { Style::default() }
}

fn bold() -> Style {
    Style::default().add_modifier(Modifier::BOLD)
}

/// Which daemon, where, since when; and whether it drops.
fn head_line(view: &View, width: u16) -> Paragraph<'static> {
    let now = &view.status;
    let interfaces = if width < 100 { String::new() } else { format!("  {}", status::interfaces(now)) };
    let left = format!(
        "detector {} (pid {}), up {}{interfaces}",
        printable::line(&now.version),
        now.pid,
        figures::seconds(now.uptime_s)
    );
    let unattached = now.interfaces.iter().any(|interface| !interface.attached);
    let (right, colour) = match (view.paused, unattached, now.mode.mode) {
        (true, ..) => ("PAUSED, p goes on".to_owned(), Color::Yellow),
        (_, true, _) => ("NOT ATTACHED: see `detector doctor`".to_owned(), Color::Red),
        (.., mode) => {
            let colour = if mode == Mode::Enforce { Color::Green } else { Color::Cyan };
            let long = format!("mode {}", mode::describe(&now.mode));
            let fits = left.chars().count() + long.chars().count() < width.into();
            (if fits { long } else { format!("mode {}", now.mode.mode.label()) }, colour)
        }
    };
    let gap = usize::from(width).saturating_sub(left.chars().count() + right.chars().count()).max(1);
    Paragraph::new(Line::from(vec![
        Span::styled(left, bold()),
        Span::raw(" ".repeat(gap)),
        Span::styled(right, paint(view, colour).add_modifier(Modifier::BOLD)),
    ]))
}

/// Rates, losses and latencies, each with its last minutes where there is something to draw.
fn draw_figures(view: &View, frame: &mut Frame<'_>, area: Rect) {
    let lines = Layout::vertical([Constraint::Length(1); 3]).areas::<3>(area);
    let complete = view.status.hellos.get("complete").copied().unwrap_or(0);
    let hellos = format!("{}/s, {} in all", per_second(view.rates.hellos), figures::count(complete));
    let latency = match view.latency() {
        Some((half, most)) => format!("{} median, {} p99", figures::micros(half), figures::micros(most)),
        None => "no verdict lately".to_owned(),
    };
    for (line, name, figure, history) in [
        (lines[0], "hellos", hellos, view.hellos().collect::<Vec<_>>()),
        (lines[1], "latency", latency, view.latencies().collect::<Vec<_>>()),
    ] {
        let [label, text, bars] =
            Layout::horizontal([Constraint::Length(LABEL), Constraint::Length(FIGURE), Constraint::Min(0)]).areas(line);
        frame.render_widget(Paragraph::new(name), label);
        frame.render_widget(Paragraph::new(figure), text);
        let sparkline = Sparkline::default().data(history).direction(RenderDirection::RightToLeft);
        frame.render_widget(sparkline.style(paint(view, Color::Cyan)), bars);
    }
    let ring = &view.status.ring;
    let lost = ring.lost_confirmed + ring.lost_unconfirmed;
    let packets = Line::from(vec![
        Span::raw(format!("{:<width$}", "packets", width = LABEL.into())),
        Span::raw(format!("{}/s, {} dropped/s", per_second(view.rates.packets), per_second(view.rates.dropped))),
        Span::raw("; verdicts: "),
        Span::raw(status::verdicts(&view.status)),
        Span::styled(
            if lost > 0 { format!("; {} events LOST", figures::count(lost)) } else { String::new() },
            paint(view, Color::Red),
        ),
    ]);
    frame.render_widget(Paragraph::new(packets), lines[2]);
}

fn per_second(rate: f64) -> String {
    if rate < 99.95 { format!("{rate:.1}") } else { figures::count(rate.round() as u64) }
}

/// In five characters.
fn short(rate: f64) -> String {
    if rate < 9999.5 { per_second(rate) } else { format!("{:.0}k", rate / 1000.0) }
}

/// A column: its title, its width, and what stands in it.
type Column = (&'static str, Constraint, fn(&Fingerprint) -> String);

const NUMBERS: [&str; 4] = ["HELLOS", "RATE", "RATE▾", "HELLOS▾"];

fn columns(width: u16, sort: Sort) -> Vec<Column> {
    let titled = |which, plain, marked| if sort == which { marked } else { plain };
    let mut columns: Vec<Column> = Vec::new();
    columns.push(("JA4", Constraint::Length(36), |seen| printable::line(&seen.ja4)));
    columns.push(("FAMILY", Constraint::Length(17), family));
    if width >= 120 {
        columns.push(("KIND", Constraint::Length(9), |seen| seen.kind.clone().unwrap_or_default()));
    }
    columns.push((titled(Sort::Rate, "RATE", "RATE▾"), Constraint::Length(5), |seen| short(rate(seen))));
    columns
        .push((titled(Sort::Hellos, "HELLOS", "HELLOS▾"), Constraint::Length(9), |seen| figures::count(seen.hellos)));
    columns.push(("VERDICT", Constraint::Length(9), verdict));
    if width >= 100 {
        columns.push((titled(Sort::Latest, "LAST", "LAST▾"), Constraint::Length(9), |seen| {
            format!("{} ago", figures::seconds(seen.last_seen_s))
        }));
    }
    if width >= 150 {
        columns.push(("LAST CLIENT", Constraint::Length(39), |seen| {
            seen.last_client.map(|address| address.to_string()).unwrap_or_default()
        }));
        columns.push(("LAST SERVER NAME", Constraint::Min(10), |seen| {
            seen.last_server_name.as_deref().map(printable::line).unwrap_or_default()
        }));
    }
    columns
}

fn family(seen: &Fingerprint) -> String {
    match (&seen.family, seen.kind.as_deref()) {
        (Some(family), Some("drift")) => format!("like {family}"),
        (Some(family), _) => family.clone(),
        (None, _) => "-".to_owned(),
    }
}

fn verdict(seen: &Fingerprint) -> String {
    seen.verdict.map(label).unwrap_or_default().to_owned()
}

const fn label(action: Action) -> &'static str {
    match action {
        Action::Allow => "allow",
        Action::Observe => "observe",
        Action::Challenge => "challenge",
        Action::RateLimit => "limit",
        Action::Block => "block",
    }
}

fn draw_table(view: &View, frame: &mut Frame<'_>, area: Rect) {
    let seen = &view.status.fingerprints;
    if seen.is_empty() {
        let what = "no hello seen yet: they come when clients connect to a protected port";
        return frame.render_widget(Paragraph::new(what), area);
    }
    let columns = columns(area.width, view.sort);
    let right = |title: &str| NUMBERS.contains(&title);
    let cell = |title: &str, text: String| {
        let alignment = if right(title) { Alignment::Right } else { Alignment::Left };
        Cell::from(Line::from(text).alignment(alignment))
    };
    let header = Row::new(columns.iter().map(|(title, ..)| cell(title, (*title).to_owned()))).style(bold());
    let rows = seen.iter().map(|seen| {
        let style = match (seen.verdict, seen.kind.as_deref()) {
            (Some(Action::Block | Action::RateLimit | Action::Challenge), _) => paint(view, Color::Red),
            (_, Some("browser")) => paint(view, Color::Green),
            (_, Some("scanner" | "imitator")) => paint(view, Color::Magenta),
            (_, Some("tool" | "library")) => paint(view, Color::Yellow),
            _ => Style::default(),
        };
        Row::new(columns.iter().map(|(title, _, text)| cell(title, text(seen)))).style(style)
    });
    let widths = columns.iter().map(|(_, width, _)| *width);
    let chosen = Style::default().add_modifier(Modifier::REVERSED);
    let table = Table::new(rows, widths).header(header).row_highlight_style(chosen);
    let mut state = TableState::default().with_selected(Some(view.selected_row()));
    frame.render_stateful_widget(table, area, &mut state);
}

/// What came of the last key, in so many columns and [`SAID`] lines at most.
fn said(view: &View, columns: usize) -> (Style, Vec<String>) {
    let Some((done, text)) = &view.said else { return (Style::default(), Vec::new()) };
    let mut lines: Vec<String> = Vec::new();
    for line in text.lines() {
        lines.push(String::new());
        for word in printable::line(line).split(' ') {
            match lines.last_mut() {
                Some(last) if last.is_empty() => last.push_str(word),
                Some(last) if last.chars().count() + 1 + word.chars().count() <= columns => {
                    last.push(' ');
                    last.push_str(word);
                }
                _ => lines.push(word.to_owned()),
            }
        }
    }
    lines.truncate(SAID);
    (paint(view, if *done { Color::Green } else { Color::Red }), lines)
}

fn key_line(keys: &[(&'static str, &'static str)]) -> Paragraph<'static> {
    let key =
        |(key, what): &(&'static str, &'static str)| [Span::styled(*key, bold()), Span::raw(format!(" {what}   "))];
    Paragraph::new(Line::from(keys.iter().flat_map(key).collect::<Vec<_>>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_wrapped_and_not_cut() {
        let text = "no request with it is remembered: web servers tell of requests\nsay `detector doctor`".to_owned();
        let mut view = View::default();
        view.said = Some((false, text));
        let expected = ["no request with it is remembered: web", "servers tell of requests", "say `detector doctor`"];
        assert_eq!(said(&view, 40).1, expected);
        assert_eq!(said(&View::default(), 40).1, [""; 0]);
    }
}
