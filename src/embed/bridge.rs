//! Consumed records to an actor.

use crate::client::{
    Consumer, Delivery,
    consumer::{Credit, Listener, Listening},
};
use actix::{Message, Recipient};
use futures_util::future::BoxFuture;
use std::ops::ControlFlow;

/// A record is done when its handler has returned.
impl Message for Delivery {
    type Result = ();
}

struct Bridge(Recipient<Delivery>);

impl Listener for Bridge {
    fn deliver(&mut self, delivery: Delivery) -> BoxFuture<'_, ControlFlow<()>> {
        let handled = self.0.send(delivery);
        Box::pin(async move {
            match handled.await {
                Ok(()) => ControlFlow::Continue(()),
                // The actor is gone: the record is not done, and nobody takes the next one.
                Err(_) => ControlFlow::Break(()),
            }
        })
    }
}

/// Has records sent to an actor, one after the other; never more than `credit` are on their way to it. Ends when the actor does.
pub fn deliver_to(consumer: Consumer, credit: Credit, recipient: Recipient<Delivery>) -> Listening {
    consumer.listen(credit, Bridge(recipient))
}
