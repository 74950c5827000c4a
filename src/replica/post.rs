//! Where messages to a replica go: to whichever actor holds it now.

use actix::{Message, Recipient};
use arc_swap::ArcSwapOption;
use std::sync::Arc;

/// A request on its way to a replica's actor. What is in it answers from `Drop` when the actor is gone.
pub struct Envelope<R>(pub R);

impl<R> Message for Envelope<R> {
    type Result = ();
}

/// The address of a replica's current actor: one writer (the actor that starts), any number of senders. Clones share.
pub struct Post<R: Send + 'static>(Arc<ArcSwapOption<Recipient<Envelope<R>>>>);

impl<R: Send + 'static> Clone for Post<R> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<R: Send + 'static> Default for Post<R> {
    fn default() -> Self {
        Self(Arc::new(ArcSwapOption::empty()))
    }
}

impl<R: Send + 'static> Post<R> {
    /// Sends; without an actor the request is dropped, which answers it.
    pub fn send(&self, request: R) {
        if let Some(to) = &*self.0.load() {
            to.do_send(Envelope(request));
        }
    }

    /// Requests go there from now on.
    pub fn readdress(&self, to: Option<Recipient<Envelope<R>>>) {
        self.0.store(to.map(Arc::new));
    }
}
