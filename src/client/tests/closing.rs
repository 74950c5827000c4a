//! A client that is closed while something is under way.

use crate::{
    client::{RequestError, testing::World},
    types::NodeId,
};

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_made_while_the_client_is_closed_is_closed_too() {
    let world = World::new(2);
    let client = world.client().await;
    client.nodes().await.unwrap();
    let cluster = client.inner.cluster.clone();
    let dialling = async { cluster.connection(NodeId(2)).await.map(drop) };
    let (made, ()) = tokio::join!(dialling, async { client.close() });
    assert_eq!(made, Err(RequestError::Closed));
    assert_eq!(client.stats().connections, 2, "it was under way");
    assert_eq!(cluster.connection(NodeId(2)).await.err(), Some(RequestError::Closed));
}
