//! What became of each value, and whether all was served in the end.

use super::{Anomaly, anomaly, facts::Facts};
use crate::history::{Event, Partition, Value, What};
use std::collections::{BTreeMap, BTreeSet};

/// How long anything may take once all is healed: an election, a replica that is opened again, and a producer's retries.
const SERVED_US: u64 = 20_000_000;

pub(super) fn check(events: &[Event], facts: &Facts, found: &mut Vec<Anomaly>) {
    served(events, found);
    epochs(facts, found);
    offsets(facts, found);
    lost(facts, found);
    of_nobody(facts, found);
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

/// What must be in the final read: what was acknowledged, and what was read though nobody knew its outcome.
fn lost(facts: &Facts, found: &mut Vec<Anomaly>) {
    let mut unread: BTreeMap<Partition, u64> = BTreeMap::new();
    for (value, (partition, offset)) in &facts.acked {
        match facts.finals.get(partition) {
            Some(log) => found.extend(missing(facts, log, (*partition, *offset), *value, true)),
            None => *unread.entry(*partition).or_default() += 1,
        }
    }
    for ((partition, offset), values) in &facts.seen {
        let Some(log) = facts.finals.get(partition) else { continue };
        // Of these only reads say where they stand.
        let unknown = |value: &&Value| {
            facts.sent_to.contains_key(*value) && !facts.acked.contains_key(*value) && !facts.failed.contains(*value)
        };
        let unknown = values.iter().filter(unknown);
        found.extend(unknown.filter_map(|value| missing(facts, log, (*partition, *offset), *value, false)));
    }
    // The final read is one of all partitions. A run that came to none says so by itself.
    for (partition, acked) in unread.into_iter().filter(|_| !facts.finals.is_empty()) {
        let text = format!("{acked} values were acknowledged, and nobody read the partition at the end");
        found.push(anomaly("no final read", partition, text));
    }
}

/// What is wrong when a value that surely stood at an offset is not in the final read of its partition.
fn missing(
    facts: &Facts,
    log: &BTreeMap<u64, Value>,
    (partition, offset): (Partition, u64),
    value: Value,
    acked: bool,
) -> Option<Anomaly> {
    if log.get(&offset) == Some(&value) {
        return None;
    }
    let was = if acked { "acknowledged" } else { "read" };
    if let Some(start) = facts.starts.get(&partition).filter(|start| offset < **start) {
        let text = format!("value {value} was {was} at {offset}; the log begins at {start}");
        return (!facts.retention).then(|| anomaly("trimmed without cause", partition, text));
    }
    let kind = match log.keys().next_back().is_none_or(|last| offset > *last) {
        false => "lost write",
        true if acked => "unseen",
        // It may have been appended and read after the final read.
        true => return None,
    };
    Some(anomaly(kind, partition, format!("value {value} was {was} at {offset}")))
}

/// Whatever stands in a log was sent there. Garbage has a value that nobody sends.
fn of_nobody(facts: &Facts, found: &mut Vec<Anomaly>) {
    for ((partition, offset), values) in &facts.seen {
        let strange = |value: &&Value| facts.sent_to.get(*value).is_none_or(|sent| sent.partition != *partition);
        for value in values.iter().filter(strange) {
            let text = format!("value {value} stands at {offset}, and nobody sent it there");
            found.push(anomaly("value of nobody", *partition, text));
        }
    }
}

fn served(events: &[Event], found: &mut Vec<Anomaly>) {
    let healed = events.iter().find(|event| event.what == What::Healed).map(|event| event.at);
    let Some(healed) = healed else { return };
    for event in events {
        let What::Served { what, asked } = &event.what else { continue };
        if *asked >= healed && event.at - asked > SERVED_US {
            let text = format!("{what} took {} s, with all healed", (event.at - asked) / 1_000_000);
            found.push(anomaly("served late", 0, text));
        }
    }
}

fn epochs(facts: &Facts, found: &mut Vec<Anomaly>) {
    let mut before: Option<(Partition, u64, u64)> = None;
    for ((partition, offset), told) in &facts.epochs {
        let (least, most) = (told.first().copied().unwrap_or(0), told.last().copied().unwrap_or(0));
        if least != most {
            found.push(anomaly("epochs differ", *partition, format!("offset {offset} was given with epochs {told:?}")));
        }
        if let Some((_, at, epoch)) = before.filter(|(of, _, epoch)| of == partition && *epoch > least) {
            let text = format!("{offset} is of epoch {least}, {at} before it of {epoch}");
            found.push(anomaly("epochs differ", *partition, text));
        }
        if let Some(acked) = facts.acked_in.get(&(*partition, *offset)).filter(|acked| **acked < most) {
            let text = format!("{offset} is of epoch {most} and was acknowledged in {acked}");
            found.push(anomaly("epochs differ", *partition, text));
        }
        before = Some((*partition, *offset, most));
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
