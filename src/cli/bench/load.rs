//! A closed loop: so many senders, each waits for its acknowledgement and sends again.

use super::{probe::Probe, usage::Usage};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use std::{cell::RefCell, future::Future, rc::Rc, time::Duration};
use tokio::time::Instant;

/// Figures of one load: the keys that peers print too.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Figures {
    pub(super) peer: String,
    pub(super) inflight: usize,
    pub(super) size: usize,
    pub(super) partitions: u32,
    pub(super) replicas: u32,
    pub(super) acks_per_s: f64,
    pub(super) mb_per_s: f64,
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
    pub(super) p999_ms: f64,
    pub(super) max_ms: f64,
    pub(super) errors: u64,
    /// Why the first of them.
    #[serde(skip)]
    pub(super) first_error: Option<String>,
    pub(super) gap_ms: f64,
    /// Seconds of CPU per 10^9 B of records, all nodes and the client together; where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) cpu_s_per_gb: Option<f64>,
    /// Memory of the largest node after the load.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) node_rss_mb: Option<f64>,
    /// Memory of the largest node before all loads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) node_idle_rss_mb: Option<f64>,
    /// Size of the program's file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) binary_mb: Option<f64>,
    /// Bytes of records in a batch, on the average.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) batch_bytes: Option<f64>,
    /// The disk alone, right before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) disk: Option<Probe>,
}

/// What is loaded, for the figures.
#[derive(Clone)]
pub(super) struct Shape {
    pub(super) peer: String,
    pub(super) inflight: usize,
    pub(super) size: usize,
    pub(super) partitions: u32,
    pub(super) replicas: u32,
}

struct Tally {
    micros: Histogram<u64>,
    errors: u64,
    first_error: Option<String>,
    last: Instant,
    gap: Duration,
}

impl Tally {
    fn fail(&mut self, why: String) {
        self.errors += 1;
        self.first_error.get_or_insert(why);
    }
}

/// A sender whose record failed waits so long: what is refused at once keeps neither the others nor a signal from being heard.
const AFTER_ERROR: Duration = Duration::from_millis(10);

/// Runs `send(task)` from `shape.inflight` tasks for `warm + measure`; what ends in the warm-up or later is not counted, but for
/// errors. `flush` then sends what still waits for a full batch.
pub(super) async fn run<F>(
    shape: Shape,
    warm: Duration,
    measure: Duration,
    usage: impl Fn() -> Option<Usage> + 'static,
    flush: impl Future<Output = ()>,
    send: impl Fn(usize) -> F + 'static,
) -> Figures
where
    F: Future<Output = Result<(), String>> + 'static,
{
    let start = Instant::now();
    let (counted_from, end) = (start + warm, start + warm + measure);
    let micros = Histogram::new_with_bounds(1, 600_000_000, 3).expect("up to ten minutes, three digits");
    let tally = Rc::new(RefCell::new(Tally { micros, errors: 0, first_error: None, last: start, gap: Duration::ZERO }));
    let send = Rc::new(send);
    let tasks = tokio::task::LocalSet::new();
    for task in 0..shape.inflight {
        let (send, tally) = (send.clone(), tally.clone());
        tasks.spawn_local(async move {
            while Instant::now() < end {
                let sent = Instant::now();
                let outcome = send(task).await;
                let now = Instant::now();
                if let Err(why) = outcome {
                    tally.borrow_mut().fail(why);
                    tokio::time::sleep(AFTER_ERROR).await;
                    continue;
                }
                let mut tally = tally.borrow_mut();
                if now > counted_from && now <= end {
                    tally.gap = tally.gap.max(now - tally.last);
                    tally.micros.saturating_record(u64::try_from((now - sent).as_micros()).unwrap_or(u64::MAX));
                }
                tally.last = now;
            }
        });
    }
    let (before, after) = tasks
        .run_until(async {
            tokio::time::sleep_until(counted_from).await;
            let before = usage();
            tokio::time::sleep_until(end).await;
            let after = usage();
            flush.await;
            (before, after)
        })
        .await;
    tasks.await;
    let seconds = measure.as_secs_f64();
    let tally = tally.borrow();
    #[allow(clippy::cast_precision_loss, reason = "figures for people")]
    let (acks, at) = (tally.micros.len() as f64, |q: f64| tally.micros.value_at_quantile(q) as f64 / 1e3);
    #[allow(clippy::cast_precision_loss, reason = "figures for people")]
    let size = shape.size as f64;
    let cpu_s = after.zip(before).map(|(after, before)| after.cpu_s_since(&before)).filter(|_| acks > 0.0);
    Figures {
        peer: shape.peer,
        inflight: shape.inflight,
        size: shape.size,
        partitions: shape.partitions,
        replicas: shape.replicas,
        acks_per_s: acks / seconds,
        mb_per_s: acks * size / seconds / 1e6,
        p50_ms: at(0.5),
        p99_ms: at(0.99),
        p999_ms: at(0.999),
        max_ms: at(1.0),
        errors: tally.errors,
        first_error: tally.first_error.clone(),
        gap_ms: tally.gap.as_secs_f64() * 1e3,
        cpu_s_per_gb: cpu_s.map(|cpu_s| cpu_s / (acks * size / 1e9)),
        node_rss_mb: after.map(|after| after.node_rss_mb),
        node_idle_rss_mb: None,
        binary_mb: None,
        batch_bytes: None,
        disk: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_fails_is_counted_and_the_rest_goes_on() {
        let shape = Shape { peer: "highwater".into(), inflight: 2, size: 100, partitions: 1, replicas: 1 };
        let send = |task: usize| async move {
            tokio::time::sleep(Duration::from_millis(5)).await;
            if task == 0 { Err("it is full".to_owned()) } else { Ok(()) }
        };
        let second = Duration::from_secs(1);
        let figures = run(shape, Duration::ZERO, second, || None, async {}, send).await;
        // One task gets an answer every 5 ms; the other is refused as often, and waits 10 ms more.
        assert!((150.0..=201.0).contains(&figures.acks_per_s), "{figures:?}");
        assert!((50..=70).contains(&figures.errors), "{figures:?}");
        assert_eq!(figures.first_error.as_deref(), Some("it is full"));
    }

    /// On the real clock: the virtual one stands still while there is anything to do.
    #[tokio::test]
    async fn what_is_refused_at_once_does_not_keep_it_from_being_stopped() {
        let shape = Shape { peer: "highwater".into(), inflight: 64, size: 100, partitions: 1, replicas: 1 };
        let long = Duration::from_secs(5);
        let refused = run(shape, Duration::ZERO, long, || None, async {}, |_| async { Err("too large".to_owned()) });
        assert!(tokio::time::timeout(Duration::from_millis(10), refused).await.is_err(), "it went on to its end");
    }
}
