//! What Highwater is for: keyed lines in through `produce`, out through two groups, each node killed meanwhile.

use crate::{
    gap::gap,
    support::{self, Cluster, Program, Wire, seconds, topic, wait},
};
use bytes::Bytes;
use highwater::{
    client::{Client, Consumer, Delivery, Record},
    types::{GroupName, Position, TopicName},
    wire::{Fetch, FetchPartition, Frame},
};
use rustix::process::Signal;
use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead as _, BufReader, Read as _, Write as _},
    process::Stdio,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::sleep,
    time::{Duration, Instant},
};

const KEYS: u64 = 10_000;
const PARTITIONS: u32 = 12;
/// Prime to `KEYS`: neighbours have different keys, and each key comes again after exactly `KEYS` lines.
const STRIDE: u64 = 7_919;
/// How long a node stands still before it is killed: what is sent to it meanwhile is in flight for certain. Shorter than
/// the silence after which another leads.
const STILL: Duration = Duration::from_millis(300);
/// Between two looks at who is in the groups.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Between the acknowledgement of a probe's record and its next one.
const PACE: Duration = Duration::from_millis(20);

fn key(line: u64) -> u64 {
    line * STRIDE % KEYS
}

fn key_text(line: u64) -> String {
    format!("key-{:05}", key(line))
}

/// At least 100 bytes that say which line it is.
fn value(line: u64) -> String {
    format!(
        "{line:012} {}",
        ["the tide comes in and goes out again; what it wrote on the sand is gone, ", "what is above the mark stays: "]
            [..]
            .concat()
            .repeat(1 + usize::try_from(line % 3).unwrap())
    )
}

/// One record as a member of a group was given it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Given {
    member: u32,
    partition: u32,
    offset: u64,
    line: u64,
    redelivered: bool,
    at: Instant,
}

