//! What brokers ask of each other, and what they are answered: another node's bytes behind the frames of `peer_message`.
//!
//! Promises of all: decoding is a function, and what decodes encodes to bytes that decode to the same. Those of each stand
//! at its body.

use super::{Input, MIB, Target};
use crate::{
    controller::{
        Ailment, Answer, Controller, ExecuteError, Executed, GROUP,
        machine::{Addresses, Command, RegisterNode, TakeProducerBlock},
    },
    node::{Founding, Page, Piece, Seeding, Wanted},
    partition,
    peer::{
        Desk,
        gossip::{self, Led},
    },
    replica::{Leader, Leaders},
    runtime::{Courier, CourierError, Service},
    types::{self, NodeId, ProducerId},
    wire::{Code, Refused},
};
use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt as _};
use highwater_raft::{
    DirectoryId, GroupId, ReplicaId,
    group::Server as _,
    log::{Applied, Entry, Stamp},
    machine::Command as Raw,
    testing::fuzz::replacement,
};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    future::Future,
    sync::Arc,
    time::Duration,
};
use tokio::runtime::Runtime;

pub(super) const TARGET: Target = Target {
    name: "peer_service",
    run: peer_service,
    seeds,
    // A segment on a simulated disk, and its reader.
    allocates_max: 2 * MIB,
};

const HERE: NodeId = NodeId(1);
const PEER: NodeId = NodeId(2);
/// The first entry that a page is asked for, and the offset before it.
const FIRST: (u64, u64) = (5, 40);

fn peer_service(data: &[u8]) {
    let mut input = Input::new(data);
    match input.u8() % 6 {
        0 => request(input.rest()),
        1 => led(input.rest()),
        2 => drop(decoded::<Seeding>(input.rest())),
        3 => executed(input.rest()),
        4 => drop(decoded::<Wanted>(input.rest())),
        _ => page(1 + u64::from(input.u8() % 8), input.rest()),
    }
}

fn decoded<T: Serialize + DeserializeOwned + PartialEq + Debug>(bytes: &[u8]) -> Option<T> {
    let decode = |bytes: &[u8]| types::decode::<T>(bytes).ok();
    let value = decode(bytes)?;
    assert_eq!(decode(bytes).as_ref(), Some(&value));
    let again = rmp_serde::to_vec_named(&value).expect("plain values in memory always encode");
    assert_eq!(decode(&again).as_ref(), Some(&value), "what was encoded decodes to the same");
    Some(value)
}

/// A whole request. Promises: a service that is none is answered with nothing, the others as the asker expects; what they
/// are given is what stood behind the service's number.
fn request(data: &[u8]) {
    let (seed, entries) = (|asked: &Bytes| asked.clone(), |asked: Bytes| std::future::ready(asked).boxed());
    let desk = Desk::new(controller(Bytes::new()), Arc::new(seed), Arc::new(entries));
    let answer = run(desk.request(PEER.into(), Bytes::copy_from_slice(data).into())).contiguous();
    let Some((service, body)) = data.split_first() else { return assert!(answer.is_empty()) };
    match Service::from_u8(*service) {
        None => assert!(answer.is_empty()),
        Some(Service::Seed | Service::Entries) => assert_eq!(answer, body),
        Some(Service::Leaders) => assert!(decoded::<Led>(&answer).is_some()),
        Some(Service::Execute) => {
            let nobody = Err(ExecuteError::NotLeader { leader: None });
            assert_eq!(decoded::<Result<Executed, ExecuteError>>(&answer), Some(nobody), "no replica is here");
            let Some((kind, body)) = body.split_first() else { return };
            let raw = Raw { kind: *kind, body: Bytes::copy_from_slice(body) };
            if let Some(Ok(command)) = Command::decode(&raw) {
                assert_eq!(Command::decode(&command.encode()), Some(Ok(command)));
            }
        }
    }
}

