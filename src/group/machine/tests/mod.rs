//! Scenarios: commands in, replies, effects and state out. After each command the state goes through a checkpoint.

use super::*;
use crate::types::{DELIVERED_UNKNOWN, MemberId, Position, TopicPartition};
use std::fmt::Write;

macro_rules! check {
    ($script:literal, @$out:literal) => {
        insta::assert_snapshot!(run($script), @$out)
    };
}

mod any_order;
mod offsets;
mod scenarios;

pub(super) const AT: At = At { index: 1, term: 1, stamp_ms: 0 };

/// Topic ids in tests: the first letter of the name.
pub(super) fn topic(name: &str) -> TopicId {
    TopicId([name.as_bytes()[0]; 16])
}

/// `orders/0`, with `=N` behind it an offset.
fn offset(word: &str) -> (TopicPartition, u64) {
    let (place, offset) = word.split_once('=').unwrap_or((word, "0"));
    let (name, partition) = place.split_once('/').unwrap();
    (TopicPartition { topic: topic(name), partition: partition.parse().unwrap() }, offset.parse().unwrap())
}

fn commit_offset(word: &&str) -> CommitOffset {
    let (partition, offset) = offset(word);
    CommitOffset { partition, offset, leader_epoch: 1, metadata: String::new() }
}

fn member(word: &str) -> Option<MemberId> {
    (word != "-").then(|| word.parse().unwrap())
}

/// `join G MEMBER|- TOPIC… [start=POSITION]`, `leave G M`, `expire G M SESSION`, `report G M GENERATION T/P=DELIVERED…`,
/// `commit G M|- GENERATION [#N] T/P=OFFSET…`, `start G M GENERATION T/P=OFFSET…`, `reset G T/P=OFFSET…`, `delete G`,
/// `topics VERSION NAME:PARTITIONS… -GONE…`.
fn command(line: &str) -> Command {
    let words: Vec<_> = line.split_whitespace().collect();
    let group = || words[1].parse().unwrap();
    let who = || words[2].parse().unwrap();
    let generation = || Generation(words[3].parse().unwrap());
    match words[0] {
        "join" => Command::Join(Join {
            group: group(),
            member: member(words[2]),
            topics: words[3..].iter().filter(|w| !w.contains('=')).map(|w| w.parse().unwrap()).collect(),
            session_ms: 0,
            kind: Kind::Offset,
            start: words[3..].iter().find_map(|w| w.strip_prefix("start=")?.parse().ok()),
        }),
        "leave" => Command::Leave(Leave { group: group(), member: who() }),
        "expire" => Command::Expire(Expire { group: group(), member: who(), session: words[3].parse().unwrap() }),
        "report" => {
            let owned = words[4..].iter().map(|word| offset(word)).collect();
            Command::Reconciled(Reconciled { group: group(), member: who(), generation: generation(), owned })
        }
        "commit" => {
            let n = words[4].strip_prefix('#').map_or(0, |n| n.parse().unwrap());
            let offsets = words[4..].iter().filter(|w| !w.starts_with('#')).map(commit_offset).collect();
            Command::Commit(Commit { group: group(), member: member(words[2]), generation: generation(), n, offsets })
        }
        "start" => Command::Start(Start {
            group: group(),
            member: who(),
            generation: generation(),
            offsets: words[4..].iter().map(|w| offset(w)).collect(),
        }),
        "reset" => Command::Reset(Reset { group: group(), offsets: words[2..].iter().map(commit_offset).collect() }),
        "delete" => Command::Delete(Delete { group: group() }),
        "topics" => {
            let facts = |word: &&str| {
                let (name, partitions) = word.split_once(':')?;
                Some((topic(name), TopicFacts { name: name.parse().unwrap(), partitions: partitions.parse().unwrap() }))
            };
            let gone = words[2..].iter().filter_map(|word| word.strip_prefix('-')).map(topic).collect();
            let set = words[2..].iter().filter_map(facts).collect();
            Command::TopicsChanged(TopicsChanged { version: words[1].parse().unwrap(), set, gone })
        }
        other => panic!("no such command: {other}"),
    }
}

