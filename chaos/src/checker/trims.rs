//! Retention takes only what is older than the topic keeps: whenever a log start moves, the youngest record below it is.
//!
//! By clocks that do not jump. Whatever a leader with another clock takes is gone for good reasons, so nothing is judged from the
//! first jump on.

use super::{Anomaly, anomaly, facts::Facts};
use crate::history::{Event, Fact, Partition, What};
use std::{collections::BTreeMap, ops::Range};

/// Clocks of producers and nodes that do not jump differ by less.
const SLACK_US: u64 = 1_000_000;

pub(super) fn check(events: &[Event], facts: &Facts, found: &mut Vec<Anomaly>) {
    let Some(keeps) = facts.keeps_us else { return };
    let mut starts: BTreeMap<Partition, u64> = BTreeMap::new();
    for event in events {
        let (partition, start) = match &event.what {
            What::Jumped => return,
            // Of other topics nothing goes within a run: their logs start at 0.
            What::Saw { fact: Fact::Marks { partition, log_start, .. }, .. } => (*partition, *log_start),
            What::Final { partition, start, .. } => (*partition, *start),
            _ => continue,
        };
        let before = starts.entry(partition).or_default();
        if start <= *before {
            continue;
        }
        let gone = std::mem::replace(before, start)..start;
        if let Some((sent, offset)) = youngest(facts, partition, gone)
            && event.at.saturating_sub(sent) + SLACK_US < keeps
        {
            let text = format!(
                "offset {offset} was sent at {sent} µs and is below the log start {start} at {} µs; records are kept for {} ms",
                event.at,
                keeps / 1_000
            );
            found.push(anomaly("trimmed too early", partition, text));
        }
    }
}

/// When the youngest record of a range was sent, and its offset.
fn youngest(facts: &Facts, partition: Partition, offsets: Range<u64>) -> Option<(u64, u64)> {
    let mut youngest: Option<(u64, u64)> = None;
    for ((_, offset), values) in facts.seen.range((partition, offsets.start)..(partition, offsets.end)) {
        for sent in values.iter().filter_map(|value| facts.sent_to.get(value)) {
            youngest = youngest.max(Some((sent.at, *offset)));
        }
    }
    youngest
}
