//! Long polls that wait: what they cost, and who is woken.

use crate::support::{self, Cluster, Used, Wire, topic};
use highwater::{
    client::Record,
    wire::{Fetch, FetchPartition, Frame, Link, Message},
};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

const CONNECTIONS: u64 = 100;
const PARTITIONS: u32 = 12;
/// Longer than is watched, or they would end meanwhile.
const WAIT_MS: u32 = 90_000;

/// All nodes together.
fn used(cluster: &Cluster) -> Used {
    let all = cluster.nodes.iter().map(|node| support::used(node.pid()));
    all.fold(Used { cpu_ms: 0, switches: 0 }, |a, b| Used {
        cpu_ms: a.cpu_ms + b.cpu_ms,
        switches: a.switches + b.switches,
    })
}

fn rss(cluster: &Cluster) -> u64 {
    cluster.nodes.iter().map(|node| support::rss_kib(node.pid())).sum()
}

/// What the cluster uses while nobody asks anything.
async fn idle(cluster: &Cluster, time: Duration) -> Used {
    let (before, begun) = (used(cluster), Instant::now());
    tokio::time::sleep(time).await;
    let (after, seconds) = (used(cluster), begun.elapsed().as_secs_f64());
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "figures")]
    let per_second = |n: u64| (n as f64 / seconds) as u64;
    Used { cpu_ms: per_second(after.cpu_ms - before.cpu_ms), switches: per_second(after.switches - before.switches) }
}

fn fetch(topic: highwater::types::TopicId, partition: u32, offset: u64, wait_ms: u32) -> Fetch {
    let want = FetchPartition { topic, partition, offset, bytes_max: 0, from_follower: false };
    Fetch { wait_ms_max: wait_ms, partitions: vec![want], ..Fetch::default() }
}

#[test]
fn ten_thousand_waits_cost_next_to_nothing_and_wake_alone() {
    let _turn = support::turn();
    let parked = support::number("HIGHWATER_PARKED", 10_000);
    let time = support::number("HIGHWATER_IDLE_SECONDS", if cfg!(debug_assertions) { 4 } else { 60 });
    let time = Duration::from_secs(time.min(u64::from(WAIT_MS) / 1_000 - 10));
    let cluster = Cluster::three("");
    let runtime = support::runtime();
    runtime.block_on(async {
        let client = cluster.client().await;
        let name = topic("orders");
        support::create(&client, &name, PARTITIONS).await;
        support::settled(&client).await;
        let id = client.topic(&name).await.unwrap().id;
        let leaders = support::leaders(&client, &name).await;
        // Groups that took an entry lately are heartbeaten for five seconds more.
        tokio::time::sleep(Duration::from_secs(6)).await;
        let (rss_before, without) = (rss(&cluster), idle(&cluster, time).await);

        // As many connections to each node as it leads partitions; each waits for those.
        let mut connections = Vec::new();
        let mut waits: BTreeMap<u32, Vec<Link>> = BTreeMap::new();
        for n in 0..CONNECTIONS {
            let partition = u32::try_from(n).unwrap() % PARTITIONS;
            connections.push((partition, cluster.wire(leaders[&partition]).await));
        }
        let (rss_connected, connected) = (rss(&cluster), idle(&cluster, time).await);
        for (partition, wire) in &connections {
            for _ in 0..parked / CONNECTIONS {
                let mut link = wire.connection.open().await.unwrap();
                link.sender.send(vec![Frame::new(1, fetch(id, *partition, 0, WAIT_MS))]).await.unwrap();
                waits.entry(*partition).or_default().push(link);
            }
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        let (rss_parked, with) = (rss(&cluster), idle(&cluster, time).await);
        for (what, used, rss) in [
            ("nobody", without, rss_before),
            ("connections", connected, rss_connected),
            ("and waits", with, rss_parked),
        ] {
            eprintln!(
                "{what:12} {:5} ms of CPU/s {:6} switches/s  RSS {rss} KiB (three nodes)",
                used.cpu_ms, used.switches
            );
        }
        eprintln!(
            "per connection {:.1} KiB, per wait {:.2} KiB",
            rss_connected.saturating_sub(rss_before) as f64 / CONNECTIONS as f64,
            rss_parked.saturating_sub(rss_connected) as f64 / parked as f64
        );
        // Half a percent of a core, and what two looks at the same idle cluster differ by.
        let noise = connected.cpu_ms.abs_diff(without.cpu_ms);
        assert!(
            with.cpu_ms <= connected.cpu_ms + 5 + noise,
            "{parked} parked fetches cost {} ms/s, {} without",
            with.cpu_ms,
            connected.cpu_ms
        );
        // Nothing wakes for them: no timer each, no look at each.
        let noise = connected.switches.abs_diff(without.switches);
        assert!(
            with.switches <= connected.switches + 50 + noise,
            "{parked} parked fetches make {} switches/s, {} without",
            with.switches,
            connected.switches
        );

        // One record wakes those that wait for its partition, and nobody else.
        let begun = Instant::now();
        let producer = client.producer().linger(Duration::ZERO).build();
        producer.send(Record::new(name.clone(), "wake").partition(5)).await.unwrap().await.unwrap();
        let acked = begun.elapsed();
        let woken = waits.remove(&5).unwrap();
        let count = woken.len();
        for mut link in woken {
            let answer = tokio::time::timeout(support::SOON, link.receiver.receive()).await.unwrap().unwrap();
            let Message::Fetched(fetched) = &answer.message else { panic!("{answer:?}") };
            assert_eq!(fetched.partitions[0].high_watermark, 1);
            assert!(!answer.body().is_empty());
        }
        eprintln!(
            "one record woke {count} waits: acknowledged after {} ms, the last awake after {} ms",
            acked.as_millis(),
            begun.elapsed().as_millis()
        );
        let mut others = 0;
        for mut link in waits.into_values().flatten() {
            let early = tokio::time::timeout(Duration::ZERO, link.receiver.receive()).await;
            assert!(early.is_err(), "woken without a record: {early:?}");
            others += 1;
        }
        assert_eq!(others + count as u64, parked / CONNECTIONS * CONNECTIONS);

        // A wait ends at its time, empty, and not before.
        let mut wire: Wire = cluster.wire(leaders[&0]).await;
        let begun = Instant::now();
        let answer = wire.ask(Frame::new(1, fetch(id, 0, 0, 700))).await;
        let waited = begun.elapsed();
        assert!(waited >= Duration::from_millis(700), "answered after {waited:?}");
        assert!(answer.body().is_empty() && matches!(answer.message, Message::Fetched(_)), "{answer:?}");
        eprintln!("a wait of 700 ms took {} ms", waited.as_millis());
        // `records_min`: not with the first record, but with the one that makes it enough.
        let enough = Fetch { records_min: 2, ..fetch(id, 0, 0, 60_000) };
        wire.first.sender.send(vec![Frame::new(2, enough)]).await.unwrap();
        let one = || Record::new(name.clone(), "one").partition(0);
        producer.send(one()).await.unwrap().await.unwrap();
        let early = tokio::time::timeout(Duration::from_millis(300), wire.first.receiver.receive()).await;
        assert!(early.is_err(), "one record of two: {early:?}");
        producer.send(one()).await.unwrap().await.unwrap();
        let answer = tokio::time::timeout(support::SOON, wire.first.receiver.receive()).await.unwrap().unwrap();
        let Message::Fetched(fetched) = &answer.message else { panic!("{answer:?}") };
        assert_eq!(fetched.partitions[0].high_watermark, 2);
    });
}
