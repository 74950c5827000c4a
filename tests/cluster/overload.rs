//! More than a node has room for.

use crate::support::{self, Cluster, topic};
use highwater::{
    batch::{Builder, Compression},
    client::Record,
    types::AckLevel,
    wire::{Code, Frame, Link, Message, Metadata, Produce},
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

const POOL: u64 = 4 << 20;
const CLIENTS: u64 = 8;
const BATCH: u64 = 256 << 10;
/// What the node keeps of entries and of batches at the end of partitions.
const CACHE: u64 = 16 << 20;
const TAIL: u64 = 4 << 20;
/// Bytes of one link that QUIC takes before they are read (`wire::quic`); a client here has one.
const LINK_WINDOW: u64 = 2 << 20;
/// What the limits let the node hold at a time: what is admitted, kept, under way on each link, and one frame of each that is
/// being put together.
const HELD: u64 = POOL + CACHE + TAIL + CLIENTS * (LINK_WINDOW + BATCH);
/// What it may take above what it takes idle: as much again for the rest of the packets that batches are slices of, and for
/// what the allocator has not given back.
const RSS_GROWTH_MAX_KIB: u64 = (2 * HELD) >> 10;

#[derive(Default)]
struct Count {
    acked: AtomicU64,
    refused: AtomicU64,
}

/// Keeps a tenth of what all hold in flight, whatever is answered.
async fn press(mut link: Link, frame: Frame, count: Arc<Count>, until: Instant) {
    let in_flight = 10 * POOL / CLIENTS / BATCH;
    let many = |n: u64| (0..n).map(|_| frame.clone()).collect::<Vec<_>>();
    let mut open = in_flight;
    link.sender.send(many(in_flight)).await.unwrap();
    while open > 0 {
        let answer = link.receiver.receive().await.unwrap();
        open -= 1;
        match answer.message {
            Message::Produced(_) => count.acked.fetch_add(1, Relaxed),
            Message::Refused(refused) if refused.code == Code::Overloaded => {
                assert!(refused.message.contains("produce"), "{refused:?}");
                count.refused.fetch_add(1, Relaxed)
            }
            other => panic!("neither taken nor refused for want of room: {other:?}"),
        };
        if Instant::now() < until {
            link.sender.send(many(1)).await.unwrap();
            open += 1;
        }
    }
}

#[test]
fn overload_is_refused_by_name_and_leaves_no_trace() {
    let _turn = support::turn();
    let time =
        Duration::from_secs(support::number("HIGHWATER_OVERLOAD_SECONDS", if cfg!(debug_assertions) { 4 } else { 60 }));
    let more = format!(
        "\n[log]\nwal_file_bytes = 16_777_216\ncache_bytes = {CACHE}\ntail_bytes = {TAIL}\nfree_bytes_min = 134_217_728\n\n[pools]\nproduce_bytes = {POOL}\n"
    );
    let cluster = Cluster::one(&more);
    let runtime = support::runtime();
    runtime.block_on(async {
        let client = cluster.client().await;
        let name = topic("orders");
        support::create(&client, &name, 4).await;
        let id = client.topic(&name).await.unwrap().id;
        let mut builder = Builder::new(Compression::None);
        builder.push(1, None, Some(&vec![b'x'; usize::try_from(BATCH).unwrap() - 200]), &[]).unwrap();
        let body = builder.build().unwrap().bytes().clone();
        let pid = cluster.node(1).pid();
        let idle = support::rss_kib(pid);
        let (count, until) = (Arc::<Count>::default(), Instant::now() + time);
        let mut pressing = tokio::task::JoinSet::new();
        let mut connections = Vec::new();
        for client in 0..CLIENTS {
            let wire = cluster.wire(1).await;
            let partition = u32::try_from(client % 4).unwrap();
            let produce = Produce { topic: id, partition, ack: AckLevel::Quorum, timeout_ms: 60_000 };
            let frame = Frame::new(1, produce).with_body(vec![body.clone()]);
            let link = wire.connection.open().await.unwrap();
            connections.push(wire);
            pressing.spawn(press(link, frame, count.clone(), until));
        }
        let (mut peak, mut asked, mut slowest) = (idle, 0, Duration::ZERO);
        let mut other = cluster.wire(1).await;
        while Instant::now() < until {
            // Whoever does not produce is served all the while.
            let begun = Instant::now();
            let answer = other.ask(Frame::new(1, Metadata::default())).await;
            assert!(matches!(answer.message, Message::MetadataAnswer(_)), "{answer:?}");
            (asked, slowest) = (asked + 1, slowest.max(begun.elapsed()));
            peak = peak.max(support::rss_kib(pid));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        while let Some(ended) = pressing.join_next().await {
            ended.unwrap();
        }
        peak = peak.max(support::rss_kib(pid));
        let (acked, refused) = (count.acked.load(Relaxed), count.refused.load(Relaxed));
        drop(connections);
        let producer = client.producer().build();
        let mut receipts = Vec::new();
        for n in 0..1_000 {
            receipts.push(producer.send(Record::new(name.clone(), format!("after {n}"))).await.unwrap());
        }
        producer.flush().await.expect("normal again");
        for receipt in receipts {
            receipt.await.expect("normal again");
        }
        eprintln!(
            "{} MiB in flight against a pool of {} MiB for {} s: {acked} batches acknowledged, {refused} refused; \
             {asked} other questions, slowest {} ms; RSS idle {idle}, peak {peak}, after {} KiB",
            (10 * POOL) >> 20,
            POOL >> 20,
            time.as_secs(),
            slowest.as_millis(),
            support::rss_kib(pid)
        );
        assert!(refused > 0 && acked > 0, "{acked} acknowledged, {refused} refused");
        assert!(peak < idle + RSS_GROWTH_MAX_KIB, "RSS grew from {idle} to {peak} KiB: more than {RSS_GROWTH_MAX_KIB}");
    });
}
