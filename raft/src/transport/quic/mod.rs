//! The network over QUIC.
//!
//! Each node dials each peer: a control, a data and (when first used) a bulk connection, and sends on what it dialled only.
//! Two UDP sockets: control on a thread of its own, so that a busy arbiter never silences the failure detector; data and
//! bulk on the runtime of the caller.
//!
//! ```text
//!  send ─▶ outbox (bytes bounded) ─▶ writer per stream: 1 control │ 4 data │ 1 bulk ─▶ QUIC ─▶ reader ─▶ inbox
//! ```
//!
//! **Invariant:** HELLO is the first message of a connection, and its node is the one that the certificate proves; every
//! message's sender is the connection's identity.
//! **Invariant:** the messages of a `(peer, lane, key)` go over one stream, in order; a lost connection is reported (`down`)
//! on both sides before a later one delivers.
//! A node that is not listed but proves to be of the cluster may say HELLO (it joins): it is dialled back where its HELLO
//! says, for as long as it stays.

mod acceptor;
mod config;
mod dialler;
mod hello;
mod link;
mod outbox;

pub use config::Mtu;

use super::{
    Inbox, Lane, Network, Peer, SendError,
    tls::{Credentials, Identity, IdentityError},
};
use crate::{
    BootId, NodeId, Payload,
    env::{Env, Socket},
};
use arc_swap::ArcSwap;
use config::Profile;
use hello::Close;
use link::Link;
use quinn::{Endpoint, VarInt};
use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, OnceLock, PoisonError, atomic::Ordering::Relaxed},
    time::Duration,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::timeout,
};

/// How a node's network is started.
#[derive(Clone, Debug)]
pub struct Options {
    /// Who this node is.
    pub identity: Identity,
    /// This life of it.
    pub boot: BootId,
    /// The cluster's id where it is known already.
    pub cluster_id: Option<[u8; 16]>,
    /// Where data and bulk connections come in.
    pub address: SocketAddr,
    /// Where control connections come in.
    pub control_address: SocketAddr,
    /// `host:port` of both for peers that do not know this node; `None` = the addresses above.
    pub advertised: Option<(String, String)>,
    /// Bytes that may wait per peer and lane.
    pub waiting_max: usize,
    /// Bytes of one message, but on the bulk lane.
    pub message_max: usize,
    /// Bytes of one message of the bulk lane: a checkpoint goes as a whole. What arrives takes memory only as it comes.
    pub bulk_message_max: usize,
    /// Bytes per second to one peer on the bulk lane.
    pub bulk_rate: u64,
    /// Packets to other machines.
    pub mtu: Mtu,
    /// Packets to loopback addresses.
    pub mtu_loopback: Mtu,
}

impl Options {
    /// The usual limits.
    pub fn new(identity: Identity, boot: BootId, address: SocketAddr, control_address: SocketAddr) -> Self {
        Options {
            identity,
            boot,
            cluster_id: None,
            address,
            control_address,
            advertised: None,
            waiting_max: 64 << 20,
            message_max: 32 << 20,
            bulk_message_max: 1 << 30,
            bulk_rate: 200 << 20,
            mtu: Mtu::INTERNET,
            mtu_loopback: Mtu::JUMBO,
        }
    }

    fn message_max(&self, lane: Lane) -> usize {
        if lane == Lane::Bulk { self.bulk_message_max } else { self.message_max }
    }
}

/// Why a network does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The identity is not usable.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// An address cannot be bound.
    #[error("cannot listen on {address}/udp: {error}")]
    Bind {
        /// Which.
        address: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// Packets of this size would be lost silently.
    #[error("MTU {mtu}: {why}")]
    Mtu {
        /// As configured.
        mtu: u16,
        /// What would happen.
        why: &'static str,
    },
    /// QUIC refuses the TLS settings.
    #[error("QUIC cannot be set up: {0}")]
    Tls(String),
    /// The control thread does not start.
    #[error("cannot start the control thread: {0}")]
    Thread(io::Error),
}

/// Streams that a lane's messages are spread over.
fn stream_count(lane: Lane) -> usize {
    match lane {
        Lane::Data => 2,
        Lane::Control | Lane::Bulk => 1,
    }
}

