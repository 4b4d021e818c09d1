//! One picture of a running balancer.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Block, Cell, Paragraph, Row, Table};
use tandem_api::{seat_name, state_name, wire};

use super::rates::{Rate, Rates};

/// What is known now.
pub struct View<'a> {
    pub mode: &'a wire::Mode,
    pub stats: &'a wire::Stats,
    pub rates: &'a Rates,
}

impl View<'_> {
    /// Lines of the table.
    pub fn rows(&self) -> usize {
        self.stats.vips.iter().map(|vip| 1 + vip.reals.len()).sum()
    }

    /// Draws it; the table begins at line `scroll`.
    pub fn draw(&self, frame: &mut Frame<'_>, scroll: usize) {
        let bottom = u16::try_from(self.stats.drops.len().max(self.stats.cores.len())).unwrap_or(u16::MAX).clamp(1, 8) + 2;
        let [head, table, foot, keys] =
            Layout::vertical([Constraint::Length(2), Constraint::Min(3), Constraint::Length(bottom), Constraint::Length(1)])
                .areas(frame.area());
        self.draw_head(frame, head);
        self.draw_table(frame, table, scroll);
        let [drops, cores] = Layout::horizontal([Constraint::Percentage(60), Constraint::Percentage(40)]).areas(foot);
        self.draw_drops(frame, drops);
        self.draw_cores(frame, cores);
        frame.render_widget(Line::from("q ends, arrows scroll").style(Style::new().add_modifier(Modifier::DIM)), keys);
    }

    fn draw_head(&self, frame: &mut Frame<'_>, area: Rect) {
        let Self { mode, rates, .. } = self;
        let all = &rates.all;
        let text = vec![
            Line::from(format!("{}: mode {} ({}), attached {}", mode.interface, seat_name(mode.mode()), mode.why, mode.attach)),
            Line::from(format!(
                "{} packets/s, {} bit/s, {} new flows/s, {} of packets hit a known flow",
                short(all.packets),
                short(all.bits),
                short(all.new),
                ratio(all)
            )),
        ];
        frame.render_widget(Paragraph::new(text), area);
    }

    fn draw_table(&self, frame: &mut Frame<'_>, area: Rect, scroll: usize) {
        let header = Row::new(["VIP, real", "weight", "state", "packets/s", "bit/s", "new/s", "hit"]);
        let bold = Style::new().add_modifier(Modifier::BOLD);
        let mut rows = Vec::new();
        for vip in &self.stats.vips {
            let rate = self.rates.vips.get(&vip.vip).copied().unwrap_or_default();
            rows.push(row([vip.vip.clone(), String::new(), String::new()], &rate).style(bold));
            for real in &vip.reals {
                let rate = self.rates.reals.get(&(vip.vip.clone(), real.real.clone())).copied().unwrap_or_default();
                let first = [format!("  {}", real.real), real.weight.to_string(), state_name(real.state()).to_owned()];
                let style = match real.state() {
                    wire::RealState::Drain => Style::new().fg(Color::Yellow),
                    wire::RealState::Down => Style::new().fg(Color::Red),
                    wire::RealState::Up | wire::RealState::Unspecified => Style::new(),
                };
                rows.push(row(first, &rate).style(style));
            }
        }
        let widths = [
            Constraint::Min(24),
            Constraint::Length(6),
            Constraint::Length(5),
            Constraint::Length(10),
            Constraint::Length(10),
            Constraint::Length(10),
            Constraint::Length(6),
        ];
        let table = Table::new(rows.into_iter().skip(scroll), widths).header(header.style(bold)).block(Block::bordered());
        frame.render_widget(table, area);
    }

    fn draw_drops(&self, frame: &mut Frame<'_>, area: Rect) {
        let mut drops: Vec<(&String, &u64)> = self.stats.drops.iter().collect();
        drops.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let lines: Vec<Line<'_>> = drops
            .into_iter()
            .map(|(reason, count)| {
                let rate = self.rates.drops.get(reason).copied().unwrap_or(0.0);
                Line::from(format!("{reason:<24} {:>10}/s {count:>14}", short(rate)))
            })
            .collect();
        frame.render_widget(Paragraph::new(lines).block(Block::bordered().title("dropped")), area);
    }

    fn draw_cores(&self, frame: &mut Frame<'_>, area: Rect) {
        let lines: Vec<Line<'_>> = self
            .stats
            .cores
            .iter()
            .map(|row| {
                let rate = self.rates.cores.get(&row.core).copied().unwrap_or(0.0);
                Line::from(format!("{:<12} {:>10} frames/s", row.core, short(rate)))
            })
            .collect();
        frame.render_widget(Paragraph::new(lines).block(Block::bordered().title("cores")), area);
    }
}

fn row(first: [String; 3], rate: &Rate) -> Row<'static> {
    let numbers = [short(rate.packets), short(rate.bits), short(rate.new), ratio(rate)];
    Row::new(first.into_iter().chain(numbers).map(Cell::from))
}

fn ratio(rate: &Rate) -> String {
    rate.hit_ratio().map_or_else(|| "-".to_owned(), |ratio| format!("{:.1}%", ratio * 100.0))
}

/// A number in four digits or so: 950, 12.3k, 4.56M.
fn short(number: f64) -> String {
    for (unit, name) in [(1e9, "G"), (1e6, "M"), (1e3, "k")] {
        if number >= unit {
            let scaled = number / unit;
            let places = if scaled >= 100.0 { 0 } else { 1 };
            return format!("{scaled:.places$}{name}");
        }
    }
    format!("{number:.0}")
}
