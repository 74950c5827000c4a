//! Order: of a producer's values, of a reader's records, of offsets against real time.

use super::{
    Anomaly, anomaly,
    facts::{Facts, Known},
};
use crate::history::{Event, Partition, Value, What};
use std::collections::BTreeMap;

pub(super) fn check(events: &[Event], facts: &Facts, found: &mut Vec<Anomaly>) {
    sends(facts, found);
    polls(events, found);
    member_polls(events, facts, found);
    cycles(facts, found);
}

fn sends(facts: &Facts, found: &mut Vec<Anomaly>) {
    let places: BTreeMap<Partition, BTreeMap<Value, u64>> = facts
        .finals
        .iter()
        .map(|(partition, log)| (*partition, log.iter().map(|(offset, value)| (*value, *offset)).collect()))
        .collect();
    let none = BTreeMap::new();
    for ((process, partition), values) in &facts.order {
        let place = places.get(partition).unwrap_or(&none);
        let stands = |value: &Value| place.get(value).copied();
        let acked = |value: &Value| facts.acked.get(value).map(|(_, offset)| *offset);
        let what = |(first, at): (Value, u64), (second, before): (Value, u64)| {
            format!("process {process} sent {first} before {second}; they stand at {at} and {before}")
        };
        if let Some((first, second)) = descent(values, stands) {
            found.push(anomaly("reordered", *partition, what(first, second)));
        }
        if let Some((first, second)) = descent(values, acked) {
            found.push(anomaly("nonmonotonic send", *partition, what(first, second)));
        }
    }
}

/// The first two neighbours among those that have a place whose places do not rise.
fn descent(values: &[Value], place: impl Fn(&Value) -> Option<u64>) -> Option<((Value, u64), (Value, u64))> {
    let placed: Vec<(Value, u64)> = values.iter().filter_map(|value| Some((*value, place(value)?))).collect();
    placed.windows(2).find(|pair| pair[0].1 >= pair[1].1).map(|pair| (pair[0], pair[1]))
}

fn polls(events: &[Event], found: &mut Vec<Anomaly>) {
    let mut next: BTreeMap<(u32, Partition), u64> = BTreeMap::new();
    for event in events {
        match &event.what {
            What::Seek { partition } => {
                next.remove(&(event.process, *partition));
            }
            What::Poll { partition, records, assigned: true } => {
                for (i, (offset, _)) in records.iter().enumerate() {
                    let Some(expected) = next.insert((event.process, *partition), offset + 1) else { continue };
                    let kind = match (offset.cmp(&expected), i) {
                        (std::cmp::Ordering::Equal, _) => continue,
                        (std::cmp::Ordering::Greater, 0) => "poll skip",
                        (std::cmp::Ordering::Greater, _) => "internal poll skip",
                        (std::cmp::Ordering::Less, 0) => "nonmonotonic poll",
                        (std::cmp::Ordering::Less, _) => "internal nonmonotonic poll",
                    };
                    let text = format!("process {} was at {expected} and was given {offset}", event.process);
                    found.push(anomaly(kind, *partition, text));
                }
            }
            _ => {}
        }
    }
}

/// Within one poll of a member offsets of a partition rise, and nothing acknowledged is left out between two. From poll to poll
/// the partition may be with others, or be read again.
fn member_polls(events: &[Event], facts: &Facts, found: &mut Vec<Anomaly>) {
    let mut polls: BTreeMap<(u32, u32), BTreeMap<Partition, u64>> = BTreeMap::new();
    for event in events {
        let (group, partition, offset, redelivered) = match event.what {
            What::Polled { group } => {
                polls.insert((event.process, group), BTreeMap::new());
                continue;
            }
            What::Given { group, partition, offset, redelivered, .. } => (group, partition, offset, redelivered),
            _ => continue,
        };
        // Who does not say where its polls begin is not judged.
        let Some(poll) = polls.get_mut(&(event.process, group)) else { continue };
        let Some(before) = poll.insert(partition, offset).filter(|_| !redelivered) else { continue };
        let text = |what: String| format!("process {} was given {before} and then {offset}{what}", event.process);
        if offset <= before {
            found.push(anomaly("internal nonmonotonic poll", partition, text(String::new())));
        } else if let Some(skipped) = acked_between(facts, partition, before + 1, offset) {
            let what = format!("; {skipped} was acknowledged");
            found.push(anomaly("internal poll skip", partition, text(what)));
        }
    }
}

/// The first acknowledged offset in a range that no retention took.
fn acked_between(facts: &Facts, partition: Partition, from: u64, end: u64) -> Option<u64> {
    let gone = if facts.retention { facts.starts.get(&partition).copied().unwrap_or(end) } else { 0 };
    let from = from.max(gone).min(end);
    let mut acked = facts.acked_in.range((partition, from)..(partition, end));
    acked.next().map(|((_, offset), _)| *offset)
}

/// From the end of each log: everything behind an offset must not have been known before the value there was sent.
fn cycles(facts: &Facts, found: &mut Vec<Anomaly>) {
    for (partition, log) in &facts.finals {
        let mut earliest: Option<(Known, Value, u64)> = None;
        for (offset, value) in log.iter().rev() {
            if let (Some((known, behind, at)), Some(sent)) = (earliest, facts.sent_to.get(value))
                && known.at < sent.at
            {
                let how = if known.read { "read" } else { "acknowledged" };
                let text = format!(
                    "{behind} at offset {at} was {how} at {} µs; {value} was sent at {} µs and stands at {offset}",
                    known.at, sent.at
                );
                found.push(anomaly(if known.read { "G1c" } else { "G0" }, *partition, text));
            }
            if let Some(known) = facts.known.get(value)
                && earliest.is_none_or(|(before, ..)| known.at < before.at)
            {
                earliest = Some((*known, *value, *offset));
            }
        }
    }
}
