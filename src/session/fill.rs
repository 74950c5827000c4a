//! Reading for fetches and subscriptions: hot slices as they are, cold ones awaited, bytes from the response pool.

use super::{
    Ground,
    machine::{Filled, Pulled, Seen, Standing, View, partition_of, standing},
    polling::bytes_max,
};
use crate::{
    advice::Advice,
    limits,
    partition::{Read, Served},
    runtime::{BytePermit, BytePool},
    wire::{self, Code, FetchPartition, FetchedPartition, Refused},
};
use bytes::Bytes;
use std::{sync::Arc, time::Duration};

/// How long an answer waits for bytes of the response pool before it is refused.
const ROOM_WAIT_MAX: Duration = Duration::from_secs(5);

/// Batches of one answer with their bytes of the pool.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) filled: Filled,
    pub(super) fetched: wire::Fetched,
    pub(super) body: Vec<Bytes>,
    pub(super) permit: Option<BytePermit>,
}

/// Bytes of the response pool for one answer.
struct Room {
    pool: BytePool,
    held: Option<BytePermit>,
}

impl Room {
    /// Takes more. Only who holds nothing waits: two that wait for each other would wait for ever.
    async fn take(&mut self, bytes: u64) -> Result<bool, Refused> {
        let more = match (self.pool.take(bytes), &self.held) {
            (Ok(more), _) => more,
            (Err(_), Some(_)) => return Ok(false),
            (Err(full), None) => match tokio::time::timeout(ROOM_WAIT_MAX, self.pool.wait(bytes)).await {
                Ok(more) => more,
                Err(_) => return Err(Refused::new(Code::Overloaded, format!("{full}; {}", full.advice()))),
            },
        };
        match &mut self.held {
            Some(held) => held.merge(more),
            None => self.held = Some(more),
        }
        Ok(true)
    }

    fn give_back(&mut self, bytes: u64) {
        if let Some(held) = &mut self.held {
            held.shrink(held.bytes().saturating_sub(bytes));
        }
    }
}

/// One partition of a fetch while it is read.
struct Cursor {
    place: usize,
    seen: Seen,
    offset: u64,
    /// Bytes that it may still add.
    room: u64,
    batches: Vec<Served>,
    refused: Option<Refused>,
    done: bool,
}

fn bytes_of(batches: &[Served]) -> u64 {
    batches.iter().map(|batch| batch.bytes_len() as u64).sum()
}

/// Reads for a fetch, in turn from partition `first` on, at most [`limits::FETCH_PARTITION_BYTES_MAX`] of each at a time.
pub(super) async fn fill(ground: Ground, fetch: Arc<wire::Fetch>, first: usize) -> Result<Found, Refused> {
    let bytes_max = bytes_max(&fetch);
    let mut filled = Filled::default();
    let mut refusals: Vec<(usize, Option<Seen>, Refused)> = Vec::new();
    let mut cursors = Vec::new();
    for (place, want) in fetch.partitions.iter().enumerate() {
        match standing(want, ground.see(want)) {
            Standing::Refused(refused) => {
                let seen = ground.see(want).ok();
                refusals.push((place, seen, refused));
            }
            Standing::AtEnd(seen) | Standing::Ahead(seen) => filled.seen.push(seen),
            Standing::Behind(seen) => {
                filled.seen.push(seen);
                let room = if want.bytes_max == 0 { u64::MAX } else { want.bytes_max.into() };
                let offset = want.offset;
                cursors.push(Cursor { place, seen, offset, room, batches: Vec::new(), refused: None, done: false });
            }
        }
    }
    let start = cursors.partition_point(|cursor| cursor.place < first);
    cursors.rotate_left(start);

    let mut room = Room { pool: ground.responses.clone(), held: None };
    let mut total = 0;
    let mut rounds = 0;
    while cursors.iter().any(|cursor| !cursor.done) {
        if rounds > 0 {
            tokio::task::yield_now().await;
        }
        rounds += 1;
        for cursor in cursors.iter_mut().filter(|cursor| !cursor.done) {
            let want = &fetch.partitions[cursor.place];
            total += read_some(&ground, cursor, want, total, bytes_max, &mut room, &mut filled).await?;
        }
    }
    cursors.sort_by_key(|cursor| cursor.place);

    let mut found = Found { permit: room.held.take(), ..Found::default() };
    let mut entries: Vec<(usize, FetchedPartition)> = Vec::new();
    for (place, seen, refused) in refusals {
        filled.refused = true;
        entries.push((place, entry(&fetch.partitions[place], seen, Some(refused), 0)));
    }
    for cursor in cursors {
        let want = &fetch.partitions[cursor.place];
        filled.refused |= cursor.refused.is_some();
        let bytes = bytes_of(&cursor.batches);
        if bytes > 0 || cursor.refused.is_some() {
            entries.push((cursor.place, entry(want, Some(cursor.seen), cursor.refused, bytes)));
        }
        filled.bytes += bytes;
        filled.records += cursor.batches.iter().map(|b| b.offset_end - b.base_offset.max(want.offset)).sum::<u64>();
        found.body.extend(cursor.batches.into_iter().flat_map(|batch| [batch.prefix, batch.rest]));
    }
    entries.sort_by_key(|(place, _)| *place);
    found.fetched.partitions = entries.into_iter().map(|(_, entry)| entry).collect();
    found.filled = filled;
    Ok(found)
}

