//! Client connections: links in memory with a delay, cut when the node dies or the client is partitioned from it.

use crate::{
    client::Dialer,
    types::NodeId,
    wire::{Connection, Frame, Gate, Link, LinkClosed, LinkReceiver, LinkSender, MemoryConnection},
};
use futures_util::future::BoxFuture;
use std::{
    cell::RefCell,
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::time::Instant;

/// Frames of one link that are on their way to a client at most; what comes behind them waits at the node.
const UNDER_WAY_MAX: usize = 1_024;

/// Makes a connection to a node that lives, or says why not.
pub type Door = Box<dyn Fn() -> Result<MemoryConnection, LinkClosed>>;

thread_local! {
    /// Doors of the world that runs on this thread: dialers must be `Send`, nodes are not.
    static DOORS: RefCell<BTreeMap<u32, Door>> = const { RefCell::new(BTreeMap::new()) };
}

/// Opens or shuts the way into a node.
pub fn set_door(node: u32, door: Option<Door>) {
    DOORS.with_borrow_mut(|doors| match door {
        Some(door) => drop(doors.insert(node, door)),
        None => drop(doors.remove(&node)),
    });
}

/// To which node, and the connection.
type Dialled = (u32, Arc<SimConnection>);

/// One client's way to the nodes.
#[derive(Clone, Default)]
pub struct SimDialer {
    open: Arc<Mutex<Vec<Dialled>>>,
    delay: Duration,
    /// Until then no node is reached.
    deaf_until: Arc<Mutex<Option<Instant>>>,
}

impl SimDialer {
    /// Each frame takes `delay`, each way, and so does a dial.
    pub fn new(delay: Duration) -> Self {
        Self { open: Arc::default(), delay, deaf_until: Arc::default() }
    }

    /// Cuts the client off from all nodes for a while. What is on its way to it is lost.
    pub fn deafen(&self, time: Duration) {
        *self.deaf_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + time);
        let open = std::mem::take(&mut *self.open.lock().unwrap_or_else(PoisonError::into_inner));
        open.iter().for_each(|(_, connection)| connection.cut("cut off"));
    }

    /// Breaks all connections to a node. What is on its way from there is lost.
    pub fn cut(&self, node: u32) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|(to, connection)| {
            if *to == node {
                connection.cut("cut");
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
            if deaf_until.is_some_and(|until| Instant::now() < until) {
                return Err(LinkClosed("cut off".into()));
            }
            let inner = DOORS.with_borrow(|doors| match doors.get(&to) {
                Some(door) => door(),
                None => Err(LinkClosed(format!("node {to} is down"))),
            })?;
            let connection = Arc::new(SimConnection { inner, delay: this.delay, cut: Arc::default() });
            this.open.lock().unwrap_or_else(PoisonError::into_inner).push((to, connection.clone()));
            Ok(connection as Arc<dyn Connection>)
        })
    }
}

struct SimConnection {
    inner: MemoryConnection,
    delay: Duration,
    cut: Arc<AtomicBool>,
}

impl SimConnection {
    /// Ends it, and with it what is on its way to the client.
    fn cut(&self, why: &str) {
        self.cut.store(true, Relaxed);
        self.inner.close(why);
    }
}

