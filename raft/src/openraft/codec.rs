//! How votes, memberships, entries and messages look on disk and between nodes. Little-endian.
//!
//! ```text
//! message:  version u8 │ kind u8 │ group u64 │ from u64 │ to u64 │ body (see Request)
//! entry:    term u64 │ kind u8 │ len u32; the contents of all entries lie behind all heads, in order
//! ```
//! A payload is never copied: it is a part of the message that is sent, and a slice of the one that came.

use super::types::{Content, Entry, LogId, Membership, Proposal, StoredMembership, Types, Vote, log_id};
use crate::{GroupId, NodeId, Payload, ReplicaId, log};
use ::openraft::raft::{
    AppendEntriesRequest, StreamAppendError, StreamAppendResult, TransferLeaderRequest, VoteRequest, VoteResponse,
};
use bytes::{Buf, BufMut, Bytes, BytesMut, TryGetError};
use std::collections::{BTreeMap, BTreeSet};

/// Kinds of entries in the log.
pub(super) const BLANK: u8 = 0;
pub(super) const COMMAND: u8 = 1;
pub(super) const MEMBERSHIP: u8 = 2;

const VERSION: u8 = 1;

/// Terms are leader epochs of clients: positive in 32 bits.
const TERM_MAX: u64 = i32::MAX as u64;
/// Indexes are counted up from: a message has far fewer entries than there are numbers left.
const INDEX_MAX: u64 = 1 << 62;

/// Bytes that do not decode.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Malformed(String);

impl From<TryGetError> for Malformed {
    fn from(error: TryGetError) -> Self {
        Malformed(error.to_string())
    }
}

fn malformed<T>(what: impl Into<String>) -> Result<T, Malformed> {
    Err(Malformed(what.into()))
}

/// To whom a message goes and from whom it comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) group: GroupId,
    pub(super) from: ReplicaId,
    pub(super) to: ReplicaId,
}

/// Bytes of a route with version and kind.
const ROUTE_BYTES: usize = 26;

/// What replicas ask each other.
#[derive(Debug)]
pub(super) enum Request {
    /// One append of the stream with this number; later streams of a sender have higher numbers.
    Append {
        stream: u64,
        append: AppendEntriesRequest<Types>,
    },
    Heartbeat(AppendEntriesRequest<Types>),
    Vote(VoteRequest<Types>),
    PreVote(VoteRequest<Types>),
    Snapshot {
        vote: Vote,
        checkpoint: log::Checkpoint,
    },
    Transfer(TransferLeaderRequest<Types>),
    /// The leader of this term cannot go on: elect.
    Elect {
        term: u64,
    },
    /// The sender has just started: if you lead, say so.
    Greet,
}

/// What they answer.
#[derive(Debug)]
pub(super) enum Reply {
    /// The target replica is not hosted here.
    UnknownReplica,
    /// It is, but has failed or stopped.
    Stopped,
    /// The stream ended before this request: begin another.
    StreamEnded,
    Append(StreamAppendResult<Types>),
    Vote(VoteResponse<Types>),
    Snapshot(Vote),
    /// Whether the transfer was taken.
    Transfer(bool),
}

impl Request {
    fn kind(&self) -> u8 {
        match self {
            Request::Append { .. } => 1,
            Request::Heartbeat(_) => 2,
            Request::Vote(_) => 3,
            Request::PreVote(_) => 4,
            Request::Snapshot { .. } => 5,
            Request::Transfer(_) => 6,
            Request::Elect { .. } => 7,
            Request::Greet => 8,
        }
    }

