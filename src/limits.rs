//! Every limit, with its unit and its reason. What a config can change begins here as its default.
//!
//! Limits that depend on each other are held together by the assertions at the end: a build with a contradiction
//! does not compile.

/// One kibibyte.
pub const KIB: u32 = 1 << 10;
/// One mebibyte.
pub const MIB: u32 = 1 << 20;

// ---- records and batches

/// Bytes of a batch, as stored. Large enough that the disk's and the network's per-batch costs vanish (256 KiB
/// suffice), small enough that 64 of them fit into the smallest useful pool.
pub const BATCH_BYTES_MAX: u32 = MIB;
/// Bytes of a batch's records before compression. A bomb stops here; honest text compresses 16-fold at best.
pub const RECORDS_BYTES_MAX: u32 = 16 * MIB;
/// zstd may ask for a window of this power of two: as much as the records themselves may have.
pub const ZSTD_WINDOW_LOG_MAX: u32 = 24;
/// Headers of a record. Each costs 56 bytes of memory for 2 of input.
pub const RECORD_HEADERS_MAX: u32 = 1_024;

// ---- topics and groups

/// Partitions of a topic when nobody says otherwise: total order until somebody wants throughput.
pub const PARTITIONS_DEFAULT: u32 = 1;
/// Partitions of a topic. Each is a Raft group of up to 1.4 MB of memory per replica.
pub const PARTITIONS_PER_TOPIC_MAX: u32 = 1_000;
/// Replicas of a partition that one node hosts: memory of a replica that ever worked is 1.2–1.4 MB.
pub const REPLICAS_PER_NODE_MAX: u32 = 4_000;
/// Replicas of a partition when nobody says otherwise, and there are as many nodes: one may fail.
pub const REPLICATION_FACTOR_DEFAULT: u32 = 3;
/// Replicas of a partition: five survive two failures; more only add latency.
pub const REPLICATION_FACTOR_MAX: u32 = 7;
/// How long records are kept, in milliseconds: 7 days, as Kafka's users expect.
pub const RETENTION_MS_DEFAULT: u64 = 7 * 24 * 3_600_000;
/// How often a leader looks for records to remove, in milliseconds.
pub const RETENTION_CHECK_MS_DEFAULT: u64 = 30_000;
/// Producers that a partition remembers: 10,000 with five batches each are about 1 MB of checkpoint.
pub const PRODUCERS_PER_PARTITION_MAX: u32 = 10_000;
/// A producer that was silent for so long is forgotten, in milliseconds: 1 day, longer than any client retries.
pub const PRODUCER_EXPIRY_MS: u64 = 24 * 3_600_000;
/// Batches of a producer whose offsets a partition remembers: as many as Kafka's clients have in flight.
pub const PRODUCER_BATCHES_REMEMBERED: u32 = 5;
/// How long a group waits for a member that lost its connection, in milliseconds.
pub const SESSION_GRACE_MS_DEFAULT: u64 = 10_000;
/// A shorter session would be over before an answer is missed.
pub const SESSION_GRACE_MS_MIN: u64 = 1_000;
/// Longest grace a member may ask for, in milliseconds: its partitions stand still meanwhile.
pub const SESSION_GRACE_MS_MAX: u64 = 30 * 60_000;
/// Groups of one home: each is about 1 KiB of checkpoint, and its cursors.
pub const GROUPS_PER_HOME_MAX: u32 = 10_000;
/// Topics that a member subscribes to.
pub const TOPICS_PER_MEMBER_MAX: u32 = 1_000;
/// Members of a group: an assignment names each.
pub const MEMBERS_PER_GROUP_MAX: u32 = 1_000;
/// Bytes of the metadata beside a committed offset, as Kafka's.
pub const COMMIT_METADATA_BYTES_MAX: u32 = 4 * KIB;

// ---- requests

/// Bytes of a frame's head in the native protocol: names and numbers of one request, never records.
pub const FRAME_HEAD_BYTES_MAX: u32 = MIB;
/// Bytes of a frame's body: the batches of one request.
pub const FRAME_BODY_BYTES_MAX: u32 = 64 * MIB;
/// Bytes of a fetch response.
pub const FETCH_BYTES_MAX: u32 = 8 * MIB;
/// Bytes that a fetch takes from one partition in one turn, so that no partition starves the others.
pub const FETCH_PARTITION_BYTES_MAX: u32 = MIB;
/// Longest wait of a parked fetch, in milliseconds.
pub const FETCH_WAIT_MS_MAX: u32 = 120_000;
/// Partitions that one connection fetches from or is subscribed to.
pub const PARTITIONS_PER_SESSION_MAX: u32 = 10_000;
/// Connections of a node: about 50 KB each when idle.
pub const CONNECTIONS_MAX: u32 = 10_000;

