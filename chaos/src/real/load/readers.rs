//! Who looks on beside the group: a reader that follows one partition by itself, and a watcher that asks for watermarks and for what
//! the group has committed.
//!
//! One partition shows a skip as well as all of them do, for little history: 16 bytes a record, and an event a poll.

use super::{AGAIN, GROUP, Load};
use crate::{history::What, workload::decode};
use highwater::{
    client::{ConsumeError, Consumer, Delivery, consumer::OutOfRange},
    types::Position,
};
use std::{collections::BTreeMap, rc::Rc, time::Duration};
use tokio::time::Instant;

/// The partition that is followed.
const FOLLOWED: u32 = 0;
/// How long a reader goes on before a new one takes its place.
const LIFE: Duration = Duration::from_secs(20);
/// Records that the new one reads again.
const BACK: u64 = 10_000;
/// How often marks and commits are asked for.
const ASK: Duration = Duration::from_millis(500);

impl Load {
    /// Follows one partition without a group. Now and then a new reader goes a little back.
    pub(in crate::real) async fn read(self: Rc<Self>, process: u32) -> anyhow::Result<()> {
        let mut from = Position::Earliest;
        while !self.caught_up.get() {
            let builder = self.onlooker.consumer().out_of_range(OutOfRange::Error);
            match builder.assign([(self.topic.clone(), FOLLOWED, from)]).await {
                Ok(mut consumer) => {
                    self.note(process, What::Seek { partition: FOLLOWED });
                    from = self.follow(&mut consumer, process).await;
                    consumer.close().await?;
                }
                Err(error) => {
                    tracing::warn!(%error, process, "no reader could be made");
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
        Ok(())
    }

    /// Reads for a while; gives where the next reader begins.
    async fn follow(&self, consumer: &mut Consumer, process: u32) -> Position {
        let until = Instant::now() + LIFE;
        while !self.caught_up.get() && Instant::now() < until {
            match consumer.poll(Duration::from_millis(200)).await {
                Ok(records) => self.polled(process, &records),
                Err(ConsumeError::OutOfRange { partition, offset, .. }) => {
                    self.note(process, What::OutOfRange { partition, offset });
                    tokio::time::sleep(AGAIN).await;
                    return Position::Earliest;
                }
                Err(error) => {
                    self.note_failed(process, &error);
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
        Position::Offset(self.followed.get().saturating_sub(BACK))
    }

    fn polled(&self, process: u32, records: &[Delivery]) {
        let Some(last) = records.last() else { return };
        self.followed.set(self.followed.get().max(last.offset + 1));
        let records = records.iter().map(|record| (record.offset, decode(record))).collect();
        self.note(process, What::Poll { partition: FOLLOWED, records, assigned: true });
    }

    /// Asks for the watermarks and for what the group has committed, again and again.
    pub(in crate::real) async fn watch(self: Rc<Self>, process: u32) -> anyhow::Result<()> {
        let (admin, of) = (self.onlooker.admin(), self.group()?);
        while !self.caught_up.get() {
            let asked = self.now_us();
            if let Ok(offsets) = admin.list_known_offsets(&self.topic, Position::Latest).await {
                for (partition, offset) in offsets {
                    self.note(process, What::Latest { partition, asked, offset });
                }
            }
            let asked = self.now_us();
            if let Ok(offsets) = admin.committed(&of, &self.topic).await {
                for (partition, offset) in offsets {
                    self.note(process, What::Committed { group: GROUP, partition, asked, offset });
                }
            }
            tokio::time::sleep(ASK).await;
        }
        Ok(())
    }
}

/// What the reader by itself, whose next offset this is, has still to read.
pub(super) fn behind(ends: &BTreeMap<u32, u64>, followed: u64) -> Option<String> {
    let end = ends.get(&FOLLOWED).copied().unwrap_or(0);
    (followed < end).then(|| format!("the reader by itself stands at {followed} of {end} in partition {FOLLOWED}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_is_behind_is_told() {
        let ends = BTreeMap::from([(FOLLOWED, 5), (FOLLOWED + 1, 9)]);
        assert_eq!(behind(&ends, 4).unwrap(), "the reader by itself stands at 4 of 5 in partition 0");
        assert_eq!((behind(&ends, 5), behind(&BTreeMap::new(), 0)), (None, None));
    }
}
