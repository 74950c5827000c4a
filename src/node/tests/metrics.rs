//! A little load moves every family that `/metrics` shows.

use super::*;
use crate::wire::{Connection as _, Frame, Link, Message};
use bytes::Bytes;

/// A connection with one link.
pub(super) struct Asker {
    _connection: wire::MemoryConnection,
    pub(super) link: Link,
}

pub(super) async fn link(node: &Node) -> Asker {
    let connection = node.local();
    let mut link = connection.open().await.unwrap();
    let hello = wire::Hello { version_min: 1, version_max: 1, client: "test".into() };
    link.sender.send(vec![Frame::new(0, hello)]).await.unwrap();
    let welcome = within(5, link.receiver.receive()).await.unwrap();
    assert!(matches!(welcome.message, Message::Welcome(_)));
    Asker { _connection: connection, link }
}

pub(super) async fn send(asker: &mut Asker, message: impl Into<Message>, body: Option<Bytes>) {
    let frame = Frame::new(1, message).with_body(body.into_iter().collect());
    asker.link.sender.send(vec![frame]).await.unwrap();
}

async fn ask(asker: &mut Asker, message: impl Into<Message>, body: Option<Bytes>) -> Message {
    send(asker, message, body).await;
    within(20, asker.link.receiver.receive()).await.unwrap().message
}

/// Families, and those of them with a sample above zero.
fn families(text: &str) -> (Vec<String>, Vec<String>) {
    let names = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    let names: Vec<String> = names.map(str::to_owned).collect();
    let moved = |name: &String| {
        let sample = |line: &&str| {
            let rest = line.strip_prefix(name.as_str())?;
            let of_it = ["{", " ", "_total", "_count", "_info"].iter().any(|next| rest.starts_with(next));
            let value: f64 = line.rsplit(' ').next()?.parse().ok()?;
            (of_it && value > 0.0).then_some(())
        };
        text.lines().any(|line| sample(&line).is_some())
    };
    let moved = names.iter().filter(|name| moved(name)).cloned().collect();
    (names, moved)
}

#[tokio::test(start_paused = true)]
async fn every_family_moves_under_load() {
    local(async {
        let world = World::new(3, 31).await;
        let topic = world.topic("alpha", 1, 3).await;
        let partition = TopicPartition { topic, partition: 0 };
        let (n, _) = world.leader(partition).await;
        let leader = world.node(n);
        let produce = wire::Produce { topic, partition: 0, ack: AckLevel::Quorum, timeout_ms: 0 };
        let mut producer = link(leader).await;
        let produced = ask(&mut producer, produce.clone(), Some(batch("one").into_bytes())).await;
        assert!(matches!(produced, Message::Produced(_)), "{produced:?}");
        let refused = ask(&mut producer, produce, Some(Bytes::from_static(b"no batch at all"))).await;
        assert!(matches!(refused, Message::Refused(_)), "{refused:?}");
        let want = |offset| wire::FetchPartition { topic, partition: 0, offset, bytes_max: 0, from_follower: false };
        let fetch = |offset| wire::Fetch { wait_ms_max: 30_000, partitions: vec![want(offset)], ..Default::default() };
        let mut consumer = link(leader).await;
        assert!(matches!(ask(&mut consumer, fetch(0), None).await, Message::Fetched(_)));
        send(&mut consumer, fetch(1), None).await;
        let mut listener = link(leader).await;
        let subscribe = wire::Subscribe { partitions: vec![want(0)], records: 10, bytes: 10_000 };
        assert!(matches!(ask(&mut listener, subscribe, None).await, Message::Delivery(_)));
        let group = "readers".parse().unwrap();
        let home = async {
            loop {
                let homes = world.alive().filter(|node| node.groups().home_of(&group).1 == Some(node.id()));
                if let Some(home) = homes.last() {
                    return home;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        super::groups::join(within(20, home).await).await;
        tokio::time::sleep(secs(1)).await;
        let pages: Vec<_> = world.alive().map(|node| families(&node.metrics())).collect();
        let known: std::collections::BTreeSet<_> = pages.iter().flat_map(|page| page.0.clone()).collect();
        let moved: std::collections::BTreeSet<_> = pages.iter().flat_map(|page| page.1.clone()).collect();
        // As long as all are well it stays at 0.
        let unwell = "highwater_replicas_unwell".to_owned();
        assert!(known.contains(&unwell), "{known:?}");
        let still: Vec<_> = known.difference(&moved).filter(|family| **family != unwell).collect();
        assert!(still.is_empty(), "declared, and nobody feeds them: {still:?}");
        assert_eq!(known.len(), 24, "{known:?}");
    })
    .await;
}