// ---- back-pressure: bytes taken at admission and held to the answer

/// Bytes of produce requests in flight per node.
pub const PRODUCE_POOL_BYTES_DEFAULT: u64 = 64 * MIB as u64;
/// Bytes of fetch responses in flight per node.
pub const RESPONSE_POOL_BYTES_DEFAULT: u64 = 64 * MIB as u64;
/// Bytes of commits, joins and heartbeats in flight per node: small and apart, so that overload never blocks them.
pub const CONTROL_POOL_BYTES_DEFAULT: u64 = 8 * MIB as u64;
/// What a request costs at least, in bytes: its bookkeeping.
pub const REQUEST_BYTES_MIN: u32 = 1_024;

// ---- actors

/// Longest turn of an actor, in microseconds; then it yields and goes on later.
pub const TURN_US_MAX: u64 = 200;
/// Waiters that one message to an arbiter fires.
pub const FIRES_PER_MESSAGE_MAX: usize = 256;
/// Bytes after which a response writer yields.
pub const WRITER_YIELD_BYTES: usize = 256 * 1_024;
/// Leaderships that a node hands over at a time when it drains.
pub const TRANSFERS_AT_ONCE: usize = 8;
/// How long a draining node waits for its clients, in milliseconds.
pub const DRAIN_MS_DEFAULT: u64 = 10_000;

// ---- log

/// Bytes of a write-ahead log file; `dev` takes [`WAL_FILE_BYTES_DEV`].
pub const WAL_FILE_BYTES_DEFAULT: u64 = 64 * MIB as u64;
/// Bytes of a write-ahead log file of `dev`: zero-filled at start, so small.
pub const WAL_FILE_BYTES_DEV: u64 = 8 * MIB as u64;
/// Write-ahead log files before appends are slowed.
pub const WAL_FILES_MAX_DEFAULT: u32 = 4;
/// Bytes of a segment: the unit of retention and of the Raft snapshot.
pub const SEGMENT_BYTES_DEFAULT: u64 = 128 * MIB as u64;
/// Bytes of newest entries kept in memory per data directory.
pub const CACHE_BYTES_DEFAULT: u64 = 256 * MIB as u64;
/// Bytes of newest batches that consumers at the end of their partitions are served from, of all partitions of a node
/// together. Most of them are slices of what the cache holds anyway.
pub const TAIL_BYTES_DEFAULT: u64 = 64 * MIB as u64;
/// Free bytes of the data directory's file system below which produce is refused (retriable).
pub const FREE_BYTES_MIN_DEFAULT: u64 = 1_024 * MIB as u64;

// ---- Raft: for one site, a dead leader is replaced within about a second

/// Heartbeat between nodes, in milliseconds.
pub const HEARTBEAT_MS_DEFAULT: u64 = 200;
/// Shortest election timeout, in milliseconds.
pub const ELECTION_MS_MIN_DEFAULT: u64 = 500;
/// Longest election timeout, in milliseconds: also a leader's lease, during which voters elect nobody else.
pub const ELECTION_MS_MAX_DEFAULT: u64 = 800;
/// Silence after which a node is suspected, in milliseconds.
pub const SUSPICION_MS_DEFAULT: u64 = 500;
/// The k-th live voter waits this long (k−1) times before it stands for election, in milliseconds.
pub const RANK_STEP_MS_DEFAULT: u64 = 150;
/// A transfer of leadership that takes longer has failed, in milliseconds.
pub const TRANSFER_MS_DEFAULT: u64 = 500;
/// A term above this is refused: Kafka's leader epoch is a signed 32-bit number.
pub const TERM_MAX: u64 = i32::MAX as u64;

// ---- nodes and ids

