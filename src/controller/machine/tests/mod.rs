//! Scenarios: commands in, replies and metadata out. After each command the state goes through a checkpoint.

use super::*;
use crate::types::{NodeId, TopicId, TopicName};
use highwater_raft::DirectoryId;
use std::{collections::BTreeSet, fmt::Write};

macro_rules! check {
    ($script:literal, @$out:literal) => {
        insta::assert_snapshot!(run($script), @$out)
    };
}

mod any_order;
mod scenarios;

pub(super) const AT: At = At { index: 1, term: 1, stamp_ms: 0 };

fn number<T: std::str::FromStr + Default>(words: &[&str], name: &str) -> T {
    words.iter().find_map(|word| word.strip_prefix(name)?.parse().ok()).unwrap_or_default()
}

/// `a=b` words with a dot or the setting without one.
fn settings<'a>(words: &'a [&'a str]) -> impl Iterator<Item = (String, &'a str)> {
    let pairs = words.iter().filter_map(|word| word.split_once('='));
    pairs.filter(|(name, _)| name.len() > 5).map(|(name, value)| (name.to_owned(), value))
}

pub(super) fn bootstrap(nodes: &[u32], homes: u64) -> Command {
    let seed = |node: &u32| Seed { node: NodeId(*node), directory: None, addresses: Addresses::default() };
    Command::Bootstrap(Bootstrap { cluster_id: 0x1234_5678_9abc, seeds: nodes.iter().map(seed).collect(), homes })
}

/// `bootstrap NODE,NODE… HOMES`, `register NODE DIRECTORY`, `create NAME id=N p=N r=N avoid=N SETTING=VALUE…`,
/// `alter NAME p=N SETTING=VALUE|SETTING=default…`, `delete NAME`, `faulty GROUP REPLICA`, `caught-up GROUP REPLICA`,
/// `swapped GROUP REPLICA,REPLICA…`, `block NODE`.
fn command(line: &str) -> Command {
    let words: Vec<_> = line.split_whitespace().collect();
    let list = |word: &str| word.split(',').map(|n| n.parse().unwrap()).collect::<Vec<u64>>();
    let id = |i: usize| words[i].parse::<u64>().unwrap();
    let node = |i: usize| NodeId(words[i].parse().unwrap());
    let name = || words[1].parse().unwrap();
    let avoid = || match number(&words, "avoid=") {
        0 => BTreeSet::new(),
        node => BTreeSet::from([NodeId(node)]),
    };
    match words[0] {
        "bootstrap" => {
            let nodes: Vec<_> = words[1].split(',').map(|n| n.parse().unwrap()).collect();
            bootstrap(&nodes, id(2))
        }
        "register" => {
            let addresses = Addresses { native: format!("n{}:7420", words[1]), ..Addresses::default() };
            Command::RegisterNode(RegisterNode { node: node(1), directory: DirectoryId(id(2)), addresses })
        }
        "create" => Command::CreateTopic(CreateTopic {
            name: name(),
            id: TopicId([number(&words, "id="); 16]),
            partitions: number(&words, "p="),
            replication_factor: number(&words, "r="),
            settings: settings(&words).map(|(name, value)| (name, value.to_owned())).collect(),
            avoid: avoid(),
        }),
        "alter" => Command::AlterTopic(AlterTopic {
            name: name(),
            settings: settings(&words).map(|(n, v)| (n, (v != "default").then(|| v.to_owned()))).collect(),
            partitions: number(&words, "p="),
            avoid: avoid(),
        }),
        "delete" => Command::DeleteTopic(DeleteTopic {
            name: name(),
            id: Some(TopicId([number(&words, "id="); 16])).filter(|id| *id != TopicId::default()),
        }),
        "faulty" => Command::ReplicaFaulty(ReplicaFaulty { group: GroupId(id(1)), replica: ReplicaId(id(2)) }),
        "caught-up" => Command::ReplicaCaughtUp(ReplicaCaughtUp { group: GroupId(id(1)), replica: ReplicaId(id(2)) }),
        "swapped" => {
            let voters = list(words[2]).into_iter().map(ReplicaId).collect();
            Command::Swapped(Swapped { group: GroupId(id(1)), voters })
        }
        "block" => Command::TakeProducerBlock(TakeProducerBlock { node: node(1) }),
        other => panic!("no such command: {other}"),
    }
}

