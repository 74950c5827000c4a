//! What a replica said is on its disk is there when it starts again, its state does not hold more than its log, and a loss of
//! power damages nothing.

use super::{Anomaly, anomaly, group_place};
use crate::history::{Event, Fact, What};
use std::collections::{BTreeMap, BTreeSet};

/// What a replica promised to keep, and on which node.
struct Promise {
    node: u32,
    end: u64,
}

pub(super) fn check(events: &[Event], found: &mut Vec<Anomaly>) {
    let mut promises: BTreeMap<(u64, u64), Promise> = BTreeMap::new();
    let mut tampered = BTreeSet::new();
    for event in events {
        let node = event.process;
        let fact = match &event.what {
            What::Saw { fact, .. } => fact,
            What::Tampered => {
                tampered.insert(node);
                promises.retain(|_, promise| promise.node != node);
                continue;
            }
            _ => continue,
        };
        match fact {
            Fact::Kept { group, replica, end } => {
                let promise = promises.entry((*group, *replica)).or_insert(Promise { node, end: 0 });
                promise.end = promise.end.max(*end);
            }
            Fact::Cut { group, replica, end } => {
                if let Some(promise) = promises.get_mut(&(*group, *replica)) {
                    promise.end = promise.end.min(*end);
                }
            }
            Fact::Opened { group, replica, end, state } => {
                let who = format!("replica {replica} of group {group} on node {node}");
                let promised = promises.insert((*group, *replica), Promise { node, end: *end }).map_or(0, |p| p.end);
                if *end < promised {
                    let text = format!(
                        "{who} said that entries below {promised} are on disk; it came back with those below {end}"
                    );
                    found.push(anomaly("durable entries lost", group_place(*group), text));
                }
                if state > end {
                    let text = format!("{who} came back with entries below {end}, and a state of those below {state}");
                    found.push(anomaly("state ahead of its log", group_place(*group), text));
                }
            }
            Fact::Faulty { group, replica, why } if !tampered.contains(&node) => {
                let text =
                    format!("replica {replica} of group {group} on node {node}, whose files nobody touched: {why}");
                found.push(anomaly("damaged by itself", group_place(*group), text));
            }
            _ => {}
        }
    }
}
