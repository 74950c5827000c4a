//! What became of each value.

use super::{Anomaly, anomaly, facts::Facts};
use crate::history::{Partition, Value};
use std::collections::{BTreeMap, BTreeSet};

pub(super) fn check(facts: &Facts, found: &mut Vec<Anomaly>) {
    offsets(facts, found);
    lost(facts, found);
    aborted(facts, found);
    gaps(facts, found);
    let damaged = facts.damaged.iter().map(|(partition, text)| anomaly("damaged batch", *partition, text.clone()));
    found.extend(damaged);
}

fn offsets(facts: &Facts, found: &mut Vec<Anomaly>) {
    let mut places: BTreeMap<Value, BTreeSet<(Partition, u64)>> = BTreeMap::new();
    for ((partition, offset), values) in &facts.seen {
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

fn lost(facts: &Facts, found: &mut Vec<Anomaly>) {
    for (value, (partition, offset)) in &facts.acked {
        let Some(log) = facts.finals.get(partition) else { continue };
        // What retention took is not lost.
        if facts.starts.get(partition).is_some_and(|start| offset < start) || log.get(offset) == Some(value) {
            continue;
        }
        let above = log.keys().next_back().is_none_or(|last| offset > last);
        let kind = if above { "unseen" } else { "lost write" };
        found.push(anomaly(kind, *partition, format!("value {value} was acknowledged at {offset}")));
    }
}

fn aborted(facts: &Facts, found: &mut Vec<Anomaly>) {
    for ((partition, offset), values) in &facts.seen {
        for value in values.intersection(&facts.failed) {
            let text = format!("value {value} failed and was read at {offset}");
            found.push(anomaly("aborted read", *partition, text));
        }
    }
}

fn gaps(facts: &Facts, found: &mut Vec<Anomaly>) {
    for (partition, log) in &facts.finals {
        let offsets: Vec<u64> = log.keys().copied().collect();
        if let Some(pair) = offsets.windows(2).find(|pair| pair[1] != pair[0] + 1) {
            found.push(anomaly("gap", *partition, format!("nothing between {} and {}", pair[0], pair[1])));
        }
    }
}