/// Who leads what. Promises: what is not understood changes nothing; an epoch never falls; a newer one is the teller's; what
/// this node says of its own replicas stays; what was told before is no news.
fn led(data: &[u8]) {
    let controller = controller(Bytes::new());
    let told = Bytes::copy_from_slice(data);
    let mine = BTreeMap::from([(GroupId(1_025), Ailment::Mending)]);
    controller.ailing().note(HERE, mine.clone());
    controller.leaders().note(GroupId(1_024), Some(HERE), 7);
    let before = controller.leaders().all();
    let answer = gossip::exchange(&controller, PEER, &told);
    let after = controller.leaders().all();
    assert_eq!(controller.ailing().of(HERE), mine);
    let answer = decoded::<Led>(&answer).expect("what was encoded decodes");
    let leads: Vec<_> = controller.leaders().led_by(HERE).iter().map(|(group, epoch)| (group.0, *epoch)).collect();
    assert_eq!(answer.groups, leads);
    let Some(Led { groups, ailing, ending }) = decoded::<Led>(data) else {
        assert!(after == before && controller.ailing().of(PEER).is_empty() && !controller.ailing().is_ending(PEER));
        return;
    };
    let mut newest = BTreeMap::new();
    for (group, epoch) in groups {
        let known = newest.entry(GroupId(group)).or_insert(epoch);
        *known = epoch.max(*known);
    }
    assert!(newest.keys().all(|group| after.contains_key(group)));
    for (group, leader) in &after {
        let known = before.get(group);
        let newer = newest.get(group).copied().filter(|epoch| known.is_none_or(|known| *epoch > known.epoch));
        let expected = newer.map_or(known.copied(), |epoch| Some(Leader { node: Some(PEER), epoch }));
        assert_eq!(Some(*leader), expected, "group {group}");
    }
    let (ailing, ails): (BTreeSet<_>, _) = (ailing.into_iter().collect(), controller.ailing().of(PEER));
    assert!(ails.iter().all(|(group, how)| ailing.contains(&(group.0, *how as u8))));
    assert_eq!((controller.ailing().is_ending(PEER), controller.ailing().is_ending(HERE)), (ending, false));
    let changed = controller.leaders().changed();
    gossip::exchange(&controller, PEER, &told);
    assert!(!changed.has_changed().unwrap_or(true) && controller.ailing().of(PEER) == ails);
}

/// What the controller's leader answers. Promises: the asker gets it, and anything else is no answer; producer ids are of the
/// block, each once, and positive.
fn executed(data: &[u8]) {
    const DEADLINE: Duration = Duration::from_millis(40);
    let controller = controller(Bytes::copy_from_slice(data));
    let said = decoded::<Result<Executed, ExecuteError>>(data);
    let asked = Command::TakeProducerBlock(TakeProducerBlock { node: HERE });
    let answer = run(controller.execute(asked, DEADLINE));
    let expected = match said {
        Some(Ok(Executed { answer, .. })) => Ok(answer),
        Some(Err(ExecuteError::Refused(refused))) => Err(ExecuteError::Refused(refused)),
        _ => Err(ExecuteError::TimedOut),
    };
    assert_eq!(answer, expected);
    let taken: Vec<_> = (0..3).filter_map(|_| run(controller.take_producer(DEADLINE)).ok()).collect();
    let Ok(Answer::ProducerBlock { first, count }) = answer else { return assert_eq!(taken, []) };
    // A block that is used up is given again here: then its ids come again.
    for (n, id) in (0..).zip(taken) {
        assert!(
            id.0 >= 0 && id.0 - first.0 == n % i64::try_from(count).unwrap_or(i64::MAX),
            "{id} of {first} + {count}"
        );
    }
}

/// Entries that are to take a damaged segment's place. Promises: they lie in the page; so does what their notes let be served; what answers a question is what was
/// asked for; what takes the place is read as it was given, and nothing in it overlaps.
fn page(wanted: u64, data: &[u8]) {
    let Some(page) = decoded::<Page>(data) else { return };
    let bytes: usize = page.entries.iter().map(|piece| piece.note.len() + piece.payload.len()).sum();
    assert!(bytes <= data.len());
    let answers = page.answers(FIRST.0, FIRST.0 + wanted);
    let entries: Vec<Applied> = page.entries.into_iter().map(Applied::from).collect();
    let indexes: Vec<_> = entries.iter().map(|applied| applied.entry.index).collect();
    if answers {
        let end = FIRST.0 + indexes.len() as u64;
        assert!(indexes.iter().copied().eq(FIRST.0..end) && (FIRST.0 + 1..=FIRST.0 + wanted).contains(&end));
    }
    partition::fuzz_notes(&entries);
    let takes_its_place = replacement(&entries);
    assert!(answers || !takes_its_place || entries.len() as u64 > wanted);
}

