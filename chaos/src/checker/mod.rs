//! Finds anomalies in a history, in passes over its events that are linear in them. Knows no product code: only what clients
//! saw and what nodes said of themselves. Names follow Jepsen's Kafka workload where it has one.
//!
//! | family | anomaly | definition |
//! |---|---|---|
//! | `writes` | lost write | acknowledged, or read though its outcome was unknown, at or below the highest offset that anybody read at the end, and not there |
//! | | unseen | acknowledged above that offset: at the end nobody has read it |
//! | | inconsistent offset | one offset holds two values, by acks, reads or the final read |
//! | | duplicate | one value at two offsets |
//! | | aborted read | a value that surely was not appended was read |
//! | | gap | the final read misses an offset between two others |
//! | | value of nobody | a value stands where nobody sent it |
//! | | no final read | values were acknowledged in a partition that the final read left out |
//! | | damaged batch | a batch was served that does not verify |
//! | | trimmed without cause | acknowledged or read below the final log start, and nothing lets records go |
//! | | epochs differ | an offset was given with two leader epochs, or one that falls along offsets, or acknowledged before its own |
//! | | served late | with all healed, a write or a change of a topic took more than 20 s |
//! | `order` | reordered | two values of one producer stand in another order than they were sent |
//! | | nonmonotonic send | a producer's later value was acknowledged at a lower offset |
//! | | internal poll skip, internal nonmonotonic poll | within one poll an assigned reader jumped over records, or went back; a group's member jumped over what was acknowledged, or went back, and the later record did not say that it is repeated |
//! | | poll skip, nonmonotonic poll | the same of an assigned reader, between two polls |
//! | | G0 | a value was acknowledged before another was sent that stands in front of it |
//! | | G1c | a value was read before another was sent that stands in front of it |
//! | `marks` | watermark regressed | asked after an answer came, a lower one was given (or one below an offset that was acknowledged or given); or a replica's went back within a life |
//! | | log start regressed | a replica's went back within a life |
//! | | false out-of-range | a consumer between the final log start and end was told out-of-range |
//! | `trims` | trimmed too early | a log start moved above a record that is younger than its topic keeps, with no clock that jumped |
//! | `replicas` | replicas differ | two replicas of a partition are not equal at the end |
//! | | entries differ | two replicas applied different entries at one index |
//! | | checkpoints differ | two replicas' states differ at one boundary |
//! | | two leaders | two replicas of a group lead one term |
//! | `promises` | durable entries lost | a replica started with less than it had said is on disk |
//! | | state ahead of its log | a replica started with a state of entries that its log does not have |
//! | | damaged by itself | a node finds its files damaged, and nobody touched them |
//! | `groups` | group lost | a group never got a record of the final read |
//! | | group unmarked | a group got an offset twice and the later delivery did not say so |
//! | | ownership overlaps | a member was told to consume what another had been told and had not given up |
//! | `commits` | commit regressed | a group's committed offset went back without a reset, in its home's log or in answers, or below what a member was told is committed |
//! | | reset lost | after a reset was acknowledged, and before anybody committed, the group was said to be elsewhere |
//! | | reset of nobody | a home's log has a reset that nobody asked for |
//! | `topics` | topic lost | its creation was acknowledged, nobody asked for its deletion, and it is not there |
//! | | topic came back | its deletion was acknowledged, nobody asked for its creation, and it is there |
//! | | topic made twice | its creation was acknowledged while it was there |
//! | | topic of nobody | it is there and nobody ever asked for it |
//! | | partitions differ | at the end a topic has fewer partitions than were acknowledged, or a number that nobody asked for |
//! | `wakes` | woken late | a waiter was not woken in the virtual instant in which its mark was reached; of a real node: while its replica told of two more turns |
//! | `credit` | credit overdrawn | more was sent to a subscription than was granted |
//!
//! Elle's other cycles need transactions; where each operation touches one partition once, an order of offsets that contradicts
//! real time is the only cycle that can exist, and G0 and G1c are its two kinds.

mod commits;
mod credit;
mod facts;
mod groups;
mod marks;
mod order;
mod promises;
mod replicas;
mod rising;
#[cfg(test)]
mod tests;
mod topics;
mod trims;
mod wakes;
mod writes;

use crate::history::{History, Partition};
use facts::Facts;

/// What was found, with the shortest evidence.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Anomaly {
    /// Its name.
    pub kind: &'static str,
    /// Where; for what concerns no partition of the run's topic, its Raft group.
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
    /// What is wrong, by kind; the shortest evidence of each kind first.
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

    /// One line per kind: how many, and the shortest evidence.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        let kinds = self.anomalies.chunk_by(|a, b| a.kind == b.kind);
        kinds.map(|some| {
            format!("{} x {} in partition {}: {}", some.len(), some[0].kind, some[0].partition, some[0].evidence)
        })
    }
}

/// Judges a history.
pub fn check(history: &History) -> Verdict {
    let events = &history.events;
    let facts = Facts::gather(events);
    let mut found = Vec::new();
    writes::check(events, &facts, &mut found);
    order::check(events, &facts, &mut found);
    marks::check(events, &facts, &mut found);
    trims::check(events, &facts, &mut found);
    replicas::check(events, &mut found);
    promises::check(events, &mut found);
    groups::check(events, &facts, &mut found);
    commits::check(events, &mut found);
    topics::check(events, &mut found);
    wakes::check(events, &mut found);
    credit::check(events, &mut found);
    found.sort_by(|a: &Anomaly, b| (a.kind, a.evidence.len(), a).cmp(&(b.kind, b.evidence.len(), b)));
    found.dedup();
    Verdict {
        sent: facts.sent,
        acked: facts.acked.len() as u64,
        read: facts.finals.values().map(|log| log.len() as u64).sum(),
        redelivered: facts.redelivered,
        anomalies: found,
    }
}

fn anomaly(kind: &'static str, partition: Partition, evidence: String) -> Anomaly {
    Anomaly { kind, partition, evidence }
}

/// A Raft group in the place of a partition.
fn group_place(group: u64) -> Partition {
    Partition::try_from(group).unwrap_or(Partition::MAX)
}
