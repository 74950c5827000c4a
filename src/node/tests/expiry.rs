//! Producers that were silent for a day are forgotten, by an entry, on all replicas.

use super::*;
use crate::{batch::Producer, limits, partition::machine::Refusal, types::ProducerId};

fn numbered(id: i64, sequence: u32) -> Batch {
    let mut builder = BatchBuilder::new(Compression::None);
    builder.push(1_000, None, Some(b"x"), &[]).unwrap();
    builder.producer(Some(Producer { id: ProducerId(id), epoch: 0, sequence }));
    builder.build().unwrap()
}

async fn produce_numbered(handle: &Handle, id: i64, sequence: u32) -> Result<Produced, ProduceError> {
    let (slot, answer) = ReplySlot::channel();
    let batches = vec![numbered(id, sequence)];
    handle.produce(Produce { ack: AckLevel::Quorum, batches, permit: BytePermit::internal(), slot });
    within(20, answer).await
}

#[tokio::test(start_paused = true)]
async fn who_was_silent_for_a_day_is_forgotten_everywhere_and_who_was_not_goes_on() {
    local(async {
        let mut world = World::with(3, 51, |config| {
            config.retention.ms = crate::config::Keep(None);
            config.retention.check_ms = 1_000;
        })
        .await;
        let topic = world.topic("alpha", 1, 3).await;
        let partition = TopicPartition { topic, partition: 0 };
        let (n, leader) = world.leader(partition).await;
        for id in [1, 2] {
            produce_numbered(&leader, id, 0).await.unwrap();
        }
        let day = i64::try_from(limits::PRODUCER_EXPIRY_MS).unwrap();
        // Half a day passes, the second producer speaks; then a bit more than half a day.
        world.jump_clocks(day / 2);
        tokio::time::sleep(secs(3)).await;
        produce_numbered(&leader, 2, 1).await.unwrap();
        world.jump_clocks(day / 2 + 60_000);
        tokio::time::sleep(secs(3)).await;
        let forgotten = produce_numbered(&leader, 1, 1).await;
        assert!(matches!(forgotten, Err(ProduceError::Refused(Refusal::UnknownProducer { .. }))), "{forgotten:?}");
        produce_numbered(&leader, 2, 2).await.unwrap();
        world.crash(n);
        let (_, next) = world.leader(partition).await;
        let forgotten = produce_numbered(&next, 1, 1).await;
        assert!(matches!(forgotten, Err(ProduceError::Refused(Refusal::UnknownProducer { .. }))), "{forgotten:?}");
        assert!(produce_numbered(&next, 2, 2).await.unwrap().duplicate, "the other one is remembered");
        produce_numbered(&next, 1, 0).await.unwrap();
    })
    .await;
}
