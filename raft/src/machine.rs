//! The contract of a replicated machine, and the envelope in which its commands travel.
//!
//! A machine is a pure function of its log: no clock, no randomness, no I/O. Leaders execute its effects, followers
//! drop them, and [`Machine::on_promoted`] derives again what an earlier leader may have left undone.
//!
//! ```text
//! payload of an entry:  head_len u32 | head (see Head) | command 0 | command 1 | …
//! ```
//!
//! Every entry carries `(term, n)`. The machine side accepts `n = last + 1` of the entry's own term and skips anything
//! else, because openraft may refuse proposals in the middle of a pipeline within one term.

use crate::Payload;
use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Where and when an entry stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    /// Raft index.
    pub index: u64,
    /// Raft term, the leader epoch.
    pub term: u64,
    /// The leader's wall clock in milliseconds, never below that of the entry before.
    pub stamp_ms: u64,
}

/// One command of an entry. `kind` is the machine's own numbering.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// Which command.
    pub kind: u8,
    /// Its bytes: shared with log and network.
    pub body: Bytes,
}

/// A replicated state machine.
///
/// `apply` is total: any bytes give a reply, never a panic. Equal logs give equal checkpoints, byte for byte.
pub trait Machine: Send + 'static {
    /// What the proposer of a command is told.
    type Reply: Send + 'static;
    /// What the leader does because of it.
    type Effect: Send + 'static;

    /// Takes one command.
    fn apply(&mut self, at: At, command: &Command, effects: &mut Vec<Self::Effect>) -> Self::Reply;
    /// The whole state as bytes.
    fn checkpoint(&self) -> Bytes;
    /// Replaces the state. Errors name what is wrong with the bytes.
    fn restore(&mut self, checkpoint: &Bytes) -> Result<(), Damaged>;
    /// Effects that a new leader has to execute, derived from state.
    fn on_promoted(&self) -> Vec<Self::Effect>;
}

/// Bytes that do not decode.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {why}")]
pub struct Damaged {
    /// What was to be decoded.
    pub what: &'static str,
    /// What is wrong with it.
    pub why: String,
}

/// The head of an entry: who proposed it and what is in it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Head {
    /// The term in which it was proposed.
    pub term: u64,
    /// Its number in that term, from 1.
    pub n: u64,
    /// The leader's wall clock, milliseconds.
    pub stamp_ms: u64,
    /// Kind and length of each command.
    pub commands: Vec<(u8, u32)>,
}

/// Version of the envelope; changes with its layout.
pub const ENVELOPE_VERSION: u8 = 1;

/// Puts commands into one payload. Bodies are shared, not copied.
pub fn encode(term: u64, n: u64, stamp_ms: u64, commands: &[Command]) -> Payload {
    let head_len = 1 + 8 * 3 + 4 + commands.len() * 5;
    let mut head = BytesMut::with_capacity(4 + head_len);
    head.put_u32(u32::try_from(head_len).expect("a turn takes fewer than 2^29 commands"));
    head.put_u8(ENVELOPE_VERSION);
    head.put_u64(term);
    head.put_u64(n);
    head.put_u64(stamp_ms);
    head.put_u32(u32::try_from(commands.len()).expect("as above"));
    for command in commands {
        head.put_u8(command.kind);
        head.put_u32(u32::try_from(command.body.len()).expect("a body is bounded by the batch limit"));
    }
    Payload::new(std::iter::once(head.freeze()).chain(commands.iter().map(|c| c.body.clone())))
}

/// Takes a payload apart; bodies are slices of it.
pub fn decode(payload: &Payload) -> Result<(Head, Vec<Command>), Damaged> {
    let damaged = |why: &str| Damaged { what: "entry", why: why.into() };
    let mut rest = payload.reader();
    let mut len = rest.take(4).ok_or_else(|| damaged("shorter than its head"))?;
    let head_len = len.get_u32() as usize;
    let mut head = rest.take(head_len).ok_or_else(|| damaged("head cut off"))?;
    if head.remaining() < 29 {
        return Err(damaged("head too short"));
    }
    let version = head.get_u8();
    if version != ENVELOPE_VERSION {
        return Err(Damaged { what: "entry", why: format!("envelope version {version}, expected {ENVELOPE_VERSION}") });
    }
    let (term, n, stamp_ms, count) = (head.get_u64(), head.get_u64(), head.get_u64(), head.get_u32() as usize);
    if head.remaining() != count.saturating_mul(5) {
        return Err(damaged("head length differs from its count of commands"));
    }
    let mut kinds = Vec::with_capacity(count);
    let mut commands = Vec::with_capacity(count);
    for _ in 0..count {
        let (kind, len) = (head.get_u8(), head.get_u32());
        let body = rest.take(len as usize).ok_or_else(|| damaged("command cut off"))?;
        kinds.push((kind, len));
        commands.push(Command { kind, body });
    }
    if rest.remaining() > 0 {
        return Err(damaged("bytes behind the last command"));
    }
    Ok((Head { term, n, stamp_ms, commands: kinds }, commands))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn envelope_v1() {
        let command = |kind, body: &'static str| Command { kind, body: Bytes::from_static(body.as_bytes()) };
        let payload = encode(7, 3, 1_700_000_000_000, &[command(1, "records"), command(200, "")]);
        crate::testing::golden("log/envelope-v1.hex", &payload.contiguous());
        assert_eq!(ENVELOPE_VERSION, 1);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn what_is_encoded_decodes(term: u64, n: u64, stamp: u64, bodies in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..40)), 0..5)) {
            let commands: Vec<_> = bodies.into_iter().map(|(kind, body)| Command { kind, body: body.into() }).collect();
            let payload = encode(term, n, stamp, &commands);
            let on_the_wire = Payload::from(payload.contiguous());
            for payload in [payload, on_the_wire] {
                let (head, decoded) = decode(&payload).unwrap();
                prop_assert_eq!((head.term, head.n, head.stamp_ms), (term, n, stamp));
                prop_assert_eq!(&decoded, &commands);
            }
        }

        #[test]
        fn any_bytes_decode_or_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = decode(&Payload::from(Bytes::from(bytes)));
        }
    }
}
