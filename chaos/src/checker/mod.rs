//! Finds anomalies in a history, in one pass over its events per rule. Knows no product code: only what clients saw.
//!
//! | anomaly | definition |
//! |---|---|
//! | lost write | acknowledged, but not in the final read |
//! | inconsistent offset | one offset holds two values, by acks, polls or the final read |
//! | duplicate | one value at two offsets |
//! | aborted read | a value that surely was not appended was read |
//! | reordered | two values of one producer stand in another order than they were sent |
//! | gap | the final read misses an offset between two others |
//! | poll skip, nonmonotonic poll | an assigned reader jumped over records or went back |
//! | false out-of-range | a consumer below the final watermark and above the log start was told out-of-range |
//! | watermark regressed | asked after an answer came, a lower one was given (or one below an acknowledged offset) |
//! | replicas differ | two replicas of a partition are not equal at the end |
//! | group lost | a group never got a record of the final read |
//! | group unmarked | a group got an offset twice and the later delivery did not say so |

use crate::history::{Event, History, Partition, Value, What};
use std::collections::{BTreeMap, BTreeSet};

/// What was found, with the shortest evidence.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Anomaly {
    /// Its name.
    pub kind: &'static str,
    /// Where.
    pub partition: Partition,
    /// What shows it.
    pub evidence: String,
}

/// The verdict on a history.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Verdict {
    /// Values handed to producers.
    pub sent: u64,
    /// Values acknowledged.
    pub acked: u64,
    /// Values in the final read.
    pub read: u64,
    /// Deliveries to groups that said that they are repeated.
    pub redelivered: u64,
    /// What is wrong.
    pub anomalies: Vec<Anomaly>,
}

impl Verdict {
    /// Nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.anomalies.is_empty()
    }

    /// Anomalies of a kind.
    pub fn count(&self, kind: &str) -> usize {
        self.anomalies.iter().filter(|a| a.kind == kind).count()
    }
}

/// Judges a history.
pub fn check(history: &History) -> Verdict {
    let facts = Facts::gather(&history.events);
    let mut verdict = Verdict {
        sent: facts.sent,
        acked: facts.acked.len() as u64,
        read: facts.finals.values().map(|log| log.len() as u64).sum(),
        redelivered: facts.redelivered,
        anomalies: Vec::new(),
    };
    let found = &mut verdict.anomalies;
    facts.offsets(found);
    facts.lost(found);
    facts.aborted(found);
    facts.reordered(found);
    facts.gaps(found);
    polls(&history.events, &facts, found);
    watermarks(&history.events, found);
    replicas(&history.events, found);
    groups(&history.events, &facts, found);
    found.sort();
    found.dedup();
    verdict
}

#[derive(Default)]
struct Facts {
    sent: u64,
    redelivered: u64,
    /// Order in which each producer sent, per partition.
    order: BTreeMap<(u32, Partition), Vec<Value>>,
    acked: BTreeMap<Value, (Partition, u64)>,
    failed: BTreeSet<Value>,
    /// Every value ever seen at an offset.
    seen: BTreeMap<(Partition, u64), BTreeSet<Value>>,
    finals: BTreeMap<Partition, BTreeMap<u64, Value>>,
}

impl Facts {
    fn gather(events: &[Event]) -> Self {
        let mut facts = Self::default();
        for event in events {
            match &event.what {
                What::Send { partition, value } => {
                    facts.sent += 1;
                    facts.order.entry((event.process, *partition)).or_default().push(*value);
                }
                What::SendOk { partition, value, offset } => {
                    facts.acked.insert(*value, (*partition, *offset));
                    facts.seen.entry((*partition, *offset)).or_default().insert(*value);
                }
                What::SendFail { value, .. } => {
                    facts.failed.insert(*value);
                }
                What::Poll { partition, records, .. } => {
                    for (offset, value) in records {
                        facts.seen.entry((*partition, *offset)).or_default().insert(*value);
                    }
                }
                What::Given { partition, offset, value, redelivered, .. } => {
                    facts.redelivered += u64::from(*redelivered);
                    facts.seen.entry((*partition, *offset)).or_default().insert(*value);
                }
                What::Final { partition, records } => {
                    let log = facts.finals.entry(*partition).or_default();
                    for (offset, value) in records {
                        facts.seen.entry((*partition, *offset)).or_default().insert(*value);
                        log.insert(*offset, *value);
                    }
                }
                _ => {}
            }
        }
        facts
    }

    fn offsets(&self, found: &mut Vec<Anomaly>) {
        let mut places: BTreeMap<Value, BTreeSet<(Partition, u64)>> = BTreeMap::new();
        for ((partition, offset), values) in &self.seen {
            if values.len() > 1 {
                found.push(anomaly("inconsistent offset", *partition, format!("offset {offset} holds {values:?}")));
            }
            for value in values {
                places.entry(*value).or_default().insert((*partition, *offset));
            }
        }
        for (value, places) in places {
            if places.len() > 1 {
                let partition = places.first().map_or(0, |place| place.0);
                found.push(anomaly("duplicate", partition, format!("value {value} stands at {places:?}")));
            }
        }
    }

    fn lost(&self, found: &mut Vec<Anomaly>) {
        for (value, (partition, offset)) in &self.acked {
            let Some(log) = self.finals.get(partition) else { continue };
            let below_start = log.keys().next().is_some_and(|start| offset < start);
            if !below_start && log.get(offset) != Some(value) {
                found.push(anomaly("lost write", *partition, format!("value {value} was acknowledged at {offset}")));
            }
        }
    }

    fn aborted(&self, found: &mut Vec<Anomaly>) {
        for ((partition, offset), values) in &self.seen {
            for value in values.intersection(&self.failed) {
                found.push(anomaly(
                    "aborted read",
                    *partition,
                    format!("value {value} failed and was read at {offset}"),
                ));
            }
        }
    }

