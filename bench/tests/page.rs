//! The report's page in a real browser: its charts are drawn, inside of their frames, and have the data's points.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;
use tandem_bench::device::Mode;
use tandem_bench::gates::{Gate, Reason};
use tandem_bench::manifest::{InterfaceFacts, Manifest};
use tandem_bench::report::page;
use tandem_bench::results::{Kind, Latency, Repeat, Results, Run};

/// Written behind the page, for this test alone: what is drawn of each chart, as the browser lays it out.
const MEASURE: &str = r#"<script>
const measured = {};
for (const figure of document.querySelectorAll('figure')) {
  const frame = figure.querySelector('svg').getBoundingClientRect();
  const dots = [...figure.querySelectorAll('circle')].map(dot => dot.getBoundingClientRect());
  const inside = dots.filter(dot => dot.width > 1 && dot.left >= frame.left && dot.right <= frame.right && dot.top >= frame.top && dot.bottom <= frame.bottom);
  const labels = [...figure.querySelectorAll('text')].filter(text => text.getBoundingClientRect().width > 1).map(text => text.textContent.trim());
  measured[figure.id] = {dots: dots.length, inside: inside.length, heights: new Set(dots.map(dot => Math.round(dot.top))).size, labels};
}
const struck = [...document.querySelectorAll('tr.invalid td')].filter(cell => getComputedStyle(cell).textDecorationLine === 'line-through').length;
const first = document.body.firstElementChild.textContent;
document.body.innerHTML = '<pre id="measured"></pre>';
document.getElementById('measured').textContent = JSON.stringify({measured, struck, first});
</script></body>"#;

fn row(kind: Kind, spread: u32, mode: Mode, values: &[f64]) -> Run {
    let name = if kind == Kind::InMemory { "in-memory".to_owned() } else { format!("udp-sport-0-{}", spread - 1) };
    let mut run = Run::new(kind, &name, spread, mode);
    let repeat = |(number, value): (usize, &f64)| {
        let rate = if kind == Kind::InMemory { 0.0 } else { *value };
        let nanos = if kind == Kind::InMemory { *value } else { 1e9 / value };
        Repeat {
            number: number as u32 + 1,
            offered_pps: rate,
            received_pps: rate,
            forwarded_pps: rate,
            flow_hit_ratio: Some(1.0),
            ns_per_packet: Some(nanos),
            ..Repeat::default()
        }
    };
    run.repeats.all = values.iter().enumerate().map(repeat).collect();
    run.settle(values.len() as u32);
    run
}

fn results() -> Results {
    let mut runs = Vec::new();
    for (at, spread) in [1, 101, 1001, 2001, 6001, 8001].into_iter().enumerate() {
        for (mode, rate) in [(Mode::Xdp, 1.2e6), (Mode::Afxdp, 0.3e6), (Mode::Bounce, 1.6e6)] {
            let rate = rate * (1.0 - 0.03 * at as f64);
            runs.push(row(Kind::Throughput, spread, mode, &[rate * 0.97, rate, rate * 1.02]));
        }
    }
    for flows in [1, 1000, 1_000_000] {
        runs.push(row(Kind::InMemory, flows, Mode::Xdp, &[100.0 + f64::from(flows).ln(); 3]));
        runs.push(row(Kind::InMemory, flows, Mode::Afxdp, &[40.0 + f64::from(flows).ln(); 3]));
    }
    for rate in [20_000.0, 100_000.0] {
        let mut run = row(Kind::Latency, 1, Mode::Xdp, &[rate]);
        run.latency_us = Some(Latency { p50: 12.0, p99: 40.0 + rate / 1e4, p999: 300.0 });
        runs.push(run);
    }
    // A row that does not count is in the tables, and in no chart.
    let mut invalid = row(Kind::Throughput, 8001, Mode::AfxdpPlain, &[9e6; 3]);
    let reason =
        Reason { gate: Gate::WrongFrames, what: "3 of 24 sampled frames are wrong: 60 bytes, expected 80 <80>".to_owned() };
    invalid.repeats.all.iter_mut().for_each(|repeat| repeat.invalid_because.push(reason.clone()));
    invalid.settle(3);
    runs.push(invalid);
    let interface = InterfaceFacts { name: "eth0".to_owned(), driver: "veth".to_owned(), queues: 1, ethtool: BTreeMap::new() };
    Results { manifest: Manifest { interface, profile: "release".to_owned(), ..Manifest::default() }, runs }
}

#[test]
fn the_page_stands_alone_and_says_first_what_veth_cannot_show() {
    let html = page(&results()).expect("a page");
    let text = html.find("Measured on veth pairs").expect("the caveat");
    assert!(text < html.find("<h1>").expect("a title"), "the caveat is the first line");
    for outside in ["src=", "href=", "@import", "<script", "<link", "url("] {
        assert!(!html.contains(outside), "{outside} in a page that must stand alone");
    }
    assert!(html.contains("expected 80 &lt;80&gt;"), "what was found is escaped");
}

#[test]
fn a_browser_draws_every_chart_with_its_points() {
    let Some(browser) = ["chromium", "chromium-browser", "google-chrome"].iter().find_map(|name| in_path(name)) else {
        println!("SKIPPED: no Chromium here (Debian: apt-get install chromium); the page was not rendered");
        return;
    };
    let directory = std::env::temp_dir().join(format!("tandem-bench-page-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory");
    let file = directory.join("index.html");
    let html = page(&results()).expect("a page").replace("</body>", MEASURE);
    std::fs::write(&file, html).expect("a file");
    let output = Command::new("timeout")
        .arg("60")
        .arg(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1200,4000"])
        .arg(format!("--user-data-dir={}", directory.join("profile").display()))
        .args(["--dump-dom", &format!("file://{}", file.display())])
        .output()
        .expect("it starts");
    let dom = String::from_utf8_lossy(&output.stdout).into_owned();
    let _ = std::fs::remove_dir_all(&directory);
    let json = dom.split_once("<pre id=\"measured\">").and_then(|(_, rest)| rest.split_once("</pre>")).map(|(json, _)| json);
    let json = json.unwrap_or_else(|| panic!("nothing was measured: {}", String::from_utf8_lossy(&output.stderr)));
    let found: Value = serde_json::from_str(&json.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")).expect("JSON");
    for (chart, dots, heights, label) in [
        ("throughput", 18, 12, "million frames/s"),
        ("cpu", 18, 6, "ns"),
        ("hits", 18, 1, "per cent"),
        ("in-memory", 6, 4, "1000000"),
        ("latency-p50", 2, 1, "0-0 at 20 k/s"),
        ("latency-p99", 2, 2, "0-0 at 100 k/s"),
    ] {
        let drawn = &found["measured"][format!("chart-{chart}")];
        assert_eq!((&drawn["dots"], &drawn["inside"]), (&dots.into(), &dots.into()), "{chart}: {drawn}");
        assert!(drawn["heights"].as_u64() >= Some(heights), "{chart}: {drawn}");
        assert!(drawn["labels"].as_array().is_some_and(|labels| labels.iter().any(|text| text == label)), "{chart}: {drawn}");
    }
    assert!(found["struck"].as_u64() > Some(10), "the invalid row is crossed out: {}", found["struck"]);
    assert!(found["first"].as_str().is_some_and(|first| first.starts_with("Measured on veth pairs")), "{}", found["first"]);
}

fn in_path(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).map(|directory| directory.join(name)).find(|file| file.is_file())
}
