//! The follower: applies, publishes, and serves readers.

use super::{
    Domain, Envelope, Replica,
    turn::{After, Then},
};
use crate::runtime::{self, Turn, Wake};
use actix::{Actor, ActorContext, AsyncContext, Context, Handler, SpawnHandle};
use std::{
    any::Any,
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
};
use tokio::time::Instant;

/// Holds a [`Replica`] while it does not lead.
pub(super) struct FollowerActor<D: Domain> {
    replica: Option<Replica<D>>,
    wake: Wake,
    requests: VecDeque<D::Request>,
    timer: Option<(Instant, SpawnHandle)>,
}

impl<D: Domain> FollowerActor<D> {
    pub(super) fn start(replica: Replica<D>) {
        let env = replica.env.clone();
        runtime::start(&env, move |context: &mut Context<Self>| {
            replica.post.readdress(Some(context.address().recipient()));
            replica.wake.aim(context.address().recipient());
            Self { wake: replica.wake.clone(), replica: Some(replica), requests: VecDeque::new(), timer: None }
        });
    }
}

impl<D: Domain> Actor for FollowerActor<D> {
    type Context = Context<Self>;
}

impl<D: Domain> Handler<Envelope<D::Request>> for FollowerActor<D> {
    type Result = ();

    fn handle(&mut self, Envelope(request): Envelope<D::Request>, _: &mut Self::Context) {
        if self.replica.is_some() {
            self.requests.push_back(request);
            self.wake.arm();
        }
    }
}

impl<D: Domain> Handler<Turn> for FollowerActor<D> {
    type Result = ();

    fn handle(&mut self, _: Turn, context: &mut Self::Context) {
        let Some(mut replica) = self.replica.take() else { return };
        let turn = catch_unwind(AssertUnwindSafe(|| replica.turn(None, &mut self.requests)));
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

/// One timer per actor: the next turn that is wanted whatever comes.
pub(super) fn set_timer<A>(timer: &mut Option<(Instant, SpawnHandle)>, next: Option<Instant>, context: &mut Context<A>)
where
    A: Actor<Context = Context<A>> + Handler<Turn>,
{
    if timer.as_ref().map(|(at, _)| *at) == next {
        return;
    }
    if let Some((_, old)) = timer.take() {
        context.cancel_future(old);
    }
    *timer = next.map(|at| {
        let wait = at.saturating_duration_since(Instant::now());
        (at, context.notify_later(Turn, wait))
    });
}

/// A panic of a turn, in words.
pub(super) fn describe(panic: Box<dyn Any + Send>) -> String {
    let text =
        panic.downcast_ref::<&str>().map(ToString::to_string).or_else(|| panic.downcast_ref::<String>().cloned());
    format!("its turn panicked: {}", text.unwrap_or_else(|| "without words".into()))
}