    pub(super) fn encode(&self, route: Route) -> Payload {
        let mut head = BytesMut::with_capacity(128);
        head.put_u8(VERSION);
        head.put_u8(self.kind());
        head.put_u64_le(route.group.0);
        head.put_u64_le(route.from.0);
        head.put_u64_le(route.to.0);
        match self {
            Request::Append { stream, append } => {
                head.put_u64_le(*stream);
                return with_entries(head, append);
            }
            Request::Heartbeat(append) => return with_entries(head, append),
            Request::Vote(vote) | Request::PreVote(vote) => {
                put_vote(&mut head, &vote.vote);
                put_log_id(&mut head, vote.last_log_id.as_ref());
                head.put_u8(u8::from(vote.leadership_transfer));
            }
            Request::Snapshot { vote, checkpoint } => {
                put_vote(&mut head, vote);
                head.put_u64_le(checkpoint.last.term);
                head.put_u64_le(checkpoint.last.index);
                head.put_u64_le(checkpoint.offset);
                head.put_u32_le(len32(checkpoint.membership.len()));
                return Payload::new([head.freeze(), checkpoint.membership.clone(), checkpoint.machine.clone()]);
            }
            Request::Transfer(request) => {
                put_vote(&mut head, request.from_leader());
                head.put_u64_le(request.to_node_id().0);
                put_log_id(&mut head, request.last_log_id());
            }
            Request::Elect { term } => head.put_u64_le(*term),
            Request::Greet => {}
        }
        head.freeze().into()
    }

    /// The route alone: enough to find the replica.
    pub(super) fn route(message: &Payload) -> Result<Route, Malformed> {
        let Some(mut head) = message.slice(0..ROUTE_BYTES) else { return malformed("shorter than its route") };
        let version = head.try_get_u8()?;
        if version != VERSION {
            return malformed(format!("version {version}, expected {VERSION}"));
        }
        head.advance(1);
        Ok(Route {
            group: GroupId(head.try_get_u64_le()?),
            from: ReplicaId(head.try_get_u64_le()?),
            to: ReplicaId(head.try_get_u64_le()?),
        })
    }

    pub(super) fn decode(message: &Payload) -> Result<(Route, Request), Malformed> {
        let route = Self::route(message)?;
        let mut body = message.contiguous();
        body.advance(1);
        let kind = body.try_get_u8()?;
        body.advance(ROUTE_BYTES - 2);
        let request = match kind {
            1 => Request::Append { stream: body.try_get_u64_le()?, append: take_append(&mut body)? },
            2 => Request::Heartbeat(take_append(&mut body)?),
            3 => Request::Vote(take_vote_request(&mut body)?),
            4 => Request::PreVote(take_vote_request(&mut body)?),
            5 => {
                let vote = take_vote(&mut body)?;
                let last = take_id(&mut body)?;
                let offset = body.try_get_u64_le()?;
                let membership = take_bytes(&mut body)?;
                Request::Snapshot { vote, checkpoint: log::Checkpoint { last, offset, membership, machine: body } }
            }
            6 => {
                let vote = take_vote(&mut body)?;
                let heir = ReplicaId(body.try_get_u64_le()?);
                Request::Transfer(TransferLeaderRequest::new(vote, heir, take_log_id(&mut body)?))
            }
            7 => Request::Elect { term: body.try_get_u64_le()? },
            8 => Request::Greet,
            _ => return malformed(format!("unknown kind {kind}")),
        };
        Ok((route, request))
    }
}

impl Reply {
    pub(super) fn encode(&self) -> Payload {
        let mut out = BytesMut::with_capacity(64);
        match self {
            Reply::UnknownReplica => out.put_u8(0),
            Reply::Stopped => out.put_u8(1),
            Reply::StreamEnded => out.put_u8(2),
            Reply::Append(Ok(matching)) => {
                out.put_u8(3);
                put_log_id(&mut out, matching.as_ref());
            }
            Reply::Append(Err(StreamAppendError::Conflict(at))) => {
                out.put_u8(4);
                put_log_id(&mut out, Some(at));
            }
            Reply::Append(Err(StreamAppendError::HigherVote(vote))) => {
                out.put_u8(5);
                put_vote(&mut out, vote);
            }
            Reply::Vote(response) => {
                out.put_u8(6);
                put_vote(&mut out, &response.vote);
                out.put_u8(u8::from(response.vote_granted));
                put_log_id(&mut out, response.last_log_id.as_ref());
            }
            Reply::Snapshot(vote) => {
                out.put_u8(7);
                put_vote(&mut out, vote);
            }
            Reply::Transfer(taken) => {
                out.put_u8(8);
                out.put_u8(u8::from(*taken));
            }
        }
        out.freeze().into()
    }