/// Commands as above; `quiet COMMAND` prints nothing; `nodes`, `topics`, `group N`, `hosted NODE` show state.
fn run(script: &str) -> String {
    let mut machine = ControllerMachine::default();
    let mut out = String::new();
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if let Some(shown) = show(&machine, line) {
            out.push_str(&shown);
            continue;
        }
        let quiet = line.strip_prefix("quiet ");
        let reply = machine.apply(AT, &command(quiet.unwrap_or(line)).encode(), &mut Vec::new());
        if quiet.is_none() {
            writeln!(out, "{line}: {}", told(reply)).unwrap();
        }
        machine = restored(&machine);
    }
    out
}

fn told(reply: Reply) -> String {
    match reply {
        Reply::Refused(refusal) => format!("refused: {refusal}"),
        Reply::TopicCreated { partitions, replication_factor, .. } => {
            format!("{partitions} partitions of {replication_factor}")
        }
        other => format!("{other:?}"),
    }
}

fn show(machine: &ControllerMachine, line: &str) -> Option<String> {
    let metadata = machine.metadata();
    let (what, which) = line.split_once(' ').unwrap_or((line, ""));
    let mut out = String::new();
    match what {
        "version" => writeln!(out, "  version {}", metadata.version).unwrap(),
        "nodes" => {
            for (id, node) in &metadata.nodes {
                let directory = node.directory.map_or("unknown".into(), |d| d.to_string());
                writeln!(out, "  node {id} directory {directory} native {:?}", node.addresses.native).unwrap();
            }
        }
        "topics" => {
            for (name, topic) in &metadata.topics {
                let groups: Vec<_> = topic.partitions.iter().map(|g| g.to_string()).collect();
                let settings: Vec<_> = topic.settings.iter().map(|(n, v)| format!("{n}={v}")).collect();
                let line = format!("  {name} groups {} {}", groups.join(" "), settings.join(" "));
                writeln!(out, "{}", line.trim_end()).unwrap();
            }
        }
        "group" => match metadata.groups.get(&GroupId(which.parse().unwrap())) {
            Some(group) => {
                let replica = |r: &Replica| format!("{} {:?} on {}", r.id, r.state, r.node);
                let replicas: Vec<_> = group.replicas.iter().map(replica).collect();
                let offline = if group.is_offline() { " OFFLINE" } else { "" };
                writeln!(out, "  {which}: {}{offline}", replicas.join(", ")).unwrap();
            }
            None => writeln!(out, "  {which}: gone").unwrap(),
        },
        "hosted" => {
            let hosted: Vec<_> =
                metadata.hosted_by(NodeId(which.parse().unwrap())).map(|(g, _, r)| format!("{g}/{}", r.id)).collect();
            writeln!(out, "  {which} hosts {}", hosted.join(" ")).unwrap();
        }
        _ => return None,
    }
    Some(out)
}

pub(super) fn restored(machine: &ControllerMachine) -> ControllerMachine {
    let mut other = ControllerMachine::default();
    other.restore(&machine.checkpoint()).unwrap();
    assert_eq!(&other, machine);
    assert_eq!(other.checkpoint(), machine.checkpoint());
    other
}

/// Behind a checksum that is right, too: nobody who adds to what was read may overflow.
#[test]
fn a_checkpoint_with_counters_that_cannot_be_is_refused() {
    let counters: [fn(&mut ControllerMachine); 4] = [
        |machine| machine.next_group = u64::MAX,
        |machine| machine.next_replica = u64::MAX,
        |machine| machine.next_producer_block = u64::MAX,
        |machine| Arc::make_mut(&mut machine.metadata).version = u64::MAX,
    ];
    for change in counters {
        let mut machine = ControllerMachine::default();
        change(&mut machine);
        let why = ControllerMachine::default().restore(&machine.checkpoint()).unwrap_err().to_string();
        assert!(why.contains("a counter is beyond all"), "{why}");
    }
}