    fn reordered(&self, found: &mut Vec<Anomaly>) {
        for ((process, partition), values) in &self.order {
            let Some(log) = self.finals.get(partition) else { continue };
            let place: BTreeMap<Value, u64> = log.iter().map(|(offset, value)| (*value, *offset)).collect();
            let placed: Vec<(Value, u64)> = values.iter().filter_map(|v| place.get(v).map(|o| (*v, *o))).collect();
            if let Some(pair) = placed.windows(2).find(|pair| pair[0].1 >= pair[1].1) {
                let ((first, at), (second, before)) = (pair[0], pair[1]);
                found.push(anomaly(
                    "reordered",
                    *partition,
                    format!("process {process} sent {first} before {second}; they stand at {at} and {before}"),
                ));
            }
        }
    }

    fn gaps(&self, found: &mut Vec<Anomaly>) {
        for (partition, log) in &self.finals {
            let offsets: Vec<u64> = log.keys().copied().collect();
            if let Some(pair) = offsets.windows(2).find(|pair| pair[1] != pair[0] + 1) {
                found.push(anomaly("gap", *partition, format!("nothing between {} and {}", pair[0], pair[1])));
            }
        }
    }
}

fn polls(events: &[Event], facts: &Facts, found: &mut Vec<Anomaly>) {
    let mut next: BTreeMap<(u32, Partition), u64> = BTreeMap::new();
    for event in events {
        match &event.what {
            What::Seek { partition } => {
                next.remove(&(event.process, *partition));
            }
            What::Poll { partition, records, assigned: true } => {
                for (offset, _) in records {
                    if let Some(expected) = next.insert((event.process, *partition), offset + 1) {
                        let text = format!("process {} was at {expected} and was given {offset}", event.process);
                        if *offset > expected {
                            found.push(anomaly("poll skip", *partition, text));
                        } else if *offset < expected {
                            found.push(anomaly("nonmonotonic poll", *partition, text));
                        }
                    }
                }
            }
            What::OutOfRange { partition, offset } => {
                let Some(log) = facts.finals.get(partition) else { continue };
                let start = log.keys().next().copied().unwrap_or(0);
                let end = log.keys().next_back().map_or(0, |last| last + 1);
                if (start..=end).contains(offset) {
                    found.push(anomaly(
                        "false out-of-range",
                        *partition,
                        format!("process {} stood at {offset}, the log is {start}..{end}", event.process),
                    ));
                }
            }
            _ => {}
        }
    }
}

fn watermarks(events: &[Event], found: &mut Vec<Anomaly>) {
    // The highest watermark whose knowledge was complete before a question was asked is a lower bound for its answer.
    let mut known: BTreeMap<Partition, Vec<(u64, u64)>> = BTreeMap::new();
    for event in events {
        match &event.what {
            What::SendOk { partition, offset, .. } => known.entry(*partition).or_default().push((event.at, offset + 1)),
            What::Latest { partition, asked, offset } => {
                let facts = known.entry(*partition).or_default();
                let bound = facts.iter().rev().filter(|(at, _)| at < asked).map(|(_, mark)| *mark).max().unwrap_or(0);
                if *offset < bound {
                    found.push(anomaly(
                        "watermark regressed",
                        *partition,
                        format!("asked at {asked} µs, after {bound} was known; the answer was {offset}"),
                    ));
                }
                facts.push((event.at, *offset));
                // Only the maximum up to each instant matters: keep the list short and rising.
                if facts.len() > 256 {
                    let mut highest = 0;
                    facts.retain(|(_, mark)| {
                        *mark > highest && {
                            highest = *mark;
                            true
                        }
                    });
                }
            }
            _ => {}
        }
    }
}

fn replicas(events: &[Event], found: &mut Vec<Anomaly>) {
    let mut first: BTreeMap<Partition, (u32, u64, u64, u64)> = BTreeMap::new();
    for event in events {
        let What::Replica { node, partition, log_start, high_watermark, digest } = event.what else { continue };
        let this = (node, log_start, high_watermark, digest);
        let one = *first.entry(partition).or_insert(this);
        if (one.1, one.2, one.3) != (this.1, this.2, this.3) {
            found.push(anomaly(
                "replicas differ",
                partition,
                format!(
                    "node {}: {}..{} {:016x}; node {}: {}..{} {:016x}",
                    one.0, one.1, one.2, one.3, this.0, this.1, this.2, this.3
                ),
            ));
        }
    }
}

fn groups(events: &[Event], facts: &Facts, found: &mut Vec<Anomaly>) {
    let mut given: BTreeMap<(u32, Partition), BTreeSet<u64>> = BTreeMap::new();
    for event in events {
        let What::Given { group, partition, offset, redelivered, .. } = event.what else { continue };
        let again = !given.entry((group, partition)).or_default().insert(offset);
        if again && !redelivered {
            let text = format!("group {group} got offset {offset} again without being told");
            found.push(anomaly("group unmarked", partition, text));
        }
    }
    let names: BTreeSet<u32> = given.keys().map(|(group, _)| *group).collect();
    for group in names {
        for (partition, log) in &facts.finals {
            let empty = BTreeSet::new();
            let got = given.get(&(group, *partition)).unwrap_or(&empty);
            if let Some(offset) = log.keys().find(|offset| !got.contains(offset)) {
                found.push(anomaly("group lost", *partition, format!("group {group} never got offset {offset}")));
            }
        }
    }
}

fn anomaly(kind: &'static str, partition: Partition, evidence: String) -> Anomaly {
    Anomaly { kind, partition, evidence }
}

#[cfg(test)]
mod tests;
