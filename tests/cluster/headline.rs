//! What Highwater is for: keyed lines in through `produce`, out through two groups, each node killed meanwhile.

use crate::{
    gap::{gap, write},
    support::{self, Cluster, Program, Wire, seconds, topic, wait},
};
use highwater::{
    batch::partition_of_key,
    client::{Client, Delivery},
    types::{Position, TopicName},
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

/// One record as a reader was given it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Given {
    partition: u32,
    offset: u64,
    line: u64,
    redelivered: bool,
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

/// What members of a group were given, each in its order.
type Members = Vec<Vec<Given>>;

/// Records that came again, and how many of them said so.
#[derive(Debug, Default, PartialEq, Eq)]
struct Again {
    times: u64,
    said: u64,
}

/// Gapless, in order, nothing but what the log has.
fn judge_group(name: &str, members: &Members, logs: &BTreeMap<u32, Vec<(u64, u64)>>) -> Again {
    let mut again = Again::default();
    let mut seen: BTreeSet<(u32, u64)> = BTreeSet::new();
    for given in members {
        let mut last: BTreeMap<u32, u64> = BTreeMap::new();
        for one in given {
            let log = &logs[&one.partition];
            assert_eq!(
                log[usize::try_from(one.offset).unwrap()],
                (one.offset, one.line),
                "{name}: not what the log has"
            );
            if !seen.insert((one.partition, one.offset)) {
                again.times += 1;
                again.said += u64::from(one.redelivered);
                continue;
            }
            let before = last.insert(one.partition, one.offset);
            assert!(before < Some(one.offset), "{name}: {one:?} came after offset {before:?}");
        }
    }
    let all: BTreeSet<(u32, u64)> =
        logs.iter().flat_map(|(p, log)| log.iter().map(|(offset, _)| (*p, *offset))).collect();
    assert_eq!(support::missing(&all, &seen), [], "{name}: offsets that nobody was given");
    again
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

/// Reads what `consume -o json` prints.
fn collect(stdout: std::process::ChildStdout, into: &Mutex<Vec<Given>>) {
    for line in BufReader::new(stdout).lines() {
        let line = line.unwrap();
        let said: serde_json::Value = serde_json::from_str(&line).unwrap();
        let text = |name: &str| said[name].as_str().unwrap_or_default().to_owned();
        let given = Given {
            partition: u32::try_from(said["partition"].as_u64().unwrap()).unwrap(),
            offset: said["offset"].as_u64().unwrap(),
            line: line_of(text("key").as_bytes(), text("value").as_bytes()),
            redelivered: said["redelivered"].as_bool().unwrap(),
        };
        into.lock().unwrap().push(given);
    }
}

fn given(record: &Delivery) -> Given {
    Given {
        partition: record.partition,
        offset: record.offset,
        line: line_of(record.key.as_deref().unwrap(), record.value.as_deref().unwrap()),
        redelivered: record.redelivered,
    }
}

async fn read_all(client: &Client, name: &TopicName) -> BTreeMap<u32, Vec<(u64, u64)>> {
    let ends = client.admin().list_offsets(name, Position::Latest).await.unwrap();
    let mut logs: BTreeMap<u32, Vec<(u64, u64)>> = ends.keys().map(|partition| (*partition, Vec::new())).collect();
    let put = |record: Delivery| {
        let one = given(&record);
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
        support::create(&client, &probes, 3).await;
        support::settled(&client).await;
    });

    // A group of two members by the command line, and one of one by the library.
    let mut members = Vec::new();
    for _ in 0..2 {
        let mut command = cluster.command(&["-o", "json", "consume", "lines", "-g", "pair", "--follow"]);
        let mut program = Program(command.stdout(Stdio::piped()).spawn().unwrap());
        let (stdout, into) = (program.0.stdout.take().unwrap(), Arc::new(Mutex::new(Vec::new())));
        let shared = into.clone();
        members.push((program, into, std::thread::spawn(move || collect(stdout, &shared))));
    }
    let alone = Arc::new(Mutex::new(Vec::new()));
    let over = Arc::new(AtomicBool::new(false));
    let mut consumer = runtime
        .block_on(client.consumer().start(Position::Earliest).subscribe("alone".parse().unwrap(), [name.clone()]))
        .unwrap();
    let (into, until) = (alone.clone(), over.clone());
    let reading = runtime.spawn(async move {
        while !until.load(Relaxed) {
            let records = consumer.poll(Duration::from_millis(200)).await.unwrap();
            into.lock().unwrap().extend(records.iter().map(given));
        }
        consumer.close().await.unwrap();
    });
    let generation = |group: &str| {
        let details = runtime.block_on(client.admin().describe_group(&group.parse().unwrap()));
        details.ok().filter(|d| d.partitions.iter().filter(|p| p.member.is_some()).count() == PARTITIONS as usize)
    };
    let alone_before = wait("the group of one has all partitions", || generation("alone")).generation;
    let pair = wait("two members share the partitions", || generation("pair").filter(|d| d.members.len() == 2));

    let acks: Vec<_> = (0..3).map(|_| Arc::new(Mutex::new(Vec::new()))).collect();
    for (partition, acks) in (0..3).zip(&acks) {
        runtime.spawn(write(client.clone(), probes.clone(), partition, acks.clone(), over.clone()));
    }
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
        let led = runtime.block_on(support::leaders(&client, &name));
        let probed = runtime.block_on(support::leaders(&client, &probes));
        let of_victim: BTreeSet<u32> = led.iter().filter(|(_, node)| **node == victim).map(|(p, _)| *p).collect();
        let polls = runtime.block_on(park(&cluster, &client, victim, &name, &of_victim));
        cluster.node(victim).signal(Signal::STOP);
        let before = fed.load(Relaxed);
        sleep(STILL);
        let after = fed.load(Relaxed);
        let partition = |line| partition_of_key(key_text(line).as_bytes(), PARTITIONS);
        let produces = (before..after).filter(|line| of_victim.contains(&partition(*line))).count();
        let fetches = runtime.block_on(unanswered(polls));
        let at = Instant::now();
        cluster.kill(victim);
        assert!(produces > 0 && fetches > 0, "node {victim}: {produces} produces and {fetches} fetches in flight");
        cluster.start(victim);
        cluster.ready();
        runtime.block_on(support::settled(&client));
        eprintln!(
            "kill of node {victim} at line {after}: led {} of {PARTITIONS}, {produces} records and {fetches} fetches in flight; whole again after {}",
            of_victim.len(),
            seconds(at.elapsed()),
        );
        let probed: Vec<u32> = probed.into_iter().filter(|(_, node)| *node == victim).map(|(p, _)| p).collect();
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
        let gaps = probed.iter().map(|partition| gap(&acks[*partition as usize], times));
        eprintln!("write gap of the kill of node {victim}: {}", gaps.max().map_or("it led no probe".into(), seconds));
    }

    let logs = runtime.block_on(read_all(&client, &name));
    let verdict = judge(&logs, lines);
    eprintln!("log: {lines} lines sent, {verdict:?}");
    assert_eq!(verdict, Verdict::default());

    let count = |given: &Mutex<Vec<Given>>| {
        let given = given.lock().unwrap();
        given.iter().map(|one| (one.partition, one.offset)).collect::<BTreeSet<_>>().len() as u64
    };
    wait("the group of one has all", || (count(&alone) >= lines).then_some(()));
    wait("the group of two has all", || (members.iter().map(|m| count(&m.1)).sum::<u64>() >= lines).then_some(()));
    let pair_now = wait("the group of two is whole", || generation("pair"));
    let alone_now = wait("the group of one is whole", || generation("alone")).generation;
    over.store(true, Relaxed);
    runtime.block_on(reading).unwrap();
    for (program, _, _) in &mut members {
        program.signal(Signal::INT);
        assert!(program.ended("a member ends").success());
    }
    let mut pairs = Members::new();
    for (_, given, reader) in members {
        reader.join().unwrap();
        pairs.push(Arc::into_inner(given).unwrap().into_inner().unwrap());
    }
    let shares: Vec<usize> = pairs.iter().map(Vec::len).collect();
    assert!(shares.iter().all(|share| *share > 0), "both members get something: {shares:?}");
    let again = judge_group("pair", &pairs, &logs);
    let again_alone = judge_group("alone", &vec![std::mem::take(&mut *alone.lock().unwrap())], &logs);
    eprintln!(
        "group of two: {shares:?} records, {again:?}, generation {} -> {}; group of one: {again_alone:?}",
        pair.generation, pair_now.generation
    );
    assert!(again.said == again.times && again_alone.said == again_alone.times, "what comes again says so");
    if pair.generation == pair_now.generation {
        assert_eq!(again, Again::default(), "no member left or timed out");
    }
    if alone_before == alone_now {
        assert_eq!(again_alone, Again::default(), "the member did not leave or time out");
    }
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
