//! Links over QUIC: one bidirectional stream each. Client and gateway share this side of the seam.
//!
//! Invariants:
//! - no buffer is larger than twice what has arrived, whatever a header claims, and none is larger than its frame;
//!   limits and the gate are asked before the first byte is kept;
//! - `receive` may be dropped at any await: what has arrived stays in the link;
//! - bytes that are no frame, or half of one and no more, close the connection, and the other side is told which;
//! - small pieces leave in contiguous buffers, large ones as they are.
//!
//! Not here: certificates (`tls`), and who may connect (`gateway`).

use super::{
    Connection, Done, Frame, FrameError, Gate, HEADER_LEN, Header, Link, LinkClosed, LinkReceiver, LinkSender,
};
use crate::tls::ALPN_NATIVE;
use bytes::{Buf, Bytes, BytesMut};
use futures_util::future::BoxFuture;
use quinn::{
    AckFrequencyConfig, ConnectionError, EndpointConfig, ReadError, TransportConfig, VarInt, WriteError,
    congestion::CubicConfig,
    crypto::rustls::{NoInitialCipherSuite, QuicClientConfig, QuicServerConfig},
};
use std::{
    io,
    net::{SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};
use tokio::time::{Instant, timeout_at};

/// A connection on which nothing arrives for this long is dead.
pub const IDLE_MAX: Duration = Duration::from_secs(10);
/// How often a client shows that it lives.
pub const KEEP_ALIVE: Duration = Duration::from_secs(3);
/// A frame of which nothing more comes for this long is not finished: what waits for it is given up.
pub const FRAME_STALL_MAX: Duration = Duration::from_secs(10);
/// Links of one connection that may be open at a time.
pub const LINKS_MAX: u32 = 1024;

/// Bytes of one link that may be under way to a reader that does not read.
const LINK_WINDOW: u32 = 2 << 20;
/// The same for all links of a connection.
const CONNECTION_WINDOW: u32 = 16 << 20;
/// Pieces below this are copied together before they are written.
const PIECE_BYTES_MIN: usize = 16 << 10;
/// Read at a time.
const CHUNK_BYTES: usize = 64 << 10;
/// First buffer for a frame, bytes; it grows only as bytes arrive.
const FIRST_BUFFER: usize = 16 << 10;

/// Bytes of a socket's buffers: with the usual 208 KiB a burst of large frames loses packets in the kernel.
pub const SOCKET_BUFFER_BYTES: usize = 4 << 20;
/// Bytes of a packet on the loopback interface. Segmentation offload loses larger ones: ten must fit one datagram.
pub const LOOPBACK_MTU: u16 = 6500;
/// First congestion window there. quinn's default of 12,000 B sends nothing at all with a large MTU.
const LOOPBACK_WINDOW: u64 = 1 << 20;
/// Packets that may wait for their acknowledgement: most leave with an answer, and cost no packet of their own.
const PACKETS_PER_ACK: u32 = 8;
/// How long they may wait.
const ACK_DELAY: Duration = Duration::from_millis(5);

/// Closed on purpose.
const CLOSED: VarInt = VarInt::from_u32(0);
/// Closed because of bytes that are no frame.
const MALFORMED: VarInt = VarInt::from_u32(1);

/// What lies between the two sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The same machine: packets of [`LOOPBACK_MTU`].
    Loopback,
    /// Networks: 1,200 B, and what discovery finds to pass.
    Network,
}

impl Way {
    /// To or from this address.
    pub fn to(remote: SocketAddr) -> Self {
        if remote.ip().to_canonical().is_loopback() { Way::Loopback } else { Way::Network }
    }
}

fn transport(way: Way) -> TransportConfig {
    let mut acknowledge = AckFrequencyConfig::default();
    acknowledge.ack_eliciting_threshold(VarInt::from_u32(PACKETS_PER_ACK)).max_ack_delay(Some(ACK_DELAY));
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(LINKS_MAX))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .stream_receive_window(VarInt::from_u32(LINK_WINDOW))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
        .send_window(u64::from(CONNECTION_WINDOW))
        .ack_frequency_config(Some(acknowledge))
        .max_idle_timeout(Some(VarInt::from_u32(10_000).into()));
    const { assert!(IDLE_MAX.as_millis() == 10_000 && KEEP_ALIVE.as_millis() * 3 < IDLE_MAX.as_millis()) };
    if way == Way::Loopback {
        let mut cubic = CubicConfig::default();
        cubic.initial_window(LOOPBACK_WINDOW);
        transport
            .initial_mtu(LOOPBACK_MTU)
            .mtu_discovery_config(None)
            .initial_rtt(Duration::from_millis(1))
            .congestion_controller_factory(Arc::new(cubic));
    }
    transport
}

