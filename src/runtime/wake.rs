//! The one `Turn` of an actor.

use actix::{Message, Recipient};
use arc_swap::ArcSwapOption;
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// Do what waits, once, for all that came.
#[derive(Clone, Copy, Debug)]
pub struct Turn;

impl Message for Turn {
    type Result = ();
}

/// Arms at most one [`Turn`] at a time, from any thread. It outlives the actors it is aimed at: what was armed for
/// the old one is armed again for the new one. Clones share.
#[derive(Clone, Default)]
pub struct Wake(Arc<Aim>);

#[derive(Default)]
struct Aim {
    armed: AtomicBool,
    target: ArcSwapOption<Recipient<Turn>>,
}

impl Wake {
    /// Sees to it that a turn comes after now.
    pub fn arm(&self) {
        if !self.0.armed.swap(true, Ordering::AcqRel)
            && let Some(target) = &*self.0.target.load()
        {
            target.do_send(Turn);
        }
    }

    /// First thing in a turn: what comes from now on needs another one.
    pub fn taken(&self) {
        self.0.armed.store(false, Ordering::Release);
    }

    /// Turns go to this actor from now on, and one is on its way.
    pub fn aim(&self, target: Recipient<Turn>) {
        self.0.target.store(Some(Arc::new(target.clone())));
        self.0.armed.store(true, Ordering::Release);
        target.do_send(Turn);
    }

    /// Nobody takes turns any more.
    pub fn rest(&self) {
        self.0.target.store(None);
    }
}