/// A node that knows another one as the controller's leader, which answers `with` this.
fn controller(with: Bytes) -> Controller {
    let leaders = Leaders::default();
    leaders.note(GROUP, Some(PEER), 1);
    Controller::new(HERE, leaders, Arc::new(Always(with)))
}

/// Answers everything with the same.
struct Always(Bytes);

impl Courier for Always {
    fn ask(&self, _: NodeId, _: Service, _: Bytes, _: Duration) -> BoxFuture<'static, Result<Bytes, CourierError>> {
        std::future::ready(Ok(self.0.clone())).boxed()
    }

    fn others(&self) -> Vec<NodeId> {
        vec![PEER]
    }
}

/// In virtual time, on a runtime that is made once.
fn run<T>(future: impl Future<Output = T>) -> T {
    thread_local! {
        static RUNTIME: Runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime needs no resource");
    }
    RUNTIME.with(|runtime| runtime.block_on(future))
}

fn seeds() -> Vec<Vec<u8>> {
    fn of(choice: &[u8], value: &impl Serialize) -> Vec<u8> {
        [choice, &rmp_serde::to_vec_named(value).expect("plain values in memory always encode")].concat()
    }
    let said =
        Led { groups: vec![(1_024, 8), (1_026, 3)], ailing: vec![(1_026, Ailment::Mending as u8)], ending: true };
    let registers = RegisterNode { node: PEER, directory: DirectoryId(0x22), addresses: Addresses::default() };
    let Raw { kind, body } = Command::RegisterNode(registers).encode();
    let founders = [(HERE, DirectoryId(0x11)), (PEER, DirectoryId(0x22))].into();
    let cluster = Some(Founding { cluster_id: 0x1234, founders });
    let refused = ExecuteError::Refused(Refused::new(Code::TopicExists, "it is there"));
    let answers: [Result<Answer, ExecuteError>; 5] = [
        Ok(Answer::Registered { cluster_id: 7, controller: ReplicaId(65_536) }),
        Ok(Answer::ProducerBlock { first: ProducerId(1 << 40), count: 2 }),
        Err(refused),
        Err(ExecuteError::NotLeader { leader: Some(PEER) }),
        Err(ExecuteError::NoQuorum),
    ];
    let answers = answers.map(|answer| answer.map(|answer| Executed { answer, version: 12 }));
    let piece = |n: u64| {
        let (index, offset, payload) = (FIRST.0 + n, FIRST.1 + 3 * n, Bytes::from_static(b"payload").into());
        let stamp = Stamp { index, offset, offset_end: offset + 3, max_timestamp: -1, note: Bytes::from_static(b"n") };
        Piece::from(Applied { entry: Entry { index, term: 2 + n / 2, kind: 1, payload }, stamp })
    };
    let pages = [0, 1, 3].map(|len| Page { entries: (0..len).map(piece).collect(), begin: Some(3) });
    let mut seeds = vec![
        [&[0, Service::Execute as u8, kind], &body[..]].concat(),
        of(&[0, Service::Leaders as u8], &said),
        vec![0, Service::Entries as u8, 1, 2],
        of(&[1], &said),
        of(&[2], &Seeding { digest: 7, directory: DirectoryId(0x11), cluster }),
        of(&[4], &Wanted { group: 1_024, from: 5, to: 9 }),
    ];
    seeds.extend(answers.iter().map(|answer| of(&[3], answer)));
    seeds.extend(pages.iter().map(|page| of(&[5, 2], page)));
    // A note that serves a batch, and one whose batch lies behind the entry's end.
    seeds.extend([0_u32, 9].map(|position| {
        let words = [position, 100, 0, 3, 0, 7].map(u32::to_be_bytes).concat();
        let entry = Entry { index: FIRST.0, term: 2, kind: 1, payload: Bytes::from(vec![0; 100]).into() };
        let (offset, offset_end) = (FIRST.1, FIRST.1 + 3);
        let stamp = Stamp { index: FIRST.0, offset, offset_end, max_timestamp: 7, note: words.into() };
        of(&[5, 2], &Page { entries: vec![Piece::from(Applied { entry, stamp })], begin: Some(3) })
    }));
    seeds
}
