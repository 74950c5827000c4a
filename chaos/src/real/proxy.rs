//! What lies between real nodes: a UDP proxy before each port that nodes reach each other by, and where a scenario wants it before
//! those that clients come to.
//!
//! ```text
//!   node 1 ──▶ proxy of 2 ──▶ node 2          rule (1, 2)
//!   node 1 ◀── proxy of 2 ◀── node 2          rule (2, 1)
//! ```
//! Nodes dial from the ports that they listen on: the source address says who sends; any other is a client's. No rights are
//! needed.

use super::net::{CLIENTS, Rules};
use highwater_raft::env::Env;
use std::{cell::RefCell, collections::BTreeMap, io, net::SocketAddr, rc::Rc, time::Duration};
use tokio::net::UdpSocket;

/// The largest datagram.
const DATAGRAM: usize = 65_536;

/// All proxies of a cluster. Clones share.
#[derive(Clone)]
pub(super) struct Proxies(Rc<Shared>);

struct Shared {
    rules: RefCell<Rules>,
    /// Which node has a port.
    nodes: RefCell<BTreeMap<SocketAddr, u32>>,
    env: Env,
    dropped: RefCell<u64>,
}

impl Proxies {
    pub(super) fn new() -> Self {
        let (rules, nodes, dropped) = Default::default();
        Self(Rc::new(Shared { rules, nodes, env: Env::real(), dropped }))
    }

    /// Listens at `front` for what is meant for `node` at `back`.
    pub(super) async fn open(&self, node: u32, front: SocketAddr, back: SocketAddr) -> io::Result<()> {
        let socket = Rc::new(UdpSocket::bind(front).await?);
        self.0.nodes.borrow_mut().insert(back, node);
        tokio::task::spawn_local(self.clone().forward(node, socket, back));
        Ok(())
    }

    /// These rules instead of all that were there.
    pub(super) fn set(&self, rules: Rules) {
        *self.0.rules.borrow_mut() = rules;
    }

    /// Datagrams that went nowhere.
    pub(super) fn dropped(&self) -> u64 {
        *self.0.dropped.borrow()
    }

    async fn forward(self, node: u32, front: Rc<UdpSocket>, back: SocketAddr) {
        let mut ways: BTreeMap<SocketAddr, Rc<UdpSocket>> = BTreeMap::new();
        let mut buffer = vec![0; DATAGRAM];
        loop {
            // An ICMP answer to an earlier datagram is told here: the node is down.
            let Ok((len, source)) = front.recv_from(&mut buffer).await else { continue };
            let from = self.0.nodes.borrow().get(&source).copied().unwrap_or(CLIENTS);
            let way = match ways.get(&source) {
                Some(way) => way.clone(),
                None => {
                    let Ok(way) = connected(back).await else { continue };
                    ways.insert(source, way.clone());
                    tokio::task::spawn_local(self.clone().back(way.clone(), front.clone(), (node, from), source));
                    way
                }
            };
            self.pass((from, node), way, None, &buffer[..len]).await;
        }
    }

    /// Answers of the node to one source.
    async fn back(self, way: Rc<UdpSocket>, front: Rc<UdpSocket>, direction: (u32, u32), source: SocketAddr) {
        let mut buffer = vec![0; DATAGRAM];
        loop {
            if let Ok(len) = way.recv(&mut buffer).await {
                self.pass(direction, front.clone(), Some(source), &buffer[..len]).await;
            }
        }
    }

    async fn pass(&self, direction: (u32, u32), by: Rc<UdpSocket>, to: Option<SocketAddr>, datagram: &[u8]) {
        let rule = self.0.rules.borrow().get(&direction).copied().unwrap_or_default();
        let hits = |percent: u32| percent > 0 && self.0.env.random_u64() % 100 < u64::from(percent);
        if rule.cut || hits(rule.loss) {
            *self.0.dropped.borrow_mut() += 1;
            return;
        }
        for _ in 0..if hits(rule.twice) { 2 } else { 1 } {
            let jitter = u64::try_from(rule.jitter.as_micros()).unwrap_or(0);
            let extra = Duration::from_micros(if jitter == 0 { 0 } else { self.0.env.random_u64() % jitter });
            let late = rule.delay + extra;
            if late.is_zero() {
                // What cannot be sent is lost, as datagrams are.
                let _ = send(&by, to, datagram).await;
            } else {
                let (by, datagram) = (by.clone(), datagram.to_vec());
                tokio::task::spawn_local(async move {
                    tokio::time::sleep(late).await;
                    let _ = send(&by, to, &datagram).await;
                });
            }
        }
    }
}

async fn connected(back: SocketAddr) -> io::Result<Rc<UdpSocket>> {
    let way = UdpSocket::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
    way.connect(back).await?;
    Ok(Rc::new(way))
}

async fn send(by: &UdpSocket, to: Option<SocketAddr>, datagram: &[u8]) -> io::Result<usize> {
    match to {
        Some(to) => by.send_to(datagram, to).await,
        None => by.send(datagram).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::real::net::cut;

    #[tokio::test]
    async fn each_direction_has_its_own_rule() {
        let local = tokio::task::LocalSet::new();
        local
            .run_until(async {
                let proxies = Proxies::new();
                let bind = || async { UdpSocket::bind("127.0.0.1:0").await.unwrap() };
                let (one, two) = (bind().await, bind().await);
                let front = bind().await.local_addr().unwrap();
                let nowhere = bind().await.local_addr().unwrap();
                proxies.open(2, front, two.local_addr().unwrap()).await.unwrap();
                proxies.open(1, nowhere, one.local_addr().unwrap()).await.unwrap();
                let (mut buffer, short) = ([0; 16], Duration::from_millis(100));
                one.send_to(b"hello", front).await.unwrap();
                let (len, seen_as) = two.recv_from(&mut buffer).await.unwrap();
                assert_eq!(&buffer[..len], b"hello");
                two.send_to(b"yes", seen_as).await.unwrap();
                let (len, from) = one.recv_from(&mut buffer).await.unwrap();
                assert_eq!((&buffer[..len], from), (&b"yes"[..], front));

                proxies.set(cut(&[2], &[1]));
                one.send_to(b"again", front).await.unwrap();
                assert_eq!(two.recv_from(&mut buffer).await.unwrap().1, seen_as);
                two.send_to(b"lost", seen_as).await.unwrap();
                assert!(tokio::time::timeout(short, one.recv_from(&mut buffer)).await.is_err(), "the way back is cut");
                assert_eq!(proxies.dropped(), 1);
                proxies.set(Rules::new());
                two.send_to(b"there", seen_as).await.unwrap();
                assert_eq!(one.recv_from(&mut buffer).await.unwrap().0, 5);

                // Clients are cut off by themselves.
                let client = bind().await;
                proxies.set(cut(&[CLIENTS], &[2]));
                client.send_to(b"lost", front).await.unwrap();
                one.send_to(b"heard", front).await.unwrap();
                assert_eq!(two.recv_from(&mut buffer).await.unwrap(), (5, seen_as));
                assert_eq!(proxies.dropped(), 2);
            })
            .await;
    }
}
