//! x
use crate::types::{MemberId, TopicId, TopicPartition};
use std::collections::{BTreeMap, BTreeSet};

/// Shares partitions out.
pub fn assign(
    wants: &BTreeMap<MemberId, BTreeSet<TopicId>>,
    partitions: &BTreeMap<TopicId, u32>,
    previous: &BTreeMap<TopicPartition, MemberId>,
) -> BTreeMap<TopicPartition, MemberId> {
    let _ = (wants, partitions, previous);
    todo!()
}
