//! One HTML file, complete in itself: the verdict, and throughput and latency over time with the faults in them.

use super::Report;
use crate::history::{History, What};
use std::{fmt::Write as _, time::Duration};

/// When a record was acknowledged, and how long that took.
pub(super) type Acked = (Duration, Duration);

const WIDTH: f64 = 1_060.0;
const HEIGHT: f64 = 220.0;
/// Room for the axes.
const LEFT: f64 = 64.0;
const BELOW: f64 = 24.0;
const ABOVE: f64 = 14.0;

const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1c2430;--soft:#68727f;--line:#d9dee5;--paper:#fff;--sea:#1769aa;--foam:#8cc4ee;--bad:#c2321f;--good:#1c7c4a}\
@media(prefers-color-scheme:dark){:root{--ink:#e4e9f0;--soft:#97a3b2;--line:#323b47;--paper:#12171e;--sea:#62b0ec;--foam:#2c5f89;--bad:#ff7b66;--good:#5fd39a}}\
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:1100px;margin:2rem auto;padding:0 1rem}\
h1{font-size:1.4rem;margin:0}h2{font-size:1rem;margin:1.6rem 0 .3rem}\
.line{font:14px/1.6 ui-monospace,monospace;border-left:4px solid;padding:.4rem .8rem;margin:1rem 0}\
.good{border-color:var(--good)}.bad{border-color:var(--bad)}\
p,td{color:var(--soft)}svg{width:100%;height:auto}text{font:11px system-ui,sans-serif;fill:var(--soft)}\
table{border-collapse:collapse}td{padding:.1rem 1rem .1rem 0}td:first-child{text-align:right;font-variant-numeric:tabular-nums}";

/// What happened when.
#[derive(Default)]
pub(super) struct Course {
    acked: Vec<Acked>,
    /// Microseconds since the start, and what was done.
    faults: Vec<(u64, String)>,
}

impl Course {
    pub(super) fn of(history: &History, acked: Vec<Acked>) -> Self {
        let faults = history.events.iter().filter_map(|event| match &event.what {
            What::Fault { text } => Some((event.at, text.clone())),
            _ => None,
        });
        Self { acked, faults: faults.collect() }
    }
}

/// The page.
pub(super) fn page(about: &str, report: &Report, course: &Course) -> String {
    let Course { acked, faults } = course;
    let second = |at: &Duration| usize::try_from(at.as_secs()).unwrap_or(0);
    let seconds = acked.iter().map(|(at, _)| second(at)).max().unwrap_or(0) + 1;
    let mut buckets: Vec<Vec<f64>> = vec![Vec::new(); seconds];
    for (at, took) in acked {
        buckets[second(at)].push(took.as_secs_f64() * 1_000.0);
    }
    buckets.iter_mut().for_each(|bucket| bucket.sort_by(f64::total_cmp));
    #[allow(clippy::cast_precision_loss, reason = "a plot")]
    let rate: Vec<Option<f64>> = buckets.iter().map(|bucket| Some(bucket.len() as f64)).collect();
    // A second without acknowledgements has no latency.
    let quantile = |percent: usize| -> Vec<Option<f64>> {
        let place = |len: usize| (len * percent / 100).min(len.saturating_sub(1));
        buckets.iter().map(|bucket| bucket.get(place(bucket.len())).copied()).collect()
    };
    let mut page = String::new();
    let verdict = if report.is_good() { "good" } else { "bad" };
    let _ = write!(
        page,
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>\
         <title>Highwater: {title}</title><style>{STYLE}</style><h1>{title}</h1>\
         <div class='line {verdict}'>{line}<br>{deeds}</div>",
        title = escaped(about),
        line = escaped(&report.line()),
        deeds = escaped(&report.deeds()),
    );
    let evidence = report.evidence.iter().map(|a| format!("{} in partition {}: {}", a.kind, a.partition, a.evidence));
    for text in report.failures.iter().cloned().chain(evidence) {
        let _ = write!(page, "<div class='line bad'>{}</div>", escaped(&text));
    }
    for text in &report.not_applied {
        let _ = write!(page, "<p>Not done on this machine: {}</p>", escaped(text));
    }
    page += "<h2>Records acknowledged per second</h2>";
    page += &chart(&[(&rate, "var(--sea)")], faults);
    page += "<h2>Milliseconds to the acknowledgement: median, and 99 of 100</h2>";
    page += &chart(&[(&quantile(99), "var(--foam)"), (&quantile(50), "var(--sea)")], faults);
    page += "<h2>What was done</h2><table>";
    for (at, text) in faults {
        let _ = write!(page, "<tr><td>{:.1} s<td>{}", seconds_of(*at), escaped(text));
    }
    page + "</table></html>\n"
}

#[allow(clippy::cast_precision_loss, reason = "a plot")]
fn seconds_of(micros: u64) -> f64 {
    micros as f64 / 1e6
}

/// Lines over seconds, broken where there is no value; a fault is an upright line that says what it is.
#[allow(clippy::cast_precision_loss, reason = "a plot")]
fn chart(lines: &[(&Vec<Option<f64>>, &str)], faults: &[(u64, String)]) -> String {
    let seconds = lines.iter().map(|(values, _)| values.len()).max().unwrap_or(1).max(2) as f64 - 1.0;
    let top = round_up(lines.iter().flat_map(|(values, _)| values.iter().copied().flatten()).fold(1.0, f64::max));
    let x = |second: f64| LEFT + (WIDTH - LEFT) * (second / seconds).min(1.0);
    let y = |value: f64| ABOVE + (HEIGHT - ABOVE - BELOW) * (1.0 - value / top);
    let mut svg = format!("<svg viewBox='0 0 {WIDTH} {HEIGHT}' role=img>");
    for part in 0..=4 {
        let value = top * f64::from(part) / 4.0;
        let at = y(value);
        let _ = write!(
            svg,
            "<path d='M{LEFT} {at:.1}H{WIDTH}' stroke='var(--line)'/><text x={:.0} y={:.1} text-anchor=end>{}</text>",
            LEFT - 8.0,
            at + 4.0,
            grouped(value),
        );
    }
    for part in 0..=6 {
        let second = seconds * f64::from(part) / 6.0;
        let anchor = if part == 6 { "end" } else { "middle" };
        let _ = write!(svg, "<text x={:.0} y={:.0} text-anchor={anchor}>{second:.0} s</text>", x(second), HEIGHT - 6.0);
    }
    for (at, text) in faults {
        let at = x(seconds_of(*at));
        let _ = write!(
            svg,
            "<path d='M{at:.1} {ABOVE}V{:.0}' stroke='var(--bad)' stroke-width=1.4 stroke-dasharray='3 3'><title>{}</title></path>",
            HEIGHT - BELOW,
            escaped(text)
        );
    }
    for (values, colour) in lines {
        let points =
            (0u32..).zip(values.iter()).map(|(second, value)| value.map(|value| (x(f64::from(second)), y(value))));
        let _ = write!(
            svg,
            "<path d='{}' fill=none stroke='{colour}' stroke-width=1.8 stroke-linejoin=round stroke-linecap=round />",
            path(points)
        );
    }
    svg + "</svg>"
}

/// A piece for each run of points; one that stands alone is a dot.
fn path(points: impl Iterator<Item = Option<(f64, f64)>>) -> String {
    let (mut path, mut goes_on) = (String::new(), false);
    for point in points {
        if let Some((x, y)) = point {
            let _ = match goes_on {
                true => write!(path, "L{x:.1} {y:.1}"),
                false => write!(path, "M{x:.1} {y:.1}h0"),
            };
        }
        goes_on = point.is_some();
    }
    path
}

/// The next of 1, 2, 5, 10, 20 …
fn round_up(value: f64) -> f64 {
    let power = 10f64.powf(value.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|step| step * power).find(|step| *step >= value).unwrap_or(value)
}

/// `12,500`; fractions only below ten.
fn grouped(value: f64) -> String {
    if value < 10.0 && value.fract() != 0.0 {
        return format!("{value:.2}").trim_end_matches('0').to_owned();
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_holds_the_verdict_the_plots_and_the_faults() {
        let report = Report {
            acked: 3,
            lost: 1,
            faults: [("kill", 2)].into(),
            failures: vec!["node 1 <sulks>".into()],
            ..Report::default()
        };
        // Nothing is acknowledged in the third second.
        let acked = (0..300).filter(|n| !(100..150).contains(n));
        let acked = acked.map(|n| (Duration::from_millis(n * 20), Duration::from_millis(n))).collect();
        let course = Course { acked, faults: vec![(2_500_000, "node 1 is killed".into())] };
        let page = page("kills", &report, &course);
        assert!(page.contains("lost 1") && page.contains("class='line bad'") && page.contains("kill 2"));
        assert!(page.contains("node 1 &lt;sulks&gt;") && !page.contains("<sulks>"));
        assert_eq!(page.matches("<svg").count(), 2);
        // 2.5 s of 5 s: in the middle of the plot, in both of them.
        assert_eq!(page.matches("M562.0 14V").count(), 2);
        assert!(page.contains("<td>2.5 s<td>node 1 is killed"));
        // Throughput goes down to the axis, latencies stop and begin again.
        let ways = page.split("<path d='").filter(|way| way.contains("fill=none"));
        let ways: Vec<&str> = ways.filter_map(|way| way.split('\'').next()).collect();
        assert_eq!(ways.iter().map(|way| way.matches('M').count()).collect::<Vec<_>>(), [1, 2, 2]);
        assert_eq!(ways.iter().map(|way| way.contains(" 196.0")).collect::<Vec<_>>(), [true, false, false]);
    }

    #[test]
    fn a_value_that_stands_alone_is_a_dot() {
        let points = [None, Some((1.0, 2.0)), None, Some((3.0, 4.0)), Some((5.0, 6.0))];
        assert_eq!(path(points.into_iter()), "M1.0 2.0h0M3.0 4.0h0L5.0 6.0");
    }

    #[test]
    fn axes_end_at_round_numbers() {
        assert_eq!([0.7, 1.0, 3.0, 42.0, 7_800.0].map(round_up), [1.0, 1.0, 5.0, 50.0, 10_000.0]);
        assert_eq!(
            ["0.25", "7,500", "10", "1,250,000"],
            [0.25, 7_500.0, 10.0, 1_250_000.0].map(grouped).each_ref().map(String::as_str)
        );
    }
}
