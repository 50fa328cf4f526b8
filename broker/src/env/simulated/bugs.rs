//! Bugs that can be planted, to see that the simulation finds them. Only in simulation builds.
//!
//! A bug is a place in the broker that asks `planted!(Name)` and then does the wrong thing. At most
//! one is planted in a run.

use std::cell::Cell;

/// Declares the bugs: name in the code, name on the command line, what goes wrong.
macro_rules! bugs {
    ($($bug:ident = $name:literal: $about:literal,)*) => {
        /// One planted bug.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Bug {
            $(#[doc = $about] $bug,)*
        }

        impl Bug {
            pub const ALL: &[Self] = &[$(Self::$bug,)*];

            /// As it is called on the command line and in the table.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$bug => $name,)*
                }
            }

            /// What goes wrong, and where it is known from.
            pub fn about(self) -> &'static str {
                match self {
                    $(Self::$bug => $about,)*
                }
            }
        }
    };
}

bugs! {
    AcknowledgeBeforeAppend = "acknowledge-before-append":
        "The leader answers a produce request before the records are in its log",
    AcknowledgeBeforeReplication = "acknowledge-before-replication":
        "acks=all is answered as acks=1 would be",
    AcknowledgeBeforeSync = "acknowledge-before-sync":
        "The leader counts its page cache as its disk (Kafka's own default, flush.messages)",
    FollowerAcknowledgesBeforeSync = "follower-acknowledges-before-sync":
        "A follower fetches on, and so acknowledges, before it has synced",
    FailedSyncIsRetried = "failed-sync-is-retried":
        "After an fsync that failed, the next one that succeeds is believed (PostgreSQL 2018)",
    DuplicateAcknowledgedAtOnce = "duplicate-acknowledged-at-once":
        "A batch sent again is acknowledged although the first one is not committed yet",
    DeposedLeaderAcknowledges = "deposed-leader-acknowledges":
        "A leader that was deposed takes its successor's high watermark for its own commits",
    HighWatermarkByMajority = "high-watermark-by-majority":
        "The high watermark is where a majority of the ISR is, as in Raft, instead of all of it",
    IsrExpandsWithoutLogEndCheck = "isr-expands-without-log-end-check":
        "A replica joins the ISR wherever its log ends",
    HighWatermarkCheckpointAhead = "high-watermark-checkpoint-ahead":
        "After a start the high watermark is the log end",
    CheckpointsOutliveTopics = "checkpoints-outlive-topics":
        "A topic made anew gets its namesake's log start and high watermark after a crash",
    ConsumerReadsUncommitted = "consumer-reads-uncommitted":
        "Consumers read up to the log end",
    LatestOffsetMovesBack = "latest-offset-moves-back":
        "A new leader tells its high watermark before it has caught up (KIP-207, KAFKA-2334)",
    TruncateToHighWatermark = "truncate-to-high-watermark":
        "Followers truncate to their high watermark and compare no epochs (KIP-101, KAFKA-1211)",
    DivergenceNotChecked = "divergence-not-checked":
        "The leader compares offsets only: a follower goes on over another history (KIP-595)",
    ReusedLeaderEpoch = "reused-leader-epoch":
        "An election does not raise the leader epoch",
    FollowerKeepsNoProducerState = "follower-keeps-no-producer-state":
        "A follower that becomes leader does not know what idempotent producers wrote",
    ProducerStateNotRecovered = "producer-state-not-recovered":
        "After a crash the batches behind the newest producer snapshot are not replayed",
    SequenceNotChecked = "sequence-not-checked":
        "An idempotent producer's sequence numbers are not looked at",
    ProducerIdsGivenTwice = "producer-ids-given-twice":
        "The controller forgets which producer ids it gave away",
    HistoryDeletesData = "history-deletes-data":
        "A starting broker acts on images from before its registration, and deletes what they lack",
    AnsweredBeforeCommit = "controller-answers-before-commit":
        "The controller answers before its records are committed",
    VoteNotPersisted = "vote-not-persisted":
        "A vote and its epoch leave the machine before they are on its disk (Raft 5.1)",
    VotesTwice = "votes-twice":
        "A voter votes for whoever asks, twice in an epoch if need be (Raft 5.2)",
    VoteWithoutLogCheck = "vote-without-log-check":
        "A voter votes for a candidate whose log ends before its own (Raft 5.4.1)",
    LeaderCommitsAlone = "leader-commits-alone":
        "The leader of the quorum commits what it has synced, whoever else has it",
    MetadataNotSynced = "metadata-not-synced":
        "A voter acknowledges metadata that is in its page cache only",
    MetadataDivergenceNotChecked = "metadata-divergence-not-checked":
        "The leader of the quorum compares offsets only, no epochs (KIP-595)",
    WipedVoterKeepsIdentity = "wiped-voter-keeps-identity":
        "A voter is known by its id alone, although its disk was replaced (KIP-853)",
    UncleanElectionAlways = "unclean-election-always":
        "Without a live member of the ISR, any replica leads (Kafka's default until KIP-106)",
    OffsetsAcknowledgedBeforeCommit = "offsets-acknowledged-before-commit":
        "A group's offset commit is answered before it is replicated (compare KAFKA-20634)",
    MarkersBeforeDecision = "markers-before-decision":
        "A transaction's markers are written before its outcome is durable",
    FencedEpochAccepted = "fenced-epoch-accepted":
        "Neither leaders nor the coordinator look at a transactional producer's epoch",
    LateProduceUnverified = "late-produce-unverified":
        "A leader takes what begins a transaction without asking its coordinator (KIP-890)",
    FollowerForgetsOpenTransactions = "follower-forgets-open-transactions":
        "A follower that becomes leader does not know which transactions are open",
    SnapshotLosesTransactions = "snapshot-loses-transactions":
        "What comes back from a producer snapshot is in no transaction that could be ended",
    AbortedIndexNotRecovered = "aborted-index-not-recovered":
        "After a crash nobody knows which transactions were aborted behind the last checkpoint",
    OffsetsVisibleBeforeMarker = "offsets-visible-before-marker":
        "A group's offsets in a transaction count before that is committed",
    AnswersBeforeReplicated = "answers-before-replicated":
        "Coordinators answer from state that is not replicated yet",
    TombstonesNotReplayed = "tombstones-not-replayed":
        "A coordinator that loads its partition overlooks what was deleted",
    OldGenerationCommits = "old-generation-commits":
        "Whoever was a member of a group may commit offsets, in whatever generation",
    RevocationNotAwaited = "revocation-not-awaited":
        "A partition is given to its next owner before the last one has given it up (KIP-848)",
    CleanerDropsMarkers = "cleaner-drops-markers":
        "The cleaner removes the end of a transaction whose records are still there",
    TombstonesRemovedAtOnce = "tombstones-removed-at-once":
        "The cleaner does not wait for delete.retention.ms before it removes a tombstone",
}

thread_local! {
    static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
}

/// Plants `bug` in all brokers that run on this thread, or none.
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

/// Is `bug` planted here?
pub fn planted(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}
