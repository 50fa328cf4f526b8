//! Transactional ids from beginning to end, in every version, and what is refused.

use kafka_protocol::messages::add_partitions_to_txn_request::{
    AddPartitionsToTxnTopic, AddPartitionsToTxnTransaction,
};
use kafka_protocol::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopics,
};
use kafka_protocol::messages::txn_offset_commit_request::{
    TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use kafka_protocol::messages::{
    AddOffsetsToTxnRequest, AddPartitionsToTxnRequest, DescribeTransactionsRequest, EndTxnRequest,
    FindCoordinatorRequest, GroupId, InitProducerIdRequest, ListTransactionsRequest,
    OffsetFetchRequest, ProducerId, TransactionalId, TxnOffsetCommitRequest,
};

use crate::Case;
use crate::conversation::{Talk, name, text_of};
use crate::topics::make;

pub const CASES: &[Case] = &[
    Case { name: "transactions: FindCoordinator", hold: find },
    Case { name: "transactions: InitProducerId, in every version", hold: init },
    Case { name: "transactions: older clients, in every version", hold: old_clients },
    Case { name: "transactions: clients of version 2", hold: new_clients },
    Case { name: "transactions: offsets of a group", hold: offsets },
    Case { name: "transactions: what is refused, and with which code", hold: refused },
    Case { name: "transactions: described and listed", hold: described },
];

/// Loading, not available, not the coordinator, and busy with the last transaction.
const LATER: [i16; 4] = [14, 15, 16, 51];

fn id(text: &str) -> TransactionalId {
    TransactionalId(text_of(text))
}

/// Makes the internal topics; producer ids differ between clusters and are masked by the caller.
fn ready(talk: &mut Talk) {
    for (kind, topic) in [(0, "__consumer_offsets"), (1, "__transaction_state")] {
        let find = FindCoordinatorRequest::default().with_key(text_of("tx")).with_key_type(kind);
        for _ in 0..400 {
            if talk.call(3, &find).is_ok_and(|answer| answer.error_code == 0) {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        talk.wait_for_leaders(topic);
    }
}

fn find(talk: &mut Talk) {
    ready(talk);
    for version in 1..=3 {
        let find = FindCoordinatorRequest::default().with_key(text_of("tx")).with_key_type(1);
        talk.ask(version, &find);
    }
    for version in 4..=6 {
        let keys = vec![text_of("tx"), text_of("other")];
        let find = FindCoordinatorRequest::default().with_coordinator_keys(keys).with_key_type(1);
        talk.ask(version, &find);
    }
}

#[derive(Clone, Copy)]
struct Producer {
    id: i64,
    epoch: i16,
}

fn initialise(text: &str) -> InitProducerIdRequest {
    InitProducerIdRequest::default()
        .with_transactional_id(Some(id(text)))
        .with_transaction_timeout_ms(60_000)
}

/// Notes all but the id, which no other cluster gives.
fn init_noted(talk: &mut Talk, version: i16, request: &InitProducerIdRequest) -> Producer {
    let mut producer = Producer { id: -1, epoch: -1 };
    again(talk, |talk| {
        let mut code = 0;
        talk.ask_with(version, request, |answer| {
            producer = Producer { id: answer.producer_id.0, epoch: answer.producer_epoch };
            answer.producer_id = ProducerId(answer.producer_id.0.signum());
            code = answer.error_code;
        });
        code
    });
    producer
}

/// Asks again, unseen, while the coordinator is not there yet or still completes the last
/// transaction.
fn again(talk: &mut Talk, mut ask: impl FnMut(&mut Talk) -> i16) {
    for _ in 0..200 {
        let lines = talk.lines_so_far();
        if !LATER.contains(&ask(talk)) {
            return;
        }
        talk.forget_from(lines);
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

fn init(talk: &mut Talk) {
    ready(talk);
    for version in 0..=5 {
        init_noted(talk, version, &initialise("begin"));
    }
    // A producer that says who it is; one that was, and one that never was.
    let now = init_noted(talk, 5, &initialise("begin"));
    let expect =
        |id, epoch| initialise("begin").with_producer_id(ProducerId(id)).with_producer_epoch(epoch);
    for version in 3..=5 {
        init_noted(talk, version, &expect(now.id, now.epoch));
        init_noted(talk, version, &expect(now.id, 0));
        init_noted(talk, version, &expect(now.id + 77_777, 0));
        init_noted(talk, version, &expect(now.id, -1));
        init_noted(talk, version, &expect(-1, 3));
    }
    init_noted(talk, 5, &initialise(""));
    for timeout in [0, -1, 900_001, 900_000] {
        init_noted(talk, 5, &initialise("begin-t").with_transaction_timeout_ms(timeout));
    }
}

fn topics(topic: &str, partitions: &[i32]) -> Vec<AddPartitionsToTxnTopic> {
    vec![
        AddPartitionsToTxnTopic::default()
            .with_name(name(topic))
            .with_partitions(partitions.to_vec()),
    ]
}

fn adding(text: &str, by: Producer, topic: &str, partitions: &[i32]) -> AddPartitionsToTxnRequest {
    AddPartitionsToTxnRequest::default()
        .with_v3_and_below_transactional_id(id(text))
        .with_v3_and_below_producer_id(ProducerId(by.id))
        .with_v3_and_below_producer_epoch(by.epoch)
        .with_v3_and_below_topics(topics(topic, partitions))
}

fn add(talk: &mut Talk, version: i16, request: &AddPartitionsToTxnRequest) {
    again(talk, |talk| {
        let mut code = 0;
        talk.ask_with(version, request, |answer| {
            let by_id = &mut answer.results_by_transaction;
            by_id.sort_by(|a, b| a.transactional_id.cmp(&b.transactional_id));
            let old = &mut answer.results_by_topic_v3_and_below;
            let topics = by_id.iter_mut().flat_map(|it| &mut it.topic_results).chain(old);
            for topic in topics {
                topic.results_by_partition.sort_by_key(|one| one.partition_index);
                code = topic.results_by_partition.first().map_or(0, |it| it.partition_error_code);
            }
        });
        code
    });
}

fn ending(text: &str, by: Producer, commit: bool) -> EndTxnRequest {
    EndTxnRequest::default()
        .with_transactional_id(id(text))
        .with_producer_id(ProducerId(by.id))
        .with_producer_epoch(by.epoch)
        .with_committed(commit)
}

fn end(talk: &mut Talk, version: i16, request: &EndTxnRequest) -> Producer {
    let mut producer = Producer { id: -1, epoch: -1 };
    again(talk, |talk| {
        let mut code = 0;
        talk.ask_with(version, request, |answer| {
            producer = Producer { id: answer.producer_id.0, epoch: answer.producer_epoch };
            answer.producer_id = ProducerId(answer.producer_id.0.signum());
            code = answer.error_code;
        });
        code
    });
    producer
}

fn old_clients(talk: &mut Talk) {
    ready(talk);
    make(talk, "tx-old", 2);
    let by = init_noted(talk, 2, &initialise("old"));
    for version in 0..=3 {
        for commit in [true, false] {
            add(talk, version, &adding("old", by, "tx-old", &[0, 1]));
            add(talk, version, &adding("old", by, "tx-old", &[0]));
            end(talk, version.min(4), &ending("old", by, commit));
            end(talk, version.min(4), &ending("old", by, commit));
            end(talk, version.min(4), &ending("old", by, !commit));
        }
    }
    add(talk, 3, &adding("old", by, "tx-old", &[0]));
    end(talk, 4, &ending("old", by, true));
    // Nothing to end, in a fresh epoch.
    let by = init_noted(talk, 2, &initialise("old"));
    end(talk, 4, &ending("old", by, true));
    end(talk, 4, &ending("old", by, false));
}

fn batch(text: &str, by: Producer, verify: bool, partitions: &[i32]) -> AddPartitionsToTxnRequest {
    AddPartitionsToTxnRequest::default().with_transactions(vec![
        AddPartitionsToTxnTransaction::default()
            .with_transactional_id(id(text))
            .with_producer_id(ProducerId(by.id))
            .with_producer_epoch(by.epoch)
            .with_verify_only(verify)
            .with_topics(topics("tx-new", partitions)),
    ])
}

fn new_clients(talk: &mut Talk) {
    ready(talk);
    make(talk, "tx-new", 3);
    let mut by = init_noted(talk, 5, &initialise("new"));
    for version in 4..=5 {
        add(talk, version, &batch("new", by, true, &[0]));
        add(talk, version, &batch("new", by, false, &[0, 1]));
        add(talk, version, &batch("new", by, true, &[0, 2]));
        let before = by;
        by = end(talk, 5, &ending("new", by, true));
        // The same again, and the other way round.
        end(talk, 5, &ending("new", before, true));
        end(talk, 5, &ending("new", before, false));
        add(talk, version, &batch("new", before, true, &[0]));
        add(talk, version, &batch("new", before, false, &[0]));
        add(talk, version, &batch("nobody", by, false, &[0]));
        add(talk, version, &batch("new", by, false, &[0, 9]));
        // Without partitions an abort moves the epoch on, and a commit is no state to be in.
        end(talk, 5, &ending("new", by, true));
        by = end(talk, 5, &ending("new", by, false));
    }
    // A new producer aborts what is going on.
    add(talk, 5, &batch("new", by, false, &[1]));
    talk.ask(5, &initialise("new"));
    init_noted(talk, 5, &initialise("new"));
    end(talk, 5, &ending("new", by, true));
}

fn committing(text: &str, by: Producer, group: &str, topic: &str) -> TxnOffsetCommitRequest {
    let partition = |index| {
        TxnOffsetCommitRequestPartition::default()
            .with_partition_index(index)
            .with_committed_offset(7)
            .with_committed_metadata(Some(text_of("m")))
    };
    TxnOffsetCommitRequest::default()
        .with_transactional_id(id(text))
        .with_group_id(GroupId(text_of(group)))
        .with_producer_id(ProducerId(by.id))
        .with_producer_epoch(by.epoch)
        .with_generation_id(-1)
        .with_topics(vec![
            TxnOffsetCommitRequestTopic::default()
                .with_name(name(topic))
                .with_partitions(vec![partition(0), partition(9)]),
        ])
}

fn commit_offsets(talk: &mut Talk, version: i16, request: &TxnOffsetCommitRequest) {
    again(talk, |talk| {
        let mut code = 0;
        talk.ask_with(version, request, |answer| {
            for topic in &mut answer.topics {
                topic.partitions.sort_by_key(|one| one.partition_index);
                code = topic.partitions.first().map_or(0, |it| it.error_code);
            }
        });
        code
    });
}

fn fetch(talk: &mut Talk, group: &str, stable: bool) {
    let topics = OffsetFetchRequestTopics::default()
        .with_name(name("tx-group"))
        .with_partition_indexes(vec![0]);
    let group = OffsetFetchRequestGroup::default()
        .with_group_id(GroupId(text_of(group)))
        .with_topics(Some(vec![topics]));
    let request =
        OffsetFetchRequest::default().with_groups(vec![group]).with_require_stable(stable);
    talk.ask(8, &request);
}

fn offsets(talk: &mut Talk) {
    ready(talk);
    make(talk, "tx-group", 1);
    for version in 0..=4 {
        let by = init_noted(talk, 2, &initialise("offsets"));
        let join = AddOffsetsToTxnRequest::default()
            .with_transactional_id(id("offsets"))
            .with_producer_id(ProducerId(by.id))
            .with_producer_epoch(by.epoch)
            .with_group_id(GroupId(text_of("tx-g")));
        again(talk, |talk| {
            let mut code = 0;
            talk.ask_with(version, &join, |answer| code = answer.error_code);
            code
        });
        commit_offsets(talk, version, &committing("offsets", by, "tx-g", "tx-group"));
        fetch(talk, "tx-g", true);
        fetch(talk, "tx-g", false);
        end(talk, 4, &ending("offsets", by, version != 3));
    }
    let by = init_noted(talk, 5, &initialise("offsets-2"));
    commit_offsets(talk, 5, &committing("offsets-2", by, "tx-h", "tx-group"));
    fetch(talk, "tx-h", true);
    fetch(talk, "tx-h", false);
    end(talk, 5, &ending("offsets-2", by, false));
    // Not in a transaction, of a producer that is not, of a generation that is not.
    for version in 0..=5 {
        commit_offsets(talk, version, &committing("nobody", by, "tx-i", "tx-group"));
        let old = Producer { epoch: 0, ..by };
        commit_offsets(talk, version, &committing("offsets-2", old, "tx-i", "tx-group"));
        let current = Producer { epoch: by.epoch + 1, ..by };
        if version < 5 {
            commit_offsets(talk, version, &committing("offsets-2", current, "tx-i", "tx-group"));
        }
        commit_offsets(talk, version, &committing("offsets-2", by, "tx-i", "no-such-topic"));
        commit_offsets(talk, version, &committing("offsets-2", by, "", "tx-group"));
    }
}

fn refused(talk: &mut Talk) {
    ready(talk);
    make(talk, "tx-no", 1);
    let by = init_noted(talk, 2, &initialise("no"));
    let older = Producer { epoch: by.epoch - 1, ..by };
    let stranger = Producer { id: by.id + 77_777, ..by };
    for version in 0..=3 {
        add(talk, version, &adding("no", older, "tx-no", &[0]));
        add(talk, version, &adding("no", stranger, "tx-no", &[0]));
        add(talk, version, &adding("nobody", by, "tx-no", &[0]));
        add(talk, version, &adding("", by, "tx-no", &[0]));
        add(talk, version, &adding("no", by, "tx-no", &[0, 9]));
        add(talk, version, &adding("no", by, "no-such-topic", &[0]));
    }
    for version in 0..=5 {
        end(talk, version, &ending("no", older, true));
        end(talk, version, &ending("no", stranger, true));
        end(talk, version, &ending("nobody", by, true));
        end(talk, version, &ending("", by, true));
        end(talk, version, &ending("no", by, true));
    }
    for version in 0..=4 {
        for (text, by) in [("no", older), ("no", stranger), ("nobody", by), ("", by)] {
            let join = AddOffsetsToTxnRequest::default()
                .with_transactional_id(id(text))
                .with_producer_id(ProducerId(by.id))
                .with_producer_epoch(by.epoch)
                .with_group_id(GroupId(text_of("tx-g")));
            talk.ask(version, &join);
        }
    }
}

fn described(talk: &mut Talk) {
    ready(talk);
    make(talk, "tx-seen", 2);
    let by = init_noted(talk, 2, &initialise("seen"));
    let describe = |talk: &mut Talk| {
        let ids = ["seen", "nobody", ""].map(id).to_vec();
        let request = DescribeTransactionsRequest::default().with_transactional_ids(ids);
        talk.ask_with(0, &request, |answer| {
            for state in &mut answer.transaction_states {
                state.producer_id = ProducerId(state.producer_id.0.signum());
                state.transaction_start_time_ms = state.transaction_start_time_ms.signum();
                for topic in &mut state.topics {
                    topic.partitions.sort_unstable();
                }
            }
        });
    };
    describe(talk);
    add(talk, 3, &adding("seen", by, "tx-seen", &[0, 1]));
    describe(talk);
    let list = |talk: &mut Talk, version, request: ListTransactionsRequest| {
        talk.ask_with(version, &request, |answer| {
            answer.transaction_states.retain(|it| it.transactional_id == id("seen"));
            for state in &mut answer.transaction_states {
                state.producer_id = ProducerId(state.producer_id.0.signum());
            }
        });
    };
    for version in 0..=2 {
        let all = ListTransactionsRequest::default;
        list(talk, version, all());
        list(talk, version, all().with_producer_id_filters(vec![ProducerId(by.id)]));
        list(talk, version, all().with_producer_id_filters(vec![ProducerId(77_777_777)]));
        for states in [&["Ongoing"][..], &["Empty"], &["Nonsense"], &["Ongoing", "Nonsense"]] {
            let states = states.iter().map(|state| text_of(state)).collect();
            list(talk, version, all().with_state_filters(states));
        }
        if version >= 1 {
            list(talk, version, all().with_duration_filter(100_000));
            list(talk, version, all().with_duration_filter(0));
        }
        if version >= 2 {
            for pattern in ["see", "se.*", "[", ""] {
                let pattern = Some(text_of(pattern));
                list(talk, version, all().with_transactional_id_pattern(pattern));
            }
        }
    }
    end(talk, 3, &ending("seen", by, false));
}