/// QUIC's settings for a client. Sets the protocol's name ([`ALPN_NATIVE`]).
pub fn client_config(mut tls: rustls::ClientConfig, way: Way) -> Result<quinn::ClientConfig, NoInitialCipherSuite> {
    tls.alpn_protocols = vec![ALPN_NATIVE.to_vec()];
    let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    let mut transport = transport(way);
    transport.keep_alive_interval(Some(KEEP_ALIVE));
    config.transport_config(Arc::new(transport));
    Ok(config)
}

/// QUIC's settings for a gateway. Sets the protocol's name ([`ALPN_NATIVE`]).
pub fn server_config(mut tls: rustls::ServerConfig, way: Way) -> Result<quinn::ServerConfig, NoInitialCipherSuite> {
    tls.alpn_protocols = vec![ALPN_NATIVE.to_vec()];
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    config.transport_config(Arc::new(transport(way)));
    Ok(config)
}

/// Takes packets as large as the loopback interface is sent.
pub fn take_large_packets(config: &mut EndpointConfig) {
    config.max_udp_payload_size(LOOPBACK_MTU).expect("between QUIC's bounds");
}

/// A UDP socket with buffers for a burst of large frames, and the bytes that the system granted for receiving.
pub fn bind(address: SocketAddr) -> io::Result<(UdpSocket, usize)> {
    let socket = UdpSocket::bind(address)?;
    let state = quinn::udp::UdpSocketState::new((&socket).into())?;
    // A refusal shows in what is granted.
    let _ = state.set_send_buffer_size((&socket).into(), SOCKET_BUFFER_BYTES);
    let _ = state.set_recv_buffer_size((&socket).into(), SOCKET_BUFFER_BYTES);
    let granted = state.recv_buffer_size((&socket).into())?;
    Ok((socket, granted))
}

/// Dials `address`, whose certificate must name `name`. The caller sets the deadline.
pub async fn connect(
    endpoint: &quinn::Endpoint,
    config: quinn::ClientConfig,
    address: SocketAddr,
    name: &str,
) -> Result<QuicConnection, LinkClosed> {
    let connecting = endpoint.connect_with(config, address, name);
    let connecting = connecting.map_err(|e| LinkClosed(format!("cannot dial {address}: {e}")))?;
    let connection =
        connecting.await.map_err(|e| LinkClosed(format!("cannot connect to {address}: {}", closed_by(e).0)))?;
    Ok(QuicConnection::new(connection))
}

/// A connection over QUIC.
#[derive(Clone)]
pub struct QuicConnection {
    connection: quinn::Connection,
}

impl QuicConnection {
    /// Of a finished handshake.
    pub fn new(connection: quinn::Connection) -> Self {
        Self { connection }
    }

    #[cfg(test)]
    pub(crate) fn quinn(&self) -> &quinn::Connection {
        &self.connection
    }

    /// Where the other side is.
    pub fn remote_address(&self) -> SocketAddr {
        self.connection.remote_address()
    }

    /// Resolves when the connection is closed, by whomever.
    pub async fn closed(&self) -> LinkClosed {
        closed_by(self.connection.closed().await)
    }

    fn link(&self, (send, receive): (quinn::SendStream, quinn::RecvStream)) -> Link {
        Link { sender: Box::new(QuicSender { stream: send }), receiver: Box::new(self.receiver(receive)) }
    }

    fn receiver(&self, stream: quinn::RecvStream) -> QuicReceiver {
        QuicReceiver {
            connection: self.connection.clone(),
            stream,
            gate: None,
            chunk: Bytes::new(),
            header: [0; HEADER_LEN],
            header_len: 0,
            coming: None,
            buffer: Vec::new(),
            skipped: 0,
            heard: Instant::now(),
            stall: FRAME_STALL_MAX,
        }
    }
}

impl Connection for QuicConnection {
    fn open(&self) -> BoxFuture<'_, Result<Link, LinkClosed>> {
        Box::pin(async move { self.connection.open_bi().await.map(|s| self.link(s)).map_err(closed_by) })
    }

    fn accept(&self) -> BoxFuture<'_, Result<Link, LinkClosed>> {
        Box::pin(async move { self.connection.accept_bi().await.map(|s| self.link(s)).map_err(closed_by) })
    }

    fn close(&self, reason: &str) {
        self.connection.close(CLOSED, reason.as_bytes());
    }
}

