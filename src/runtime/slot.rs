//! A place for an answer that cannot be forgotten.

use tokio::sync::oneshot;

/// What an asker is told when its request vanished: in the mailbox of an actor that stopped, or in a panic.
pub trait Lost {
    /// That answer.
    fn lost() -> Self;
}

/// Carried by every request; answers once, in `Drop` at the latest.
pub struct ReplySlot<T: Lost>(Option<Box<dyn FnOnce(T) + Send>>);

impl<T: Lost> ReplySlot<T> {
    /// Answers go to `deliver`, which runs on the answerer's thread and must only hand over.
    pub fn new(deliver: impl FnOnce(T) + Send + 'static) -> Self {
        Self(Some(Box::new(deliver)))
    }

    /// For requests that nobody waits for.
    pub fn ignored() -> Self {
        Self(None)
    }

    /// Answers.
    pub fn answer(mut self, answer: T) {
        if let Some(deliver) = self.0.take() {
            deliver(answer);
        }
    }
}

impl<T: Lost + Send + 'static> ReplySlot<T> {
    /// A slot, and the future of its answer.
    pub fn channel() -> (Self, impl Future<Output = T> + Send + 'static) {
        let (sender, receiver) = oneshot::channel();
        let slot = Self::new(move |answer| {
            let _ = sender.send(answer);
        });
        (slot, async move { receiver.await.unwrap_or_else(|_| T::lost()) })
    }
}

impl<T: Lost> Drop for ReplySlot<T> {
    fn drop(&mut self) {
        if let Some(deliver) = self.0.take() {
            deliver(T::lost());
        }
    }
}

impl<T: Lost> std::fmt::Debug for ReplySlot<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ReplySlot")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Lost for u32 {
        fn lost() -> Self {
            404
        }
    }

    #[tokio::test]
    async fn a_dropped_slot_answers() {
        let (slot, answer) = ReplySlot::<u32>::channel();
        slot.answer(200);
        assert_eq!(answer.await, 200);
        let (slot, answer) = ReplySlot::<u32>::channel();
        drop(slot);
        assert_eq!(answer.await, 404);
    }
}
