//! One connection from its Hello to its end.

use super::{
    Gateway,
    link::{Judged, read, write},
    requests::Requests,
};
use crate::{
    limits,
    runtime::Phase,
    session::Session,
    wire::{Code, Connection, Frame, Link, LinkClosed, Message, Refused, Welcome},
};
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::{Semaphore, mpsc, watch},
    time::timeout,
};

/// The oldest protocol version that this node speaks.
const VERSION_MIN: u16 = 1;
/// The newest one.
const VERSION_MAX: u16 = 1;

/// How long a client may take from its connection to its Hello.
const HELLO_WAIT_MAX: Duration = Duration::from_secs(10);
/// How long a refused client has to read why.
const GOODBYE_WAIT: Duration = Duration::from_secs(1);
/// Requests of a connection, over all links, that may wait for their answers.
const REQUESTS_PER_CONNECTION_MAX: u32 = 4096;

impl Gateway {
    /// Serves a connection on the current arbiter until it ends.
    pub(super) async fn serve(self, connection: Arc<dyn Connection>, from: String) {
        let _counted = self.count();
        let first = match self.meet(&*connection).await {
            Ok(link) => link,
            Err(why) => {
                tracing::debug!(from, %why, "connection refused");
                return connection.close(&why.0);
            }
        };
        let session = Session::start(self.0.ground.clone());
        let over = watch::Sender::new(false);
        let requests = Arc::new(Semaphore::new(REQUESTS_PER_CONNECTION_MAX as usize));
        let mut links = 0;
        let mut serve_link = |(link, judged)| {
            links += 1;
            self.serve_link(links, link, judged, connection.clone(), &session, requests.clone(), over.subscribe());
        };
        serve_link(first);
        let mut draining = std::pin::pin!(self.0.phases.reached(Phase::Draining));
        let mut closing = std::pin::pin!(self.0.phases.reached(Phase::Closing));
        let mut drained = false;
        loop {
            tokio::select! {
                biased;
                () = &mut closing => {
                    // All answers have left when all requests are free again.
                    let idle = requests.acquire_many(REQUESTS_PER_CONNECTION_MAX);
                    let _ = timeout(GOODBYE_WAIT, idle).await;
                    connection.close("this node is shutting down");
                    break;
                }
                () = &mut draining, if !drained => {
                    drained = true;
                    session.drain();
                }
                link = connection.accept() => match link {
                    Ok(link) => serve_link(self.judge(link)),
                    Err(why) => {
                        tracing::debug!(from, %why, "connection ended");
                        break;
                    }
                },
            }
        }
        over.send_replace(true);
        session.close();
    }

    /// Hello and Welcome; the first link goes on to carry requests.
    async fn meet(&self, connection: &dyn Connection) -> Result<(Link, Judged), LinkClosed> {
        let late = |_| LinkClosed(format!("no Hello within {} s", HELLO_WAIT_MAX.as_secs()));
        let hello = async {
            let (mut link, judged) = self.judge(connection.accept().await?);
            let frame = link.receiver.receive().await?;
            Ok((link, frame, judged))
        };
        let (mut link, frame, judged) = timeout(HELLO_WAIT_MAX, hello).await.map_err(late)??;
        let answer = match (judged.next(), &frame.message) {
            (Err(refused), _) => Err(refused),
            (Ok(_), Message::Hello(hello)) => self.welcome(hello.version_min, hello.version_max),
            (Ok(_), other) => Err(Refused::new(
                Code::BadRequest,
                format!("a connection begins with Hello, this one with {:?}", other.kind()),
            )),
        };
        match answer {
            Ok(welcome) => {
                link.sender.send(vec![Frame::new(frame.correlation, welcome)]).await?;
                Ok((link, judged))
            }
            Err(refused) => {
                let why = LinkClosed(refused.message.clone());
                link.sender.send(vec![Frame::new(frame.correlation, refused)]).await?;
                // Closing at once could overtake the words.
                let _ = timeout(GOODBYE_WAIT, link.receiver.receive()).await;
                // Before the link is dropped, which would be all that the client sees.
                connection.close(&why.0);
                Err(why)
            }
        }
    }

    fn welcome(&self, min: u16, max: u16) -> Result<Welcome, Refused> {
        let version = max.min(VERSION_MAX);
        if min > max || version < min.max(VERSION_MIN) {
            return Err(Refused::new(
                Code::UnsupportedVersion,
                format!(
                    "the client speaks protocol versions {min} to {max}, this node {VERSION_MIN} to {VERSION_MAX}: \
                     use a client and a broker that are at most one version apart"
                ),
            ));
        }
        let shared = &self.0;
        Ok(Welcome {
            version,
            node: shared.ground.node(),
            cluster_id: shared.ground.cluster_id(),
            batch_bytes_max: limits::BATCH_BYTES_MAX,
        })
    }

    /// Sets the gate of a link: bytes are taken from a pool before they are kept.
    fn judge(&self, mut link: Link) -> (Link, Judged) {
        let (judged, pools) = (Judged::default(), self.0.pools.clone());
        let of_gate = judged.clone();
        link.receiver.set_gate(Box::new(move |header| {
            let admitted = pools.admit(header);
            let ok = admitted.is_ok();
            of_gate.push(admitted);
            ok
        }));
        (link, judged)
    }

    #[expect(clippy::too_many_arguments, reason = "what a link shares with its connection, used here alone")]
    fn serve_link(
        &self,
        number: u64,
        link: Link,
        judged: Judged,
        connection: Arc<dyn Connection>,
        session: &Session,
        requests: Arc<Semaphore>,
        over: watch::Receiver<bool>,
    ) {
        let (pending, to_answer) = mpsc::unbounded_channel();
        let (pushes, to_push) = mpsc::unbounded_channel();
        let dispatch = Requests { ground: self.0.ground.clone(), session: session.clone(), link: number, pushes };
        let ended = session.clone();
        let reading = {
            let over = over.clone();
            async move {
                let take = move |frame: Frame, judged| match judged {
                    Ok(permit) => dispatch.take(frame, permit),
                    Err(refused) => Some(dispatch.refuse(&frame, refused)),
                };
                read(link.receiver, judged, requests, pending, over, take).await;
                ended.link_ended(number);
            }
        };
        let told = session.clone();
        let mut over = over;
        let writing = async move {
            let writing = write(link.sender, to_answer, to_push, |bytes| told.written(number, bytes));
            tokio::select! {
                biased;
                _ = over.wait_for(|over| *over) => {}
                written = writing => if let Err(why) = written {
                    connection.close(&why.0);
                }
            }
        };
        self.0.env.spawn_local(reading);
        self.0.env.spawn_local(writing);
    }
}
