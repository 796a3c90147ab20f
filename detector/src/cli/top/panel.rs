//! What lies over the table: a question in a box, or a text as wide as the screen.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::Color;
use ratatui::text::Line;
use ratatui::widgets::{Block, Borders, Clear, Paragraph};

use super::super::printable;
use super::draw::paint;
use super::view::{Panel, View};

/// Its widest line, and the frame.
const QUESTION: u16 = 76;

/// Draws it within `area`, if there is one.
pub(super) fn draw(view: &View, frame: &mut Frame<'_>, area: Rect) {
    match &view.panel {
        Panel::None => {}
        Panel::Question { title, lines, .. } => {
            let height = (lines.len() as u16 + 2).min(area.height);
            let width = QUESTION.min(area.width);
            let place =
                Rect { x: area.x + (area.width - width) / 2, y: area.y + (area.height - height) / 3, width, height };
            let block = Block::bordered().title(format!(" {title}? ")).border_style(paint(view, Color::Yellow));
            lay(frame, place, block, lines);
        }
        Panel::Text { title, lines, scrolled } => {
            let block = Block::new().borders(Borders::TOP | Borders::BOTTOM).title(format!(" {title} "));
            let rest = lines.get(*scrolled..).unwrap_or_default();
            lay(frame, area, block.border_style(paint(view, Color::Cyan)), rest);
        }
    }
}

fn lay(frame: &mut Frame<'_>, place: Rect, block: Block<'_>, lines: &[String]) {
    let lines: Vec<Line<'_>> = lines.iter().map(|line| Line::from(printable::line(line))).collect();
    frame.render_widget(Clear, place);
    frame.render_widget(Paragraph::new(lines).block(block), place);
}
