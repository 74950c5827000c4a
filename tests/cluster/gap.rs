//! What the death of a leader costs those who write, and what its return costs.
//!
//! The write gap of a kill is the longest time between two acknowledgements of one partition that the killed node led.

use crate::support::{self, Cluster, seconds, topic};
use bytes::Bytes;
use highwater::{
    client::{Client, Record},
    types::TopicName,
};
use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    os::unix::fs::FileExt as _,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::sleep,
    time::{Duration, Instant, SystemTime},
};

const PARTITIONS: u32 = 12;
const RECORD_BYTES: usize = 1_024;
/// Between the acknowledgement of one record and the next one.
const PACE: Duration = Duration::from_millis(5);
/// How long a node stays away, every other time: the rest of the times it comes back at once.
const AWAY: Duration = Duration::from_secs(2);
/// Leaderships go home after the cluster was the same for some seconds; the next kill does not wait longer than this.
const HOME: Duration = Duration::from_secs(15);

type Acks = Arc<Mutex<Vec<Instant>>>;

/// Writes to one partition, one record after the other, until told to stop.
pub(crate) async fn write(client: Client, name: TopicName, partition: u32, acks: Acks, over: Arc<AtomicBool>) {
    let producer = client.producer().linger(Duration::ZERO).build();
    while !over.load(Relaxed) {
        let record = Record::new(name.clone(), Bytes::from_static(&[b'x'; RECORD_BYTES])).partition(partition);
        producer.send(record).await.unwrap().await.unwrap();
        acks.lock().unwrap().push(Instant::now());
        tokio::time::sleep(PACE).await;
    }
}

/// The longest time between two acknowledgements of which the second came in this time, or the first.
pub(crate) fn gap(acks: &Mutex<Vec<Instant>>, (from, to): (Instant, Instant)) -> Duration {
    let acks = acks.lock().unwrap();
    let pairs = acks.windows(2).filter(|pair| pair[1] > from && pair[0] < to);
    pairs.map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
}

/// When it ended.
fn gap_ends(acks: &Mutex<Vec<Instant>>, (from, to): (Instant, Instant)) -> Instant {
    let acks = acks.lock().unwrap();
    let pairs = acks.windows(2).filter(|pair| pair[1] > from && pair[0] < to);
    pairs.max_by_key(|pair| pair[1] - pair[0]).map_or(to, |pair| pair[1])
}

/// As the nodes' logs say it.
fn of_day(time: SystemTime) -> String {
    let ms = time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis() % 86_400_000;
    format!("{:02}:{:02}:{:02}.{:03}", ms / 3_600_000, ms / 60_000 % 60, ms / 1_000 % 60, ms % 1_000)
}

