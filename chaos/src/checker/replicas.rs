//! Replicas are equal: what they serve at the end, what they apply, what their machines are at boundaries. One leads a term.

use super::{Anomaly, anomaly, group_place};
use crate::history::{Event, Fact, Partition, What};
use std::collections::BTreeMap;

pub(super) fn check(events: &[Event], found: &mut Vec<Anomaly>) {
    served(events, found);
    same_at_index(events, found);
    leaders(events, found);
}

fn leaders(events: &[Event], found: &mut Vec<Anomaly>) {
    let mut first: BTreeMap<(u64, u64), (u32, u64)> = BTreeMap::new();
    for event in events {
        let What::Saw { fact: Fact::Leads { group, replica, term }, .. } = &event.what else { continue };
        let (node, one) = *first.entry((*group, *term)).or_insert((event.process, *replica));
        if one != *replica {
            let text = format!(
                "group {group}: replica {one} on node {node} and replica {replica} on node {} lead term {term}",
                event.process
            );
            found.push(anomaly("two leaders", group_place(*group), text));
        }
    }
}

fn served(events: &[Event], found: &mut Vec<Anomaly>) {
    let mut first: BTreeMap<Partition, (u32, u64, u64, u64)> = BTreeMap::new();
    for event in events {
        let What::Replica { node, partition, log_start, high_watermark, digest } = event.what else { continue };
        let this = (node, log_start, high_watermark, digest);
        let one = *first.entry(partition).or_insert(this);
        if (one.1, one.2, one.3) != (this.1, this.2, this.3) {
            let text = format!(
                "node {}: {}..{} {:016x}; node {}: {}..{} {:016x}",
                one.0, one.1, one.2, one.3, this.0, this.1, this.2, this.3
            );
            found.push(anomaly("replicas differ", partition, text));
        }
    }
}

/// Who was first at an index: node and digest. Later ones must be the same, in other lives too.
type First = BTreeMap<(u64, u64), (u32, u64)>;

fn same_at_index(events: &[Event], found: &mut Vec<Anomaly>) {
    let (mut entries, mut states) = (First::new(), First::new());
    for event in events {
        let What::Saw { fact, .. } = &event.what else { continue };
        let (kind, known, (group, index, digest)) = match fact {
            Fact::Applied { group, index, term, digest, .. } => {
                ("entries differ", &mut entries, (*group, *index, digest ^ term.rotate_left(32)))
            }
            Fact::Boundary { group, index, digest, .. } => {
                ("checkpoints differ", &mut states, (*group, *index, *digest))
            }
            _ => continue,
        };
        let (node, first) = *known.entry((group, index)).or_insert((event.process, digest));
        if first != digest {
            let text = format!(
                "group {group} at index {index}: node {node} has {first:016x}, node {} has {digest:016x}",
                event.process
            );
            found.push(anomaly(kind, group_place(group), text));
        }
    }
}
