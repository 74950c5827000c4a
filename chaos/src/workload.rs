//! What loads have in common, simulated and real: records that carry a value, what became of what an administrator asked for, and
//! how one replica is read by itself.

use crate::history::{Because, Deed, GARBAGE, Value, What};
use highwater::{
    batch,
    client::{AdminError, Code, Delivery},
    types::{NodeId, TopicPartition},
    wire::{Connection, Fetch, FetchPartition, Frame, Hello, Link, LinkClosed, Message},
};
use highwater_raft::observe::digest;
use std::ops::Range;

/// Bytes of a record: enough for frames of several records to cross sectors.
const BYTES: usize = 96;
/// All of them behind the value.
const FILL: u8 = b'.';
/// Bytes of one answer of a replica.
const ANSWER_BYTES: u32 = 1 << 20;

pub(crate) fn encode(value: Value) -> Vec<u8> {
    let mut bytes = value.to_be_bytes().to_vec();
    bytes.resize(BYTES, FILL);
    bytes
}

/// The value of a record that [`encode`] made; that of any other is nobody's.
pub(crate) fn decode(record: &Delivery) -> Value {
    record.value.as_deref().and_then(value_of).unwrap_or(GARBAGE)
}

fn value_of(bytes: &[u8]) -> Option<Value> {
    let (value, rest) = bytes.split_first_chunk::<8>()?;
    let is_whole = bytes.len() == BYTES && rest.iter().all(|byte| *byte == FILL);
    is_whole.then(|| Value::from_be_bytes(*value))
}

/// What an administrator was told of what it asked for.
pub(crate) fn told<T>(deed: Deed, answer: &Result<T, AdminError>) -> What {
    let topics = !matches!(deed, Deed::Reset { .. });
    let Err(error) = answer else { return What::AdminOk { deed } };
    match (error, error.code()) {
        // Leaders are asked for offsets before the home is asked for anything.
        (AdminError::NoLeader { .. } | AdminError::Partition { .. }, _) => {
            What::AdminFail { deed, because: Because::NotSent }
        }
        (_, Some(Code::TopicExists)) if topics => What::AdminFail { deed, because: Because::Exists },
        (_, Some(Code::UnknownTopic)) if topics => What::AdminFail { deed, because: Because::Unknown },
        _ => What::AdminInfo { deed },
    }
}

/// What a replica serves: first offset, next offset, and a hash over the bytes in between.
pub(crate) type Served = (u64, u64, u64);

/// Reads a range of one replica, as its node would serve it to a consumer nearby. `damaged` is told of a batch that does not verify.
///
/// # Errors
/// Why it cannot be read now.
pub(crate) async fn read_replica(
    connection: &dyn Connection,
    node: NodeId,
    TopicPartition { topic, partition }: TopicPartition,
    range: Range<u64>,
    damaged: impl Fn(String),
) -> Result<Served, String> {
    let mut link = connection.open().await.map_err(closed)?;
    let hello = Hello { version_min: 1, version_max: 1, client: "replica reader".into() };
    match ask(&mut link, hello).await?.message {
        Message::Welcome(welcome) if welcome.node == node => {}
        other => return Err(format!("it answers {other:?}")),
    }
    let (mut offset, mut begins, mut hash) = (range.start, None, 0u64);
    while offset < range.end {
        let part = FetchPartition { topic, partition, offset, bytes_max: 0, from_follower: true };
        let frame =
            ask(&mut link, Fetch { bytes_max: ANSWER_BYTES, partitions: vec![part], ..Fetch::default() }).await?;
        let Message::Fetched(fetched) = &frame.message else { return Err(format!("it answers {:?}", frame.message)) };
        let answer = fetched.partitions.first().ok_or("an empty answer")?;
        if let Some(refused) = &answer.refused {
            return Err(refused.message.clone());
        }
        if answer.high_watermark < range.end || frame.body().is_empty() {
            return Err(format!("its watermark is {}, {} is wanted", answer.high_watermark, range.end));
        }
        for batch in batch::split(frame.body()) {
            let batch = batch.map_err(|error| {
                let text = format!("node {node} serves a batch behind {offset} that does not verify: {error}");
                damaged(text.clone());
                text
            })?;
            let base = batch.header().base_offset.try_into().unwrap_or(0u64);
            if base >= range.end {
                // Of a send whose outcome nobody knew; others may not have it yet.
                break;
            }
            begins.get_or_insert(base);
            offset = base + u64::from(batch.count());
            hash = digest([&hash.to_be_bytes()[..], &batch.into_bytes()]);
        }
    }
    Ok((begins.unwrap_or(range.start), offset, hash))
}

async fn ask(link: &mut Link, message: impl Into<Message>) -> Result<Frame, String> {
    link.sender.send(vec![Frame::new(0, message)]).await.map_err(closed)?;
    link.receiver.receive().await.map_err(closed)
}

fn closed(error: LinkClosed) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_producer_made_has_a_value() {
        let made = encode(7);
        assert_eq!(value_of(&made), Some(7));
        let mut torn = made.clone();
        torn[90] = 0;
        let long = [&made[..], &[FILL]].concat();
        assert_eq!([&torn[..], &made[..BYTES - 1], &long, &[]].map(value_of), [None; 4]);
    }
}