/// Why a lane to a peer is not connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// Who.
    pub node: NodeId,
    /// Which lane.
    pub lane: Lane,
    /// For a person.
    pub why: String,
}

/// A node's QUIC endpoints. Dropping it stops them without waiting; see [`QuicNetwork::shutdown`].
pub struct QuicNetwork {
    shared: Arc<Shared>,
    local: (SocketAddr, SocketAddr),
    stop: watch::Sender<bool>,
    running: Mutex<Option<mpsc::Receiver<()>>>,
}

struct Shared {
    options: Options,
    credentials: Credentials,
    env: Env,
    advertised: Peer,
    cluster_id: OnceLock<[u8; 16]>,
    inbox: OnceLock<Arc<dyn Inbox>>,
    links: ArcSwap<BTreeMap<NodeId, Arc<Link>>>,
    /// Serialises changes of `links`, and tells the endpoints of new ones (a handful per change of the cluster).
    endpoints: Mutex<Vec<mpsc::UnboundedSender<Arc<Link>>>>,
}

impl QuicNetwork {
    /// Binds both sockets; connections are made and taken once inbox and peers are set.
    pub async fn start(options: Options, env: Env) -> Result<Arc<QuicNetwork>, StartError> {
        let credentials = options.identity.credentials(&env)?;
        let bound = |address| env.bind_udp(address, config::bind).map_err(|error| StartError::Bind { address, error });
        let (data_socket, granted) = bound(options.address)?;
        let (control_socket, _) = bound(options.control_address)?;
        config::warn_of_buffers(granted);
        let profile = Arc::new(Profile::new(&options, granted)?);
        let local_of =
            |socket: &Socket, address| socket.local_addr().map_err(|error| StartError::Bind { address, error });
        let local = (local_of(&data_socket, options.address)?, local_of(&control_socket, options.control_address)?);
        let (address, control_address) =
            options.advertised.clone().unwrap_or_else(|| (local.0.to_string(), local.1.to_string()));
        let advertised = Peer { node: options.identity.node, address, control_address };
        let cluster_id = OnceLock::new();
        if let Some(id) = options.cluster_id {
            let _ = cluster_id.set(id);
        }

        let (to_data, data_links) = mpsc::unbounded_channel();
        let (to_control, control_links) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            options,
            credentials,
            env: env.clone(),
            advertised,
            cluster_id,
            inbox: OnceLock::new(),
            links: ArcSwap::default(),
            endpoints: Mutex::new(vec![to_data, to_control]),
        });
        let stop = watch::Sender::new(false);
        let (running, ended) = mpsc::channel(1);
        let endpoint = |control| Running {
            shared: shared.clone(),
            profile: profile.clone(),
            control,
            stop: stop.subscribe(),
            _running: running.clone(),
        };
        let quic = endpoint(false).listen(data_socket)?;
        env.spawn(endpoint(false).run(quic, data_links));
        let control = endpoint(true);
        let (listens, listening) = oneshot::channel();
        env.spawn_socket_thread("highwater-control", move || {
            Box::pin(async move {
                match control.listen(control_socket) {
                    Ok(quic) => {
                        let _ = listens.send(Ok(()));
                        control.run(quic, control_links).await;
                    }
                    Err(error) => drop(listens.send(Err(error))),
                }
            })
        })
        .map_err(StartError::Thread)?;
        listening.await.unwrap_or_else(|_| Err(StartError::Thread(io::Error::other("it ended at once"))))?;
        Ok(Arc::new(QuicNetwork { shared, local, stop, running: Mutex::new(Some(ended)) }))
    }

    /// The bound addresses: data and bulk, control.
    pub fn local_addresses(&self) -> (SocketAddr, SocketAddr) {
        self.local
    }

    /// The cluster's id once it is minted or learned; compared in each HELLO from then on. A second one is ignored.
    pub fn set_cluster_id(&self, id: [u8; 16]) {
        let _ = self.shared.cluster_id.set(id);
    }

    /// Which lanes are not connected, and why.
    pub fn troubles(&self) -> Vec<Trouble> {
        let links = self.shared.links.load();
        let all = links.values().flat_map(|link| Lane::ALL.map(|lane| (link, lane)));
        all.filter_map(|(link, lane)| {
            let why = link.lane(lane).trouble()?;
            Some(Trouble { node: link.node, lane, why })
        })
        .collect()
    }

    /// Says goodbye to all peers and waits, a second at most, until both endpoints are closed.
    pub async fn shutdown(&self) {
        self.stop.send_replace(true);
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut running) = running {
            let _ = timeout(Duration::from_secs(2), running.recv()).await;
        }
    }
}