    pub(super) fn decode(message: &Payload) -> Result<Reply, Malformed> {
        let mut body = message.contiguous();
        Ok(match body.try_get_u8()? {
            0 => Reply::UnknownReplica,
            1 => Reply::Stopped,
            2 => Reply::StreamEnded,
            3 => Reply::Append(Ok(take_log_id(&mut body)?)),
            4 => match take_log_id(&mut body)? {
                Some(at) => Reply::Append(Err(StreamAppendError::Conflict(at))),
                None => return malformed("a conflict before the first entry"),
            },
            5 => Reply::Append(Err(StreamAppendError::HigherVote(take_vote(&mut body)?))),
            6 => {
                let vote = take_vote(&mut body)?;
                let vote_granted = body.try_get_u8()? != 0;
                Reply::Vote(VoteResponse { vote, vote_granted, last_log_id: take_log_id(&mut body)? })
            }
            7 => Reply::Snapshot(take_vote(&mut body)?),
            8 => Reply::Transfer(body.try_get_u8()? != 0),
            kind => return malformed(format!("unknown kind {kind}")),
        })
    }
}

/// A vote as it is saved.
pub(super) fn encode_vote(vote: &Vote) -> Bytes {
    let mut out = BytesMut::with_capacity(17);
    put_vote(&mut out, vote);
    out.freeze()
}

pub(super) fn decode_vote(mut bytes: Bytes) -> Result<Vote, Malformed> {
    take_vote(&mut bytes)
}

/// What a checkpoint keeps beside the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Beside {
    /// Payload bytes applied since the last segment boundary.
    pub(super) since_boundary: u64,
    /// Effective at the checkpoint.
    pub(super) membership: StoredMembership,
}

impl Beside {
    pub(super) fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(128);
        out.put_u8(VERSION);
        out.put_u64_le(self.since_boundary);
        put_log_id(&mut out, self.membership.log_id().as_ref());
        put_membership(&mut out, self.membership.membership());
        out.freeze()
    }

    pub(super) fn decode(mut bytes: Bytes) -> Result<Self, Malformed> {
        let version = bytes.try_get_u8()?;
        if version != VERSION {
            return malformed(format!("version {version}, expected {VERSION}"));
        }
        let since_boundary = bytes.try_get_u64_le()?;
        let at = take_log_id(&mut bytes)?;
        Ok(Beside { since_boundary, membership: StoredMembership::new(at, take_membership(&mut bytes)?) })
    }
}

/// An entry as the log keeps it.
pub(super) fn to_log(entry: Entry) -> log::Entry {
    let (kind, payload) = to_content(&entry.payload);
    log::Entry { index: entry.log_id.index, term: entry.log_id.leader_id.term, kind, payload }
}

fn to_content(content: &Content) -> (u8, Payload) {
    match content {
        Content::Blank => (BLANK, Payload::default()),
        Content::Normal(proposal) => (COMMAND, proposal.payload.clone()),
        Content::Membership(membership) => {
            let mut out = BytesMut::with_capacity(64);
            put_membership(&mut out, membership);
            (MEMBERSHIP, out.freeze().into())
        }
    }
}

/// An entry as openraft wants it.
pub(super) fn from_log(entry: log::Entry) -> Result<Entry, Malformed> {
    let payload = from_content(entry.kind, entry.payload)?;
    Ok(Entry { log_id: LogId::new_term_index(entry.term, entry.index), payload })
}

