//! What a program that embeds nodes gets beside them: clients without a port, and actors of its own on both ends.
//!
//! - [`Client::in_process`](crate::client::Client::in_process) speaks to nodes of this process over channels, with the same types as over the network.
//! - [`Publisher`] is an actor that takes [`Publish`] messages; [`deliver_to`] hands consumed records to any actor that
//!   takes [`Delivery`](crate::client::Delivery) messages, and asks for more when it has handled them.
//!
//! Deliberately not here: rules. They are the client's.

#[cfg(feature = "actix")]
mod bridge;
mod local;
#[cfg(feature = "actix")]
mod publisher;

#[cfg(feature = "actix")]
pub use bridge::deliver_to;
pub use local::LocalDialer;
#[cfg(feature = "actix")]
pub use publisher::{Publish, PublishError, Publisher};
