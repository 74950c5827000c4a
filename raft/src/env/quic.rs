//! QUIC's share of the seam: sockets, timers, tasks and randomness of an endpoint.
//!
//! On a real node sockets and randomness are the operating system's. In simulation sockets come from whatever
//! [`Env::take_sockets_from`] was given, and all that quinn draws comes from the seed. What is left is random bytes inside of
//! TLS (keys, nonces, the order of extensions): they change the content of packets, never their number, length or time.

use super::{Env, Kind};
use quinn::{
    AsyncUdpSocket, ClientConfig, ConnectionId, ConnectionIdGenerator, Endpoint, EndpointConfig, ServerConfig,
};
use std::{
    fmt, io,
    net::{SocketAddr, UdpSocket},
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

/// Simulation: gives out UDP sockets.
pub trait Datagrams: Send + Sync + 'static {
    /// A socket of this host.
    ///
    /// # Errors
    /// When the address is taken or not the host's.
    fn bind(&self, address: SocketAddr) -> io::Result<Arc<dyn AsyncUdpSocket>>;
}

/// A bound UDP socket.
pub enum Socket {
    /// The operating system's, not driven by anything yet.
    Real(UdpSocket),
    /// A simulation's.
    Simulated(Arc<dyn AsyncUdpSocket>),
}

impl Socket {
    /// Where it is bound.
    ///
    /// # Errors
    /// As the system's.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Socket::Real(socket) => socket.local_addr(),
            Socket::Simulated(socket) => socket.local_addr(),
        }
    }
}

impl Env {
    /// Simulation: where UDP sockets come from; asked once per node.
    pub fn take_sockets_from(&self, datagrams: Arc<dyn Datagrams>) {
        if let Kind::Simulated { datagrams: place, .. } = &*self.0 {
            let _ = place.set(datagrams);
        }
    }

    /// Binds a socket: by `real`, which also tells the bytes that its buffers were granted, or in a simulation that has sockets,
    /// where nothing is refused.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub fn bind_udp(
        &self,
        address: SocketAddr,
        real: impl FnOnce(SocketAddr) -> io::Result<(UdpSocket, usize)>,
    ) -> io::Result<(Socket, usize)> {
        if let Kind::Simulated { datagrams, .. } = &*self.0
            && let Some(datagrams) = datagrams.get()
        {
            return Ok((Socket::Simulated(datagrams.bind(address)?), usize::MAX));
        }
        real(address).map(|(socket, granted)| (Socket::Real(socket), granted))
    }

    /// An endpoint on a socket, its tasks in this surroundings. Must be called on the thread that drives it.
    ///
    /// # Errors
    /// When the runtime does not take the socket.
    pub fn endpoint(
        &self,
        mut config: EndpointConfig,
        server: Option<ServerConfig>,
        socket: Socket,
    ) -> io::Result<Endpoint> {
        let runtime = Arc::new(EnvRuntime(self.clone()));
        if self.is_simulated() {
            let mut seed = [0; 32];
            seed.chunks_mut(16).for_each(|half| half.copy_from_slice(&self.random_bytes()));
            let env = self.clone();
            config.rng_seed(Some(seed)).cid_generator(move || Box::new(AnyId(env.clone())));
        }
        match socket {
            Socket::Real(socket) => Endpoint::new(config, server, socket, runtime),
            Socket::Simulated(socket) => Endpoint::new_with_abstract_socket(config, server, socket, runtime),
        }
    }

    /// Simulation: what a dialler draws comes from the seed too.
    pub fn seed_dialling(&self, config: &mut ClientConfig) {
        if self.is_simulated() {
            let env = self.clone();
            config.initial_dst_cid_provider(Arc::new(move || AnyId(env.clone()).generate_cid()));
        }
    }
}

/// Random connection ids of eight bytes.
pub struct AnyId(pub Env);

impl ConnectionIdGenerator for AnyId {
    fn generate_cid(&mut self) -> ConnectionId {
        ConnectionId::new(&self.0.random_u64().to_be_bytes())
    }

    fn cid_len(&self) -> usize {
        size_of::<u64>()
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// quinn's runtime: tokio's timers and sockets, tasks by [`Env`].
struct EnvRuntime(Env);

impl fmt::Debug for EnvRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EnvRuntime")
    }
}

impl quinn::Runtime for EnvRuntime {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn quinn::AsyncTimer>> {
        quinn::TokioRuntime.new_timer(at)
    }

    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        self.0.spawn(future);
    }

    fn wrap_udp_socket(&self, socket: UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        super::udp::wrap(socket)
    }

    fn now(&self) -> Instant {
        quinn::TokioRuntime.now()
    }
}
