//! Watermarks and log starts never go back: cluster-wide in answers, in real-time order; per replica within one life.

use super::{Anomaly, anomaly, facts::Facts, rising::Rising};
use crate::history::{Event, Fact, Partition, What};
use std::collections::BTreeMap;

pub(super) fn check(events: &[Event], facts: &Facts, found: &mut Vec<Anomaly>) {
    answers(events, found);
    replicas(events, found);
    out_of_range(events, facts, found);
}

fn answers(events: &[Event], found: &mut Vec<Anomaly>) {
    let mut known: BTreeMap<Partition, Rising> = BTreeMap::new();
    for event in events {
        let (partition, mark) = match &event.what {
            What::SendOk { partition, offset, .. } | What::Given { partition, offset, .. } => (*partition, offset + 1),
            What::Poll { partition, records, .. } => match records.iter().map(|(offset, _)| offset + 1).max() {
                Some(end) => (*partition, end),
                None => continue,
            },
            What::Latest { partition, asked, offset } => {
                let bound = known.entry(*partition).or_default().before(*asked);
                if *offset < bound {
                    let text = format!("asked at {asked} µs, after {bound} was known; the answer was {offset}");
                    found.push(anomaly("watermark regressed", *partition, text));
                }
                (*partition, *offset)
            }
            _ => continue,
        };
        known.entry(partition).or_default().reached(event.at, mark);
    }
}

fn replicas(events: &[Event], found: &mut Vec<Anomaly>) {
    let mut marks: BTreeMap<(u64, u64, u64), (u64, u64)> = BTreeMap::new();
    for event in events {
        let What::Saw { life, fact: Fact::Marks { group, partition, replica, log_start, high_watermark, .. } } =
            &event.what
        else {
            continue;
        };
        let now = (*log_start, *high_watermark);
        let Some(before) = marks.insert((*life, *group, *replica), now) else { continue };
        for (kind, before, now) in [("log start regressed", before.0, now.0), ("watermark regressed", before.1, now.1)]
        {
            if now < before {
                let text = format!("node {}'s went from {before} to {now} at {} µs", event.process, event.at);
                found.push(anomaly(kind, *partition, text));
            }
        }
    }
}

fn out_of_range(events: &[Event], facts: &Facts, found: &mut Vec<Anomaly>) {
    for event in events {
        let What::OutOfRange { partition, offset } = &event.what else { continue };
        let Some(log) = facts.finals.get(partition) else { continue };
        let start = facts.starts.get(partition).copied().unwrap_or(0);
        let end = log.keys().next_back().map_or(start, |last| last + 1);
        if (start..=end).contains(offset) {
            let text = format!("process {} stood at {offset}, the log is {start}..{end}", event.process);
            found.push(anomaly("false out-of-range", *partition, text));
        }
    }
}
