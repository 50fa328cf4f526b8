//! Share groups: members come and go, partitions are initialized and assigned.

use std::collections::{BTreeMap, BTreeSet};

use kafka_protocol::messages::{GroupId, ShareGroupHeartbeatRequest, TopicName};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use super::*;
use crate::controller::{Delta, Image};
use crate::coordinator::group::records::Record;
use crate::coordinator::group::settings::GroupSettings;
use crate::error::{ErrorCode, Refusal};
use crate::wire::metadata::{PartitionRecord, TopicRecord};

const ID: Uuid = Uuid::from_u128(7);

struct World {
    image: Image,
    group: ShareGroup,
    settings: GroupSettings,
    now: Millis,
    log: Vec<ShareRecord>,
}

impl World {
    fn new(partitions: i32) -> Self {
        let mut image = Image::empty("cluster");
        let mut replay = |record| image.replay(&record, &mut Delta::default()).unwrap();
        replay(TopicRecord { name: "t".into(), topic_id: ID }.into());
        for partition_id in 0..partitions {
            replay(PartitionRecord { partition_id, topic_id: ID, ..Default::default() }.into());
        }
        let (settings, group) = (GroupSettings::default(), ShareGroup::new("g"));
        Self { image, group, settings, now: 1_000, log: Vec::new() }
    }

    fn take(&mut self, records: Vec<ShareRecord>) {
        for record in records {
            self.log.push(record.clone());
            self.group.replay(record);
        }
    }

    fn heartbeat(&mut self, member: &str, epoch: i32) -> Result<(i32, Option<Vec<i32>>), Refusal> {
        self.now += 5_000;
        let names = (epoch == 0).then(|| vec![TopicName(StrBytes::from_static_str("t"))]);
        let call = Heartbeat {
            request: ShareGroupHeartbeatRequest::default()
                .with_group_id(GroupId(StrBytes::from_static_str("g")))
                .with_member_id(StrBytes::from_string(member.into()))
                .with_member_epoch(epoch)
                .with_subscribed_topic_names(names),
            client_id: "c".into(),
            client_host: "/127.0.0.1".into(),
        };
        let group = self.group.clone();
        let mut turn = Turn::new(&group, &self.settings, &self.image, self.now);
        let (response, initialize) = turn.heartbeat(&call)?;
        let (records, refresh) = (turn.records, turn.refresh);
        self.take(records);
        self.group.refresh = refresh.unwrap_or(self.group.refresh);
        if let Some(initialize) = initialize {
            let states = self.group.states.with_initialized(&initialize.topics);
            let record = self.group.states_record(&states);
            self.take(vec![record]);
        }
        let assigned = response
            .assignment
            .map(|it| it.topic_partitions.into_iter().flat_map(|topic| topic.partitions).collect());
        Ok((response.member_epoch, assigned))
    }

    fn leave(&mut self, member: &str) {
        let group = self.group.clone();
        let mut turn = Turn::new(&group, &self.settings, &self.image, self.now);
        turn.leave(member).unwrap();
        let records = turn.records;
        self.take(records);
    }
}

#[test]
fn partitions_are_assigned_once_their_state_is_kept() {
    let mut world = World::new(2);
    assert_eq!(world.heartbeat("a", 0), Ok((2, Some(vec![]))), "Kafka counts from 1, too");
    let initialized = world.group.states.initialized.clone();
    assert_eq!(initialized, BTreeMap::from([(ID, ("t".to_owned(), BTreeSet::from([0, 1])))]));
    assert_eq!(world.heartbeat("a", 2), Ok((3, Some(vec![0, 1]))));
    assert_eq!(world.heartbeat("a", 3), Ok((3, None)), "no news");
}

#[test]
fn members_share_partitions_and_those_that_go_leave_theirs_to_the_others() {
    let mut world = World::new(2);
    world.heartbeat("a", 0).unwrap();
    world.heartbeat("a", 2).unwrap();
    let (epoch, of_b) = world.heartbeat("b", 0).unwrap();
    let (_, of_a) = world.heartbeat("a", 3).unwrap();
    assert_eq!((of_a.map(|it| it.len()), of_b.map(|it| it.len())), (Some(1), Some(1)));
    world.leave("b");
    let (_, all) = world.heartbeat("a", epoch).unwrap();
    assert_eq!(all, Some(vec![0, 1]));
    assert_eq!(world.heartbeat("b", epoch).unwrap_err().code, ErrorCode::UnknownMemberId);
}

#[test]
fn a_member_in_another_epoch_is_fenced_but_not_in_the_one_before() {
    let mut world = World::new(1);
    world.heartbeat("a", 0).unwrap();
    world.heartbeat("a", 2).unwrap();
    assert!(world.heartbeat("a", 2).is_ok(), "the answer may have been lost");
    assert_eq!(world.heartbeat("a", 9).unwrap_err().code, ErrorCode::FencedMemberEpoch);
}

#[test]
fn a_group_holds_no_more_members_than_it_may() {
    let mut world = World::new(1);
    world.settings.share.max_size = 1;
    world.heartbeat("a", 0).unwrap();
    assert_eq!(world.heartbeat("b", 0).unwrap_err().code, ErrorCode::GroupMaxSizeReached);
}

#[test]
fn the_records_make_the_group_again() {
    let mut world = World::new(3);
    for member in ["a", "b", "c"] {
        world.heartbeat(member, 0).unwrap();
    }
    world.heartbeat("a", world.group.member("a").unwrap().epoch).unwrap();
    world.leave("b");
    let mut again = ShareGroup::new("g");
    for record in std::mem::take(&mut world.log) {
        let (key, value) = Record::Share(record).encode().unwrap();
        let Ok(Record::Share(record)) = Record::decode(&key, value.as_deref()) else {
            panic!("it is a record of a share group")
        };
        again.replay(record);
    }
    again.refresh = world.group.refresh;
    assert_eq!(again, world.group);
}

#[test]
fn a_request_that_makes_no_sense_is_refused() {
    let good = ShareGroupHeartbeatRequest::default()
        .with_group_id(GroupId(StrBytes::from_static_str("g")))
        .with_member_id(StrBytes::from_static_str("m"))
        .with_member_epoch(1);
    assert_eq!(check_request(&good), Ok(()));
    for wrong in [
        good.clone().with_member_id(StrBytes::default()),
        good.clone().with_group_id(GroupId::default()),
        good.clone().with_rack_id(Some(StrBytes::default())),
        good.clone().with_member_epoch(-2),
        good.with_member_epoch(0),
    ] {
        assert_eq!(check_request(&wrong).unwrap_err().code, ErrorCode::InvalidRequest);
    }
}
