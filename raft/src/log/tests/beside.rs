//! Reads that wait for a reader's thread, while what they look for is moved, or goes; and threads that end.

use super::{
    super::{core::waiter, mover::move_applied},
    *,
};
use crate::disk::Disk;
use tokio::{
    sync::oneshot,
    task::{JoinHandle, spawn_local, yield_now},
};

/// A boundary behind every such index.
const BOUNDARY: u64 = 8;

fn checkpoint(index: u64) -> Checkpoint {
    let last = LogId { term: 1, index };
    Checkpoint { last, offset: index + 1, membership: Bytes::new(), machine: Bytes::from(format!("at {index}")) }
}

/// One group with entries that take an offset each, of which those up to and with `moved` are in segments, and in no memory.
async fn moved(node: &Node, upto: u64) -> (Directory, Group) {
    let directory = node.open().await;
    let group = create(&directory, G).await;
    append(&group, (0..40).map(|index| entry(index, 1, 300)).collect()).await.unwrap();
    apply(&group, 0..upto);
    move_on(&group).await;
    (directory, group)
}

fn apply(group: &Group, indexes: std::ops::Range<u64>) {
    for index in indexes {
        let max_timestamp = i64::try_from(index * 10).unwrap();
        let stamp = Stamp { index, offset: index, offset_end: index + 1, max_timestamp, note: Bytes::new() };
        group.note_applied(vec![stamp]);
        if index % BOUNDARY == BOUNDARY - 1 {
            group.seal(checkpoint(index));
        }
    }
}

/// All that is applied to segments, and out of the memory.
async fn move_on(group: &Group) {
    move_applied(&group.core.common, &group.core, &group.shared).await.unwrap();
    group.shared.state().evict(0, 40, 0);
}

async fn trim(group: &Group, offset: u64) {
    let upto = group.trim(offset).expect("a segment begins there");
    let (done, wait) = waiter();
    group.purge(upto, done);
    wait.await.unwrap().unwrap();
    sealed().await;
}

/// Has `read` wait for a reader's thread while `work` is done.
async fn while_readers_are_busy<T: 'static>(
    group: &Group,
    read: impl Future<Output = T> + 'static,
    work: impl Future<Output = ()>,
) -> T {
    let busy: Vec<(oneshot::Sender<()>, JoinHandle<_>)> = (0..2)
        .map(|_| {
            let (free, wait) = oneshot::channel();
            let core = group.core.clone();
            (free, spawn_local(async move { core.readers.run(move || async move { drop(wait.await) }).await }))
        })
        .collect();
    yield_now().await;
    let read = spawn_local(read);
    yield_now().await;
    work.await;
    drop(busy);
    read.await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_search_by_time_sees_what_moves_meanwhile() {
    let node = Node::new(21);
    local(async {
        let (_directory, group) = moved(&node, 5).await;
        apply(&group, 5..40);
        let searching = group.clone();
        let found =
            while_readers_are_busy(&group, async move { searching.find_time(60).await.unwrap() }, move_on(&group));
        assert_eq!(found.await, Some(6));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_search_by_time_goes_on_behind_what_is_trimmed_meanwhile() {
    let node = Node::new(22);
    local(async {
        let (_directory, group) = moved(&node, 40).await;
        let searching = group.clone();
        let found = while_readers_are_busy(
            &group,
            async move { searching.find_time(10).await.map_err(|error| error.to_string()) },
            trim(&group, 2 * BOUNDARY),
        );
        assert_eq!(found.await, Ok(Some(2 * BOUNDARY)));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn there_is_a_base_checkpoint_while_the_log_is_trimmed() {
    let node = Node::new(23);
    local(async {
        let (_directory, group) = moved(&node, 40).await;
        trim(&group, BOUNDARY).await;
        let reading = group.clone();
        let found = while_readers_are_busy(
            &group,
            async move { reading.base_checkpoint().await.unwrap() },
            trim(&group, 2 * BOUNDARY),
        );
        assert_eq!(found.await, Some(checkpoint(2 * BOUNDARY - 1)));
    })
    .await;
}

/// All its entries are gone: nothing is left that could tell by itself that it ends too early.
#[tokio::test(start_paused = true)]
async fn a_sealed_segment_without_entries_is_damaged() {
    let mut node = Node::new(24);
    local(async {
        let (directory, group) = moved(&node, 40).await;
        drop((directory, group));
        node.kill();
        let segments = node.disk.files().into_iter().map(|(path, _)| path).filter(|path| path.ends_with(".seg"));
        let oldest = segments.min().unwrap();
        node.disk.open(&oldest, false).await.unwrap().set_len(64).await.unwrap();
        let group = node.open().await.group(G).unwrap();
        let found = group.read_applied(0, 10).await;
        assert!(matches!(found, Err(ReadError::Damaged { first: 0, end: BOUNDARY })), "{found:?}");
    })
    .await;
}

/// A segment is set aside before the log says, durably, that it is not the open one any more.
#[tokio::test(start_paused = true)]
async fn damage_found_before_the_seal_is_durable_costs_one_replica() {
    let mut node = Node::new(25);
    local(async {
        let (directory, group) = moved(&node, 5).await;
        create(&directory, H).await;
        node.disk.drag(".wal", 100_000);
        group.save_vote(Bytes::from_static(b"in the way"), Box::new(|_| ()));
        tokio::time::sleep(Duration::from_millis(1)).await;
        apply(&group, 5..20);
        let moving = group.clone();
        spawn_local(async move { move_on(&moving).await });
        while group.shared.state().segments.len() < 3 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        group.shared.state().evict(0, 40, 0);
        let segments = node.disk.files().into_iter().map(|(path, _)| path).filter(|path| path.ends_with(".seg"));
        node.disk.flip_bit(&segments.min().unwrap(), 200, 1);
        let found = group.read_applied(0, 10).await;
        assert!(matches!(found, Err(ReadError::Damaged { first: 0, end: BOUNDARY })), "{found:?}");
        node.disk.drag("", 1);
        drop((directory, group));
        node.kill();
        for _ in 0..2 {
            let directory = node.open().await;
            assert!(matches!(health(&directory, G), Health::Faulty(why) if why.contains("is damaged")));
            assert_eq!(health(&directory, H), Health::Good);
            node.kill();
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_thread_that_panics_fails_the_directory() {
    for reads in [false, true] {
        let node = Node::new(26);
        local(async {
            let directory = node.open().await;
            let group = create(&directory, G).await;
            if reads {
                let panics = || async { panic!("on purpose") };
                let _: io::Result<()> = group.core.readers.run(panics).await;
            } else {
                group.append(vec![entry(0, 1, 10)], Box::new(|_| panic!("on purpose")));
            }
            let failed = tokio::time::timeout(Duration::from_secs(1), directory.failed()).await;
            assert!(failed.is_ok_and(|error| error.to_string().contains("panicked")), "reads: {reads}");
        })
        .await;
    }
}
