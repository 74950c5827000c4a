//! The leader of one term: accepts requests, proposes, answers.

use super::{
    Domain, Envelope, Replica,
    follower::{FollowerActor, describe, set_timer},
    turn::{After, Leading, Then},
};
use crate::runtime::{self, Turn};
use actix::{Actor, ActorContext, AsyncContext, Context, Handler, SpawnHandle};
use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
};
use tokio::time::Instant;

/// Holds a [`Replica`] for one term as leader.
pub(super) struct LeaderActor<D: Domain> {
    replica: Option<Replica<D>>,
    leading: Leading<D>,
    requests: VecDeque<D::Request>,
    timer: Option<(Instant, SpawnHandle)>,
}

impl<D: Domain> LeaderActor<D> {
    pub(super) fn start(mut replica: Replica<D>) {
        let leading = Leading::new(&mut replica);
        let env = replica.env.clone();
        runtime::start(&env, move |context: &mut Context<Self>| {
            replica.post.readdress(Some(context.address().recipient()));
            replica.wake.aim(context.address().recipient());
            Self { replica: Some(replica), leading, requests: VecDeque::new(), timer: None }
        });
    }
}

impl<D: Domain> Actor for LeaderActor<D> {
    type Context = Context<Self>;
}

impl<D: Domain> Handler<Envelope<D::Request>> for LeaderActor<D> {
    type Result = ();

    fn handle(&mut self, Envelope(request): Envelope<D::Request>, _: &mut Self::Context) {
        if let Some(replica) = &self.replica {
            self.requests.push_back(request);
            replica.wake.arm();
        }
    }
}

impl<D: Domain> Handler<Turn> for LeaderActor<D> {
    type Result = ();

    fn handle(&mut self, _: Turn, context: &mut Self::Context) {
        let Some(mut replica) = self.replica.take() else { return };
        let turn = catch_unwind(AssertUnwindSafe(|| replica.turn(Some(&mut self.leading), &mut self.requests)));
        match turn {
            Ok(After { next, then: Then::Stay }) => {
                set_timer(&mut self.timer, next, context);
                self.replica = Some(replica);
            }
            Ok(After { then, .. }) => {
                context.stop();
                replica.go_on(then);
            }
            Err(panic) => {
                context.stop();
                replica.end(Some(describe(panic)));
            }
        }
    }
}

impl<D: Domain> Replica<D> {
    /// To the actor that comes next, or to the end.
    pub(super) fn go_on(self, then: Then) {
        match then {
            Then::Stay | Then::HandOver if self.status.leading => LeaderActor::start(self),
            Then::Stay | Then::HandOver => FollowerActor::start(self),
            Then::Close => self.end(None),
            Then::Failed(why) => self.end(Some(why)),
        }
    }

    /// Nobody takes requests or events any more; what waits is answered from its `Drop`.
    pub(super) fn end(mut self, failed: Option<String>) {
        self.queue.end();
        self.wake.rest();
        self.post.readdress(None);
        self.domain.gone();
        if let Some(why) = failed {
            (self.identity.on_failed)(why);
        }
    }
}