/// No counter of a replicated machine gets there in the life of a cluster: a checkpoint that says so is damaged, and one may be
/// added to any that is read.
pub const COUNTER_END: u64 = 1 << 62;
/// Bytes of a cluster's name, and of a client's: peers take no more, and a certificate's common name, which has 64, carries it
/// with `CA of ` before it.
pub const CERTIFIED_NAME_BYTES_MAX: usize = 40;
/// Node ids are below this; seeds' first replica ids are their node ids, all later ones begin here.
pub const NODE_ID_END: u32 = 1 << 16;
/// Seeds of a cluster: the voters of the controller group to begin with.
pub const SEEDS_MAX: usize = 7;
/// Raft group of the controller.
pub const CONTROLLER_GROUP: u64 = 0;
/// Raft groups that are homes of consumer groups: 1 to this.
pub const HOME_GROUPS: u64 = 16;
/// First Raft group of a partition.
pub const PARTITION_GROUP_MIN: u64 = 1_024;
/// Bits of a producer id that count; above them are 23 bits of the cluster id, so that two clusters never give the same.
pub const PRODUCER_COUNTER_BITS: u32 = 40;
/// Producer ids that a node takes from the controller at a time.
pub const PRODUCER_ID_BLOCK: u64 = 1_000;

// ---- ports; each further node of `dev` adds PORT_STEP

/// Native protocol, UDP.
pub const PORT_NATIVE: u16 = 7_420;
/// Replication between nodes, UDP.
pub const PORT_PEER: u16 = 7_421;
/// Heartbeats and votes between nodes, UDP.
pub const PORT_CONTROL: u16 = 7_422;
/// Health and metrics, TCP.
pub const PORT_HTTP: u16 = 7_423;
/// From one node of `dev` to the next.
pub const PORT_STEP: u16 = 10;

const _: () = {
    assert!(BATCH_BYTES_MAX <= RECORDS_BYTES_MAX);
    assert!(RECORDS_BYTES_MAX <= i32::MAX as u32, "lengths inside a batch are signed 32-bit numbers");
    assert!(1 << ZSTD_WINDOW_LOG_MAX <= RECORDS_BYTES_MAX);
    assert!(BATCH_BYTES_MAX <= FRAME_BODY_BYTES_MAX, "a batch fits into a frame");
    assert!(FETCH_BYTES_MAX <= FRAME_BODY_BYTES_MAX, "a fetch response fits into a frame");
    assert!(FETCH_PARTITION_BYTES_MAX >= BATCH_BYTES_MAX, "a whole batch is always returned");
    assert!(FETCH_PARTITION_BYTES_MAX <= FETCH_BYTES_MAX);
    assert!(PRODUCE_POOL_BYTES_DEFAULT >= FRAME_BODY_BYTES_MAX as u64, "the largest request is admitted");
    assert!(RESPONSE_POOL_BYTES_DEFAULT >= FETCH_BYTES_MAX as u64);
    assert!(CONTROL_POOL_BYTES_DEFAULT >= FRAME_HEAD_BYTES_MAX as u64);
    assert!(REQUEST_BYTES_MIN <= BATCH_BYTES_MAX);
    assert!(TAIL_BYTES_DEFAULT >= 4 * BATCH_BYTES_MAX as u64, "some batches are hot");
    assert!(SESSION_GRACE_MS_MIN <= SESSION_GRACE_MS_DEFAULT && SESSION_GRACE_MS_DEFAULT <= SESSION_GRACE_MS_MAX);
    assert!(WAL_FILE_BYTES_DEV <= WAL_FILE_BYTES_DEFAULT);
    assert!(WAL_FILE_BYTES_DEV >= 4 * BATCH_BYTES_MAX as u64, "a flush of some batches fits into a file");
    assert!(SEGMENT_BYTES_DEFAULT >= WAL_FILE_BYTES_DEFAULT);
    assert!(HEARTBEAT_MS_DEFAULT * 2 <= SUSPICION_MS_DEFAULT, "one lost heartbeat is no death");
    assert!(SUSPICION_MS_DEFAULT <= ELECTION_MS_MAX_DEFAULT, "else the lease has run out long before");
    assert!(ELECTION_MS_MIN_DEFAULT < ELECTION_MS_MAX_DEFAULT);
    assert!(REPLICATION_FACTOR_DEFAULT <= REPLICATION_FACTOR_MAX);
    assert!(CONTROLLER_GROUP + HOME_GROUPS < PARTITION_GROUP_MIN);
    assert!(PRODUCER_COUNTER_BITS + 23 == 63, "producer ids are positive in Kafka's i64");
    assert!(PORT_HTTP - PORT_NATIVE < PORT_STEP);
};
