//! Charts as SVG, drawn from valid rows alone.

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;

use crate::device::Mode;
use crate::results::{Kind, Results, Run};

const SIZE: (u32, u32) = (860, 400);

/// Colours that people with any kind of colour vision tell apart (Okabe and Ito).
fn colour(mode: Mode) -> RGBColor {
    match mode {
        Mode::Xdp => RGBColor(0, 114, 178),
        Mode::Afxdp => RGBColor(213, 94, 0),
        Mode::Drop => RGBColor(150, 150, 150),
        Mode::Bounce => RGBColor(86, 180, 233),
        Mode::FixedHeader => RGBColor(0, 158, 115),
        Mode::AfxdpPlain => RGBColor(230, 159, 0),
        Mode::Program => RGBColor(204, 121, 167),
        Mode::Bytecode => RGBColor(0, 0, 0),
    }
}

/// A named series of points, with least and greatest of each.
struct Series {
    name: String,
    colour: RGBColor,
    points: Vec<(usize, f64, f64, f64)>,
}

fn fail(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("cannot draw a chart: {error}")
}

/// A chart of series over named places; `None` if there is nothing to draw.
fn chart(title: &str, unit: &str, places: &[String], series: &[Series]) -> Result<Option<String>> {
    let most = series.iter().flat_map(|series| &series.points).map(|point| point.3).fold(0.0, f64::max);
    if places.is_empty() || most <= 0.0 {
        return Ok(None);
    }
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        draw(&area, title, unit, places, series, most)?;
        area.present().map_err(fail)?;
    }
    Ok(Some(svg))
}

fn draw(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    title: &str,
    unit: &str,
    places: &[String],
    series: &[Series],
    most: f64,
) -> Result<()> {
    area.fill(&WHITE).map_err(fail)?;
    let last = places.len().saturating_sub(1) as f64;
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(70)
        .build_cartesian_2d(-0.25..last + 0.25, 0.0..most * 1.15)
        .map_err(fail)?;
    let name = |x: &f64| {
        let is_place = (x - x.round()).abs() < 0.01 && *x >= -0.01;
        if is_place { places.get(x.round() as usize).cloned().unwrap_or_default() } else { String::new() }
    };
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_labels(4 * places.len() + 1)
        .x_label_formatter(&name)
        .y_desc(unit)
        .light_line_style(WHITE)
        .draw()
        .map_err(fail)?;
    for Series { name, colour, points } in series {
        let colour = *colour;
        let line = points.iter().map(|(x, middle, _, _)| (*x as f64, *middle));
        let drawn = chart.draw_series(LineSeries::new(line, colour.stroke_width(2))).map_err(fail)?;
        drawn.label(name).legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 16, y)], colour.stroke_width(2)));
        // Each with a dot in its middle.
        let bars = points
            .iter()
            .map(|(x, middle, low, high)| ErrorBar::new_vertical(*x as f64, *low, *middle, *high, colour.filled(), 6));
        chart.draw_series(bars).map_err(fail)?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.85))
        .border_style(RGBColor(200, 200, 200))
        .draw()
        .map_err(fail)
}

/// The valid rows of a kind as series over their places, by what `value` says of each.
fn series_of(
    results: &Results,
    kind: Kind,
    key: impl Fn(&Run) -> String,
    value: impl Fn(&Run) -> Option<(f64, f64, f64)>,
) -> (Vec<String>, Vec<Series>) {
    let mut places: Vec<String> = Vec::new();
    for run in results.of(kind) {
        let place = key(run);
        if !places.contains(&place) {
            places.push(place);
        }
    }
    let modes = Mode::KNOWN.into_iter();
    let series = modes.filter_map(|mode| {
        let points: Vec<_> = results
            .of(kind)
            .filter(|run| run.mode == mode && run.valid)
            .filter_map(|run| {
                let (middle, low, high) = value(run)?;
                Some((places.iter().position(|place| *place == key(run))?, middle, low, high))
            })
            .collect();
        (!points.is_empty()).then(|| Series { name: mode.name().to_owned(), colour: colour(mode), points })
    });
    let series = series.collect();
    (places, series)
}

fn place(run: &Run) -> String {
    run.scenario.strip_prefix("udp-sport-").unwrap_or(&run.scenario).to_owned()
}

/// A chart and the name by which tests and links find it.
pub type Chart = (&'static str, String);

/// All charts for which there is data.
///
/// # Errors
/// The library's.
pub fn charts(results: &Results) -> Result<Vec<Chart>> {
    let mut drawn = Vec::new();
    let mut add = |name: &'static str, title: &str, unit: &str, data: (Vec<String>, Vec<Series>)| -> Result<()> {
        drawn.extend(chart(title, unit, &data.0, &data.1)?.map(|svg| (name, svg)));
        Ok(())
    };
    let whole = |run: &Run| Some((run.repeats.median, run.repeats.min, run.repeats.max));
    let scaled = |(a, b, c): (f64, f64, f64), by: f64| (a * by, b * by, c * by);
    let throughput = series_of(results, Kind::Throughput, place, |run| whole(run).map(|v| scaled(v, 1e-6)));
    add("throughput", "Highest rate by spread of source ports", "million frames/s", throughput)?;
    let cpu = series_of(results, Kind::Throughput, place, |run| run.ns_per_packet.map(|ns| (ns, ns, ns)));
    add("cpu", "CPU time of the device for each frame, paced", "ns", cpu)?;
    let hits =
        series_of(results, Kind::Throughput, place, |run| run.flow_hit_ratio.map(|hit| (hit * 100.0, hit * 100.0, hit * 100.0)));
    add("hits", "Packets whose flow was known", "per cent", hits)?;
    let free = series_of(results, Kind::LossFree, place, |run| whole(run).map(|v| scaled(v, 1e-6)));
    add("loss-free", "Highest rate without loss", "million frames/s", free)?;
    let at = |run: &Run| format!("{} at {}", place(run), super::rate(run.offered_pps.round()));
    let at = |run: &Run| at(run).replace(".0 k", " k");
    for (name, title, pick) in [
        ("latency-p50", "Latency, half of the frames", 0),
        ("latency-p99", "Latency, 99 of 100 frames", 1),
        ("latency-p999", "Latency, 999 of 1000 frames", 2),
    ] {
        let latency = series_of(results, Kind::Latency, at, |run| {
            let latency = run.latency_us?;
            let value = [latency.p50, latency.p99, latency.p999].get(pick).copied()?;
            Some((value, value, value))
        });
        add(name, title, "µs", latency)?;
    }
    let memory = series_of(results, Kind::InMemory, |run| run.spread.to_string(), whole);
    add("in-memory", "The core alone: CPU time of a packet by number of flows", "ns", memory)?;
    Ok(drawn)
}
