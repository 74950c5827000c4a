//! Keeps one lane to one peer connected and writes what waits for it.

use super::{
    Shared,
    config::Profile,
    hello::{self, Close, Hello, VERSION, Welcome, explain, lane_number},
    link::{LaneLink, Link},
    stream_count,
};
use crate::transport::{Lane, tls::dns_name};
use futures_util::future::join_all;
use quinn::{Connection, Endpoint, VarInt};
use std::{net::SocketAddr, pin::pin, sync::Arc, time::Duration};
use tokio::time::{Instant, sleep, sleep_until, timeout};

const BACKOFF_MIN: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// For the handshake, and again for HELLO's answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// An attempt that takes longer goes nowhere, perhaps.
const SLOW: Duration = Duration::from_millis(250);

/// Dials, says HELLO, writes; begins anew until the link is stopped.
pub(super) async fn run(shared: Arc<Shared>, endpoint: Endpoint, profile: Arc<Profile>, link: Arc<Link>, lane: Lane) {
    let mut stopped = link.stopped();
    let dialler = Dialler { shared, endpoint, profile, link, lane };
    tokio::select! {
        biased;
        _ = stopped.wait_for(|stopped| *stopped) => {}
        () = dialler.keep_connected() => {}
    }
    dialler.lane().end(&Close::Bye);
    dialler.lane().outbound_lost(dialler.shared.inbox());
}

struct Dialler {
    shared: Arc<Shared>,
    endpoint: Endpoint,
    profile: Arc<Profile>,
    link: Arc<Link>,
    lane: Lane,
}

impl Dialler {
    fn lane(&self) -> &LaneLink {
        self.link.lane(self.lane)
    }

    async fn keep_connected(&self) {
        let mut backoff = BACKOFF_MIN;
        loop {
            if self.lane == Lane::Bulk && self.lane().outbox.waiting() == 0 {
                self.lane().outbox.wanted.notified().await;
                continue;
            }
            let begun = Instant::now();
            let ended = self.session().await;
            self.lane().outbound_lost(self.shared.inbox());
            let Some(why) = ended else { continue };
            let (node, lane) = (self.link.node, self.lane);
            if self.lane().set_trouble(Some(why.clone())) {
                tracing::warn!(%node, %lane, "no connection: {why}");
            } else {
                tracing::debug!(%node, %lane, "no connection: {why}");
            }
            if begun.elapsed() > PATIENCE {
                backoff = BACKOFF_MIN;
            }
            let wait = backoff + Duration::from_millis(self.shared.env.random_below(20));
            backoff = (backoff * 2).min(BACKOFF_MAX);
            tokio::select! {
                biased;
                () = self.lane().redial.notified() => {}
                () = sleep(wait) => {}
            }
        }
    }

    /// One connection, from dialling to its end; says why it ended. `None`: to be dialled again at once.
    async fn session(&self) -> Option<String> {
        let slow = sleep(SLOW);
        let kicked = async {
            slow.await;
            self.lane().redial.notified().await;
        };
        let connection = tokio::select! {
            biased;
            connection = timeout(PATIENCE, self.connect()) => match connection {
                Ok(Ok(connection)) => connection,
                Ok(Err(why)) => return Some(why),
                Err(_) => return Some(format!("no answer from {}", self.link.address(self.lane))),
            },
            // The peer dialled us just now: an attempt that went nowhere so far may be at the end of its retransmissions.
            () = kicked => return None,
        };
        let talk = self.talk(&connection);
        let mut talk = pin!(talk);
        Some(tokio::select! {
            biased;
            // A lost connection's own reason is the one worth knowing.
            error = connection.closed() => explain(&error),
            ended = &mut talk => {
                ended.close(&connection);
                match connection.close_reason() {
                    Some(quinn::ConnectionError::LocallyClosed) | None => ended.to_string(),
                    Some(error) => explain(&error),
                }
            }
        })
    }

