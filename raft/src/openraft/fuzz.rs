//! Messages of replicas and what they keep, from any bytes.

use super::{
    codec::{self, BLANK, Beside, COMMAND, MEMBERSHIP, Reply, Request, Route},
    types::{Content, Entry, LogId, Membership, Proposal, StoredMembership, Vote},
};
use crate::{GroupId, NodeId, Payload, ReplicaId, log};
use ::openraft::raft::{AppendEntriesRequest, StreamAppendError, TransferLeaderRequest, VoteRequest, VoteResponse};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

/// Promises: what decodes encodes to bytes that decode to the same (a second encoding is equal to the first).
pub(crate) fn message(what: u8, data: &[u8]) {
    let bytes = Bytes::copy_from_slice(data);
    let payload = Payload::from(bytes.clone());
    match what {
        0 => {
            let again = |payload: &Payload| Request::decode(payload).map(|(route, request)| request.encode(route));
            let Ok(first) = again(&payload) else { return };
            assert_eq!(Request::route(&payload).ok(), Request::route(&first).ok());
            assert!(first.len() <= payload.len(), "{} bytes of {}", first.len(), payload.len());
            assert_eq!(again(&first).expect("what was encoded decodes"), first);
        }
        1 => {
            let again = |payload: &Payload| Reply::decode(payload).map(|reply| reply.encode());
            let Ok(first) = again(&payload) else { return };
            assert_eq!(again(&first).expect("what was encoded decodes"), first);
        }
        2 => {
            let Ok(beside) = Beside::decode(bytes) else { return };
            assert_eq!(Beside::decode(beside.encode()).expect("what was encoded decodes"), beside);
        }
        3 => {
            let Ok(vote) = codec::decode_vote(bytes) else { return };
            assert_eq!(codec::decode_vote(codec::encode_vote(&vote)).expect("what was encoded decodes"), vote);
        }
        kind => {
            let kind = if kind == 4 { MEMBERSHIP } else { data.first().copied().unwrap_or(COMMAND) };
            let stored = log::Entry { index: 7, term: 3, kind, payload };
            let Ok(entry) = codec::from_log(stored) else { return };
            let again = codec::from_log(codec::to_log(entry.clone())).expect("what was encoded decodes");
            // A blank entry has no content, whatever stood in it.
            assert_eq!(again, entry);
            assert!(kind == BLANK || matches!(entry.payload, Content::Normal(_) | Content::Membership(_)));
        }
    }
}

/// From whom to whom the samples go.
pub(super) const ROUTE: Route = Route { group: GroupId(1024), from: ReplicaId(7), to: ReplicaId(9) };

/// A message of every kind, and what is saved.
pub(super) struct Samples {
    pub(super) requests: Vec<Request>,
    pub(super) replies: Vec<Reply>,
    pub(super) entries: Vec<Entry>,
    pub(super) beside: Beside,
    pub(super) vote: Vote,
}

pub(super) fn samples() -> Samples {
    let nodes = BTreeMap::from([(ReplicaId(7), NodeId(1)), (ReplicaId(9), NodeId(2))]);
    let joint = vec![BTreeSet::from([ReplicaId(7)]), BTreeSet::from([ReplicaId(7), ReplicaId(9)])];
    let membership = Membership::new(joint, nodes).expect("all voters are nodes");
    let (vote, at) = (Vote::new_committed(3, ReplicaId(7)), LogId::new_term_index(2, 4));
    let payload = Payload::new(["ab", "cd"].map(|part| Bytes::from_static(part.as_bytes())));
    let contents =
        [Content::Blank, Content::Normal(Proposal { payload, id: None }), Content::Membership(membership.clone())];
    let entry = |(index, payload)| Entry { log_id: LogId::new_term_index(3, index), payload };
    let entries: Vec<_> = (5..).zip(contents).map(entry).collect();
    let leader_commit = Some(LogId::new_term_index(1, 2));
    let append = |entries| AppendEntriesRequest { vote, prev_log_id: Some(at), entries, leader_commit };
    let asked = |leadership_transfer| VoteRequest { vote, last_log_id: Some(at), leadership_transfer };
    let checkpoint = log::Checkpoint {
        last: log::LogId { term: 2, index: 4 },
        offset: 40,
        membership: Bytes::from_static(b"members"),
        machine: Bytes::from_static(b"machine"),
    };
    let requests = vec![
        Request::Append { stream: 6, append: append(entries.clone()) },
        Request::Heartbeat(append(Vec::new())),
        Request::Vote(asked(true)),
        Request::PreVote(asked(false)),
        Request::Snapshot { vote, checkpoint },
        Request::Transfer(TransferLeaderRequest::new(vote, ReplicaId(9), Some(at))),
        Request::Elect { term: 3 },
        Request::Greet,
    ];
    let replies = vec![
        Reply::UnknownReplica,
        Reply::Stopped,
        Reply::StreamEnded,
        Reply::Append(Ok(Some(at))),
        Reply::Append(Err(StreamAppendError::Conflict(at))),
        Reply::Append(Err(StreamAppendError::HigherVote(vote))),
        Reply::Vote(VoteResponse { vote, vote_granted: true, last_log_id: Some(at) }),
        Reply::Snapshot(vote),
        Reply::Transfer(true),
    ];
    let beside = Beside { since_boundary: 17, membership: StoredMembership::new(Some(at), membership) };
    Samples { requests, replies, entries, beside, vote }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let Samples { requests, replies, entries, beside, vote } = samples();
    let of = |what: u8, bytes: &[u8]| [&[what], bytes].concat();
    let mut seeds: Vec<_> = requests.iter().map(|request| of(0, &request.encode(ROUTE).contiguous())).collect();
    seeds.extend(replies.iter().map(|reply| of(1, &reply.encode().contiguous())));
    seeds.push(of(2, &beside.encode()));
    seeds.push(of(3, &codec::encode_vote(&vote)));
    seeds.extend(entries.into_iter().map(|entry| {
        let stored = codec::to_log(entry);
        of(if stored.kind == MEMBERSHIP { 4 } else { 5 }, &stored.payload.contiguous())
    }));
    seeds.extend(crate::transport::quic::fuzz_seeds().iter().map(|bytes| of(6, bytes)));
    seeds.extend(crate::transport::rpc::fuzz_seeds().iter().map(|bytes| of(7, bytes)));
    let heartbeat = crate::testing::fuzz::HEARTBEAT;
    seeds.extend(crate::transport::detector::fuzz_seeds().iter().map(|bytes| of(heartbeat, bytes)));
    seeds
}
