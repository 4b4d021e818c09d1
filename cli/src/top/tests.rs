use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::*;

fn stats(at_ms: u64, packets: u64) -> wire::Stats {
    let real = |real: &str, state: wire::RealState, packets: u64| wire::RealStats {
        real: real.to_owned(),
        weight: 3,
        state: state.into(),
        packets,
        bytes: packets * 100,
        ring: packets / 10,
        ..wire::RealStats::default()
    };
    let vip = wire::VipStats {
        vip: "10.200.1.1:80/tcp".to_owned(),
        packets,
        bytes: packets * 100,
        ring: packets / 10,
        reals: vec![
            real("10.0.0.1", wire::RealState::Up, packets),
            real("10.0.0.2", wire::RealState::Drain, 0),
            real("10.0.0.3", wire::RealState::Down, 0),
        ],
        ..wire::VipStats::default()
    };
    wire::Stats {
        vips: vec![vip],
        drops: [("no-next-hop".to_owned(), packets / 2)].into(),
        at_ms,
        cores: vec![wire::CoreStats { core: "cpu 1".to_owned(), frames: packets }],
    }
}

fn screen(mode: &wire::Mode, stats: &wire::Stats, rates: &Rates, scroll: usize) -> String {
    let mut terminal = Terminal::new(TestBackend::new(100, 16)).expect("a screen");
    let view = View { mode, stats, rates };
    terminal.draw(|frame| view.draw(frame, scroll)).expect("drawn");
    let buffer = terminal.backend().buffer();
    let lines: Vec<String> = (0..buffer.area.height)
        .map(|y| (0..buffer.area.width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned())
        .collect();
    lines.join("\n")
}

fn mode() -> wire::Mode {
    wire::Mode {
        mode: wire::Seat::Afxdp.into(),
        why: "set by hand".to_owned(),
        interface: "eth0".to_owned(),
        attach: "native".to_owned(),
        ..wire::Mode::default()
    }
}

#[test]
fn rates_are_of_the_time_between() {
    let (before, after) = (stats(1_000, 1_000), stats(3_000, 41_000));
    let rates = Rates::between(&before, &after);
    let text = screen(&mode(), &after, &rates, 0);
    for part in [
        "eth0: mode afxdp (set by hand), attached native",
        "20.0k packets/s, 16.0M bit/s, 2.0k new flows/s, 90.0% of packets hit a known flow",
        "10.200.1.1:80/tcp",
        "10.0.0.2",
        "drain",
        "no-next-hop",
        "10.0k/s",
        "cpu 1",
        "20.0k frames/s",
    ] {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }
    // No time, no rates; a counter that began anew is no rate either.
    assert_eq!(Rates::between(&before, &before).all, Rate::default());
    assert_eq!(Rates::between(&stats(1_000, 500), &stats(2_000, 0)).all.packets, 0.0);
}

#[test]
fn scrolled_it_begins_further_down() {
    let text = screen(&mode(), &stats(0, 0), &Rates::default(), 2);
    assert!(!text.contains("10.200.1.1:80/tcp") && !text.contains("10.0.0.1 ") && text.contains("10.0.0.2"), "{text}");
    assert!(text.contains("- of packets"), "{text}");
}

#[test]
fn keys() {
    let key = |code| wish(KeyEvent::new(code, KeyModifiers::NONE));
    assert_eq!([key(KeyCode::Char('q')), key(KeyCode::Esc)], [Wish::End; 2]);
    assert_eq!(wish(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)), Wish::End);
    assert_eq!(
        (key(KeyCode::Down), key(KeyCode::PageUp), key(KeyCode::Char('x'))),
        (Wish::Scroll(1), Wish::Scroll(-20), Wish::Nothing)
    );
}
