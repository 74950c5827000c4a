//! One node's side of its connections.

use super::{Fault, World, state::State};
use crate::{
    client::pool::lock,
    types::{NodeId, ProducerId, TopicPartition},
    wire::{
        Code, Committed, Connection, Delivery, Done, Fetch, FetchPartition, Fetched, FetchedPartition, Frame,
        GroupFound, Link, ListedOffsets, MemoryConnection, Message, OffsetAnswer, Produce, ProducerReady, Refused,
        Subscribe, Welcome,
    },
};
use bytes::Bytes;
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

/// How long a frame is under way.
const LATENCY: Duration = Duration::from_millis(1);

pub(super) async fn serve(world: World, node: NodeId, connection: Arc<MemoryConnection>) {
    while let Ok(link) = connection.accept().await {
        drop(tokio::spawn(serve_link(world.clone(), node, connection.clone(), link)));
    }
}

async fn serve_link(world: World, node: NodeId, connection: Arc<MemoryConnection>, mut link: Link) {
    while let Ok(frame) = link.receiver.receive().await {
        tokio::time::sleep(LATENCY).await;
        if lock(&world.state).silent.contains(&node) {
            return std::future::pending().await;
        }
        let body = frame.body();
        let answer = match frame.message {
            Message::Subscribe(subscribe) => return push(world, node, link, subscribe).await,
            Message::Produce(produce) => produced(&world, node, &connection, produce, body).await,
            Message::Fetch(fetch) => {
                let (fetched, body) = fetched(&world, node, fetch).await;
                Some((fetched.into(), body))
            }
            Message::Metadata(metadata) => {
                let mut moved = world.moved.subscribe();
                let wait_ms = if lock(&world.state).hasty { 0 } else { metadata.wait_ms };
                let news = moved.wait_for(|_| lock(&world.state).news() != metadata.after);
                let _ = tokio::time::timeout(Duration::from_millis(wait_ms.into()), news).await;
                Some((world.with(|state| state.metadata(metadata.topics.as_deref())).into(), Vec::new()))
            }
            Message::Heartbeat(heartbeat) => Some((heartbeat_answer(&world, node, &heartbeat).await, Vec::new())),
            message => Some((answer(&world, node, message), Vec::new())),
        };
        let Some((message, body)) = answer else { continue };
        if lock(&world.state).silent.contains(&node) {
            return std::future::pending().await;
        }
        let parts = body.iter().flat_map(|batch| [batch.slice(..16), batch.slice(16..)]);
        let body = parts.collect();
        if link.sender.send(vec![Frame { correlation: frame.correlation, message, body }]).await.is_err() {
            return;
        }
    }
}

fn answer(world: &World, node: NodeId, message: Message) -> Message {
    world.with(|state| match message {
        Message::Hello(_) => Welcome { version: 1, node, cluster_id: 1, batch_bytes_max: 1 << 20 }.into(),
        Message::InitProducer(_) => {
            state.next_producer += 1;
            ProducerReady { producer: ProducerId(state.next_producer), epoch: 0 }.into()
        }
        Message::ListOffsets(list) => {
            let one = |query: &crate::wire::OffsetQuery| {
                let at = TopicPartition { topic: query.topic, partition: query.partition };
                state.questions.push(query.at);
                if let Some(refused) = state.not_leader(at, node) {
                    return OffsetAnswer { refused: Some(refused), ..OffsetAnswer::default() };
                }
                let (refused, offset) = match state.parts.get_mut(&at).unwrap().offset_at(query.at) {
                    Ok(offset) => (None, offset),
                    Err(nearest) => (Some(Refused::new(Code::OffsetOutOfRange, "out of range")), nearest),
                };
                OffsetAnswer { refused, offset, ..OffsetAnswer::default() }
            };
            ListedOffsets { partitions: list.partitions.iter().map(one).collect() }.into()
        }
        Message::FindGroup(_) => {
            let home = state.home;
            GroupFound { node: Some(home), address: format!("node-{home}") }.into()
        }
        _ if state.home != node => Refused::new(Code::NotHome, "not the home").into(),
        Message::Join(join) => state.groups.entry(join.group.clone()).or_default().join(join).into(),
        Message::Commit(commit) => match state.groups.get_mut(&commit.group) {
            Some(group) => group.commit(&commit).into(),
            None => Committed::default().into(),
        },
        Message::Start(start) => state.groups.entry(start.group.clone()).or_default().start(&start).into(),
        Message::Leave(leave) => {
            state.groups.entry(leave.group).or_default().leave(&leave.member);
            Done {}.into()
        }
        other => Refused::new(Code::Unsupported, format!("{:?} is not scripted", other.kind())).into(),
    })
}