impl Drop for QuicNetwork {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

impl Network for QuicNetwork {
    fn send(&self, to: NodeId, lane: Lane, key: u64, message: Payload) -> Result<(), SendError> {
        match self.shared.links.load().get(&to) {
            Some(link) => link.lane(lane).outbox.push(key, message),
            None => Err(SendError::UnknownPeer { node: to }),
        }
    }

    fn set_peers(&self, peers: Vec<Peer>) {
        self.shared.set_peers(&peers);
    }

    fn set_inbox(&self, inbox: Arc<dyn Inbox>) {
        let _ = self.shared.inbox.set(inbox);
    }

    fn disconnect(&self, peer: NodeId, lane: Lane) {
        if let Some(link) = self.shared.links.load().get(&peer) {
            link.lane(lane).end(&Close::Suspected);
        }
    }
}

/// In place of an inbox that was never set.
struct Deaf;

impl Inbox for Deaf {
    fn message(&self, _: NodeId, _: BootId, _: Lane, _: Payload) {}
    fn up(&self, _: NodeId, _: BootId, _: Lane) {}
    fn down(&self, _: NodeId, _: Lane) {}
}

impl Shared {
    fn inbox(&self) -> &dyn Inbox {
        self.inbox.get().map_or(&Deaf, |inbox| &**inbox)
    }

    fn cluster_id(&self) -> Option<[u8; 16]> {
        self.cluster_id.get().copied()
    }

    fn check_cluster_id(&self, theirs: Option<[u8; 16]>) -> Result<(), Close> {
        match (self.cluster_id(), theirs) {
            (Some(ours), Some(theirs)) if ours != theirs => Err(Close::ClusterId),
            _ => Ok(()),
        }
    }

    fn set_peers(&self, peers: &[Peer]) {
        let endpoints = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.links.load_full();
        let mut links: BTreeMap<_, _> =
            before.iter().filter(|(_, link)| link.guest.load(Relaxed)).map(|(n, l)| (*n, l.clone())).collect();
        let mut new = Vec::new();
        for peer in peers.iter().filter(|peer| peer.node != self.options.identity.node) {
            let link = before.get(&peer.node).cloned().unwrap_or_else(|| {
                let link = Link::new(peer.clone(), false, self);
                new.push(link.clone());
                link
            });
            link.list(peer);
            links.insert(peer.node, link);
        }
        let gone: Vec<_> = before.values().filter(|link| !links.contains_key(&link.node)).cloned().collect();
        self.links.store(Arc::new(links));
        gone.iter().for_each(|link| link.stop());
        begin(&endpoints, new);
    }

    /// The link of one who said HELLO; a new one if it is not listed.
    fn link_of_visitor(&self, peer: Peer) -> Arc<Link> {
        let endpoints = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.links.load_full();
        if let Some(link) = before.get(&peer.node) {
            return link.clone();
        }
        let link = Link::new(peer, true, self);
        let mut links = BTreeMap::clone(&before);
        links.insert(link.node, link.clone());
        self.links.store(Arc::new(links));
        begin(&endpoints, vec![link.clone()]);
        link
    }

    /// A guest that has left is not dialled any more.
    fn forget_guest(&self, link: &Arc<Link>) {
        let _endpoints = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        if !link.guest.load(Relaxed) || link.is_visited() {
            return;
        }
        let mut links = BTreeMap::clone(&self.links.load());
        if links.get(&link.node).is_some_and(|current| Arc::ptr_eq(current, link)) {
            links.remove(&link.node);
            self.links.store(Arc::new(links));
            link.stop();
        }
    }
}

fn begin(endpoints: &[mpsc::UnboundedSender<Arc<Link>>], links: Vec<Arc<Link>>) {
    for link in links {
        endpoints.iter().for_each(|endpoint| drop(endpoint.send(link.clone())));
    }
}

/// One endpoint on its thread.
struct Running {
    shared: Arc<Shared>,
    profile: Arc<Profile>,
    control: bool,
    stop: watch::Receiver<bool>,
    /// Dropped when the endpoint is closed.
    _running: mpsc::Sender<()>,
}

impl Running {
    fn listen(&self, socket: Socket) -> Result<Endpoint, StartError> {
        let address = if self.control { self.shared.options.control_address } else { self.shared.options.address };
        let server = self.profile.server(&self.shared.credentials, address)?;
        let listening = self.shared.env.endpoint(self.profile.endpoint()?, Some(server), socket);
        listening.map_err(|error| StartError::Bind { address, error })
    }

