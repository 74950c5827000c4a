//! One frame: fixed header, head, body.

use super::{Kind, Message};
use crate::{
    advice::{Advice, Reaction},
    limits,
};
use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Version of the frame header. Heads evolve by fields, so this changes only with the header itself.
pub const VERSION: u8 = 1;
/// Bytes of the fixed header.
pub const HEADER_LEN: usize = 16;
/// Longest head, bytes: bounds what a decoder allocates for names and lists.
pub const HEAD_BYTES_MAX: u32 = limits::FRAME_HEAD_BYTES_MAX;
/// Longest body, bytes: one answer of a fetch, or the batches of one produce.
pub const BODY_BYTES_MAX: u32 = limits::FRAME_BODY_BYTES_MAX;

/// The fixed header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the head is.
    pub kind: Kind,
    /// Chosen by whoever asks, repeated in the answer.
    pub correlation: u32,
    /// Bytes of the head.
    pub head_len: u32,
    /// Bytes of the body.
    pub body_len: u32,
}

/// A decoded frame: its message and its raw body.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    /// Chosen by whoever asks, repeated in the answer.
    pub correlation: u32,
    /// What it says.
    pub message: Message,
    /// Record batches, in parts: never copied together on the way out; one part on the way in.
    pub body: Vec<Bytes>,
}

/// Bytes that are no frame. The connection that sent them is closed with this text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Another header version.
    #[error("frame version {found}, this side speaks {VERSION}")]
    Version {
        /// What was found.
        found: u8,
    },
    /// A kind that this side does not know.
    #[error("unknown frame kind {found}")]
    UnknownKind {
        /// What was found.
        found: u8,
    },
    /// Head or body over the limit.
    #[error("{what} of {len} bytes, at most {max} are allowed")]
    TooLong {
        /// Head or body.
        what: &'static str,
        /// What the header says.
        len: u32,
        /// The limit.
        max: u32,
    },
    /// Fewer bytes than the header says.
    #[error("frame cut off: {found} of {expected} bytes")]
    CutOff {
        /// Bytes there.
        found: usize,
        /// Bytes expected.
        expected: usize,
    },
    /// The head is not what its kind says.
    #[error("head of {kind:?} does not decode: {why}")]
    Head {
        /// The kind.
        kind: Kind,
        /// The decoder's words.
        why: String,
    },
}

impl Advice for FrameError {
    fn reaction(&self) -> Reaction {
        match self {
            Self::Version { .. } | Self::UnknownKind { .. } | Self::TooLong { .. } => Reaction::Reject,
            Self::CutOff { .. } | Self::Head { .. } => Reaction::Reject,
        }
    }

    fn advice(&self) -> String {
        match self {
            Self::Version { .. } | Self::UnknownKind { .. } => {
                "bring client and node to versions that are at most one apart".into()
            }
            Self::TooLong { max, .. } => format!("send or ask for less at a time: at most {max} bytes"),
            Self::CutOff { .. } | Self::Head { .. } => {
                "report this to the makers of the other side: it encodes wrongly".into()
            }
        }
    }
}

impl Header {
    /// Reads a header; refuses what no buffer should be made for.
    pub fn decode(mut bytes: &[u8]) -> Result<Self, FrameError> {
        if bytes.len() < HEADER_LEN {
            return Err(FrameError::CutOff { found: bytes.len(), expected: HEADER_LEN });
        }
        let version = bytes.get_u8();
        if version != VERSION {
            return Err(FrameError::Version { found: version });
        }
        let kind = bytes.get_u8();
        let kind = Kind::from_u8(kind).ok_or(FrameError::UnknownKind { found: kind })?;
        let _flags = bytes.get_u16();
        let header = Self { kind, correlation: bytes.get_u32(), head_len: bytes.get_u32(), body_len: bytes.get_u32() };
        if header.head_len > HEAD_BYTES_MAX {
            return Err(FrameError::TooLong { what: "head", len: header.head_len, max: HEAD_BYTES_MAX });
        }
        if header.body_len > BODY_BYTES_MAX {
            return Err(FrameError::TooLong { what: "body", len: header.body_len, max: BODY_BYTES_MAX });
        }
        Ok(header)
    }

    /// Bytes behind the header.
    pub fn rest_len(&self) -> usize {
        self.head_len as usize + self.body_len as usize
    }
}

impl Frame {
    /// A frame without a body.
    pub fn new(correlation: u32, message: impl Into<Message>) -> Self {
        Self { correlation, message: message.into(), body: Vec::new() }
    }

    /// The same with a body.
    pub fn with_body(mut self, body: Vec<Bytes>) -> Self {
        self.body = body;
        self
    }

    /// Header and head as one buffer; the body follows as its parts.
    pub fn encode_head(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(128);
        out.put_bytes(0, HEADER_LEN);
        self.message.encode(&mut out);
        let head_len = u32::try_from(out.len() - HEADER_LEN).expect("heads are far below 4 GiB");
        let body_len = u32::try_from(self.body.iter().map(Bytes::len).sum::<usize>())
            .expect("bodies are bounded by BODY_BYTES_MAX");
        let mut header = &mut out[..HEADER_LEN];
        header.put_u8(VERSION);
        header.put_u8(self.message.kind() as u8);
        header.put_u16(0);
        header.put_u32(self.correlation);
        header.put_u32(head_len);
        header.put_u32(body_len);
        out.freeze()
    }

    /// Decodes what follows a header: `rest` holds exactly head and body.
    pub fn decode(header: Header, rest: Bytes) -> Result<Self, FrameError> {
        if rest.len() != header.rest_len() {
            return Err(FrameError::CutOff { found: rest.len(), expected: header.rest_len() });
        }
        let head = rest.slice(..header.head_len as usize);
        let body = rest.slice(header.head_len as usize..);
        let message = Message::decode(header.kind, &head)?;
        let body = if body.is_empty() { Vec::new() } else { vec![body] };
        Ok(Self { correlation: header.correlation, message, body })
    }

    /// The body as one slice.
    pub fn body(&self) -> Bytes {
        match self.body.as_slice() {
            [] => Bytes::new(),
            [one] => one.clone(),
            many => many.concat().into(),
        }
    }
}
