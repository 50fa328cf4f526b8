//! Offsets that groups commit in producers' transactions.

use super::call::TxnOffsetCommit;
use super::classic::Step;
use super::consumer::ConsumerGroup;
use super::effects::Answer;
use super::kind::Group;
use super::offsets;
use super::records::{OffsetCommitKey, OffsetCommitValue};
use super::shard::Shard;
use super::streams::StreamsGroup;
use crate::coordinator::runtime::InTransaction;
use crate::error::ErrorCode;

impl Shard {
    /// Takes in an offset that was read from the log as part of a transaction.
    pub fn load_in_transaction(
        &mut self,
        producer: i64,
        key: OffsetCommitKey,
        value: OffsetCommitValue,
    ) {
        self.simple_group(&key.group, 0, 0);
        self.offsets.load_in_transaction(producer, key.into(), value.into());
    }

    /// Takes in the end of a transaction that was read from the log.
    pub fn load_end(&mut self, producer: i64, committed: bool) {
        self.offsets.load_end(producer, committed);
    }

    /// The next write is the marker that ends a producer's transaction.
    pub fn end_transaction(&mut self, producer: i64, committed: bool) {
        self.written += 1;
        self.offsets.end_transaction(self.written, producer, committed);
    }

    /// Offsets that count once the producer's transaction is committed.
    pub(super) fn commit_in_transaction(
        &mut self,
        call: &TxnOffsetCommit,
        step: &mut Step<'_>,
    ) -> Result<Answer, ErrorCode> {
        let request = &call.request;
        match self.groups.get(request.group_id.as_str()) {
            Some(Group::Classic(group)) => {
                let instance = request.group_instance_id.as_deref();
                let (member, generation) = (&request.member_id, request.generation_id);
                group.validate_transactional_commit(member, instance, generation)?;
            }
            Some(Group::Consumer(group)) => may_commit(group, call).map_err(in_older_words)?,
            Some(Group::Streams(group)) => may_commit_tasks(group, call).map_err(in_older_words)?,
            Some(Group::Share(_)) => return Err(ErrorCode::GroupIdNotFound),
            None if request.generation_id < 0 => {}
            None => return Err(ErrorCode::IllegalGeneration),
        }
        let max = step.settings.offset_metadata_max;
        let (answer, records) = offsets::commit_in_transaction(call, max, step.now);
        step.effects.records = records;
        step.effects.transaction = Some(InTransaction {
            producer_id: request.producer_id.0,
            producer_epoch: request.producer_epoch,
            guard: call.guard,
        });
        step.effects.replay = true;
        Ok(Answer::TxnOffsetCommit(answer))
    }
}

/// Producers do not know of epochs.
fn in_older_words(code: ErrorCode) -> ErrorCode {
    match code {
        ErrorCode::StaleMemberEpoch => ErrorCode::IllegalGeneration,
        other => other,
    }
}

fn may_commit_tasks(group: &StreamsGroup, call: &TxnOffsetCommit) -> Result<(), ErrorCode> {
    let request = &call.request;
    let (instance, epoch) = (request.group_instance_id.as_deref(), request.generation_id);
    let member = group.validate_commit(&request.member_id, instance, epoch, None)?;
    let Some(member) = member else { return Ok(()) };
    for topic in &request.topics {
        if !call.topic_ids.contains_key(topic.name.as_str()) {
            return Err(ErrorCode::IllegalGeneration);
        }
        for partition in &topic.partitions {
            group.may_commit(member, &topic.name, partition.partition_index, epoch)?;
        }
    }
    Ok(())
}

fn may_commit(group: &ConsumerGroup, call: &TxnOffsetCommit) -> Result<(), ErrorCode> {
    let request = &call.request;
    let epoch = request.generation_id;
    let Some(member) = group.validate_commit(&request.member_id, epoch, None)? else {
        return Ok(());
    };
    for topic in &request.topics {
        let id = call.topic_ids.get(topic.name.as_str()).ok_or(ErrorCode::IllegalGeneration)?;
        for partition in &topic.partitions {
            member.may_commit(*id, partition.partition_index, epoch)?;
        }
    }
    Ok(())
}
