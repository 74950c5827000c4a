//! Long polls that wait: what they cost, and who is woken.

use crate::support::{self, Cluster, Used, Wire, topic};
use bytes::Bytes;
use highwater::{
    client::{Producer, Record},
    limits,
    wire::{Fetch, FetchPartition, Frame, Link, Message},
};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

const CONNECTIONS: u64 = 100;
const PARTITIONS: u32 = 12;
/// Longer than anything here is waited for: what is answered was woken, and did not end by its time.
const WAIT_MS: u32 = limits::FETCH_WAIT_MS_MAX;
const _: () = assert!(WAIT_MS as u128 > support::SOON.as_millis());
/// Seconds of it that are left for waking when the watch is over.
const WAKING: u64 = 40;
/// Half a percent of a core, in milliseconds of CPU per second. Code without optimisation takes ten times as long.
const CPU_MS_MAX: u64 = if cfg!(debug_assertions) { 50 } else { 5 };
/// Times per second that threads go to sleep, three nodes together: a connection has one timer, for the first deadline of its
/// waits, and none of them falls into the watch. Of 10,000 waits that looked around once in a quarter of an hour there would be
/// more.
const SWITCHES_MAX: u64 = 10;
/// What noise is forgiven beside, where so much is measured.
const NOISE_SWITCHES_MAX: u64 = 50;
/// What the connections that carry them may cost: every three seconds each shows that it lives, and is answered, which wakes up to
/// six times.
const CONNECTIONS_CPU_MS_MAX: u64 = CPU_MS_MAX;
const CONNECTIONS_SWITCHES_MAX: u64 = 2 * CONNECTIONS;

