//! The partition's state as bytes: a version byte, then an rmp-serde map. Ordered, so equal states are equal bytes.

use super::{
    PartitionMachine,
    epochs::Epochs,
    producers::{Appended, ProducerState, Producers},
};
use crate::{limits, types::ProducerId};
use bytes::Bytes;
use highwater_raft::machine::Damaged;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Version of the layout; changes with it.
pub const CHECKPOINT_VERSION: u8 = 1;

#[derive(Serialize, Deserialize)]
struct Stored {
    #[serde(rename = "s", default)]
    log_start: u64,
    #[serde(rename = "n", default)]
    next_offset: u64,
    #[serde(rename = "t", default)]
    stamp_ms: u64,
    #[serde(rename = "e", default)]
    epochs: Vec<(u64, u64)>,
    #[serde(rename = "p", default)]
    producers: BTreeMap<ProducerId, StoredProducer>,
}

#[derive(Serialize, Deserialize)]
struct StoredProducer {
    #[serde(rename = "e", default)]
    epoch: u16,
    #[serde(rename = "t", default)]
    stamp_ms: u64,
    /// (sequence, records, base offset), oldest first.
    #[serde(rename = "b", default)]
    batches: Vec<(u32, u32, u64)>,
}

pub(super) fn write(machine: &PartitionMachine) -> Bytes {
    let producer = |state: &ProducerState| StoredProducer {
        epoch: state.epoch,
        stamp_ms: state.stamp_ms,
        batches: state.batches.iter().map(|b| (b.sequence, b.records, b.base_offset)).collect(),
    };
    let stored = Stored {
        log_start: machine.log_start,
        next_offset: machine.next_offset,
        stamp_ms: machine.stamp_ms,
        epochs: machine.epochs.list().to_vec(),
        producers: machine.producers.map().iter().map(|(id, state)| (*id, producer(state))).collect(),
    };
    let mut out = vec![CHECKPOINT_VERSION];
    rmp_serde::encode::write_named(&mut out, &stored).expect("plain values in memory always encode");
    out.into()
}

pub(super) fn read(bytes: &[u8]) -> Result<PartitionMachine, Damaged> {
    let damaged = |why: String| Damaged { what: "partition checkpoint", why };
    let (version, body) = bytes.split_first().ok_or_else(|| damaged("it is empty".into()))?;
    if *version != CHECKPOINT_VERSION {
        return Err(damaged(format!(
            "format {version} is of another release, this one reads {CHECKPOINT_VERSION}: run the release that wrote it"
        )));
    }
    let stored: Stored = crate::types::decode(body).map_err(|e| damaged(e.to_string()))?;
    let Stored { log_start, next_offset, stamp_ms, epochs, producers } = stored;
    if i64::try_from(next_offset).is_err() {
        return Err(damaged(format!("next offset {next_offset} is beyond the range of offsets")));
    }
    if log_start > next_offset {
        return Err(damaged(format!("log start {log_start} above next offset {next_offset}")));
    }
    if epochs.last().is_some_and(|last| last.1 >= next_offset)
        || epochs.first().is_some_and(|first| first.1 < log_start)
    {
        return Err(damaged(format!("an epoch begins outside {log_start}..{next_offset}")));
    }
    let epochs = Epochs::from_list(epochs).ok_or_else(|| damaged("leader epochs are not ascending".into()))?;
    let mut known = BTreeMap::new();
    for (id, StoredProducer { epoch, stamp_ms, batches }) in producers {
        if batches.len() > limits::PRODUCER_BATCHES_REMEMBERED as usize {
            return Err(damaged(format!("producer {id} has {} batches", batches.len())));
        }
        let ends = |(_, records, base): &(u32, u32, u64)| base.checked_add(u64::from(*records));
        if batches.iter().any(|batch| ends(batch).is_none_or(|end| end > next_offset)) {
            return Err(damaged(format!("producer {id} has a batch beyond the next offset {next_offset}")));
        }
        let batches =
            batches.into_iter().map(|(sequence, records, base_offset)| Appended { sequence, records, base_offset });
        known.insert(id, ProducerState { epoch, stamp_ms, batches: batches.collect() });
    }
    let producers =
        Producers::from_map(known).ok_or_else(|| damaged("producers without batches or with the same one".into()))?;
    Ok(PartitionMachine { log_start, next_offset, stamp_ms, epochs, producers })
}