/// What is said of a listener with `client_certificates` that was shown none.
pub const NEEDS_CERTIFICATE: &str = "the node lets in only who shows a certificate of the cluster's CA";
/// RFC 9001, section 4.8, with the alert `certificate_required` of RFC 8446.
const CERTIFICATE_REQUIRED: u8 = 116;

fn closed_by(error: ConnectionError) -> LinkClosed {
    LinkClosed(match error {
        ConnectionError::ConnectionClosed(close)
            if close.error_code == quinn::TransportErrorCode::crypto(CERTIFICATE_REQUIRED) =>
        {
            NEEDS_CERTIFICATE.into()
        }
        ConnectionError::ApplicationClosed(close) => String::from_utf8_lossy(&close.reason).into_owned(),
        ConnectionError::LocallyClosed => "closed by this side".into(),
        ConnectionError::TimedOut => format!("nothing came from the other side for {} s", IDLE_MAX.as_secs()),
        ConnectionError::Reset => "the other side restarted".into(),
        other => other.to_string(),
    })
}

struct QuicSender {
    stream: quinn::SendStream,
}

impl LinkSender for QuicSender {
    fn send(&mut self, frames: Vec<Frame>) -> BoxFuture<'_, Result<(), LinkClosed>> {
        Box::pin(async move {
            self.stream.write_all_chunks(&mut pieces(frames)).await.map_err(|error| match error {
                WriteError::ConnectionLost(error) => closed_by(error),
                WriteError::Stopped(_) => LinkClosed("the other side closed the link".into()),
                other => LinkClosed(other.to_string()),
            })
        })
    }
}

/// The frames as buffers: small neighbours together, large parts shared.
fn pieces(frames: Vec<Frame>) -> Vec<Bytes> {
    let mut pieces = Vec::with_capacity(frames.len());
    let mut small = BytesMut::new();
    for frame in frames {
        for part in std::iter::once(frame.encode_head()).chain(frame.body) {
            if part.len() < PIECE_BYTES_MIN {
                small.extend_from_slice(&part);
                if small.len() >= PIECE_BYTES_MIN {
                    pieces.push(small.split().freeze());
                }
            } else {
                if !small.is_empty() {
                    pieces.push(small.split().freeze());
                }
                pieces.push(part);
            }
        }
    }
    if !small.is_empty() {
        pieces.push(small.freeze());
    }
    pieces
}

struct QuicReceiver {
    connection: quinn::Connection,
    stream: quinn::RecvStream,
    gate: Option<Gate>,
    /// What was read and not yet taken.
    chunk: Bytes,
    header: [u8; HEADER_LEN],
    header_len: usize,
    /// Of the frame that is under way, once it is whole and was admitted or not.
    coming: Option<(Header, bool)>,
    /// What is kept of its bytes.
    buffer: Vec<u8>,
    /// Bytes of it that were thrown away.
    skipped: usize,
    /// When the last bytes came.
    heard: Instant,
    /// How long a frame may stand still.
    stall: Duration,
}

impl QuicReceiver {
    async fn frame(&mut self) -> Result<Frame, LinkClosed> {
        let (header, admitted) = match self.coming {
            Some(coming) => coming,
            None => {
                while self.header_len < HEADER_LEN {
                    self.more().await?;
                    let take = self.chunk.len().min(HEADER_LEN - self.header_len);
                    self.chunk.copy_to_slice(&mut self.header[self.header_len..self.header_len + take]);
                    self.header_len += take;
                }
                let header = Header::decode(&self.header).map_err(|e| self.malformed(&e))?;
                let admitted = self.gate.as_mut().is_none_or(|gate| gate(&header));
                *self.coming.insert((header, admitted))
            }
        };
        while self.buffer.len() + self.skipped < header.rest_len() {
            self.more().await?;
            let take = self.chunk.len().min(header.rest_len() - self.buffer.len() - self.skipped);
            if admitted {
                self.keep(take, header.rest_len());
            } else {
                self.skipped += take;
                self.chunk.advance(take);
            }
        }
        (self.coming, self.header_len, self.skipped) = (None, 0, 0);
        if !admitted {
            return Ok(Frame::new(header.correlation, Done {}));
        }
        let rest = Bytes::from(std::mem::take(&mut self.buffer));
        Frame::decode(header, rest).map_err(|e| self.malformed(&e))
    }

    /// Moves `take` bytes into a buffer that grows to `want` at most, and never far ahead of what came.
    fn keep(&mut self, take: usize, want: usize) {
        let len = self.buffer.len();
        if self.buffer.capacity() < len + take {
            let capacity = (2 * len).max(FIRST_BUFFER).max(len + take).min(want);
            self.buffer.reserve_exact(capacity - len);
        }
        self.buffer.extend_from_slice(&self.chunk.split_to(take));
    }