fn run(script: &str) -> String {
    let mut machine = HomeMachine::default();
    let mut out = String::new();
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if let Some(group) = line.strip_prefix("show ") {
            out.push_str(&show(machine.group(&group.parse().unwrap()).unwrap()));
            continue;
        }
        let mut effects = Vec::new();
        let reply = machine.apply(AT, &command(line).encode(), &mut effects);
        writeln!(out, "{line}: {}", named(&told(reply))).unwrap();
        for effect in effects {
            match effect {
                Effect::Assigned { generation, members, .. } => {
                    writeln!(out, "  tell {members:?} generation {generation}")
                }
                Effect::Watch { member, session, session_ms, .. } => {
                    writeln!(out, "  watch {member} #{session} {session_ms} ms")
                }
                Effect::Gone { member, .. } => writeln!(out, "  gone {member}"),
            }
            .unwrap();
        }
        machine = restored(&machine);
    }
    out
}

fn told(reply: Reply) -> String {
    match reply {
        Reply::Joined { member, generation, created, start, .. } => {
            format!(
                "{member} joined in {generation}{}",
                if created { format!(", made it from {start}") } else { String::new() }
            )
        }
        Reply::Reconciled { generation } => format!("generation {generation}"),
        Reply::Committed { refused } if refused.is_empty() => "committed".into(),
        Reply::Committed { refused } => {
            refused.iter().map(|(i, r)| format!("[{i}] {r}")).collect::<Vec<_>>().join("; ")
        }
        Reply::Started { offsets } => {
            let all: Vec<_> = offsets.iter().map(|(at, offset)| format!("{at} at {offset}")).collect();
            format!("starts {}", if all.is_empty() { "nothing".into() } else { all.join(", ") })
        }
        Reply::Refused(refusal) => format!("refused: {refusal}"),
        other => format!("{other:?}"),
    }
}

/// Topic ids are long: `orders/0` in their place.
fn named(text: &str) -> String {
    ["orders", "logs"].iter().fold(text.to_owned(), |text, name| text.replace(&topic(name).to_string(), name))
}

fn show(group: &Group) -> String {
    let mut out = format!("  generation {}\n", group.generation);
    for member in group.members.keys() {
        let assigned = group.assigned(member).unwrap().into_iter().map(|a| {
            let committed = a.committed.map_or(String::new(), |offset| format!("@{offset}"));
            let to =
                if a.delivered == DELIVERED_UNKNOWN { "nobody knows where".into() } else { a.delivered.to_string() };
            let again = if a.attempts == 0 { String::new() } else { format!(" (to {to} x{})", a.attempts) };
            format!("{}{committed}{again}", a.partition)
        });
        let leaving = group.owners.iter().filter(|(_, o)| o.member == *member && o.revoked.is_some());
        let all: Vec<_> = assigned.chain(leaving.map(|(p, _)| format!("{p} to be given up"))).collect();
        writeln!(out, "  {member}: {}", if all.is_empty() { "nothing".into() } else { all.join(", ") }).unwrap();
    }
    if group.members.is_empty() {
        for (partition, cursor) in &group.cursors {
            writeln!(out, "  {partition} {:?}", cursor.committed.as_ref().map(|c| c.offset)).unwrap();
        }
    }
    named(&out)
}

pub(super) fn restored(machine: &HomeMachine) -> HomeMachine {
    let mut other = HomeMachine::default();
    other.restore(&machine.checkpoint()).unwrap();
    assert_eq!(&other, machine);
    assert_eq!(other.checkpoint(), machine.checkpoint());
    other
}

/// Behind a checksum that is right, too: nobody who adds to what was read may overflow, or makes a list of what is in it.
#[test]
fn a_checkpoint_with_numbers_that_cannot_be_is_refused() {
    let counters: [fn(&mut HomeMachine); 4] = [
        |machine| machine.next_group = u64::MAX,
        |machine| machine.next_member = u64::MAX,
        |machine| machine.next_session = u64::MAX,
        |machine| machine.generation_floor = Generation(u64::MAX),
    ];
    for change in counters {
        let mut machine = HomeMachine::default();
        change(&mut machine);
        let why = HomeMachine::default().restore(&machine.checkpoint()).unwrap_err().to_string();
        assert!(why.contains("a counter is beyond all"), "{why}");
    }
    let mut machine = HomeMachine::default();
    let facts = TopicFacts { name: "orders".parse().unwrap(), partitions: u32::MAX };
    machine.topics.insert(topic("orders"), facts);
    let why = HomeMachine::default().restore(&machine.checkpoint()).unwrap_err().to_string();
    assert!(why.contains("topic orders has 4294967295 partitions"), "{why}");
}
