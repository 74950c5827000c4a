//! Offsets by what they mean: times, and where a group is set to.

use super::{
    groups::{Dialer, alpha, connect, open_doors, readers},
    *,
};
use crate::client::{AdminError, Client, Record};

/// Records with these timestamps, together in one batch.
async fn send(client: &Client, timestamps: impl IntoIterator<Item = i64>) {
    let producer = client.producer().linger(Duration::from_millis(20)).build();
    let mut receipts = Vec::new();
    for timestamp in timestamps {
        let record = Record::new(alpha(), "x").partition(0).timestamp(timestamp);
        receipts.push(producer.send(record).await.unwrap());
    }
    for receipt in receipts {
        receipt.await.unwrap();
    }
    producer.close().await.unwrap();
}

async fn offset_at(client: &Client, at: Position) -> u64 {
    client.admin().list_offsets(&alpha(), at).await.unwrap()[&0]
}

#[tokio::test(start_paused = true)]
async fn a_time_is_the_first_record_of_it_or_later_in_memory_and_on_disk() {
    // Before all, at and inside of each batch, between the two.
    const FOUND: [(i64, u64); 10] = [
        (0, 0),
        (1_000, 0),
        (1_001, 1),
        (2_000, 1),
        (3_000, 2),
        (3_001, 3),
        (5_000, 3),
        (5_500, 4),
        (6_000, 4),
        (7_000, 5),
    ];
    local(async {
        let mut world = World::with(1, 59, |config| {
            config.log.wal_file_bytes = 256 << 10;
            config.log.segment_bytes = 128 << 10;
        })
        .await;
        let topic = world.topic("alpha", 1, 1).await;
        let partition = TopicPartition { topic, partition: 0 };
        open_doors(&world);
        let client = connect(&Dialer::default(), 1).await;
        send(&client, [1_000, 2_000, 3_000]).await;
        send(&client, [5_000, 6_000, 7_000]).await;
        let (_, handle) = world.leader(partition).await;
        let Read::Hot(served) = handle.read(0, 1 << 20) else { panic!("what was just written is in memory") };
        assert_eq!(served.iter().map(|served| served.offset_end).collect::<Vec<_>>(), [3, 6]);
        for (time, offset) in FOUND {
            assert_eq!(offset_at(&client, Position::Time(time)).await, offset, "hot, {time}");
        }
        assert_eq!(offset_at(&client, Position::Time(7_001)).await, 6, "after all: the end");
        assert_eq!(offset_at(&client, Position::Earliest).await, 0);
        assert_eq!(offset_at(&client, Position::Latest).await, 6);

        // Older records behind them (1,000 each), until they lie in segments; and nothing in memory any more.
        for n in 0..64 {
            produce(&handle, AckLevel::Quorum, &format!("{n:08}").repeat(1_024)).await.unwrap();
        }
        tokio::time::sleep(secs(5)).await;
        world.crash(0);
        world.start(0).await;
        within(30, world.node(0).serving()).await;
        open_doors(&world);
        let client = connect(&Dialer::default(), 2).await;
        let (_, handle) = world.leader(partition).await;
        assert!(matches!(handle.read(0, 1 << 20), Read::Cold(_)), "it comes from disk");
        for (time, offset) in FOUND {
            assert_eq!(offset_at(&client, Position::Time(time)).await, offset, "cold, {time}");
        }
        assert_eq!(offset_at(&client, Position::Time(7_001)).await, 70, "after all: the end");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_group_is_set_to_the_end_an_offset_or_a_time() {
    local(async {
        let world = World::new(1, 61).await;
        world.topic("alpha", 1, 1).await;
        open_doors(&world);
        let client = connect(&Dialer::default(), 1).await;
        send(&client, (1..=10).map(|n| n * 1_000)).await;
        let join = || client.consumer().start(Position::Earliest).auto_commit(None).poll_records_max(4);
        let mut consumer = within(20, join().subscribe(readers(), [alpha()])).await.unwrap();
        let mut given = 0;
        while given < 4 {
            given += consumer.poll(secs(5)).await.unwrap().len();
        }
        assert_eq!(given, 4);
        consumer.commit().await.unwrap();
        within(20, consumer.close()).await.unwrap();
        let admin = client.admin();
        let at = async || {
            let details = admin.describe_group(&readers()).await.unwrap();
            (details.partitions[0].committed, details.lag())
        };
        assert_eq!(at().await, (Some(4), Some(6)));
        for (to, offset, lag) in [
            (Position::Latest, 10, 0),
            (Position::Offset(7), 7, 3),
            (Position::Time(2_500), 2, 8),
            (Position::Time(99_000), 10, 0),
            (Position::Earliest, 0, 10),
            (Position::Time(6_000), 5, 5),
        ] {
            let moved = admin.reset_group(&readers(), &[], to).await.unwrap();
            assert_eq!(moved, [(alpha(), 0, offset)], "{to:?}");
            assert_eq!(at().await, (Some(offset), Some(lag)), "{to:?}");
        }
        // Who comes then starts there.
        let mut consumer = within(20, join().subscribe(readers(), [alpha()])).await.unwrap();
        let given = loop {
            let given = consumer.poll(secs(5)).await.unwrap();
            if !given.is_empty() {
                break given;
            }
        };
        assert_eq!((given[0].offset, given[0].timestamp), (5, 6_000));
        within(20, consumer.close()).await.unwrap();
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_has_no_leader_is_not_known_and_takes_nothing_with_it() {
    local(async {
        let mut world = World::new(3, 67).await;
        let topic = world.topic("alpha", 3, 1).await;
        open_doors(&world);
        let dialer = Dialer::default();
        let client = connect(&dialer, 1).await;
        let producer = client.producer().build();
        let send_each = async || {
            for partition in 0..3 {
                producer.send(Record::new(alpha(), "x").partition(partition)).await.unwrap().await.unwrap();
            }
        };
        send_each().await;
        let join = client.consumer().start(Position::Earliest).subscribe(readers(), [alpha()]);
        let mut consumer = within(20, join).await.unwrap();
        let mut given = 0;
        while given < 3 {
            given += consumer.poll(secs(5)).await.unwrap().len();
        }
        within(20, consumer.close()).await.unwrap();
        send_each().await;
        let admin = client.admin();
        assert_eq!(admin.describe_group(&readers()).await.unwrap().lag(), Some(3));

        let (n, _) = world.leader(TopicPartition { topic, partition: 1 }).await;
        let gone = world.node(n).id().0;
        world.crash(n);
        open_doors(&world);
        dialer.cut(gone);
        let details = within(60, admin.describe_group(&readers())).await.unwrap();
        let known: Vec<_> = details.partitions.iter().map(|p| (p.committed, p.high_watermark, p.lag)).collect();
        let there = (Some(1), Some(2), Some(1));
        assert_eq!(known, [there, (Some(1), None, None), there]);
        assert_eq!(details.lag(), None, "what is not known is not nothing");
        let ends = within(60, admin.list_known_offsets(&alpha(), Position::Latest)).await.unwrap();
        assert_eq!(ends, BTreeMap::from([(0, 2), (2, 2)]));
        let whole = within(60, admin.list_offsets(&alpha(), Position::Latest)).await;
        assert!(matches!(whole, Err(AdminError::NoLeader { partition: 1, .. })), "{whole:?}");
        let committed = within(60, admin.committed(&readers(), &alpha())).await.unwrap();
        assert_eq!(committed, BTreeMap::from([(0, 1), (1, 1), (2, 1)]));
    })
    .await;
}
