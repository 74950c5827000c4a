//! Files of the write-ahead log that wait for their turn: a flush of a file that does not grow writes data alone.

use super::{
    super::walfiles::{self, Spares},
    *,
};
use crate::disk::Disk;
use std::collections::BTreeSet;

/// More than one piece of zeros, and not a multiple of it.
const LARGE: u64 = (2 << 20) + 12_288;

#[tokio::test(start_paused = true)]
async fn a_spare_that_was_made_is_of_full_length_in_blocks_and_zero_on_the_medium() {
    let mut node = Node::new(16);
    node.disk.create_directory(walfiles::FOLDER).await.unwrap();
    for (name, bytes) in [(1, 4_096), (2, 1 << 20), (3, LARGE), (4, LARGE + 1)] {
        let spares = Spares::default();
        walfiles::make_spare(&*node.disk, &spares, name, bytes).await.unwrap();
        assert_eq!(spares.count(), 1);
    }
    node.disk.sync_directory("").await.unwrap();
    node.disk.sync_directory(walfiles::FOLDER).await.unwrap();
    assert_eq!(node.disk.unsynced_bytes(), 0);
    node.power_loss();
    for (name, bytes) in [(1, 4_096), (2, 1 << 20), (3, LARGE), (4, LARGE + 4_096)] {
        let content = node.disk.content(&format!("wal/spare-{name:016x}")).unwrap();
        assert!(content.len() as u64 == bytes && content.iter().all(|byte| *byte == 0), "{bytes} bytes");
    }
}

/// The ones that were made are zero; those that retired keep what they held, which does not verify under another name.
#[tokio::test(start_paused = true)]
async fn files_of_the_log_are_full_before_they_are_written_but_the_second_of_a_directory() {
    local(async {
        let node = Node::new(17);
        let directory = node.open().await;
        let group = create(&directory, G).await;
        let full = small().wal_file_bytes;
        // A file that grew ends within a frame of that.
        let nearly = full - 16_384;
        let (mut made, mut recycled, mut grown) = (0, 0, BTreeSet::new());
        for index in 0..200 {
            append(&group, vec![entry(index, 1, 9_000)]).await.unwrap();
            group.note_applied(vec![Stamp {
                index,
                offset: index,
                offset_end: index + 1,
                max_timestamp: -1,
                note: Bytes::new(),
            }]);
            sealed().await;
            for (path, len) in node.disk.files() {
                if path.ends_with(".wal") && len < nearly {
                    grown.insert(path);
                } else if let Some(name) = path.strip_prefix("wal/spare-") {
                    let is_zero = node.disk.content(&path).unwrap().iter().all(|byte| *byte == 0);
                    // The retirer's own have the highest bit set, those that retired the sequence that they had.
                    if name.starts_with('8') {
                        made += 1;
                        assert!(is_zero && len == full, "{path}: {len}");
                    } else {
                        recycled += 1;
                        assert!(!is_zero && len >= nearly, "{path}: {len}");
                    }
                }
            }
        }
        assert!(made > 0 && recycled > 0, "{made} made, {recycled} recycled");
        // The first spare is made for the first file; the next one is asked for when the second begins.
        assert_eq!(grown, BTreeSet::from([walfiles::path(2)]));
    })
    .await;
}