/// All nodes together.
fn used(cluster: &Cluster) -> Used {
    let all = cluster.nodes.iter().map(|node| support::used(node.pid()));
    all.fold(Used { cpu_ms: 0, voluntary: 0, involuntary: 0 }, |a, b| Used {
        cpu_ms: a.cpu_ms + b.cpu_ms,
        voluntary: a.voluntary + b.voluntary,
        involuntary: a.involuntary + b.involuntary,
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
    // A thread that ends takes its count with it.
    let more = |of: fn(&Used) -> u64| per_second(of(&after).saturating_sub(of(&before)));
    Used { cpu_ms: more(|used| used.cpu_ms), voluntary: more(|u| u.voluntary), involuntary: more(|u| u.involuntary) }
}

/// Three looks one after the other, `time` in all: one of them may fall into another program's burst.
async fn three(cluster: &Cluster, time: Duration) -> [Used; 3] {
    [idle(cluster, time / 3).await, idle(cluster, time / 3).await, idle(cluster, time / 3).await]
}

fn median(mut of: [u64; 3]) -> u64 {
    of.sort_unstable();
    of[1]
}

/// What two looks at the same cluster differ by.
fn noise([a, b, c]: [u64; 3]) -> u64 {
    median([a.abs_diff(b), b.abs_diff(c), c.abs_diff(a)])
}

/// The middle one of three looks is at most `more` above that of three looks before. Noise is forgiven up to a bound, or a noisy
/// machine would pass for anything.
fn is_no_more(before: [u64; 3], after: [u64; 3], more: u64, noise_max: u64) -> bool {
    median(after) <= median(before) + more + noise(before).min(noise_max)
}

#[test]
fn noise_forgives_no_more_than_the_bound() {
    assert!(is_no_more([30, 30, 30], [35, 90, 0], 5, 5));
    assert!(!is_no_more([30, 30, 30], [36, 36, 36], 5, 5));
    assert!(is_no_more([30, 33, 90], [41, 41, 41], 5, 5), "33, a noise of 57 that counts as 5, and 5");
    assert!(!is_no_more([30, 33, 90], [44, 44, 44], 5, 5));
    assert!(is_no_more([30, 33, 90], [44, 44, 44], 5, 50));
    assert_eq!(noise([30, 33, 90]), 57);
}

/// A fetch for which one record is too little and two are enough: the first one does not wake it, the second one does. Gives what
/// it is answered with.
async fn woken_by_the_second(wire: &mut Wire, producer: &Producer, record: &Record, fetch: Fetch) -> Bytes {
    let end = fetch.partitions[0].offset + 2;
    wire.first.sender.send(vec![Frame::new(2, fetch)]).await.unwrap();
    producer.send(record.clone()).await.unwrap().await.unwrap();
    let early = tokio::time::timeout(Duration::from_millis(300), wire.first.receiver.receive()).await;
    assert!(early.is_err(), "one record of two: {early:?}");
    producer.send(record.clone()).await.unwrap().await.unwrap();
    let answer =
        tokio::time::timeout(support::SOON, wire.first.receiver.receive()).await.expect("it is woken").unwrap();
    let Message::Fetched(fetched) = &answer.message else { panic!("{answer:?}") };
    assert_eq!(fetched.partitions[0].high_watermark, end);
    answer.body()
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
    let time = Duration::from_secs(time.min(u64::from(WAIT_MS) / 1_000 - WAKING));
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
        let (rss_before, without) = (rss(&cluster), three(&cluster, time).await);

        // As many connections to each node as it leads partitions; each waits for those.
        let mut connections = Vec::new();
        let mut waits: BTreeMap<u32, Vec<Link>> = BTreeMap::new();
        for n in 0..CONNECTIONS {
            let partition = u32::try_from(n).unwrap() % PARTITIONS;
            connections.push((partition, cluster.wire(leaders[&partition]).await));
        }
        let (rss_connected, connected) = (rss(&cluster), three(&cluster, time).await);
        let first_ends = tokio::time::Instant::now() + Duration::from_millis(WAIT_MS.into());
        for (partition, wire) in &connections {
            for _ in 0..parked / CONNECTIONS {
                let mut link = wire.connection.open().await.unwrap();
                link.sender.send(vec![Frame::new(1, fetch(id, *partition, 0, WAIT_MS))]).await.unwrap();
                waits.entry(*partition).or_default().push(link);
            }
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        let (rss_parked, with) = (rss(&cluster), three(&cluster, time).await);
        let cpu = |looks: [Used; 3]| looks.map(|used| used.cpu_ms);
        let switches = |looks: [Used; 3]| looks.map(|used| used.voluntary);
        for (what, looks, rss) in [
            ("nobody", without, rss_before),
            ("connections", connected, rss_connected),
            ("and waits", with, rss_parked),
        ] {
            eprintln!(
                "{what:12} {:?} ms of CPU/s, {:?} voluntary and {:?} nonvoluntary switches/s, RSS {rss} KiB (three nodes)",
                cpu(looks),
                switches(looks),
                looks.map(|used| used.involuntary),
            );
        }
        let more_us = |before, after| 1_000.0 * (median(cpu(after)) as f64 - median(cpu(before)) as f64);
        eprintln!(
            "per connection {:.1} KiB and {:.1} us of CPU/s, per fetch {:.2} KiB and {:.2} us of CPU/s",
            rss_connected.saturating_sub(rss_before) as f64 / CONNECTIONS as f64,
            more_us(without, connected) / CONNECTIONS as f64,
            rss_parked.saturating_sub(rss_connected) as f64 / parked as f64,
            more_us(connected, with) / parked as f64,
        );
        eprintln!(
            "noise of the cluster alone: {} ms of CPU/s, {} voluntary switches/s; with connections: {} and {}",
            noise(cpu(without)),
            noise(switches(without)),
            noise(cpu(connected)),
            noise(switches(connected)),
        );
        // The connections are there without the waits too; what they cost by themselves is printed above.
        assert!(
            is_no_more(cpu(connected), cpu(with), CPU_MS_MAX, CPU_MS_MAX),
            "{parked} parked fetches cost {:?} ms/s, {:?} without",
            cpu(with),
            cpu(connected)
        );
        // Connections show every few seconds that they live. Beside that nothing wakes for the waits: no timer each, no look at
        // each; the first of their deadlines is far away.
        assert!(
            is_no_more(switches(connected), switches(with), SWITCHES_MAX, NOISE_SWITCHES_MAX),
            "{parked} parked fetches make {:?} switches/s, {:?} without",
            switches(with),
            switches(connected)
        );
        // And with the connections, beside a cluster that nobody asks.
        let (more_cpu, more_switches) = (CPU_MS_MAX + CONNECTIONS_CPU_MS_MAX, SWITCHES_MAX + CONNECTIONS_SWITCHES_MAX);
        for (what, nobody, with, more, noise_max) in [
            ("ms of CPU/s", cpu(without), cpu(with), more_cpu, CPU_MS_MAX),
            ("switches/s", switches(without), switches(with), more_switches, NOISE_SWITCHES_MAX),
        ] {
            assert!(
                is_no_more(nobody, with, more, noise_max),
                "{parked} parked fetches on {CONNECTIONS} connections cost {with:?} {what}, {nobody:?} without"
            );
        }

        // One record wakes those that wait for its partition, and nobody else.
        let begun = Instant::now();
        let producer = client.producer().linger(Duration::ZERO).build();
        producer.send(Record::new(name.clone(), "wake").partition(5)).await.unwrap().await.unwrap();
        let acked = begun.elapsed();
        let woken = waits.remove(&5).unwrap();
        let count = woken.len();
        for mut link in woken {
            let answer =
                tokio::time::timeout_at(first_ends, link.receiver.receive()).await.expect("it is woken").unwrap();
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
        // `records_min` and `bytes_min`: not with the first batch, but with the one that makes it enough.
        let record = Record::new(name.clone(), "one").partition(0);
        let enough = Fetch { records_min: 2, ..fetch(id, 0, 0, WAIT_MS) };
        let two = woken_by_the_second(&mut wire, &producer, &record, enough).await;
        let bytes_min = u32::try_from(two.len()).unwrap();
        let enough = Fetch { bytes_min, ..fetch(id, 0, 2, WAIT_MS) };
        let again = woken_by_the_second(&mut wire, &producer, &record, enough).await;
        assert_eq!(again.len(), two.len(), "two batches of the same size");
    });
}
