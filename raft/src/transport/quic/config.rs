//! Sockets and QUIC settings, with the limits that depend on each other.

use super::{Options, StartError};
use crate::transport::{Lane, tls::Credentials};
use quinn::{
    AckFrequencyConfig, ClientConfig, EndpointConfig, MtuDiscoveryConfig, ServerConfig, TransportConfig, VarInt,
    congestion::CubicConfig,
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
};
use std::{
    io,
    net::{SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

/// What each socket's buffers should hold: with the usual 208 KiB QUIC loses packets by itself.
pub(super) const SOCKET_BYTES: usize = 4 << 20;
/// Window of one stream. Larger ones only queue.
const WINDOW: u32 = 1 << 20;
/// Window of one stream when the socket buffers were refused.
const WINDOW_SMALL: u32 = 256 << 10;
/// CUBIC's first window. quinn's default of 12,000 B sends nothing at all with a large MTU.
const INITIAL_WINDOW: u64 = 1 << 20;
/// The largest MTU that segmentation offload can carry: ten segments must fit one UDP datagram.
const MTU_WITH_OFFLOAD_MAX: u16 = 6550;

/// Packets that may wait for their acknowledgement: most leave with an answer, and cost no packet of their own.
const PACKETS_PER_ACK: u32 = 8;
/// How long they may wait.
const ACK_DELAY: Duration = Duration::from_millis(5);

const IDLE: Duration = Duration::from_secs(5);
const KEEP_ALIVE: Duration = Duration::from_secs(1);

/// How large packets may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mtu {
    /// Bytes of a UDP payload that surely pass.
    pub initial: u16,
    /// Whether larger ones, up to an Ethernet's 1452, are probed for.
    pub discover: bool,
    /// Whether the kernel cuts packets.
    pub offload: bool,
}

impl Mtu {
    /// Passes everywhere; finds out about Ethernet's size.
    pub const INTERNET: Mtu = Mtu { initial: 1200, discover: true, offload: true };
    /// The loopback interface and networks of 9000 B frames: half the CPU per byte.
    pub const JUMBO: Mtu = Mtu { initial: 6500, discover: false, offload: true };

    fn check(self) -> Result<(), StartError> {
        let refused = |why| Err(StartError::Mtu { mtu: self.initial, why });
        if self.initial < 1200 {
            return refused("QUIC needs 1200");
        }
        if self.offload && self.initial > MTU_WITH_OFFLOAD_MAX {
            return refused("with segmentation offload at most 6550 pass, more is lost silently");
        }
        if 4 * u64::from(self.initial) > INITIAL_WINDOW {
            return refused("the first congestion window must hold four packets, or the connection hangs silently");
        }
        Ok(())
    }
}

/// The settings of one endpoint.
pub(super) struct Profile {
    stream_window: u32,
    mtu: Mtu,
    mtu_loopback: Mtu,
}

impl Profile {
    pub(super) fn new(options: &Options, granted: usize) -> Result<Self, StartError> {
        options.mtu.check()?;
        options.mtu_loopback.check()?;
        let stream_window = if granted < SOCKET_BYTES { WINDOW_SMALL } else { WINDOW };
        Ok(Profile { stream_window, mtu: options.mtu, mtu_loopback: options.mtu_loopback })
    }

    fn transport(&self, lane: Lane, remote: SocketAddr) -> Arc<TransportConfig> {
        let mtu = if remote.ip().is_loopback() { self.mtu_loopback } else { self.mtu };
        let streams = super::stream_count(lane);
        let mut cubic = CubicConfig::default();
        cubic.initial_window(INITIAL_WINDOW);
        let mut acknowledge = AckFrequencyConfig::default();
        acknowledge.ack_eliciting_threshold(VarInt::from_u32(PACKETS_PER_ACK)).max_ack_delay(Some(ACK_DELAY));
        let mut transport = TransportConfig::default();
        transport
            .max_concurrent_bidi_streams(VarInt::from_u32(1))
            .max_concurrent_uni_streams(VarInt::from_u32(8))
            .stream_receive_window(VarInt::from_u32(self.stream_window))
            .receive_window(VarInt::from_u32(self.stream_window * 4))
            .send_window(u64::from(self.stream_window) * u64::try_from(streams).unwrap_or(1))
            .send_fairness(lane == Lane::Control)
            .datagram_receive_buffer_size(None)
            .initial_rtt(Duration::from_millis(1))
            .max_idle_timeout(quinn::IdleTimeout::try_from(IDLE).ok())
            .keep_alive_interval(Some(KEEP_ALIVE))
            .ack_frequency_config(Some(acknowledge))
            .congestion_controller_factory(Arc::new(cubic))
            .initial_mtu(mtu.initial)
            .mtu_discovery_config(mtu.discover.then(MtuDiscoveryConfig::default))
            .enable_segmentation_offload(mtu.offload);
        Arc::new(transport)
    }

    pub(super) fn endpoint(&self) -> Result<EndpointConfig, StartError> {
        let mut config = EndpointConfig::default();
        let largest = self.mtu.initial.max(self.mtu_loopback.initial).max(1472);
        config.max_udp_payload_size(largest).map_err(|error| StartError::Tls(error.to_string()))?;
        Ok(config)
    }

    pub(super) fn client(&self, tls: &Credentials, lane: Lane, remote: SocketAddr) -> Result<ClientConfig, StartError> {
        let crypto =
            QuicClientConfig::try_from(tls.client.clone()).map_err(|error| StartError::Tls(error.to_string()))?;
        let mut config = ClientConfig::new(Arc::new(crypto));
        config.transport_config(self.transport(lane, remote));
        Ok(config)
    }

    /// What accepts; it sends little but acknowledgements, so the safe MTU does.
    pub(super) fn server(&self, tls: &Credentials, local: SocketAddr) -> Result<ServerConfig, StartError> {
        let crypto =
            QuicServerConfig::try_from(tls.server.clone()).map_err(|error| StartError::Tls(error.to_string()))?;
        let mut config = ServerConfig::with_crypto(Arc::new(crypto));
        let lane = Lane::Control;
        config.transport_config(self.transport(lane, local)).migration(false).max_incoming(1024);
        Ok(config)
    }
}

/// A bound socket and the bytes that its smaller buffer was granted.
pub(super) fn bind(address: SocketAddr) -> io::Result<(UdpSocket, usize)> {
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(address),
        socket2::Type::DGRAM,
        Some(socket2::Protocol::UDP),
    )?;
    // A refusal shows in what is granted.
    let _ = socket.set_recv_buffer_size(SOCKET_BYTES);
    let _ = socket.set_send_buffer_size(SOCKET_BYTES);
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    // Linux reports twice what it grants.
    let share = if cfg!(target_os = "linux") { 2 } else { 1 };
    let granted = socket.recv_buffer_size()?.min(socket.send_buffer_size()?) / share;
    Ok((socket.into(), granted))
}

/// Says how to get the buffers that were refused.
pub(super) fn warn_of_buffers(granted: usize) {
    if granted < SOCKET_BYTES {
        tracing::warn!(
            granted,
            wanted = SOCKET_BYTES,
            "UDP socket buffers are small, so windows are; run: \
             sysctl -w net.core.rmem_max={SOCKET_BYTES} net.core.wmem_max={SOCKET_BYTES}"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_that_would_vanish_are_refused() {
        assert!(Mtu::INTERNET.check().is_ok());
        assert!(Mtu::JUMBO.check().is_ok());
        for mtu in [Mtu { initial: 1199, ..Mtu::INTERNET }, Mtu { initial: 8900, ..Mtu::JUMBO }] {
            assert!(mtu.check().is_err(), "{mtu:?}");
        }
        assert!(Mtu { initial: 8900, discover: false, offload: false }.check().is_ok());
    }
}
