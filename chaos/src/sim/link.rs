//! Client connections: links in memory with a delay, cut when the node dies or the client is partitioned from it.

use futures_util::future::BoxFuture;
use highwater::{
    client::Dialer,
    types::NodeId,
    wire::{Connection, Frame, Gate, Link, LinkClosed, LinkReceiver, LinkSender, MemoryConnection},
};
use std::{
    cell::RefCell,
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// Makes a connection to a node that lives, or says why not.
pub(super) type Door = Box<dyn Fn() -> Result<MemoryConnection, LinkClosed>>;

thread_local! {
    /// Doors of the world that runs on this thread: dialers must be `Send`, nodes are not.
    static DOORS: RefCell<BTreeMap<u32, Door>> = const { RefCell::new(BTreeMap::new()) };
}

/// Opens or shuts the way into a node.
pub(super) fn set_door(node: u32, door: Option<Door>) {
    DOORS.with_borrow_mut(|doors| match door {
        Some(door) => drop(doors.insert(node, door)),
        None => drop(doors.remove(&node)),
    });
}

/// To which node, and the connection.
type Dialled = (u32, Arc<SimConnection>);

/// One client's way to the nodes.
#[derive(Clone, Default)]
pub(super) struct SimDialer {
    open: Arc<Mutex<Vec<Dialled>>>,
    delay: Duration,
    /// Until then no node is reached.
    deaf_until: Arc<Mutex<Option<tokio::time::Instant>>>,
}

impl SimDialer {
    pub(super) fn new(delay: Duration) -> Self {
        Self { open: Arc::default(), delay, deaf_until: Arc::default() }
    }

    /// Cuts the client off from all nodes for a while.
    pub(super) fn deafen(&self, time: Duration) {
        *self.deaf_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(tokio::time::Instant::now() + time);
        let open = std::mem::take(&mut *self.open.lock().unwrap_or_else(PoisonError::into_inner));
        open.iter().for_each(|(_, connection)| connection.inner.close("cut off"));
    }

    /// Breaks all connections to a node.
    pub(super) fn cut(&self, node: u32) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|(to, connection)| {
            if *to == node {
                connection.inner.close("cut");
            }
            *to != node
        });
    }
}

impl Dialer for SimDialer {
    fn dial(&self, node: Option<NodeId>, address: &str) -> BoxFuture<'static, Result<Arc<dyn Connection>, LinkClosed>> {
        let to = node.map(|node| node.0).or_else(|| address.strip_prefix("node-").and_then(|n| n.parse().ok()));
        let this = self.clone();
        Box::pin(async move {
            tokio::time::sleep(this.delay).await;
            let to = to.ok_or_else(|| LinkClosed("no such node".into()))?;
            let deaf_until = *this.deaf_until.lock().unwrap_or_else(PoisonError::into_inner);
            if deaf_until.is_some_and(|until| tokio::time::Instant::now() < until) {
                return Err(LinkClosed("cut off".into()));
            }
            let inner = DOORS.with_borrow(|doors| match doors.get(&to) {
                Some(door) => door(),
                None => Err(LinkClosed(format!("node {to} is down"))),
            })?;
            let connection = Arc::new(SimConnection { inner, delay: this.delay });
            this.open.lock().unwrap_or_else(PoisonError::into_inner).push((to, connection.clone()));
            Ok(connection as Arc<dyn Connection>)
        })
    }
}

struct SimConnection {
    inner: MemoryConnection,
    delay: Duration,
}

impl Connection for SimConnection {
    fn open(&self) -> BoxFuture<'_, Result<Link, LinkClosed>> {
        Box::pin(async move {
            let link = self.inner.open().await?;
            Ok(Link {
                sender: Box::new(Late { inner: link.sender, delay: self.delay }),
                receiver: Box::new(Late { inner: link.receiver, delay: self.delay }),
            })
        })
    }

    fn accept(&self) -> BoxFuture<'_, Result<Link, LinkClosed>> {
        self.inner.accept()
    }

    fn close(&self, reason: &str) {
        self.inner.close(reason);
    }
}

struct Late<T: ?Sized> {
    delay: Duration,
    inner: Box<T>,
}

impl LinkSender for Late<dyn LinkSender> {
    fn send(&mut self, frames: Vec<Frame>) -> BoxFuture<'_, Result<(), LinkClosed>> {
        Box::pin(async move {
            tokio::time::sleep(self.delay).await;
            self.inner.send(frames).await
        })
    }
}

impl LinkReceiver for Late<dyn LinkReceiver> {
    fn receive(&mut self) -> BoxFuture<'_, Result<Frame, LinkClosed>> {
        self.inner.receive()
    }

    fn set_gate(&mut self, gate: Gate) {
        self.inner.set_gate(gate);
    }
}