    /// Reads until the chunk holds something.
    async fn more(&mut self) -> Result<(), LinkClosed> {
        if !self.chunk.is_empty() {
            return Ok(());
        }
        let begun = self.header_len > 0;
        let read = self.stream.read_chunk(CHUNK_BYTES, true);
        let read = if begun { timeout_at(self.heard + self.stall, read).await } else { Ok(read.await) };
        let Ok(read) = read else { return Err(self.stalled()) };
        match read {
            Ok(Some(chunk)) => {
                self.heard = Instant::now();
                self.chunk = chunk.bytes;
                Ok(())
            }
            Ok(None) => Err(self.ended()),
            Err(ReadError::ConnectionLost(error)) => Err(closed_by(error)),
            Err(other) => Err(LinkClosed(other.to_string())),
        }
    }

    /// Bytes of the frame under way: that have come, and that there are.
    fn progress(&self) -> (usize, usize) {
        let rest = self.coming.map_or(0, |(header, _)| header.rest_len());
        (self.header_len + self.buffer.len() + self.skipped, HEADER_LEN + rest)
    }

    fn ended(&self) -> LinkClosed {
        match self.progress() {
            (0, _) => LinkClosed("the link was closed".into()),
            (found, expected) => self.malformed(&FrameError::CutOff { found, expected }),
        }
    }

    fn stalled(&self) -> LinkClosed {
        let (found, expected) = self.progress();
        self.close(format!("{found} of {expected} bytes of a frame, then nothing for {} s", self.stall.as_secs()))
    }

    fn malformed(&self, error: &FrameError) -> LinkClosed {
        self.close(error.to_string())
    }

    fn close(&self, reason: String) -> LinkClosed {
        self.connection.close(MALFORMED, reason.as_bytes());
        LinkClosed(reason)
    }
}

impl LinkReceiver for QuicReceiver {
    fn receive(&mut self) -> BoxFuture<'_, Result<Frame, LinkClosed>> {
        Box::pin(self.frame())
    }

    fn set_gate(&mut self, gate: Gate) {
        self.gate = Some(gate);
    }
}

#[cfg(all(test, feature = "node"))]
mod tests {
    use super::*;
    use crate::wire::{Done, Hello, Kind, Produced};

    struct Pair {
        client: QuicConnection,
        server: QuicConnection,
        _endpoints: [quinn::Endpoint; 2],
    }

    async fn pair() -> Pair {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let server = rustls::ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let client = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let listener = quinn::Endpoint::server(server_config(server, Way::Network).unwrap(), any).unwrap();
        let dialler = quinn::Endpoint::client(any).unwrap();
        let config = client_config(client, Way::Network).unwrap();
        let address = listener.local_addr().unwrap();
        let (dialled, accepted) = tokio::join!(connect(&dialler, config, address, "localhost"), async {
            listener.accept().await.unwrap().await.unwrap()
        });
        Pair { client: dialled.unwrap(), server: QuicConnection::new(accepted), _endpoints: [listener, dialler] }
    }

    #[tokio::test]
    async fn frames_arrive_whole_and_in_order_whatever_their_size() {
        let pair = pair().await;
        let mut here = pair.client.open().await.unwrap();
        let sizes = [0_usize, 1, 15, 16 << 10, 100, 3 << 20, 7];
        let frames: Vec<_> = (0_u32..)
            .zip(sizes)
            .map(|(n, len)| {
                let parts =
                    vec![Bytes::from(vec![u8::try_from(n).unwrap(); len / 2]), Bytes::from(vec![9; len - len / 2])];
                Frame::new(n, Produced::default()).with_body(parts)
            })
            .collect();
        let sent = frames.clone();
        let (_, got) = tokio::join!(async { here.sender.send(sent).await.unwrap() }, async {
            let mut there = pair.server.accept().await.unwrap();
            let mut got = Vec::new();
            for _ in 0..sizes.len() {
                got.push(there.receiver.receive().await.unwrap());
            }
            there.sender.send(vec![Frame::new(99, Done {})]).await.unwrap();
            got
        });
        for (sent, got) in frames.iter().zip(&got) {
            assert_eq!((sent.correlation, &sent.message, sent.body()), (got.correlation, &got.message, got.body()));
        }
        assert_eq!(here.receiver.receive().await.unwrap().correlation, 99);
    }

