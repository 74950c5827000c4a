//! A test kit for services that use Highwater: a whole cluster in the test's own thread, in virtual time, from one seed.
//!
//! The nodes are the product's own code over a simulated network and simulated disks. A minute of waiting takes
//! milliseconds, and a failure comes again with its seed. Nodes can be killed, lose power (and with it every byte that no
//! `fdatasync` has covered), be cut off, and come back.
//!
//! ```
//! use highwater::{client::{NewTopic, Record}, testing::TestCluster};
//!
//! let acked = TestCluster::builder().seed(7).run(|cluster| async move {
//!     let client = cluster.client().await;
//!     let orders: highwater::types::TopicName = "orders".parse().unwrap();
//!     client.admin().create_topic(NewTopic::new(orders.clone())).await.unwrap();
//!     let leader = cluster.leader(&orders, 0).await;
//!     let producer = client.producer().build();
//!     let receipt = producer.send(Record::new(orders, "one")).await.unwrap();
//!     cluster.lose_power(leader);
//!     receipt.await.unwrap().offset
//! });
//! assert_eq!(acked, Some(0));
//! ```
//!
//! **Replay.** Everything random comes from the seed, but for the order in which tokio polls ready branches of `select!`: that
//! needs tokio built with `--cfg tokio_unstable`. [`REPLAYS`] says whether this build has it, [`HOW_TO_REPLAY`] how to get it;
//! without it tests run all the same, and a seed comes close to the same run. A test that panics says which of the two it was.
//!
//! **Invariant:** nothing here runs outside of the test's thread, sleeps in real time or touches a file or a socket.

mod cluster;
#[doc(hidden)]
pub mod fuzz;
pub mod link;
pub mod quic;

pub use cluster::{Builder, Outage, TestCluster};

/// Whether the same seed gives the same run in this build.
pub const REPLAYS: bool = cfg!(tokio_unstable);

/// What a build without [`REPLAYS`] lacks, and how to add it.
pub const HOW_TO_REPLAY: &str = "tokio has no seeded scheduler without `--cfg tokio_unstable`: put \
    `[build]\nrustflags = [\"--cfg\", \"tokio_unstable\"]` into .cargo/config.toml and unset RUSTFLAGS, which would replace it";

/// A runtime with a paused clock; with [`REPLAYS`] also with an order of its own for each seed.
///
/// # Errors
/// When the system gives no runtime.
pub fn runtime(seed: u64) -> std::io::Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().start_paused(true);
    #[cfg(tokio_unstable)]
    builder.rng_seed(tokio::runtime::RngSeed::from_bytes(&seed.to_be_bytes()));
    #[cfg(not(tokio_unstable))]
    let _ = seed;
    builder.build()
}