/// One partition's turn: gives the bytes that it added.
async fn read_some(
    ground: &Ground,
    cursor: &mut Cursor,
    want: &FetchPartition,
    total: u64,
    bytes_max: u64,
    room: &mut Room,
    filled: &mut Filled,
) -> Result<u64, Refused> {
    let left = bytes_max.saturating_sub(total).min(cursor.room);
    let ask = left.min(limits::FETCH_PARTITION_BYTES_MAX.into());
    if total > 0 && left == 0 {
        cursor.done = true;
        filled.more = true;
        return Ok(0);
    }
    let handle = match ground.find(partition_of(want)) {
        Ok(handle) => handle,
        Err(refused) => {
            cursor.done = true;
            cursor.refused = Some(refused);
            return Ok(0);
        }
    };
    let read = handle.read(cursor.offset, usize::try_from(ask).unwrap_or(usize::MAX));
    let (batches, taken) = match read {
        Read::Hot(batches) => (batches, None),
        Read::Cold(reading) => {
            // The first whole batch comes even when it is larger.
            let ask = ask.max(limits::BATCH_BYTES_MAX.into());
            if !room.take(ask).await? {
                cursor.done = true;
                filled.more = true;
                return Ok(0);
            }
            match reading.await {
                Ok(batches) => (batches, Some(ask)),
                Err(error) => {
                    room.give_back(ask);
                    cursor.done = true;
                    cursor.refused = Some(error.refused());
                    return Ok(0);
                }
            }
        }
        Read::Empty => {
            cursor.done = true;
            return Ok(0);
        }
        Read::Refused(error) => {
            cursor.done = true;
            cursor.refused = Some(error.refused());
            return Ok(0);
        }
    };
    let mut added = Vec::new();
    let mut bytes = 0;
    for batch in batches {
        if batch.offset_end > cursor.seen.high_watermark {
            break;
        }
        let len = batch.bytes_len() as u64;
        if bytes + len > left && total + bytes > 0 {
            cursor.done = true;
            filled.more = true;
            break;
        }
        bytes += len;
        added.push(batch);
    }
    match taken {
        Some(taken) => room.give_back(taken.saturating_sub(bytes)),
        None if bytes > 0 && !room.take(bytes).await? => {
            cursor.done = true;
            filled.more = true;
            return Ok(0);
        }
        None => {}
    }
    match added.last() {
        Some(last) => cursor.offset = last.offset_end,
        None => cursor.done = true,
    }
    cursor.room = cursor.room.saturating_sub(bytes);
    cursor.done |= cursor.offset >= cursor.seen.high_watermark;
    cursor.batches.extend(added);
    Ok(bytes)
}

fn entry(want: &FetchPartition, seen: Option<Seen>, refused: Option<Refused>, bytes: u64) -> FetchedPartition {
    FetchedPartition {
        topic: want.topic,
        partition: want.partition,
        refused,
        log_start: seen.map_or(0, |seen| seen.log_start),
        high_watermark: seen.map_or(0, |seen| seen.high_watermark),
        bytes: u32::try_from(bytes).expect("an answer is bounded by FETCH_BYTES_MAX and one batch"),
    }
}

/// A delivery that is ready to be sent.
#[derive(Debug)]
pub(super) struct Delivery {
    pub(super) delivery: wire::Delivery,
    pub(super) body: Vec<Bytes>,
    pub(super) permit: Option<BytePermit>,
}

/// The delivery that tells of a partition's leaving.
pub(super) fn dismissal(ground: &Ground, want: &FetchPartition, refused: Refused) -> wire::Delivery {
    wire::Delivery { partition: entry(want, ground.see(want).ok(), Some(refused), 0), records: 0 }
}

/// Reads for a subscription, within what is reserved.
pub(super) async fn pull(
    ground: Ground,
    want: FetchPartition,
    records_max: u64,
    bytes_max: u64,
) -> (Pulled, Option<Delivery>) {
    let seen = match standing(&want, ground.see(&want)) {
        Standing::Refused(refused) => return (Pulled::Refused(refused), None),
        Standing::AtEnd(_) | Standing::Ahead(_) => return (Pulled::Nothing, None),
        Standing::Behind(seen) => seen,
    };
    let handle = match ground.find(partition_of(&want)) {
        Ok(handle) => handle,
        Err(refused) => return (Pulled::Refused(refused), None),
    };
    let mut room = Room { pool: ground.responses.clone(), held: None };
    let batches = match handle.read(want.offset, usize::try_from(bytes_max).unwrap_or(usize::MAX)) {
        Read::Hot(batches) => batches,
        Read::Cold(reading) => {
            if let Err(refused) = room.take(bytes_max.max(limits::BATCH_BYTES_MAX.into())).await {
                return (Pulled::Refused(refused), None);
            }
            match reading.await {
                Ok(batches) => batches,
                Err(error) => return (Pulled::Refused(error.refused()), None),
            }
        }
        Read::Empty => return (Pulled::Nothing, None),
        Read::Refused(error) => return (Pulled::Refused(error.refused()), None),
    };
    let (mut records, mut bytes, mut body) = (0, 0, Vec::new());
    for batch in batches {
        let len = batch.bytes_len() as u64;
        if batch.offset_end > seen.high_watermark || records == records_max {
            break;
        }
        if bytes + len > bytes_max {
            if body.is_empty() {
                return (Pulled::TooLarge { bytes: len }, None);
            }
            break;
        }
        bytes += len;
        records = (records + batch.offset_end - batch.base_offset.max(want.offset)).min(records_max);
        body.extend([batch.prefix, batch.rest]);
    }
    if records == 0 {
        return (Pulled::Nothing, None);
    }
    match &mut room.held {
        Some(held) => held.shrink(bytes),
        None => {
            if let Err(refused) = room.take(bytes).await {
                return (Pulled::Refused(refused), None);
            }
        }
    }
    let delivery = wire::Delivery {
        partition: entry(&want, Some(seen), None, bytes),
        records: u32::try_from(records).unwrap_or(u32::MAX),
    };
    (Pulled::Batches { records, bytes }, Some(Delivery { delivery, body, permit: room.held }))
}