impl Connection for SimConnection {
    fn open(&self) -> BoxFuture<'_, Result<Link, LinkClosed>> {
        Box::pin(async move {
            let Link { sender, receiver } = self.inner.open().await?;
            let (delay, cut) = (self.delay, self.cut.clone());
            let (under_way, ended) = (VecDeque::new(), None);
            Ok(Link {
                sender: Box::new(LateSender { inner: sender, delay }),
                receiver: Box::new(LateReceiver { inner: receiver, delay, cut, under_way, ended }),
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

struct LateSender {
    inner: Box<dyn LinkSender>,
    delay: Duration,
}

impl LinkSender for LateSender {
    fn send(&mut self, frames: Vec<Frame>) -> BoxFuture<'_, Result<(), LinkClosed>> {
        Box::pin(async move {
            tokio::time::sleep(self.delay).await;
            self.inner.send(frames).await
        })
    }
}

/// A frame arrives `delay` after it was taken from the node's end: if the client waits for one, that is when it was sent.
/// Frames that are sent together arrive together.
struct LateReceiver {
    inner: Box<dyn LinkReceiver>,
    delay: Duration,
    cut: Arc<AtomicBool>,
    /// In their order, with the instants at which they arrive.
    under_way: VecDeque<(Instant, Frame)>,
    /// Why nothing comes behind them.
    ended: Option<LinkClosed>,
}

impl LateReceiver {
    async fn next(&mut self) -> Result<Frame, LinkClosed> {
        loop {
            if self.cut.load(Relaxed) {
                self.under_way.clear();
            }
            let arrives = self.under_way.front().map(|(at, _)| *at);
            if let (None, Some(ended)) = (arrives, &self.ended) {
                return Err(ended.clone());
            }
            let takes_more = self.ended.is_none() && self.under_way.len() < UNDER_WAY_MAX;
            // May be dropped while it waits: a frame that was taken stays under way until it is given.
            tokio::select! {
                biased;
                taken = self.inner.receive(), if takes_more => match taken {
                    Ok(frame) => self.under_way.push_back((Instant::now() + self.delay, frame)),
                    Err(ended) => self.ended = Some(ended),
                },
                () = tokio::time::sleep_until(arrives.unwrap_or_else(Instant::now)), if arrives.is_some() => {
                    if let Some((_, frame)) = self.under_way.pop_front() {
                        return Ok(frame);
                    }
                }
            }
        }
    }
}

impl LinkReceiver for LateReceiver {
    fn receive(&mut self) -> BoxFuture<'_, Result<Frame, LinkClosed>> {
        Box::pin(self.next())
    }

    /// Not asked about what is under way already.
    fn set_gate(&mut self, gate: Gate) {
        self.inner.set_gate(gate);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Done, memory_connection};
    use tokio::time::timeout;

    const DELAY: Duration = Duration::from_millis(10);
    const SHORT: Duration = Duration::from_millis(3);

    fn frame(n: u32) -> Frame {
        Frame::new(n, Done {})
    }

    /// A client's connection and the node's, then the client's end of a link and the node's.
    async fn linked() -> (SimConnection, MemoryConnection, Link, Link) {
        let (inner, node) = memory_connection();
        let client = SimConnection { inner, delay: DELAY, cut: Arc::default() };
        let link = client.open().await.unwrap();
        let at_node = node.accept().await.unwrap();
        (client, node, link, at_node)
    }

    fn took_one_delay(begun: Instant) -> bool {
        (DELAY..2 * DELAY).contains(&begun.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn frames_take_their_time_each_way_and_do_not_wait_for_each_other() {
        let (_client, _node, mut link, mut at_node) = linked().await;
        let begun = Instant::now();
        link.sender.send(vec![frame(1)]).await.unwrap();
        assert_eq!(at_node.receiver.receive().await.unwrap(), frame(1));
        assert!(took_one_delay(begun), "to the node: {:?}", begun.elapsed());

        let begun = Instant::now();
        at_node.sender.send((0..40).map(frame).collect()).await.unwrap();
        for n in 0..40 {
            assert_eq!(link.receiver.receive().await.unwrap(), frame(n));
            assert!(took_one_delay(begun), "frame {n} to the client: {:?}", begun.elapsed());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_receive_that_is_dropped_loses_nothing_and_delays_nothing() {
        let (_client, _node, mut link, mut at_node) = linked().await;
        let begun = Instant::now();
        at_node.sender.send(vec![frame(1)]).await.unwrap();
        for _ in 0..3 {
            timeout(SHORT, link.receiver.receive()).await.expect_err("it is under way");
        }
        let second = Instant::now();
        at_node.sender.send(vec![frame(2)]).await.unwrap();
        drop(at_node);
        assert_eq!(link.receiver.receive().await.unwrap(), frame(1));
        assert!(took_one_delay(begun), "{:?}", begun.elapsed());
        assert_eq!(link.receiver.receive().await.unwrap(), frame(2));
        assert!(took_one_delay(second), "{:?}", second.elapsed());
        link.receiver.receive().await.expect_err("the end comes behind all frames");
    }

    #[tokio::test(start_paused = true)]
    async fn a_cut_takes_what_is_under_way() {
        let (client, _node, mut link, mut at_node) = linked().await;
        at_node.sender.send(vec![frame(1)]).await.unwrap();
        timeout(SHORT, link.receiver.receive()).await.expect_err("it is under way");
        client.cut("cut off");
        assert_eq!(link.receiver.receive().await.unwrap_err().0, "cut off");
    }
}