    async fn run(mut self, quic: Endpoint, mut links: mpsc::UnboundedReceiver<Arc<Link>>) {
        let env = &self.shared.env;
        env.spawn(acceptor::run(self.shared.clone(), quic.clone(), self.control));
        let lanes: &[Lane] = if self.control { &[Lane::Control] } else { &[Lane::Data, Lane::Bulk] };
        loop {
            let link = tokio::select! {
                biased;
                _ = self.stop.wait_for(|stop| *stop) => break,
                Some(link) = links.recv() => link,
            };
            for lane in lanes {
                let (shared, profile) = (self.shared.clone(), self.profile.clone());
                env.spawn(dialler::run(shared, quic.clone(), profile, link.clone(), *lane));
            }
        }
        self.shared.links.load().values().for_each(|link| link.stop());
        quic.close(VarInt::from_u32(0), Close::Bye.to_string().as_bytes());
        let _ = timeout(Duration::from_secs(1), quic.wait_idle()).await;
    }
}

#[cfg(test)]
mod tests;

/// The fuzz target of what comes over a connection: the first words, and the lengths of messages. Promises: words that
/// decode encode to the same; messages come out whole, no longer than allowed, however the bytes are cut.
#[cfg(feature = "testing")]
pub(crate) fn fuzz(data: &[u8]) {
    const MESSAGE_MAX: usize = 1 << 20;
    let Some((cut, stream)) = data.split_first() else { return };
    if let Some(said) = hello::decode::<hello::Hello>(stream) {
        let again = rmp_serde::to_vec_named(&said).expect("plain values in memory always encode");
        assert_eq!(rmp_serde::from_slice::<hello::Hello>(&again).expect("what was encoded decodes"), said);
        let _ = hello::lane_of(said.lane);
    }
    if let Some(said) = hello::decode::<hello::Welcome>(stream) {
        let again = rmp_serde::to_vec_named(&said).expect("plain values in memory always encode");
        assert_eq!(rmp_serde::from_slice::<hello::Welcome>(&again).expect("what was encoded decodes"), said);
    }
    let framed = |step: usize| {
        let (mut framer, mut out) = (outbox::Framer::new(MESSAGE_MAX), Vec::new());
        let ended = stream.chunks(step.max(1)).try_for_each(|came| framer.feed(came, |message| out.push(message)));
        (out, ended.is_err())
    };
    let (messages, refused) = framed(stream.len());
    assert!(messages.iter().map(|message| message.len() + 4).sum::<usize>() <= stream.len());
    assert_eq!(framed(usize::from(*cut)), (messages, refused));
}

/// Inputs to begin with.
#[cfg(feature = "testing")]
pub(crate) fn fuzz_seeds() -> Vec<Vec<u8>> {
    let said = hello::Hello {
        version: hello::VERSION,
        cluster: "prod".into(),
        cluster_id: Some([7; 16]),
        node: NodeId(2),
        boot: BootId(99),
        lane: 1,
        address: "host:7421".into(),
        control_address: "host:7422".into(),
    };
    let answer = hello::Welcome { version: hello::VERSION, cluster_id: None, node: NodeId(1), boot: BootId(5) };
    let encoded = [rmp_serde::to_vec_named(&said), rmp_serde::to_vec_named(&answer)];
    let words = encoded.map(|bytes| bytes.expect("plain values in memory always encode"));
    let framed = b"\x03\0\0\0abc\0\0\0\0\x01\0\0\0x".to_vec();
    words.into_iter().chain([framed]).map(|bytes| [&[5], &bytes[..]].concat()).collect()
}