fn from_content(kind: u8, payload: Payload) -> Result<Content, Malformed> {
    Ok(match kind {
        BLANK => Content::Blank,
        COMMAND => Content::Normal(Proposal { payload, id: None }),
        MEMBERSHIP => Content::Membership(take_membership(&mut payload.contiguous())?),
        _ => return malformed(format!("an entry of unknown kind {kind}")),
    })
}

fn with_entries(mut head: BytesMut, append: &AppendEntriesRequest<Types>) -> Payload {
    put_vote(&mut head, &append.vote);
    put_log_id(&mut head, append.prev_log_id.as_ref());
    put_log_id(&mut head, append.leader_commit.as_ref());
    head.put_u32_le(len32(append.entries.len()));
    head.reserve(append.entries.len() * 13);
    let mut contents = Vec::with_capacity(append.entries.len());
    for entry in &append.entries {
        let (kind, payload) = to_content(&entry.payload);
        head.put_u64_le(entry.log_id.leader_id.term);
        head.put_u8(kind);
        head.put_u32_le(len32(payload.len()));
        contents.push(payload);
    }
    let parts = contents.iter().flat_map(|payload| payload.parts().iter().cloned());
    Payload::new(std::iter::once(head.freeze()).chain(parts))
}

fn take_append(body: &mut Bytes) -> Result<AppendEntriesRequest<Types>, Malformed> {
    let vote = take_vote(body)?;
    let prev_log_id = take_log_id(body)?;
    let leader_commit = take_log_id(body)?;
    let count = body.try_get_u32_le()? as usize;
    if count.saturating_mul(13) > body.remaining() {
        return malformed(format!("{count} entries in {} bytes", body.remaining()));
    }
    let first = prev_log_id.as_ref().map_or(0, |prev| prev.index + 1);
    let mut heads = Vec::with_capacity(count);
    for _ in 0..count {
        heads.push((take_term(body)?, body.try_get_u8()?, body.try_get_u32_le()? as usize));
    }
    let mut entries = Vec::with_capacity(count);
    for (index, (term, kind, len)) in (first..).zip(heads) {
        if len > body.remaining() {
            return malformed("an entry is cut off");
        }
        let payload = from_content(kind, body.split_to(len).into())?;
        entries.push(Entry { log_id: log_id(log::LogId { term, index }), payload });
    }
    Ok(AppendEntriesRequest { vote, prev_log_id, entries, leader_commit })
}

fn take_vote_request(body: &mut Bytes) -> Result<VoteRequest<Types>, Malformed> {
    let mut request = VoteRequest::new(take_vote(body)?, take_log_id(body)?);
    request.leadership_transfer = body.try_get_u8()? != 0;
    Ok(request)
}

fn put_vote(out: &mut BytesMut, vote: &Vote) {
    out.put_u64_le(vote.leader_id.term);
    out.put_u64_le(vote.leader_id.voted_for.0);
    out.put_u8(u8::from(vote.committed));
}

fn take_vote(body: &mut Bytes) -> Result<Vote, Malformed> {
    let (term, voted_for) = (take_term(body)?, ReplicaId(body.try_get_u64_le()?));
    Ok(match body.try_get_u8()? {
        0 => Vote::new(term, voted_for),
        _ => Vote::new_committed(term, voted_for),
    })
}

fn put_log_id(out: &mut BytesMut, id: Option<&LogId>) {
    match id {
        None => out.put_u8(0),
        Some(id) => {
            out.put_u8(1);
            out.put_u64_le(id.leader_id.term);
            out.put_u64_le(id.index);
        }
    }
}

fn take_log_id(body: &mut Bytes) -> Result<Option<LogId>, Malformed> {
    Ok(match body.try_get_u8()? {
        0 => None,
        _ => Some(log_id(take_id(body)?)),
    })
}

fn take_id(body: &mut Bytes) -> Result<log::LogId, Malformed> {
    let id = log::LogId { term: take_term(body)?, index: body.try_get_u64_le()? };
    if id.index > INDEX_MAX {
        return malformed(format!("no log has an entry {id:?}"));
    }
    Ok(id)
}

