//! Appends to a follower: many under way, bounded, begun anew after an error.

use super::world::{World, sim};
use crate::{
    NodeId, log,
    testing::network::Timing,
    transport::{Lane, rpc::APPEND},
};
use std::time::Duration;
use tokio::time::Instant;

fn small() -> log::Options {
    log::Options { wal_file_bytes: 64 << 10, segment_bytes: 16 << 10, ..log::Options::default() }
}

/// The longest time until one of 50 entries, proposed every other millisecond, was applied, and that of all of them; a
/// message needs 20 ms.
async fn spaced(window: usize) -> (Duration, Duration) {
    const ENTRIES: u64 = 50;
    let world = World::start_tuned(57, 3, small(), |options| options.append_window = window).await;
    let leader = world.leader().await;
    world.hub.set_timing(Timing { delay: Duration::from_millis(20), jitter: Duration::ZERO, ..Timing::default() });
    world.pass(1_000).await;
    let began = Instant::now();
    let (mut proposed, mut longest) = (Vec::new(), Duration::ZERO);
    let owner = &world.node(leader).owner;
    for ms in 0.. {
        if ms % 2 == 0 && ms / 2 < ENTRIES {
            world.propose(leader, ms / 2..ms / 2 + 1);
            proposed.push(Instant::now());
        }
        let applied = usize::try_from(owner.count()).unwrap();
        proposed.iter().skip(applied).for_each(|at| longest = longest.max(at.elapsed()));
        if owner.count() == ENTRIES {
            break;
        }
        assert!(ms < 5_000, "{applied} of {ENTRIES} applied");
        world.pass(1).await;
    }
    (longest, began.elapsed())
}

#[test]
fn entries_do_not_wait_for_the_answers_to_those_before_them() {
    const ROUND: Duration = Duration::from_millis(40);
    let (longest, all) = sim(57, spaced(64));
    let (alone, all_alone) = sim(57, spaced(1));
    eprintln!("64 in flight: {longest:?}, all after {all:?}; one: {alone:?}, all after {all_alone:?}");
    // One round, and two flushes.
    assert!(longest < ROUND * 3 / 2, "{longest:?}");
    assert!(all < 4 * ROUND, "50 entries in {all:?}");
    // As it is where each waits for the one before it.
    assert!(alone > ROUND * 3 / 2, "{alone:?}");
}

/// What goes to a follower that stands still while the other two commit 300 entries: messages, bytes, the largest.
async fn unanswered(window: usize, bytes: usize) -> (u64, usize, usize) {
    let world = World::start_tuned(58, 3, small(), |options| {
        (options.append_window, options.append_window_bytes) = (window, bytes);
        // Whom nobody suspects is sent what fits.
        options.timing.suspicion = Duration::from_secs(60);
    })
    .await;
    let leader = world.leader().await;
    let follower = if leader == 1 { 2 } else { 1 };
    world.propose(leader, 0..10);
    world.all_applied(10).await;
    world.pass(100).await;
    let before = world.sent.count(leader, follower, APPEND);
    world.node(follower).tasks.pause();
    for number in 10..310 {
        world.propose(leader, number..number + 1);
        world.pass(3).await;
    }
    let third = 6 - leader - follower;
    world.applied(third, 310).await;
    let after = world.sent.count(leader, follower, APPEND);
    assert_eq!(after.streams, before.streams, "one stream");
    world.node(follower).tasks.resume();
    world.all_applied(310).await;
    world.check_equal();
    (after.streamed - before.streamed, after.bytes - before.bytes, after.largest)
}

#[test]
fn what_is_under_way_to_a_follower_that_does_not_answer_is_bounded() {
    let (messages, ..) = sim(58, unanswered(8, 1 << 20));
    assert_eq!(messages, 8, "by the number of requests");
    let (messages, bytes, largest) = sim(58, unanswered(1_000, 4 << 10));
    eprintln!("{messages} messages, {bytes} bytes, {largest} at most in one");
    assert!(messages > 8 && bytes < 3 * (4 << 10) + largest, "by bytes: {messages} messages, {bytes} bytes");
}

#[test]
fn an_error_ends_a_stream_and_the_next_one_goes_on_from_what_arrived() {
    sim(59, async {
        let world = World::start(59, 3).await;
        let leader = world.leader().await;
        let follower = if leader == 1 { 2 } else { 1 };
        world.propose(leader, 0..10);
        world.all_applied(10).await;
        let before = world.sent.count(leader, follower, APPEND).streams;
        for number in 10..100 {
            world.propose(leader, number..number + 1);
            if number == 50 {
                world.hub.break_connection(NodeId(leader), NodeId(follower), Lane::Data);
            }
            world.pass(1).await;
        }
        world.all_applied(100).await;
        world.check_equal();
        let streams = world.sent.count(leader, follower, APPEND).streams;
        assert!(streams.len() > before.len() && streams.starts_with(&before), "{before:?}, {streams:?}");
        assert!(streams.is_sorted(), "nothing of a stream goes behind its end: {streams:?}");
        assert_eq!(world.node(leader).owner.refused(), 0);
    });
}
