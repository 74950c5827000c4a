//! Bytes in parts: what an entry or a frame carries, without a copy on the way through.

use bytes::{Bytes, BytesMut};
use std::{fmt, ops::Range, sync::Arc};

/// A sequence of bytes that lies in one or more reference-counted parts. Clones share; `Debug` prints lengths only.
#[derive(Clone, Default)]
pub struct Payload {
    parts: Arc<[Bytes]>,
    len: usize,
}

impl Payload {
    /// The concatenation of `parts`.
    pub fn new(parts: impl IntoIterator<Item = Bytes>) -> Self {
        let parts: Arc<[Bytes]> = parts.into_iter().collect();
        let len = parts.iter().map(Bytes::len).sum();
        Self { parts, len }
    }

    /// Length in bytes of all parts together.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no byte.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The parts, in order.
    pub fn parts(&self) -> &[Bytes] {
        &self.parts
    }

    /// The bytes of `range` as one slice: shared when they lie in one part, else copied. `None` when out of range.
    pub fn slice(&self, range: Range<usize>) -> Option<Bytes> {
        if range.start > range.end || range.end > self.len {
            return None;
        }
        let mut start = range.start;
        let want = range.end - range.start;
        for (i, part) in self.parts.iter().enumerate() {
            if start > part.len() || (start == part.len() && want > 0) {
                start -= part.len();
                continue;
            }
            if start + want <= part.len() {
                return Some(part.slice(start..start + want));
            }
            let mut joined = BytesMut::with_capacity(want);
            joined.extend_from_slice(&part[start..]);
            for next in &self.parts[i + 1..] {
                let left = want - joined.len();
                joined.extend_from_slice(&next[..left.min(next.len())]);
                if joined.len() == want {
                    break;
                }
            }
            return Some(joined.freeze());
        }
        Some(Bytes::new())
    }

    /// Takes it apart from the front.
    pub fn reader(&self) -> Reader<'_> {
        Reader { parts: &self.parts, offset: 0, left: self.len }
    }

    /// All bytes as one slice: shared when there is one part.
    pub fn contiguous(&self) -> Bytes {
        self.slice(0..self.len).unwrap_or_default()
    }
}

/// Takes a payload apart, piece by piece; linear in its parts, where each [`Payload::slice`] counts from the first one.
pub struct Reader<'p> {
    parts: &'p [Bytes],
    /// What of the first part is taken.
    offset: usize,
    left: usize,
}

impl Reader<'_> {
    /// Bytes that are left.
    pub fn remaining(&self) -> usize {
        self.left
    }

    /// The next `want` bytes: shared when they lie in one part, else copied. `None`, and nothing taken, when fewer are left.
    pub fn take(&mut self, want: usize) -> Option<Bytes> {
        self.left = self.left.checked_sub(want)?;
        let mut joined = BytesMut::new();
        while let Some((first, rest)) = self.parts.split_first() {
            let missing = want - joined.len();
            let end = first.len().min(self.offset + missing);
            let piece = self.offset..end;
            self.offset = end;
            if piece.len() == missing && joined.is_empty() {
                return Some(first.slice(piece));
            }
            joined.reserve(missing);
            joined.extend_from_slice(&first[piece]);
            if joined.len() == want {
                break;
            }
            (self.parts, self.offset) = (rest, 0);
        }
        Some(joined.freeze())
    }
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Self {
        Self::new([bytes])
    }
}

impl PartialEq for Payload {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.contiguous() == other.contiguous()
    }
}
impl Eq for Payload {}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({} B in {})", self.len, self.parts.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_those_of_the_concatenation() {
        let payload = Payload::new(["abc", "", "defg", "h"].map(|s| Bytes::from_static(s.as_bytes())));
        let whole = b"abcdefgh";
        for start in 0..=whole.len() {
            for end in start..=whole.len() {
                assert_eq!(payload.slice(start..end).unwrap(), whole[start..end], "{start}..{end}");
            }
        }
        assert_eq!(payload.slice(0..9), None);
        for step in 1..=whole.len() {
            let (mut reader, mut taken) = (payload.reader(), Vec::new());
            while let Some(piece) = reader.take(step) {
                taken.extend_from_slice(&piece);
            }
            assert_eq!(reader.remaining(), whole.len() % step, "by {step}");
            assert_eq!(taken, whole[..whole.len() - whole.len() % step], "by {step}");
            assert_eq!(reader.take(0).unwrap(), Bytes::new());
        }
        assert_eq!(payload.contiguous(), &whole[..]);
    }
}