async fn heartbeat_answer(world: &World, node: NodeId, heartbeat: &crate::wire::Heartbeat) -> Message {
    let deadline = Instant::now() + Duration::from_millis(heartbeat.wait_ms.into());
    let mut moved = world.moved.subscribe();
    let mut arrives = true;
    loop {
        moved.mark_unchanged();
        let outcome = {
            let mut state = lock(&world.state);
            if state.home != node {
                return Refused::new(Code::NotHome, "not the home").into();
            }
            state.groups.entry(heartbeat.group.clone()).or_default().heartbeat(heartbeat, arrives)
        };
        if arrives {
            world.moved.send_modify(|n| *n += 1);
            moved.mark_unchanged();
        }
        arrives = false;
        match outcome {
            Err(refused) => return refused.into(),
            Ok(Some(answer)) => return answer.into(),
            Ok(None) if Instant::now() >= deadline => {
                let mut known = heartbeat.clone();
                known.generation.0 = u64::MAX;
                let mut state = lock(&world.state);
                let group = state.groups.entry(heartbeat.group.clone()).or_default();
                return match group.heartbeat(&known, false) {
                    Ok(Some(answer)) => answer.into(),
                    Ok(None) => Done {}.into(),
                    Err(refused) => refused.into(),
                };
            }
            Ok(None) => drop(tokio::time::timeout_at(deadline, moved.changed()).await),
        }
    }
}

async fn produced(
    world: &World,
    node: NodeId,
    connection: &MemoryConnection,
    produce: Produce,
    body: Bytes,
) -> Option<(Message, Vec<Bytes>)> {
    let at = TopicPartition { topic: produce.topic, partition: produce.partition };
    let sequence = crate::batch::Header::read(&body).map_or(0, |header| header.base_sequence.unsigned_abs());
    let fault = world.with(|state| {
        state.seen.push((at, node, sequence));
        state.faults.pop_front().unwrap_or(Fault::None)
    });
    let append = |state: &mut State| match state.produce(at, node, body.clone()) {
        Ok(produced) => produced.into(),
        Err(refused) => Message::from(refused),
    };
    let refuse = |code: Code| Message::from(Refused::new(code, format!("scripted: {code:?}")));
    let message = match fault {
        Fault::None => world.with(append),
        Fault::Refuse(code) => refuse(code),
        Fault::AppendAndRefuse(code) => {
            let _ = world.with(append);
            refuse(code)
        }
        Fault::AppendAndCut => {
            let _ = world.with(append);
            connection.close("cut after the append");
            return None;
        }
        Fault::Cut => {
            connection.close("cut before the append");
            return None;
        }
        Fault::Delay(delay) => {
            tokio::time::sleep(delay).await;
            world.with(append)
        }
        Fault::AppendAndMove(to) => {
            world.with(|state| {
                let _ = append(state);
                state.move_leader(at, to);
            });
            refuse(Code::OutcomeUnknown)
        }
        Fault::Move(to) => world.with(|state| {
            state.move_leader(at, to);
            append(state)
        }),
    };
    Some((message, Vec::new()))
}