    #[tokio::test]
    async fn a_dropped_receive_loses_nothing() {
        let pair = pair().await;
        let (mut send, _receive) = pair.client.connection.open_bi().await.unwrap();
        let frame = Frame::new(5, Produced::default()).with_body(vec![Bytes::from(vec![3; 1000])]);
        let bytes: Vec<u8> = pieces(vec![frame.clone()]).concat();
        send.write_all(&bytes[..20]).await.unwrap();
        let mut there = pair.server.accept().await.unwrap();
        let early = tokio::time::timeout(Duration::from_millis(50), there.receiver.receive()).await;
        assert!(early.is_err(), "half a frame is no frame");
        send.write_all(&bytes[20..]).await.unwrap();
        assert_eq!(there.receiver.receive().await.unwrap(), frame);
    }

    #[tokio::test]
    async fn half_a_frame_is_waited_for_as_long_as_more_of_it_comes() {
        let pair = pair().await;
        let (mut send, _receive) = pair.client.connection.open_bi().await.unwrap();
        let frame = Frame::new(5, Produced::default()).with_body(vec![Bytes::from(vec![3; 1000])]);
        let bytes: Vec<u8> = pieces(vec![frame.clone()]).concat();
        send.write_all(&bytes[..20]).await.unwrap();
        let (_, stream) = pair.server.connection.accept_bi().await.unwrap();
        let mut there = pair.server.receiver(stream);
        there.stall = Duration::from_secs(3600);
        let dropped = tokio::time::timeout(Duration::from_millis(50), there.receive()).await;
        assert!(dropped.is_err(), "half a frame is no frame");
        send.write_all(&bytes[20..40]).await.unwrap();
        while there.progress().0 < 40 {
            let _ = tokio::time::timeout(Duration::from_millis(1), there.receive()).await;
        }
        there.stall = Duration::ZERO;
        let reason = format!("40 of {} bytes of a frame, then nothing for 0 s", bytes.len());
        let given_up = tokio::time::timeout(Duration::from_secs(30), there.receive()).await;
        assert_eq!(given_up.expect("nobody waits for the rest").unwrap_err().0, reason);
        assert_eq!(pair.client.closed().await.0, reason);
    }

    #[tokio::test]
    async fn what_the_gate_refuses_is_thrown_away_and_the_next_frame_is_whole() {
        let pair = pair().await;
        let mut here = pair.client.open().await.unwrap();
        let large = Frame::new(1, Produced::default()).with_body(vec![Bytes::from(vec![1; 1 << 20])]);
        let small = Frame::new(2, Produced::default()).with_body(vec![Bytes::from(vec![2; 10])]);
        let sent = vec![large, small.clone()];
        tokio::join!(async { here.sender.send(sent).await.unwrap() }, async {
            let mut there = pair.server.accept().await.unwrap();
            there.receiver.set_gate(Box::new(|header| header.body_len < 1000));
            assert_eq!(there.receiver.receive().await.unwrap(), Frame::new(1, Done {}));
            assert_eq!(there.receiver.receive().await.unwrap(), small);
        });
    }

    #[tokio::test]
    async fn the_other_side_is_told_why() {
        let pair = pair().await;
        let mut here = pair.client.open().await.unwrap();
        here.sender.send(vec![Frame::new(0, Hello::default())]).await.unwrap();
        let _there = pair.server.accept().await.unwrap();
        pair.server.close("this node is shutting down");
        assert_eq!(here.receiver.receive().await.unwrap_err().0, "this node is shutting down");
    }

    #[tokio::test]
    async fn bytes_that_are_no_frame_close_the_connection_with_the_reason() {
        let long = |at: usize| {
            let mut bytes = Frame::new(0, Done {}).encode_head().to_vec();
            bytes[at..at + 4].copy_from_slice(&(1_u32 << 31).to_be_bytes());
            bytes
        };
        let table: [(Vec<u8>, &str); 6] = [
            (vec![7; 64], "frame version 7, this side speaks 1"),
            (vec![1, 250, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], "unknown frame kind 250"),
            (long(8), "head of 2147483648 bytes, at most 1048576 are allowed"),
            (long(12), "body of 2147483648 bytes, at most 67108864 are allowed"),
            (
                vec![1, Kind::Hello as u8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0xc1],
                "head of Hello does not decode",
            ),
            (vec![1, Kind::Hello as u8, 0, 0, 0], "frame cut off: 5 of 16 bytes"),
        ];
        for (bytes, reason) in table {
            let pair = pair().await;
            let (mut send, _receive) = pair.client.connection.open_bi().await.unwrap();
            send.write_all(&bytes).await.unwrap();
            send.finish().unwrap();
            let mut there = pair.server.accept().await.unwrap();
            let error = there.receiver.receive().await.unwrap_err();
            assert!(error.0.starts_with(reason), "{}", error.0);
            assert!(pair.client.closed().await.0.starts_with(reason));
        }
    }
}
