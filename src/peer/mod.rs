//! Broker-to-broker requests, over the raft crate's identified connections.
//!
//! ```text
//!  service u8 │ body (rmp-serde map)          an answer is its body alone
//! ```
//! [`Peers`] is the [`Courier`] of this node and serves what other nodes ask; [`gossip`] tells them who leads what.

pub mod gossip;

use crate::{
    controller::Controller,
    runtime::{Courier, CourierError, Service},
    types::NodeId,
};
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::future::BoxFuture;
use highwater_raft::{
    Payload,
    group::{Host, RequestError, Server},
    transport::detector::State,
};
use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

/// Asks other nodes. Clones share.
#[derive(Clone)]
pub struct Peers(Host);

impl Peers {
    /// Over this host.
    pub fn new(host: Host) -> Self {
        Self(host)
    }
}

impl Courier for Peers {
    fn ask(
        &self,
        to: NodeId,
        service: Service,
        request: Bytes,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Bytes, CourierError>> {
        let host = self.0.clone();
        Box::pin(async move {
            let mut head = BytesMut::with_capacity(1);
            head.put_u8(service as u8);
            let body = Payload::new([head.freeze(), request]);
            let answer = host.request(to.into(), body, deadline).await.map_err(|error| match error {
                RequestError::Unreachable { .. } => CourierError::Unreachable { node: to },
                other => CourierError::NoAnswer { node: to, why: other.to_string() },
            })?;
            Ok(answer.contiguous())
        })
    }

    fn others(&self) -> Vec<NodeId> {
        let liveness = self.0.liveness();
        let alive = liveness.borrow();
        alive.iter().filter(|(_, life)| life.state == State::Alive).map(|(node, _)| (*node).into()).collect()
    }
}

/// What [`Service::Entries`] is answered with.
pub type Entries = Arc<dyn Fn(Bytes) -> BoxFuture<'static, Bytes> + Send + Sync>;

/// Answers other nodes.
pub struct Desk {
    controller: Controller,
    seed: Arc<dyn Fn(&Bytes) -> Bytes + Send + Sync>,
    entries: Entries,
}

impl Desk {
    /// `seed` answers [`Service::Seed`], `entries` [`Service::Entries`].
    pub fn new(controller: Controller, seed: Arc<dyn Fn(&Bytes) -> Bytes + Send + Sync>, entries: Entries) -> Self {
        Self { controller, seed, entries }
    }
}

impl Server for Desk {
    fn request(&self, from: highwater_raft::NodeId, body: Payload) -> Pin<Box<dyn Future<Output = Payload> + Send>> {
        let mut request = body.contiguous();
        let service = if request.is_empty() { None } else { Service::from_u8(request.split_to(1)[0]) };
        let answer = match service {
            Some(Service::Execute) => {
                let controller = self.controller.clone();
                return Box::pin(async move { controller.serve(request).await.into() });
            }
            Some(Service::Leaders) => gossip::exchange(&self.controller, from.into(), &request),
            Some(Service::Seed) => (self.seed)(&request),
            Some(Service::Entries) => {
                let answer = (self.entries)(request);
                return Box::pin(async move { answer.await.into() });
            }
            // A newer node asks for what this one does not have: nothing is an answer that no service gives.
            None => Bytes::new(),
        };
        Box::pin(std::future::ready(answer.into()))
    }
}