fn read(
    state: &State,
    node: NodeId,
    wanted: &FetchPartition,
    bytes_max: usize,
) -> Option<(FetchedPartition, Vec<Bytes>)> {
    let at = TopicPartition { topic: wanted.topic, partition: wanted.partition };
    let mut said = FetchedPartition {
        topic: wanted.topic,
        partition: wanted.partition,
        refused: state.not_leader(at, node),
        log_start: 0,
        high_watermark: 0,
        bytes: 0,
    };
    let Some(part) = state.parts.get(&at).filter(|_| said.refused.is_none()) else { return Some((said, Vec::new())) };
    (said.log_start, said.high_watermark) = (part.start, part.known.unwrap_or(part.end));
    if wanted.offset > said.high_watermark {
        said.refused = Some(Refused::new(Code::NotReady, "above the watermark"));
        return Some((said, Vec::new()));
    }
    if wanted.offset < part.start {
        said.refused = Some(Refused::new(Code::OffsetOutOfRange, "gone"));
        return Some((said, Vec::new()));
    }
    let batches = part.read(wanted.offset, bytes_max);
    if batches.is_empty() {
        return None;
    }
    said.bytes = u32::try_from(batches.iter().map(Bytes::len).sum::<usize>()).unwrap();
    Some((said, batches))
}

async fn fetched(world: &World, node: NodeId, fetch: Fetch) -> (Fetched, Vec<Bytes>) {
    let deadline = Instant::now() + Duration::from_millis(fetch.wait_ms_max.into());
    let mut moved = world.moved.subscribe();
    {
        let mut state = lock(&world.state);
        state.fetches.push((node, fetch.partitions.iter().map(|p| (p.partition, p.offset)).collect()));
        state.fetch_bytes_max = state.fetch_bytes_max.max(fetch.bytes_max);
    }
    loop {
        moved.mark_unchanged();
        let mut out = Fetched::default();
        let mut body = Vec::new();
        let mut room = usize::try_from(fetch.bytes_max).unwrap();
        for wanted in &fetch.partitions {
            if let Some((said, batches)) = read(&lock(&world.state), node, wanted, room) {
                room = room.saturating_sub(usize::try_from(said.bytes).unwrap());
                out.partitions.push(said);
                body.extend(batches);
            }
            if room == 0 {
                break;
            }
        }
        if !out.partitions.is_empty() || Instant::now() >= deadline {
            return (out, body);
        }
        let _ = tokio::time::timeout_at(deadline, moved.changed()).await;
    }
}

/// Delivers within the credit; asserts on nothing itself, but notes the most that was ever out.
async fn push(world: World, node: NodeId, mut link: Link, subscribe: Subscribe) {
    world.with(|state| state.subscriptions += 1);
    let mut moved = world.moved.subscribe();
    let (mut records, mut bytes) = (u64::from(subscribe.records), u64::from(subscribe.bytes));
    let mut wanted = subscribe.partitions;
    loop {
        moved.mark_unchanged();
        let mut sent = false;
        let mut refused = Vec::new();
        for want in &mut wanted {
            let found = read(&lock(&world.state), node, want, 1);
            let Some((said, batches)) = found else { continue };
            if said.refused.is_some() {
                refused.push((want.topic, want.partition));
                let frame = Frame::new(0, Delivery { partition: said, records: 0 });
                if link.sender.send(vec![frame]).await.is_err() {
                    return;
                }
                continue;
            }
            let batch = crate::batch::Batch::parse(batches[0].clone()).unwrap();
            let left = batch.header().base_offset.unsigned_abs() + u64::from(batch.count()) - want.offset;
            let take = left.min(records);
            if take == 0 || bytes < u64::from(said.bytes) {
                continue;
            }
            (records, bytes) = (records - take, bytes - u64::from(said.bytes));
            want.offset += take;
            sent = true;
            let delivery = Delivery { partition: said, records: u32::try_from(take).unwrap() };
            if link.sender.send(vec![Frame::new(0, delivery).with_body(batches)]).await.is_err() {
                return;
            }
        }
        wanted.retain(|want| !refused.contains(&(want.topic, want.partition)));
        if sent {
            continue;
        }
        tokio::select! {
            frame = link.receiver.receive() => match frame.map(|frame| frame.message) {
                Ok(Message::Grant(grant)) => {
                    records += u64::from(grant.records);
                    bytes += u64::from(grant.bytes);
                    world.with(|state| state.credit_out_max = state.credit_out_max.max(records));
                }
                Ok(Message::Unsubscribe(gone)) => {
                    wanted.retain(|want| !gone.partitions.contains(&(want.topic, want.partition)));
                }
                Ok(_) => {}
                Err(_) => return,
            },
            _ = moved.changed() => {}
        }
    }
}
