//! The controller's state as bytes: a version byte, then an rmp-serde map. Ordered, so equal states are equal bytes.

use super::{ControllerMachine, Metadata};
use crate::limits;
use bytes::Bytes;
use highwater_raft::machine::Damaged;
use serde::{Deserialize, Serialize};
use std::{borrow::Cow, sync::Arc};

/// Version of the layout; changes with it.
pub const CHECKPOINT_VERSION: u8 = 1;

#[derive(Serialize, Deserialize)]
struct Stored<'a> {
    #[serde(rename = "m")]
    metadata: Cow<'a, Metadata>,
    #[serde(rename = "g")]
    next_group: u64,
    #[serde(rename = "r")]
    next_replica: u64,
    #[serde(rename = "p")]
    next_producer_block: u64,
}

pub(super) fn write(machine: &ControllerMachine) -> Bytes {
    let stored = Stored {
        metadata: Cow::Borrowed(&machine.metadata),
        next_group: machine.next_group,
        next_replica: machine.next_replica,
        next_producer_block: machine.next_producer_block,
    };
    let mut out = vec![CHECKPOINT_VERSION];
    rmp_serde::encode::write_named(&mut out, &stored).expect("plain values in memory always encode");
    out.into()
}

pub(super) fn read(bytes: &[u8]) -> Result<ControllerMachine, Damaged> {
    let damaged = |why: String| Damaged { what: "controller checkpoint", why };
    let (version, body) = bytes.split_first().ok_or_else(|| damaged("it is empty".into()))?;
    if *version != CHECKPOINT_VERSION {
        return Err(damaged(format!(
            "format {version} is of another release, this one reads {CHECKPOINT_VERSION}: run the release that wrote it"
        )));
    }
    let stored: Stored<'_> = crate::types::decode(body).map_err(|e| damaged(e.to_string()))?;
    let Stored { metadata, next_group, next_replica, next_producer_block } = stored;
    let mut metadata = metadata.into_owned();
    if [next_group, next_replica, next_producer_block, metadata.version].iter().any(|n| *n >= limits::COUNTER_END) {
        return Err(damaged("a counter is beyond all that can have been counted".into()));
    }
    metadata.names = metadata.topics.iter().map(|(name, topic)| (topic.id, name.clone())).collect();
    if metadata.names.len() != metadata.topics.len() {
        return Err(damaged("two topics have the same id".into()));
    }
    for (name, topic) in &metadata.topics {
        if let Some(group) = topic.partitions.iter().find(|group| !metadata.groups.contains_key(group)) {
            return Err(damaged(format!("topic {name} names group {group}, which is not there")));
        }
    }
    let used = metadata.groups.values().flat_map(|group| group.replicas.iter().map(|r| r.id.0)).max();
    if metadata.groups.keys().any(|group| group.0 >= next_group) || used >= Some(next_replica) {
        return Err(damaged("an id is used that was never given out".into()));
    }
    Ok(ControllerMachine { metadata: Arc::new(metadata), next_group, next_replica, next_producer_block })
}