/// The line that a record holds; it must be that line to the byte.
fn line_of(key: &[u8], found: &[u8]) -> u64 {
    let number = std::str::from_utf8(&found[..12]).unwrap().parse().unwrap();
    assert_eq!(found, value(number).as_bytes(), "the value of line {number}");
    assert_eq!(key, key_text(number).as_bytes(), "the key of line {number}");
    number
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Verdict {
    lost: u64,
    duplicated: u64,
    reordered: u64,
}

/// A log against what was sent: the lines of each key must come once, and in the order of the file.
fn judge(logs: &BTreeMap<u32, Vec<(u64, u64)>>, lines: u64) -> Verdict {
    let mut verdict = Verdict::default();
    let mut seen = BTreeSet::new();
    let mut last = BTreeMap::new();
    for (offset, (at, line)) in logs.values().flat_map(|log| (0..).zip(log)) {
        assert_eq!(offset, *at, "offsets are dense");
        verdict.duplicated += u64::from(!seen.insert(*line));
        verdict.reordered += u64::from(last.insert(key(*line), *line).is_some_and(|before| before > *line));
    }
    verdict.lost = (0..lines).filter(|line| !seen.contains(line)).count() as u64;
    verdict
}

#[test]
fn the_verdict_can_be_bad() {
    let log = |lines: &[u64]| BTreeMap::from([(0, (0..).zip(lines.iter().copied()).collect())]);
    assert_eq!(judge(&log(&[0, 1, KEYS]), 2), Verdict::default());
    assert_eq!(judge(&log(&[KEYS, 1, 0]), 2), Verdict { reordered: 1, ..Verdict::default() });
    assert_eq!(judge(&log(&[0, 0]), 2), Verdict { lost: 1, duplicated: 1, ..Verdict::default() });
}

/// What a group was given, against the log.
#[derive(Debug, Default, PartialEq, Eq)]
struct Share {
    /// Records that came again, by whichever member.
    again: u64,
    /// How many of those said so.
    said: u64,
    /// What is wrong, in words.
    faults: Vec<String>,
}

/// Members came or went, so many times, not before this moment.
type Change = (Instant, u64);

/// Gapless, in order, nothing but what the log has, and again only what members that went may have left undone: once more at most
/// for each change of members before it. `given` is the order over all members: a partition goes from one member to another, and
/// the order within a partition is the order of each of its keys.
fn judge_group(given: &[Given], logs: &BTreeMap<u32, Vec<(u64, u64)>>, changes: &[Change]) -> Share {
    let mut share = Share::default();
    let mut seen: BTreeMap<(u32, u64), u64> = BTreeMap::new();
    let mut last: BTreeMap<u32, Given> = BTreeMap::new();
    for one in given {
        let in_log = logs[&one.partition].get(usize::try_from(one.offset).unwrap());
        if in_log != Some(&(one.offset, one.line)) {
            share.faults.push(format!("{one:?}, but the log has {in_log:?}"));
        }
        let times = seen.entry((one.partition, one.offset)).or_default();
        if *times > 0 {
            share.again += 1;
            share.said += u64::from(one.redelivered);
            let changed: u64 = changes.iter().filter(|(at, _)| *at < one.at).map(|(_, times)| times).sum();
            if *times > changed {
                share.faults.push(format!("{one:?} came again, after {changed} changes of members and {times} times"));
            }
        } else if let Some(before) = last.insert(one.partition, *one)
            && before.offset > one.offset
        {
            share.faults.push(format!("{one:?} came after {before:?}"));
        }
        *times += 1;
    }
    let all: BTreeSet<(u32, u64)> =
        logs.iter().flat_map(|(p, log)| log.iter().map(|(offset, _)| (*p, *offset))).collect();
    let missing = support::missing(&all, &seen.into_keys().collect());
    share.faults.extend(missing.iter().map(|(partition, offset)| format!("nobody was given {partition}/{offset}")));
    share
}

#[test]
fn the_verdict_on_a_group_can_be_bad() {
    // Lines of one key, at the offsets 0 to 2.
    let logs = BTreeMap::from([(0, (0..3).map(|offset| (offset, offset * KEYS)).collect())]);
    let begun = Instant::now();
    let after = |ms| begun + Duration::from_millis(ms);
    let given = |member, offset, redelivered| Given {
        member,
        partition: 0,
        offset,
        line: offset * KEYS,
        redelivered,
        at: after(10),
    };
    let judge_with = |given: &[Given], changes: &[Change]| {
        let Share { again, said, faults } = judge_group(given, &logs, changes);
        (again, said, faults.len())
    };
    let judge = |given: &[Given]| judge_with(given, &[(after(0), 1)]);
    let [first, second, third] = [0, 1, 2].map(|offset| given(0, offset, false));
    assert_eq!(judge(&[first, second, third]), (0, 0, 0));
    assert_eq!(judge(&[first, given(1, 2, false), second]), (0, 0, 1), "members are judged together");
    assert_eq!(judge(&[first, second, third, given(1, 1, true)]), (1, 1, 0));
    assert_eq!(judge(&[first, second, third, given(1, 1, false)]), (1, 0, 0));
    assert_eq!(judge(&[first, third, given(1, 1, true)]), (0, 0, 1), "whatever it says, it was given to nobody before");
    assert_eq!(judge(&[first, third]), (0, 0, 1), "one is missing");
    assert_eq!(judge(&[first, second, Given { line: 1, ..third }]), (0, 0, 1), "another line");
    let again = [first, second, third, given(1, 1, true)];
    assert_eq!(judge_with(&again, &[]), (1, 1, 1), "no member came or went");
    assert_eq!(judge_with(&again, &[(after(20), 1)]), (1, 1, 1), "one did, but later");
    let twice = [first, second, third, given(1, 1, true), given(0, 1, true)];
    assert_eq!(judge(&twice), (2, 2, 1), "for one change once more");
    assert_eq!(judge_with(&twice, &[(after(0), 2)]), (2, 2, 0));
    assert_eq!(changes(&[(after(0), 3), (after(5), 3), (after(9), 5), (after(12), 5)]), [(after(5), 2)]);
}

/// What is seen of a group: when it was asked for, and the generation that the answer said. It counts members that come, leave and
/// time out, and what goes from one to another by that.
type Look = (Instant, u64);

/// Looks at the groups until all is over, and once more.
async fn watch(client: Client, groups: [GroupName; 2], looks: Arc<Mutex<[Vec<Look>; 2]>>, over: Arc<AtomicBool>) {
    loop {
        let last = over.load(Relaxed);
        for (n, group) in groups.iter().enumerate() {
            let asked = Instant::now();
            if let Ok(details) = client.admin().describe_group(group).await {
                looks.lock().unwrap()[n].push((asked, details.generation.0));
            }
        }
        if last {
            return;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Between two looks that differ; it came about after the first of them was asked for.
fn changes(looks: &[Look]) -> Vec<Change> {
    let differ = looks.windows(2).filter(|two| two[0].1 < two[1].1);
    differ.map(|two| (two[0].0, two[1].1 - two[0].1)).collect()
}

/// Writes to one partition, one record after the other.
#[derive(Default)]
struct Probe {
    sent: AtomicU64,
    acks: Mutex<Vec<Instant>>,
}

impl Probe {
    async fn write(self: Arc<Self>, client: Client, name: TopicName, partition: u32, over: Arc<AtomicBool>) {
        let producer = client.producer().linger(Duration::ZERO).build();
        while !over.load(Relaxed) {
            let record = Record::new(name.clone(), Bytes::from_static(&[b'x'; 1_024])).partition(partition);
            let receipt = producer.send(record).await.unwrap();
            self.sent.fetch_add(1, Relaxed);
            receipt.await.unwrap();
            self.acks.lock().unwrap().push(Instant::now());
            tokio::time::sleep(PACE).await;
        }
    }

    fn last_ack(&self) -> Option<Instant> {
        self.acks.lock().unwrap().last().copied()
    }

    /// Whether a record is under way, and none was acknowledged since.
    fn waits_since(&self, at: Instant) -> bool {
        let acks = self.acks.lock().unwrap();
        self.sent.load(Relaxed) > acks.len() as u64 && acks.last().is_some_and(|last| *last < at)
    }
}

/// Lines into the pipe of `produce` at a steady rate until all is killed that is to be killed, then as fast as it goes.
fn feed(mut pipe: std::process::ChildStdin, lines: u64, fed: &AtomicU64, killed: &AtomicBool) {
    let steady = lines / 60;
    let tenth = Duration::from_millis(100);
    for line in 0..lines {
        writeln!(pipe, "{}|{}", key_text(line), value(line)).unwrap();
        fed.store(line + 1, Relaxed);
        let rest = lines - line;
        let chunk = if rest * 4 > lines { (steady / 10).max(1) } else { 20 };
        if !killed.load(Relaxed) && line % chunk == 0 {
            pipe.flush().unwrap();
            sleep(tenth);
        }
    }
}

/// Reads what `consume -o json` prints: the only member of its group.
fn collect(stdout: std::process::ChildStdout, into: &Mutex<Vec<Given>>) {
    for line in BufReader::new(stdout).lines() {
        let line = line.unwrap();
        let said: serde_json::Value = serde_json::from_str(&line).unwrap();
        let text = |name: &str| said[name].as_str().unwrap_or_default().to_owned();
        let given = Given {
            member: 0,
            partition: u32::try_from(said["partition"].as_u64().unwrap()).unwrap(),
            offset: said["offset"].as_u64().unwrap(),
            line: line_of(text("key").as_bytes(), text("value").as_bytes()),
            redelivered: said["redelivered"].as_bool().unwrap(),
            at: Instant::now(),
        };
        into.lock().unwrap().push(given);
    }
}

fn given(member: u32, record: &Delivery) -> Given {
    Given {
        member,
        partition: record.partition,
        offset: record.offset,
        line: line_of(record.key.as_deref().unwrap(), record.value.as_deref().unwrap()),
        redelivered: record.redelivered,
        at: Instant::now(),
    }
}

/// A member of a group. What it is given is written down before it asks for more, and only then may the partition go to another
/// member: so the list of all members has the order in which records were given.
async fn read(mut consumer: Consumer, member: u32, into: Arc<Mutex<Vec<Given>>>, over: Arc<AtomicBool>) {
    while !over.load(Relaxed) {
        let records = consumer.poll(Duration::from_millis(200)).await.unwrap();
        let records: Vec<Given> = records.iter().map(|record| given(member, record)).collect();
        into.lock().unwrap().extend(records);
    }
    consumer.close().await.unwrap();
}

async fn read_all(client: &Client, name: &TopicName) -> BTreeMap<u32, Vec<(u64, u64)>> {
    let ends = client.admin().list_offsets(name, Position::Latest).await.unwrap();
    let mut logs: BTreeMap<u32, Vec<(u64, u64)>> = ends.keys().map(|partition| (*partition, Vec::new())).collect();
    let put = |record: Delivery| {
        let one = given(0, &record);
        logs.get_mut(&one.partition).unwrap().push((one.offset, one.line));
    };
    support::read_to(client, name, &ends, put).await;
    logs
}

#[test]
fn each_line_is_there_once_and_in_order_while_each_node_is_killed() {
    let _turn = support::turn();
    let lines = support::number("HIGHWATER_LINES", if cfg!(debug_assertions) { 100_000 } else { 1_000_000 });
    let mut cluster = Cluster::three("\n[log]\nwal_file_bytes = 16_777_216\nfree_bytes_min = 134_217_728\n");
    let runtime = support::runtime();
    let client = runtime.block_on(cluster.client());
    let (name, probes) = (topic("lines"), topic("probes"));
    runtime.block_on(async {
        support::create(&client, &name, PARTITIONS).await;
        support::create(&client, &probes, PARTITIONS).await;
        support::settled(&client).await;
    });

    // A group of two members by the library, and one of one by the command line.
    let over = Arc::new(AtomicBool::new(false));
    let pair: Arc<Mutex<Vec<Given>>> = Arc::default();
    let members: Vec<_> = (0..2)
        .map(|member| {
            let consumer = runtime.block_on(async {
                let builder = cluster.client().await.consumer().start(Position::Earliest);
                builder.subscribe("pair".parse().unwrap(), [name.clone()]).await.unwrap()
            });
            runtime.spawn(read(consumer, member, pair.clone(), over.clone()))
        })
        .collect();
    let alone: Arc<Mutex<Vec<Given>>> = Arc::default();
    let mut command = cluster.command(&["-o", "json", "consume", "lines", "-g", "alone", "--follow"]);
    let mut consuming = Program(command.stdout(Stdio::piped()).spawn().unwrap());
    let (stdout, into) = (consuming.0.stdout.take().unwrap(), alone.clone());
    let reading = std::thread::spawn(move || collect(stdout, &into));
    let generation = |group: &str| {
        let details = runtime.block_on(client.admin().describe_group(&group.parse().unwrap()));
        details.ok().filter(|d| d.partitions.iter().filter(|p| p.member.is_some()).count() == PARTITIONS as usize)
    };
    wait("the group of one has all partitions", || generation("alone"));
    wait("two members share the partitions", || generation("pair").filter(|d| d.members.len() == 2));
    let groups = ["pair", "alone"].map(|group| group.parse().unwrap());
    let looks: Arc<Mutex<[Vec<Look>; 2]>> = Arc::default();
    let (ended, watched) = (Arc::<AtomicBool>::default(), looks.clone());
    let watching = runtime.spawn(watch(client.clone(), groups, watched, ended.clone()));
    wait("both groups are looked at", || looks.lock().unwrap().iter().all(|looks| !looks.is_empty()).then_some(()));

    let probing: Vec<Arc<Probe>> = (0..PARTITIONS).map(|_| Arc::default()).collect();
    let writers: Vec<_> = (0..PARTITIONS)
        .zip(&probing)
        .map(|(partition, probe)| {
            runtime.spawn(probe.clone().write(client.clone(), probes.clone(), partition, over.clone()))
        })
        .collect();
    let begun = Instant::now();
    let mut command = cluster.command(&["produce", "lines", "--key-separator", "|"]);
    let mut producing = Program(command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
    let (pipe, fed, killed) =
        (producing.0.stdin.take().unwrap(), Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let (counted, all_killed) = (fed.clone(), killed.clone());
    let feeding = std::thread::spawn(move || feed(pipe, lines, &counted, &all_killed));
    wait("lines flow", || (alone.lock().unwrap().len() > 1_000).then_some(()));

    let mut kills = Vec::new();
    for victim in 1..=3 {
        let led_of = |name: &TopicName| -> BTreeSet<u32> {
            let leaders = runtime.block_on(support::leaders(&client, name));
            leaders.into_iter().filter(|(_, node)| *node == victim).map(|(partition, _)| partition).collect()
        };
        let (led, probed) = wait(&format!("node {victim} leads partitions of both topics"), || {
            let (led, probed) = (led_of(&name), led_of(&probes));
            (!led.is_empty() && !probed.is_empty()).then_some((led, probed))
        });
        let polls = runtime.block_on(park(&cluster, &client, victim, &name, &led));
        cluster.node(victim).signal(Signal::STOP);
        // What it acknowledged before has arrived by then.
        sleep(STILL / 2);
        let silent = Instant::now();
        sleep(STILL / 2);
        let produces = probed.iter().filter(|partition| probing[**partition as usize].waits_since(silent)).count();
        let fetches = runtime.block_on(unanswered(polls));
        let at = Instant::now();
        cluster.kill(victim);
        assert!(produces > 0 && fetches > 0, "node {victim}: {produces} produces and {fetches} fetches in flight");
        let line = fed.load(Relaxed);
        cluster.start(victim);
        cluster.ready();
        runtime.block_on(support::settled(&client));
        eprintln!(
            "kill of node {victim} at line {line}: led {} of {PARTITIONS} and {} probes, {produces} produces and {fetches} fetches in flight; whole again after {}",
            led.len(),
            probed.len(),
            seconds(at.elapsed()),
        );
        for partition in &probed {
            let probe = &probing[*partition as usize];
            wait("a probe is acknowledged again", || probe.last_ack().filter(|last| *last > at));
        }
        kills.push((victim, probed, (at, Instant::now())));
    }
    killed.store(true, Relaxed);
    feeding.join().unwrap();
    let status = wait("produce ends", || producing.0.try_wait().unwrap());
    let mut said = String::new();
    producing.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(status.success(), "produce: {status}\n{said}");
    eprintln!("produce: {} ({} in all)", said.trim(), seconds(begun.elapsed()));

    for (victim, probed, times) in kills {
        assert!(!probed.is_empty(), "node {victim} led no probe: there is no gap to be seen");
        let gaps = probed.iter().map(|partition| gap(&probing[*partition as usize].acks, times));
        let gap = gaps.max().unwrap_or_default();
        eprintln!(
            "write gap of the kill of node {victim}: {}, {} of it before the kill, as it stood still",
            seconds(gap),
            seconds(STILL)
        );
    }

    let logs = runtime.block_on(read_all(&client, &name));
    let verdict = judge(&logs, lines);
    eprintln!("log: {lines} lines sent, {verdict:?}");
    assert_eq!(verdict, Verdict::default());

    let has_all = |given: &Mutex<Vec<Given>>| {
        let given = given.lock().unwrap();
        let different = || given.iter().map(|one| (one.partition, one.offset)).collect::<BTreeSet<_>>().len();
        (given.len() as u64 >= lines && different() as u64 >= lines).then_some(())
    };
    wait("the group of one has all", || has_all(&alone));
    wait("the group of two has all", || has_all(&pair));
    wait("the group of two is whole", || generation("pair"));
    wait("the group of one is whole", || generation("alone"));
    // What members say when they go is no part of it.
    ended.store(true, Relaxed);
    runtime.block_on(watching).unwrap();
    over.store(true, Relaxed);
    for task in members.into_iter().chain(writers) {
        runtime.block_on(task).unwrap();
    }
    consuming.signal(Signal::INT);
    assert!(consuming.ended("the member of the group of one ends").success());
    reading.join().unwrap();
    let (pair, alone) = (pair.lock().unwrap(), alone.lock().unwrap());
    let shares = [0, 1].map(|member| pair.iter().filter(|one| one.member == member).count());
    assert!(shares.iter().all(|share| *share > 0), "both members get something: {shares:?}");
    let looks = looks.lock().unwrap();
    for (name, given, looks) in [("two", &pair, &looks[0]), ("one", &alone, &looks[1])] {
        let changes = changes(looks);
        let Share { again, said, faults } = judge_group(given, &logs, &changes);
        eprintln!(
            "group of {name}: {} records, {again} again, {said} of them said so, generation {} -> {} in {} looks",
            given.len(),
            looks[0].1,
            looks[looks.len() - 1].1,
            looks.len()
        );
        assert!(faults.is_empty(), "group of {name}: {} faults, {:#?}", faults.len(), &faults[..faults.len().min(10)]);
        assert_eq!(said, again, "group of {name}: what comes again says so");
        assert!(again == 0 || !changes.is_empty(), "group of {name}: {again} again, and no member left or timed out");
    }
    eprintln!("shares of the group of two: {shares:?}");
}

/// Parks a fetch on each of these partitions of the node: at its end, so that it waits.
async fn park(
    cluster: &Cluster,
    client: &Client,
    node: u32,
    name: &TopicName,
    partitions: &BTreeSet<u32>,
) -> Vec<Wire> {
    let id = client.topic(name).await.unwrap().id;
    let ends = client.admin().list_offsets(name, Position::Latest).await.unwrap();
    let mut wires = Vec::new();
    for partition in partitions {
        let mut wire = cluster.wire(node).await;
        let want = FetchPartition {
            topic: id,
            partition: *partition,
            offset: ends[partition],
            bytes_max: 0,
            from_follower: false,
        };
        let fetch = Fetch { wait_ms_max: 60_000, records_min: u32::MAX, partitions: vec![want], ..Fetch::default() };
        wire.first.sender.send(vec![Frame::new(1, fetch)]).await.unwrap();
        wires.push(wire);
    }
    wires
}

/// How many of them have no answer.
async fn unanswered(wires: Vec<Wire>) -> usize {
    let mut waiting = 0;
    for mut wire in wires {
        let answer = tokio::time::timeout(Duration::from_millis(1), wire.first.receiver.receive()).await;
        waiting += usize::from(answer.is_err());
    }
    waiting
}
