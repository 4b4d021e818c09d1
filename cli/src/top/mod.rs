//! `tandem top`: what a running balancer does, live.

mod rates;
mod view;

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use clap::Args;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use tandem_api::wire;

use crate::Failure;
use crate::mode::mode_of;
use crate::target::{Connection, Target};
#[cfg(test)]
use rates::Rate;
use rates::Rates;
use view::View;

#[derive(Args)]
pub struct TopArgs {
    #[command(flatten)]
    target: Target,
    /// Seconds between two looks
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=3600))]
    interval: u64,
}

/// What a key asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wish {
    End,
    Scroll(i32),
    Nothing,
}

fn wish(key: KeyEvent) -> Wish {
    if key.kind == KeyEventKind::Release {
        return Wish::Nothing;
    }
    match key.code {
        KeyCode::Char('q') | KeyCode::Esc => Wish::End,
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Wish::End,
        KeyCode::Down | KeyCode::Char('j') => Wish::Scroll(1),
        KeyCode::Up | KeyCode::Char('k') => Wish::Scroll(-1),
        KeyCode::PageDown => Wish::Scroll(20),
        KeyCode::PageUp => Wish::Scroll(-20),
        _ => Wish::Nothing,
    }
}

pub fn top(args: &TopArgs) -> Result<(), Failure> {
    if args.target.json || !std::io::stdout().is_terminal() {
        return Err(Failure::Usage(anyhow!("`tandem top` needs a terminal; `tandem stats --json` gives the numbers")));
    }
    let mut client = args.target.connect()?;
    // Before the screen is cleared: a balancer that does not answer is said in the usual way.
    let first = look(&mut client)?;
    let mut terminal = ratatui::try_init()?;
    let result = run(&mut terminal, &mut client, first, Duration::from_secs(args.interval));
    ratatui::restore();
    result
}

fn look(client: &mut Connection) -> Result<(wire::Mode, wire::Stats), Failure> {
    let mode = mode_of(client)?;
    let stats = client.ask(async |balancer| balancer.get_stats(wire::GetStatsRequest { vip: None }).await)?;
    Ok((mode, stats))
}

fn run(
    terminal: &mut DefaultTerminal,
    client: &mut Connection,
    first: (wire::Mode, wire::Stats),
    interval: Duration,
) -> Result<(), Failure> {
    let (mut mode, mut stats) = first;
    let mut rates = Rates::default();
    let mut scroll: usize = 0;
    loop {
        let view = View { mode: &mode, stats: &stats, rates: &rates };
        scroll = scroll.min(view.rows().saturating_sub(1));
        terminal.draw(|frame| view.draw(frame, scroll))?;
        let next = Instant::now() + interval;
        while event::poll(next.saturating_duration_since(Instant::now()))? {
            let Event::Key(key) = event::read()? else { break };
            match wish(key) {
                Wish::End => return Ok(()),
                Wish::Scroll(by) => {
                    scroll = scroll.saturating_add_signed(by as isize);
                    break;
                }
                Wish::Nothing => {}
            }
        }
        if Instant::now() >= next {
            let (now, seen) = look(client)?;
            rates = Rates::between(&stats, &seen);
            (mode, stats) = (now, seen);
        }
    }
}

#[cfg(test)]
mod tests;
