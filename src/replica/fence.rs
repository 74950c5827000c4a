//! Which entries count: `(term, n)`, decided in apply and checkpointed in front of the machine.
//!
//! ```text
//!  proposed in term 7:  1  2  3  4  5      Raft may refuse 3 and take 4 and 5
//!  in the log:          1  2     4  5  3'  4'  5'
//!  counts:              ✓  ✓     –  –  ✓   ✓   ✓
//! ```

use crate::sabotage::{self, Bug};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use highwater_raft::machine::{Damaged, Head};

/// Version of the bytes in front of a machine's checkpoint.
const VERSION: u8 = 1;
const LEN: usize = 1 + 3 * 8;

/// The last entry that counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fence {
    /// Its term.
    pub term: u64,
    /// Its number in that term, from 1.
    pub n: u64,
    /// Its stamp, milliseconds: later ones are not below it.
    pub stamp_ms: u64,
}

impl Fence {
    /// Whether an entry of Raft's term `term` with this head counts; if so it is the last one now.
    pub fn admit(&mut self, term: u64, head: &Head) -> bool {
        let next = if term > self.term { 1 } else { self.n + 1 };
        let counts = head.term == term && term >= self.term && head.n == next;
        if !counts && !sabotage::on(Bug::Unfenced) {
            return false;
        }
        *self = Self { term, n: head.n, stamp_ms: self.stamp_ms.max(head.stamp_ms) };
        true
    }

    /// The last number that counted in `term`.
    pub fn last_of(&self, term: u64) -> u64 {
        if term == self.term { self.n } else { 0 }
    }

    /// Puts itself in front of a machine's checkpoint.
    pub fn wrap(&self, machine: &Bytes) -> Bytes {
        let mut out = BytesMut::with_capacity(LEN + machine.len());
        out.put_u8(VERSION);
        out.put_u64(self.term);
        out.put_u64(self.n);
        out.put_u64(self.stamp_ms);
        out.put_slice(machine);
        out.freeze()
    }

    /// Takes it apart again.
    pub fn unwrap(mut bytes: Bytes) -> Result<(Self, Bytes), Damaged> {
        let damaged = |why: String| Damaged { what: "replica checkpoint", why };
        if bytes.len() < LEN {
            return Err(damaged(format!("{} bytes, at least {LEN} expected", bytes.len())));
        }
        let version = bytes.get_u8();
        if version != VERSION {
            return Err(damaged(format!("version {version}, expected {VERSION}")));
        }
        let fence = Self { term: bytes.get_u64(), n: bytes.get_u64(), stamp_ms: bytes.get_u64() };
        Ok((fence, bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fence_v1() {
        let bytes = Fence { term: 7, n: 3, stamp_ms: 1_700_000_000_000 }.wrap(&Bytes::from_static(b"machine"));
        highwater_raft::testing::golden("machines/fence-v1.hex", &bytes);
        assert_eq!(VERSION, 1);
    }

    #[test]
    fn only_the_next_of_its_own_term_counts() {
        let mut fence = Fence::default();
        let mut admit =
            |raft_term, term, n| fence.admit(raft_term, &Head { term, n, stamp_ms: 5, commands: Vec::new() });
        assert!(admit(7, 7, 1) && admit(7, 7, 2));
        assert!(!admit(7, 7, 4), "3 is missing");
        assert!(!admit(7, 7, 2), "a duplicate");
        assert!(admit(7, 7, 3));
        assert!(!admit(8, 7, 4), "proposed in another term");
        assert!(admit(8, 8, 1));
        assert!(!admit(7, 7, 5), "an older term");
        let (back, machine) = Fence::unwrap(fence.wrap(&Bytes::from_static(b"m"))).unwrap();
        assert_eq!((back, &machine[..]), (fence, &b"m"[..]));
        assert!(Fence::unwrap(Bytes::from_static(b"short")).is_err());
    }
}