    async fn connect(&self) -> Result<Connection, String> {
        let address = self.link.address(self.lane);
        let remote = resolve(&address, &self.endpoint).await?;
        let mut config =
            self.profile.client(&self.shared.credentials, self.lane, remote).map_err(|error| error.to_string())?;
        self.shared.env.seed_dialling(&mut config);
        let name = dns_name(&self.shared.options.identity.cluster_name, self.link.node);
        let connecting =
            self.endpoint.connect_with(config, remote, &name).map_err(|error| format!("{address}: {error}"))?;
        connecting.await.map_err(|error| format!("{address}: {}", explain(&error)))
    }

    /// HELLO, then writing until something ends.
    async fn talk(&self, connection: &Connection) -> Close {
        let broken = Close::Broken { what: "HELLO" };
        let Ok((mut hello, mut answer)) = connection.open_bi().await else { return broken };
        if let Err(close) = hello::write(&mut hello, &self.hello()).await {
            return close;
        }
        self.lane().outbound_begins(connection);
        let welcome = async {
            let welcome = timeout(PATIENCE, hello::read::<Welcome>(&mut answer)).await;
            match welcome.map_err(|_| broken).and_then(|read| read).and_then(|welcome| self.check(welcome)) {
                Ok(welcome) => {
                    self.lane().set_trouble(None);
                    tracing::info!(node = %self.link.node, lane = %self.lane, boot = %welcome.boot, "connected");
                    self.lane().outbound_stands(welcome.boot, self.shared.inbox());
                    std::future::pending().await
                }
                Err(close) => close,
            }
        };
        let writers = join_all((0..stream_count(self.lane)).map(|stream| self.write(connection, stream)));
        tokio::select! {
            biased;
            close = welcome => close,
            _ = writers => Close::Broken { what: "the stream" },
        }
    }

    fn hello(&self) -> Hello {
        let shared = &self.shared;
        Hello {
            version: VERSION,
            cluster: shared.options.identity.cluster_name.clone(),
            cluster_id: shared.cluster_id(),
            node: shared.options.identity.node,
            boot: shared.options.boot,
            lane: lane_number(self.lane),
            address: shared.advertised.address.clone(),
            control_address: shared.advertised.control_address.clone(),
        }
    }

    fn check(&self, welcome: Welcome) -> Result<Welcome, Close> {
        if welcome.version != VERSION {
            return Err(Close::Version { ours: VERSION, theirs: welcome.version });
        }
        if welcome.node != self.link.node {
            return Err(Close::Node { said: welcome.node, proved: self.link.node });
        }
        self.shared.check_cluster_id(welcome.cluster_id)?;
        Ok(welcome)
    }

    /// Writes one stream for as long as it can be written.
    async fn write(&self, connection: &Connection, stream: usize) {
        let outbox = &self.lane().outbox;
        let Ok(mut sender) = connection.open_uni().await else { return };
        let mut not_before = Instant::now();
        loop {
            let mut batch = outbox.next(stream).await;
            if self.lane == Lane::Bulk {
                sleep_until(not_before).await;
            }
            if sender.write_all_chunks(&mut batch.chunks).await.is_err() {
                let _ = sender.reset(VarInt::from_u32(0));
                return;
            }
            outbox.written(batch.bytes);
            if self.lane == Lane::Bulk {
                let share = Duration::from_secs(1).mul_f64(batch.bytes as f64 / self.shared.options.bulk_rate as f64);
                not_before = not_before.max(Instant::now()) + share;
            }
        }
    }
}

/// The first address of the family that the endpoint's socket has.
async fn resolve(address: &str, endpoint: &Endpoint) -> Result<SocketAddr, String> {
    if let Ok(address) = address.parse() {
        return Ok(address);
    }
    let v6 = endpoint.local_addr().is_ok_and(|local| local.is_ipv6());
    let found = tokio::net::lookup_host(address).await.map_err(|error| format!("{address}: {error}"))?;
    let mut found = found.filter(|found| found.is_ipv6() == v6);
    found.next().ok_or_else(|| format!("{address} has no address that this node's socket can reach"))
}
