//! A test kit for services that use Highwater: a whole cluster in the test's own thread, in virtual time, from one seed.
//!
//! The nodes are the product's own code over a simulated network and simulated disks. A minute of waiting takes
//! milliseconds, and a failure comes again with its seed. Nodes can be killed, lose power (and with it what no
//! `fdatasync` has covered), be cut off, and come back.
//!
//! ```toml
//! [dev-dependencies]
//! highwater = { version = "0.1", features = ["testing"] }
//! tokio = { version = "1", features = ["rt", "time"] }
//! ```
//!
//! A test is a plain `#[test]`: [`Builder::run`] makes the runtime, starts the nodes, hands in the cluster and stops all
//! when the future ends. What the future gives, `run` gives.
//!
//! ```
//! use highwater::{client::{NewTopic, Record}, testing::TestCluster, types::{Position, TopicName}};
//! use std::time::Duration;
//!
//! // #[test]
//! fn an_order_outlives_its_leader() {
//!     let read = TestCluster::builder().seed(7).run(|cluster| async move {
//!         let client = cluster.client().await;
//!         let orders: TopicName = "orders".parse().unwrap();
//!         client.admin().create_topic(NewTopic::new(orders.clone())).await.unwrap();
//!
//!         // The leader loses power while the record is on its way; the producer sends again by itself.
//!         let leader = cluster.leader(&orders, 0).await;
//!         let producer = client.producer().build();
//!         let receipt = producer.send(Record::new(orders.clone(), "one")).await.unwrap();
//!         cluster.lose_power(leader);
//!         assert_eq!(receipt.await.unwrap().offset, Some(0));
//!
//!         // A minute passes at once. Then the node comes back with what its disk kept.
//!         tokio::time::sleep(Duration::from_secs(60)).await;
//!         cluster.start(leader).await;
//!         let mut consumer = client.consumer().assign([(orders, 0, Position::Earliest)]).await.unwrap();
//!         consumer.poll(Duration::from_secs(10)).await.unwrap().len()
//!     });
//!     assert_eq!(read, 1);
//! }
//! # an_order_outlives_its_leader();
//! ```
//!
//! **A service of yours** takes a [`Client`](crate::client::Client) and runs beside the test as a task
//! (`tokio::task::spawn_local`, or `tokio::spawn` when it is `Send`): `examples/test_kit.rs` is a whole one. It must wait by
//! `tokio::time` alone. `std::thread::sleep` stops the world, sockets and files of its own take real time (and
//! `tokio::net` panics here: the runtime has no I/O driver), and `SystemTime` knows nothing of the cluster's
//! clock: [`TestCluster::now_ms`] does, and timestamps of records are by it. A wait that nothing will end does not hang
//! as long as there is a deadline somewhere: time passes at once when all wait.
//!
//! **Faults**: [`kill`](TestCluster::kill), [`lose_power`](TestCluster::lose_power), [`start`](TestCluster::start);
//! [`partition`](TestCluster::partition), [`isolate`](TestCluster::isolate), [`heal`](TestCluster::heal) between nodes,
//! [`deafen_clients`](TestCluster::deafen_clients) in front of them; and by [`disk`](TestCluster::disk) a node's disk fills
//! up, stalls, fails a sync (the node stops: [`stopped`](TestCluster::stopped) says why) or flips bits.
//!
//! **Many seeds** are a loop around `run`: every seed is another interleaving. A test that fails shows on its standard
//! error from which seed its cluster was; that seed alone fails again.
//!
//! **Replay.** Everything random comes from the seed, but for the order in which tokio polls ready branches of `select!`: that
//! needs tokio built with `--cfg tokio_unstable`. [`REPLAYS`] says whether this build has it, [`HOW_TO_REPLAY`] how to get it;
//! without it tests run all the same, and a seed comes close to the same run. Each cluster says on standard error which of
//! the two it is.
//!
//! **Invariant:** nothing here runs outside of the test's thread, sleeps in real time or touches a file or a socket.

mod cluster;
#[doc(hidden)]
pub mod fuzz;
pub mod link;
pub mod quic;
#[cfg(test)]
mod tests;

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
