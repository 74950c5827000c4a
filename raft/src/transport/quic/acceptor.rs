//! Lets peers in and reads what they send.

use super::{
    Shared,
    hello::{self, Close, Hello, VERSION, Welcome, explain, lane_of},
    link::{LaneLink, Link},
    outbox::Framer,
};
use crate::{
    NodeId,
    transport::{Lane, Peer, tls::named},
};
use futures_util::stream::{FuturesUnordered, StreamExt};
use quinn::{Connection, Endpoint, Incoming, RecvStream, rustls::pki_types::CertificateDer};
use std::{sync::Arc, time::Duration};
use tokio::time::timeout;

/// For the handshake, and again for HELLO.
const PATIENCE: Duration = Duration::from_secs(3);
/// Bytes read from a stream before others have their turn.
const READ_BYTES: usize = 256 << 10;

/// Accepts until the endpoint is closed.
pub(super) async fn run(shared: Arc<Shared>, endpoint: Endpoint, control: bool) {
    while let Some(incoming) = endpoint.accept().await {
        let visit = visit(shared.clone(), incoming, control);
        shared.env.spawn(visit);
    }
}

async fn visit(shared: Arc<Shared>, incoming: Incoming, control: bool) {
    let remote = incoming.remote_address();
    let connection = match incoming.accept() {
        Ok(connecting) => timeout(PATIENCE, connecting).await,
        Err(error) => Ok(Err(error)),
    };
    let connection = match connection {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            // The dialler logs the reason, once; here a stranger could fill the log.
            tracing::debug!(%remote, "refused: {}", explain(&error));
            return;
        }
        Err(_) => return,
    };
    match greet(&shared, &connection, control).await {
        Ok(visitor) => visitor.stay(&shared).await,
        Err(close) => {
            tracing::debug!(%remote, "refused: {close}");
            close.close(&connection);
            // Until the peer has it.
            connection.closed().await;
        }
    }
}

/// A peer's connection whose HELLO was good.
struct Visitor {
    connection: Connection,
    link: Arc<Link>,
    lane: Lane,
    number: u64,
}

/// A panic in what the inbox calls must not leave a connection that nobody reads.
impl Drop for Visitor {
    fn drop(&mut self) {
        if std::thread::panicking() {
            Close::Broken { what: "this node failed on a message" }.close(&self.connection);
        }
    }
}

async fn greet(shared: &Arc<Shared>, connection: &Connection, control: bool) -> Result<Visitor, Close> {
    let broken = Close::Broken { what: "HELLO" };
    let proved = identity(connection).ok_or(Close::Broken { what: "the certificate" })?;
    let streams = timeout(PATIENCE, connection.accept_bi()).await;
    let Ok(Ok((mut answer, mut stream))) = streams else { return Err(broken) };
    let said: Hello = timeout(PATIENCE, hello::read(&mut stream)).await.map_err(|_| broken.clone())??;
    let ours = &shared.options.identity;
    if said.version != VERSION {
        return Err(Close::Version { ours: VERSION, theirs: said.version });
    }
    if said.cluster != ours.cluster_name {
        return Err(Close::ClusterName { ours: ours.cluster_name.clone(), theirs: said.cluster });
    }
    if said.node != proved {
        return Err(Close::Node { said: said.node, proved });
    }
    if said.node == ours.node {
        return Err(Close::Itself { node: said.node });
    }
    shared.check_cluster_id(said.cluster_id)?;
    let lane = lane_of(said.lane).ok_or(broken)?;
    if control != (lane == Lane::Control) {
        return Err(Close::WrongPort { lane });
    }
    let peer = Peer { node: said.node, address: said.address, control_address: said.control_address };
    let link = shared.link_of_visitor(peer);
    link.end_other_lives(said.boot);
    let lane_link = link.lane(lane);
    let number = lane_link.inbound_stands(connection, said.boot, shared.inbox());
    if lane != Lane::Bulk && !lane_link.has_outbound() {
        lane_link.redial.notify_one();
    }
    let visitor = Visitor { connection: connection.clone(), link: link.clone(), lane, number };
    if link.is_stopped() {
        visitor.leave(shared);
        return Err(Close::Bye);
    }
    let welcome =
        Welcome { version: VERSION, cluster_id: shared.cluster_id(), node: ours.node, boot: shared.options.boot };
    if let Err(close) = hello::write(&mut answer, &welcome).await {
        visitor.leave(shared);
        return Err(close);
    }
    let _ = answer.finish();
    Ok(visitor)
}

impl Visitor {
    /// Reads all streams until the connection ends.
    async fn stay(self, shared: &Arc<Shared>) {
        let connection = &self.connection;
        let lane = self.link.lane(self.lane);
        let mut readers = FuturesUnordered::new();
        loop {
            tokio::select! {
                biased;
                stream = connection.accept_uni() => match stream {
                    Ok(stream) => readers.push(read(shared, lane, self.number, stream)),
                    Err(_) => break,
                },
                Some(Err(close)) = readers.next(), if !readers.is_empty() => {
                    close.close(connection);
                    break;
                }
            }
        }
        drop(readers);
        self.leave(shared);
    }

    fn leave(&self, shared: &Arc<Shared>) {
        self.link.lane(self.lane).inbound_lost(self.number, shared.inbox());
        shared.forget_guest(&self.link);
    }
}

/// Delivers a stream's messages. A stream that ends takes its connection along: no peer ends one.
async fn read(shared: &Arc<Shared>, lane: &LaneLink, number: u64, mut stream: RecvStream) -> Result<(), Close> {
    let mut framer = Framer::new(shared.options.message_max(lane.lane));
    let mut turn = 0;
    while let Ok(Some(chunk)) = stream.read_chunk(READ_BYTES, true).await {
        framer
            .feed(&chunk.bytes, |message| lane.deliver(number, message, shared.inbox()))
            .map_err(|_| Close::Broken { what: "a message's length" })?;
        turn += chunk.bytes.len();
        if turn >= READ_BYTES {
            turn = 0;
            tokio::task::yield_now().await;
        }
    }
    Err(Close::Broken { what: "a stream that ended" })
}

/// The node that the peer's certificate names.
fn identity(connection: &Connection) -> Option<NodeId> {
    let chain = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    named(chain.first()?).map(|(_, node)| node)
}