fn take_term(body: &mut Bytes) -> Result<u64, Malformed> {
    let term = body.try_get_u64_le()?;
    if term > TERM_MAX {
        return malformed(format!("term {term} is above {TERM_MAX}"));
    }
    Ok(term)
}

fn put_membership(out: &mut BytesMut, membership: &Membership) {
    let configs = membership.get_joint_config();
    out.put_u32_le(len32(configs.len()));
    for config in configs {
        out.put_u32_le(len32(config.len()));
        config.iter().for_each(|replica| out.put_u64_le(replica.0));
    }
    let nodes: Vec<_> = membership.nodes().collect();
    out.put_u32_le(len32(nodes.len()));
    for (replica, node) in nodes {
        out.put_u64_le(replica.0);
        out.put_u32_le(node.0);
    }
}

fn take_membership(body: &mut Bytes) -> Result<Membership, Malformed> {
    let mut configs = Vec::new();
    for _ in 0..body.try_get_u32_le()? {
        let mut config = BTreeSet::new();
        for _ in 0..body.try_get_u32_le()? {
            config.insert(ReplicaId(body.try_get_u64_le()?));
        }
        configs.push(config);
    }
    let mut nodes = BTreeMap::new();
    for _ in 0..body.try_get_u32_le()? {
        nodes.insert(ReplicaId(body.try_get_u64_le()?), NodeId(body.try_get_u32_le()?));
    }
    if configs.is_empty() && nodes.is_empty() {
        return Ok(Membership::default());
    }
    Membership::new(configs, nodes).map_err(|error| Malformed(error.to_string()))
}

fn take_bytes(body: &mut Bytes) -> Result<Bytes, Malformed> {
    let len = body.try_get_u32_le()? as usize;
    if len > body.remaining() {
        return malformed(format!("{len} bytes announced, {} there", body.remaining()));
    }
    Ok(body.split_to(len))
}

fn len32(len: usize) -> u32 {
    u32::try_from(len).expect("messages and entries are far below 4 GiB")
}

#[cfg(test)]
mod tests {
    use super::{
        super::fuzz::{ROUTE, Samples, samples},
        *,
    };
    use proptest::prelude::*;

    #[test]
    fn appends_come_back_as_they_were_and_share_their_payload() {
        let Samples { requests, entries, .. } = samples();
        let bytes = requests[0].encode(ROUTE).contiguous();
        let (route, request) = Request::decode(&bytes.clone().into()).unwrap();
        assert_eq!(route, ROUTE);
        let Request::Append { stream: 6, append } = request else { panic!("{request:?}") };
        assert_eq!(append.entries, entries);
        assert_eq!(append.prev_log_id, Some(LogId::new_term_index(2, 4)));
        let Content::Normal(proposal) = &append.entries[1].payload else { panic!("{append:?}") };
        let shared = proposal.payload.parts().iter().all(|part| bytes.as_ptr_range().contains(&part.as_ptr()));
        assert!(shared && !proposal.payload.is_empty(), "the payload was copied");
    }

    /// Whoever counts on from them would overflow, and terms are leader epochs of 31 bits for clients.
    #[test]
    fn indexes_and_terms_that_no_log_has_are_refused() {
        let append = |change: fn(&mut AppendEntriesRequest<Types>)| {
            let Request::Append { stream, mut append } = samples().requests.swap_remove(0) else { unreachable!() };
            change(&mut append);
            let bytes = Request::Append { stream, append }.encode(ROUTE).contiguous();
            Request::decode(&bytes.into()).map(drop).map_err(|Malformed(why)| why)
        };
        append(|append| append.prev_log_id = Some(LogId::new_term_index(2, INDEX_MAX))).unwrap();
        let why = append(|append| append.prev_log_id = Some(LogId::new_term_index(2, u64::MAX))).unwrap_err();
        assert!(why.starts_with("no log has an entry"), "{why}");
        append(|append| append.leader_commit = Some(LogId::new_term_index(2, INDEX_MAX + 1))).unwrap_err();
        append(|append| append.entries[0].log_id = LogId::new_term_index(TERM_MAX, 5)).unwrap();
        let why = append(|append| append.entries[0].log_id = LogId::new_term_index(TERM_MAX + 1, 5)).unwrap_err();
        assert!(why.starts_with("term 2147483648 is above"), "{why}");
        append(|append| append.vote = Vote::new_committed(TERM_MAX + 1, ReplicaId(7))).unwrap_err();
    }