/// Waits until each node leads its share; says whether it does.
async fn home(client: &Client, name: &TopicName) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < HOME {
        let mut led: BTreeMap<u32, u32> = BTreeMap::new();
        support::leaders(client, name).await.into_values().for_each(|node| *led.entry(node).or_default() += 1);
        if led.len() == 3 && led.values().all(|count| *count == PARTITIONS / 3) {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    false
}

fn print(what: &str, mut gaps: Vec<Duration>) {
    gaps.sort();
    if let Some(max) = gaps.last() {
        let (p50, max) = (gaps[gaps.len() / 2].as_millis(), max.as_millis());
        eprintln!("{what}: p50 {p50} ms, max {max} ms of {} kills", gaps.len());
    }
}

/// What the disk does by itself: appends of a record's size, each with its `fdatasync`, over blocks that are there already, as
/// `highwater bench` probes it. Median and the 99th of a hundred, milliseconds.
fn probe(directory: &Path) -> (f64, f64) {
    const ROUNDS: usize = 300;
    let mut file = fs::File::create(directory.join("probe")).unwrap();
    file.write_all(&vec![0; ROUNDS * RECORD_BYTES]).unwrap();
    file.sync_all().unwrap();
    let append = |n: usize| {
        let begun = Instant::now();
        file.write_all_at(&[b'x'; RECORD_BYTES], (n * RECORD_BYTES) as u64).unwrap();
        file.sync_data().unwrap();
        begun.elapsed().as_secs_f64() * 1e3
    };
    let mut times: Vec<f64> = (0..ROUNDS).map(append).collect();
    times.sort_by(f64::total_cmp);
    (times[ROUNDS / 2], times[ROUNDS * 99 / 100])
}

#[test]
fn the_kill_of_a_leader_holds_up_its_writers_for_a_moment() {
    let _turn = support::turn();
    let kills = support::number("HIGHWATER_KILLS", 4);
    let mut cluster = Cluster::three("");
    let runtime = support::runtime();
    let client = runtime.block_on(cluster.client());
    let name = topic("orders");
    runtime.block_on(async {
        support::create(&client, &name, PARTITIONS).await;
        support::settled(&client).await;
    });
    runtime.block_on(home(&client, &name));
    let disk = probe(cluster.dir.path());
    let over = Arc::<AtomicBool>::default();
    let acks: Vec<Acks> = (0..PARTITIONS).map(|_| Acks::default()).collect();
    let writers: Vec<_> = (0..PARTITIONS)
        .zip(&acks)
        .map(|(partition, acks)| {
            runtime.spawn(write(client.clone(), name.clone(), partition, acks.clone(), over.clone()))
        })
        .collect();
    for acks in &acks {
        support::wait("each partition takes records", || (acks.lock().unwrap().len() > 10).then_some(()));
    }
    let (mut at_kill, mut at_return) = (Vec::new(), Vec::new());
    for kill in 0..kills {
        runtime.block_on(support::settled(&client));
        let even = runtime.block_on(home(&client, &name));
        let led = runtime.block_on(support::leaders(&client, &name));
        let shares = (1..=3).map(|node| (led.values().filter(|leader| **leader == node).count(), node));
        let victim = if even { u32::try_from(kill % 3).unwrap() + 1 } else { shares.max().unwrap().1 };
        let of_victim: Vec<u32> = led.iter().filter(|(_, node)| **node == victim).map(|(p, _)| *p).collect();
        let (away, wall) = (kill % 2 == 0, SystemTime::now());
        let killed = Instant::now();
        cluster.kill(victim);
        if away {
            sleep(AWAY);
        }
        let started = Instant::now();
        cluster.start(victim);
        cluster.ready();
        let ready = started.elapsed();
        for partition in &of_victim {
            let acks = &acks[*partition as usize];
            support::wait("acknowledged again", || acks.lock().unwrap().last().filter(|at| **at > killed).copied());
        }
        runtime.block_on(support::settled(&client));
        let returned = runtime.block_on(home(&client, &name));
        let (mid, end) = (if away { started } else { killed }, Instant::now());
        let gaps: Vec<Duration> = of_victim.iter().map(|p| gap(&acks[*p as usize], (killed, killed))).collect();
        // Behind the gap of the kill: the first acknowledgement after it, and all that follow.
        let after = |p: &u32| {
            let acks = acks[*p as usize].lock().unwrap();
            acks.iter().find(|at| **at > mid).copied().map(|first| (first, end))
        };
        let second = (0..PARTITIONS).filter_map(|p| Some((gap(&acks[p as usize], after(&p)?), p))).max();
        let (second, slowest) = second.unwrap_or_default();
        let said = wall
            + (after(&slowest).map_or(killed, |(first, _)| gap_ends(&acks[slowest as usize], (first, end))) - killed);
        let first = gaps.iter().max().copied().unwrap_or_default();
        let each: Vec<u128> = gaps.iter().map(Duration::as_millis).collect();
        eprintln!(
            "kill {kill} of node {victim} at {}, which led {}: write gap {} ms {each:?}; back after {} (ready in {}), \
             longest gap then {} ms (partition {slowest}, ended at {}){}",
            of_day(wall),
            of_victim.len(),
            first.as_millis(),
            seconds(started - killed),
            seconds(ready),
            second.as_millis(),
            of_day(said),
            if returned { "" } else { "; leaderships did not go home" },
        );
        at_kill.push(first);
        at_return.push(second);
    }
    over.store(true, Relaxed);
    for writer in writers {
        runtime.block_on(writer).unwrap();
    }
    eprintln!("append and fdatasync of {RECORD_BYTES} B right before: p50 {:.2} ms, p99 {:.2} ms", disk.0, disk.1);
    print("write gap", at_kill);
    print("longest gap after the return", at_return);
    let stats = client.stats();
    eprintln!("client: {stats:?}");
    assert_eq!((stats.refused_twice, stats.sent_after_refusal), (0, 0), "routing");
}
