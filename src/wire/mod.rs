//! The native protocol: frames, and what their heads say. Shared by client and gateway; knows no socket.
//!
//! ```text
//! 0        1        2        4               8           12          16
//! ├ version┼ kind ──┼ flags ─┼ correlation ──┼ head_len ─┼ body_len ─┤ head (rmp-serde map) │ body (raw record batches)
//! ```
//! All integers are big-endian. Heads are maps with one-letter names: a field that a reader does not know is skipped,
//! one that it misses takes its default, so versions N and N−1 understand each other.
//!
//! A client opens a QUIC connection (ALPN `highwater/1`), then streams. The first frame of a connection's first stream
//! is [`Hello`]; requests may follow on any stream. **Answers of one stream come in the order of its requests**, so
//! produce, each long poll and each subscription have streams of their own. After [`Subscribe`] the broker sends
//! [`Delivery`] frames on that stream within the credit that was granted.

mod frame;
mod heads;
mod link;
#[cfg(feature = "client")]
pub mod quic;
#[cfg(test)]
pub(crate) mod tests;

pub use frame::{BODY_BYTES_MAX, Frame, FrameError, HEAD_BYTES_MAX, HEADER_LEN, Header, VERSION};
pub use heads::*;
pub use link::{Connection, Gate, Link, LinkClosed, LinkReceiver, LinkSender, MemoryConnection, memory_connection};