    /// Every kind of request, of reply, of entry, and what is saved: the bytes between nodes and on disks.
    #[test]
    fn bytes_are_what_they_were() {
        use crate::testing::golden;
        let Samples { requests, replies, entries, beside, vote } = samples();
        for request in &requests {
            let bytes = request.encode(ROUTE).contiguous();
            golden(&format!("peers/raft-request-{}-v{VERSION}.hex", request.kind()), &bytes);
            let (route, read) = Request::decode(&bytes.clone().into()).unwrap();
            assert_eq!((route, read.encode(ROUTE).contiguous()), (ROUTE, bytes));
        }
        for reply in &replies {
            let bytes = reply.encode().contiguous();
            golden(&format!("peers/raft-reply-{}.hex", bytes[0]), &bytes);
            assert_eq!(Reply::decode(&bytes.clone().into()).unwrap().encode().contiguous(), bytes);
        }
        for entry in entries {
            let log::Entry { kind, payload, .. } = to_log(entry);
            golden(&format!("log/entry-{kind}.hex"), &payload.contiguous());
        }
        golden("log/vote.hex", &encode_vote(&vote));
        golden(&format!("log/beside-checkpoint-v{VERSION}.hex"), &beside.encode());
    }

    /// What is read and has no sample has no golden file either.
    #[test]
    fn there_is_a_sample_of_every_kind() {
        fn read<T>(decode: impl Fn(u8) -> Result<T, Malformed>) -> Vec<u8> {
            let unknown = |Malformed(why): Malformed| why.contains("unknown kind");
            (0..=u8::MAX).filter(|kind| !decode(*kind).is_err_and(unknown)).collect()
        }
        let Samples { requests, replies, entries, .. } = samples();
        let head = Request::Greet.encode(ROUTE).contiguous();
        let request = |kind| Request::decode(&Bytes::from([&[VERSION, kind], &head[2..]].concat()).into());
        assert_eq!(read(request), requests.iter().map(Request::kind).collect::<Vec<_>>());
        let reply = |kind| Reply::decode(&Bytes::from(vec![kind]).into());
        assert_eq!(read(reply), replies.iter().map(|reply| reply.encode().contiguous()[0]).collect::<Vec<_>>());
        let entry = |kind| from_content(kind, Payload::default());
        assert_eq!(read(entry), entries.into_iter().map(|entry| to_log(entry).kind).collect::<Vec<_>>());
    }

    #[test]
    fn what_a_checkpoint_keeps_comes_back() {
        let nodes = BTreeMap::from([(ReplicaId(1), NodeId(1)), (ReplicaId(2), NodeId(2))]);
        let joint = vec![BTreeSet::from([ReplicaId(1)]), BTreeSet::from([ReplicaId(2)])];
        let membership =
            StoredMembership::new(Some(LogId::new_term_index(1, 0)), Membership::new(joint, nodes).unwrap());
        for beside in [Beside { since_boundary: 17, membership }, Beside::default()] {
            assert_eq!(Beside::decode(beside.encode()).unwrap(), beside);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn any_bytes_decode_or_are_refused(kind in 0u8..10, bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let mut message = Request::Elect { term: 0 }.encode(ROUTE).contiguous().to_vec();
            message[1] = kind;
            message.truncate(ROUTE_BYTES);
            message.extend(&bytes);
            let _ = Request::decode(&Bytes::from(message).into());
            let _ = Reply::decode(&Bytes::from(bytes.clone()).into());
            let _ = Beside::decode(bytes.into());
        }
    }
}
