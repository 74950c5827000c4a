//! A producer that is not idempotent and waits for nothing: it fills a link with batches of one record and never sends one again.
//! Whatever the broker takes of them keeps its order.

use super::{clients, world::World};
use crate::history::What;
use highwater::{
    batch::{Builder, Compression},
    client::Host as _,
    types::{AckLevel, NodeId, TopicId},
    wire::{Connection, Frame, Hello, LinkClosed, LinkReceiver, Message, Produce},
};
use std::{rc::Rc, sync::Arc, time::Duration};

/// Batches on one link before it takes another.
const FRAMES: u64 = 400;

/// Sends until the storm is over; each link is a process of its own, from `process` on.
pub(super) async fn produce(world: Rc<World>, process: u32) {
    let client = clients::connect(&world, process).await;
    let dialer = world.way_of(process + 1, Duration::from_micros(500)).dialer();
    let topic = loop {
        match client.topic(&clients::topic()).await {
            Ok(topic) => break topic.id,
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    };
    client.close();
    let mut links = process;
    while !world.is_calm() {
        links += 1;
        let partition = u32::try_from(world.env.random_below(world.options.partitions.into())).unwrap_or(0);
        let node = world.leader_of(partition).unwrap_or(1);
        let address = world.net.bootstrap(node);
        let connection = tokio::time::timeout(Duration::from_secs(1), dialer.dial(Some(NodeId(node)), &address)).await;
        if let Ok(Ok(connection)) = connection {
            let _ = fill(&world, &connection, links, topic, partition).await;
            connection.close("done");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn fill(
    world: &Rc<World>,
    connection: &Arc<dyn Connection>,
    process: u32,
    topic: TopicId,
    partition: u32,
) -> Result<(), LinkClosed> {
    let mut link = connection.open().await?;
    let hello = Hello { version_min: 1, version_max: 1, client: "pipeline".into() };
    link.sender.send(vec![Frame::new(0, hello)]).await?;
    link.receiver.receive().await?;
    let (world, mut sender, receiver) = (world.clone(), link.sender, link.receiver);
    let answers = tokio::task::spawn_local(note_answers(world.clone(), receiver, process, partition));
    for count in 1..=FRAMES {
        if world.is_calm() || answers.is_finished() {
            break;
        }
        let value = (u64::from(process) << 32) | count;
        let mut batch = Builder::new(Compression::None);
        let pushed = batch.push(world.host().now_ms(), None, Some(&crate::workload::encode(value)), &[]);
        let Ok(batch) = pushed.and_then(|()| batch.build()) else { break };
        world.note(process, What::Send { partition, value });
        let produce = Produce { topic, partition, ack: AckLevel::Quorum, timeout_ms: 10_000 };
        let correlation = u32::try_from(count).unwrap_or(u32::MAX);
        let frame = Frame::new(correlation, produce).with_body(vec![batch.into_bytes()]);
        if sender.send(vec![frame]).await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(world.env.random_below(6))).await;
    }
    let _ = tokio::time::timeout(Duration::from_secs(10), answers).await;
    Ok(())
}

/// Answers come in the order of the requests; what has none has an unknown outcome, as has what was refused.
async fn note_answers(world: Rc<World>, mut receiver: Box<dyn LinkReceiver>, process: u32, partition: u32) {
    while let Ok(frame) = receiver.receive().await {
        let value = (u64::from(process) << 32) | u64::from(frame.correlation);
        match &frame.message {
            Message::Produced(produced) => match produced.base_offset {
                Some(offset) => {
                    let epoch = produced.leader_epoch;
                    world.note(process, What::SendOk { partition, value, offset, epoch });
                }
                None => world.note(process, What::SendInfo { partition, value }),
            },
            _ => {
                world.note(process, What::SendInfo { partition, value });
                return;
            }
        }
    }
}
