//! Any bytes that come as a request end in an error, never in a panic or in memory beyond bounds.
//!
//! Valid bodies are made from the shapes that the walker knows, and each must be read to its last
//! byte by the decoder: so the two agree on what is valid. Then the bodies are damaged, and whatever
//! the walker still lets through must be decoded or refused. `OTTLA_HOSTILE_CASES` sets how many
//! cases each test runs (2,000 by itself); a failure names the seed of its case, and
//! `OTTLA_HOSTILE_SEED` starts from another one. `corpus/` keeps bodies that once did harm.

use bytes::Bytes;
use kafka_protocol::messages::ApiKey;
use kafka_protocol::protocol::{Decodable, Message, VersionRange};
use ottla_broker::api::{Scope, offset_commit, offset_fetch, table};
use ottla_broker::wire;
use ottla_broker::wire::bounds;
use ottla_broker::wire::header::Header;
use ottla_broker::wire::key::Key;
use ottla_broker::wire::schema::{self, Field, Type};
use ottla_broker::wire::{share, streams, txn_markers};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

macro_rules! decoders {
    ($($name:ident $request:ident,)*) => {
        /// Decodes as a handler would; returns how many bytes were left over.
        fn decode(key: Key, version: i16, body: &[u8]) -> Result<usize, String> {
            if let Some(own) = own_schema(key, version) {
                return own(body, version);
            }
            let mut body = Bytes::copy_from_slice(body);
            match key.known() {
                $(Some(ApiKey::$name) => {
                    kafka_protocol::messages::$request::decode(&mut body, version)
                        .map_err(|error| error.to_string())?;
                })*
                None => return Err(format!("{key:?} has no decoder")),
            }
            Ok(body.len())
        }

        /// The versions that can be decoded; `ApiKey::valid_versions` lists a few more.
        fn decodable(key: Key) -> VersionRange {
            let mut versions = match key.known() {
                $(Some(ApiKey::$name) => kafka_protocol::messages::$request::VERSIONS,)*
                None => VersionRange { min: 0, max: -1 },
            };
            while own_schema(key, versions.max + 1).is_some() {
                versions.max += 1;
            }
            versions
        }
    };
}

fn left<M: wire::message::Message>(mut body: &[u8], version: i16) -> Result<usize, String> {
    M::decode(&mut body, version).map_err(|error| error.to_string())?;
    Ok(body.len())
}

/// What `kafka-protocol` does not know yet.
fn own_schema(key: Key, version: i16) -> Option<fn(&[u8], i16) -> Result<usize, String>> {
    let own = match (key, version) {
        (Key::STREAMS_GROUP_HEARTBEAT, 0) => left::<streams::StreamsGroupHeartbeatRequest>,
        (Key::STREAMS_GROUP_DESCRIBE, 0) => left::<streams::StreamsGroupDescribeRequest>,
        _ => return own_version(key.known()?, version),
    };
    Some(own)
}

/// A version that `kafka-protocol` does not know of an API that it knows.
fn own_version(key: ApiKey, version: i16) -> Option<fn(&[u8], i16) -> Result<usize, String>> {
    match (key, version) {
        (ApiKey::OffsetCommit, 10) => Some(left::<offset_commit::CommitById>),
        (ApiKey::OffsetFetch, 10) => Some(left::<offset_fetch::FetchById>),
        (ApiKey::WriteTxnMarkers, 2) => Some(left::<txn_markers::WriteMarkers>),
        (ApiKey::ShareFetch, 2) => Some(left::<share::ShareFetchRequest>),
        (ApiKey::ShareAcknowledge, 2) => Some(left::<share::ShareAcknowledgeRequest>),
        (ApiKey::WriteShareGroupState, 1) => Some(left::<share::WriteStateRequest>),
        (ApiKey::ReadShareGroupStateSummary, 1) => Some(left::<share::ReadStateRequest>),
        // The same as version 0, as which it is read.
        (ApiKey::DescribeShareGroupOffsets, 1) => {
            Some(|body, _| decode(ApiKey::DescribeShareGroupOffsets.into(), 0, body))
        }
        // One tagged field more than version 1, as which it is read.
        (ApiKey::BrokerHeartbeat, 2) => {
            Some(|body, _| decode(ApiKey::BrokerHeartbeat.into(), 1, body))
        }
        _ => None,
    }
}

decoders! {
    Produce ProduceRequest,
    Fetch FetchRequest,
    ListOffsets ListOffsetsRequest,
    Metadata MetadataRequest,
    OffsetCommit OffsetCommitRequest,
    OffsetFetch OffsetFetchRequest,
    FindCoordinator FindCoordinatorRequest,
    JoinGroup JoinGroupRequest,
    Heartbeat HeartbeatRequest,
    LeaveGroup LeaveGroupRequest,
    SyncGroup SyncGroupRequest,
    DescribeGroups DescribeGroupsRequest,
    ListGroups ListGroupsRequest,
    SaslHandshake SaslHandshakeRequest,
    ApiVersions ApiVersionsRequest,
    CreateTopics CreateTopicsRequest,
    DeleteTopics DeleteTopicsRequest,
    DeleteRecords DeleteRecordsRequest,
    InitProducerId InitProducerIdRequest,
    OffsetForLeaderEpoch OffsetForLeaderEpochRequest,
    AddPartitionsToTxn AddPartitionsToTxnRequest,
    AddOffsetsToTxn AddOffsetsToTxnRequest,
    EndTxn EndTxnRequest,
    WriteTxnMarkers WriteTxnMarkersRequest,
    TxnOffsetCommit TxnOffsetCommitRequest,
    DescribeAcls DescribeAclsRequest,
    CreateAcls CreateAclsRequest,
    DeleteAcls DeleteAclsRequest,
    DescribeConfigs DescribeConfigsRequest,
    AlterConfigs AlterConfigsRequest,
    AlterReplicaLogDirs AlterReplicaLogDirsRequest,
    DescribeLogDirs DescribeLogDirsRequest,
    SaslAuthenticate SaslAuthenticateRequest,
    CreatePartitions CreatePartitionsRequest,
    CreateDelegationToken CreateDelegationTokenRequest,
    RenewDelegationToken RenewDelegationTokenRequest,
    ExpireDelegationToken ExpireDelegationTokenRequest,
    DescribeDelegationToken DescribeDelegationTokenRequest,
    DeleteGroups DeleteGroupsRequest,
    ElectLeaders ElectLeadersRequest,
    IncrementalAlterConfigs IncrementalAlterConfigsRequest,
    AlterPartitionReassignments AlterPartitionReassignmentsRequest,
    ListPartitionReassignments ListPartitionReassignmentsRequest,
    OffsetDelete OffsetDeleteRequest,
    DescribeClientQuotas DescribeClientQuotasRequest,
    AlterClientQuotas AlterClientQuotasRequest,
    DescribeUserScramCredentials DescribeUserScramCredentialsRequest,
    AlterUserScramCredentials AlterUserScramCredentialsRequest,
    Vote VoteRequest,
    BeginQuorumEpoch BeginQuorumEpochRequest,
    EndQuorumEpoch EndQuorumEpochRequest,
    DescribeQuorum DescribeQuorumRequest,
    AlterPartition AlterPartitionRequest,
    UpdateFeatures UpdateFeaturesRequest,
    Envelope EnvelopeRequest,
    FetchSnapshot FetchSnapshotRequest,
    DescribeCluster DescribeClusterRequest,
    DescribeProducers DescribeProducersRequest,
    BrokerRegistration BrokerRegistrationRequest,
    BrokerHeartbeat BrokerHeartbeatRequest,
    UnregisterBroker UnregisterBrokerRequest,
    DescribeTransactions DescribeTransactionsRequest,
    ListTransactions ListTransactionsRequest,
    AllocateProducerIds AllocateProducerIdsRequest,
    ConsumerGroupHeartbeat ConsumerGroupHeartbeatRequest,
    ConsumerGroupDescribe ConsumerGroupDescribeRequest,
    ControllerRegistration ControllerRegistrationRequest,
    GetTelemetrySubscriptions GetTelemetrySubscriptionsRequest,
    PushTelemetry PushTelemetryRequest,
    AssignReplicasToDirs AssignReplicasToDirsRequest,
    ListConfigResources ListConfigResourcesRequest,
    DescribeTopicPartitions DescribeTopicPartitionsRequest,
    ShareGroupHeartbeat ShareGroupHeartbeatRequest,
    ShareGroupDescribe ShareGroupDescribeRequest,
    ShareFetch ShareFetchRequest,
    ShareAcknowledge ShareAcknowledgeRequest,
    AddRaftVoter AddRaftVoterRequest,
    RemoveRaftVoter RemoveRaftVoterRequest,
    UpdateRaftVoter UpdateRaftVoterRequest,
    InitializeShareGroupState InitializeShareGroupStateRequest,
    ReadShareGroupState ReadShareGroupStateRequest,
    WriteShareGroupState WriteShareGroupStateRequest,
    DeleteShareGroupState DeleteShareGroupStateRequest,
    ReadShareGroupStateSummary ReadShareGroupStateSummaryRequest,
    DescribeShareGroupOffsets DescribeShareGroupOffsetsRequest,
    AlterShareGroupOffsets AlterShareGroupOffsetsRequest,
    DeleteShareGroupOffsets DeleteShareGroupOffsetsRequest,
}

/// Runs `case` on as many seeds as asked for.
fn for_each_case(case: impl Fn(&mut StdRng)) {
    let number = |name: &str, default: u64| {
        std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
    };
    let first = number("OTTLA_HOSTILE_SEED", 0);
    for seed in first..first + number("OTTLA_HOSTILE_CASES", 2_000) {
        let mut random = StdRng::seed_from_u64(seed);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| case(&mut random)));
        assert!(outcome.is_ok(), "OTTLA_HOSTILE_SEED={seed} OTTLA_HOSTILE_CASES=1");
    }
}

fn any_request(random: &mut StdRng) -> (Key, i16) {
    let own = [Key::STREAMS_GROUP_HEARTBEAT, Key::STREAMS_GROUP_DESCRIBE];
    let keys = ApiKey::iter().map(Key::of).chain(own);
    let keys: Vec<Key> = keys.filter(|key| !decodable(*key).is_empty()).collect();
    let key = *keys.choose(random).unwrap();
    let versions = decodable(key);
    (key, random.random_range(versions.min..=versions.max))
}

/// Writes valid bodies.
struct Maker<'a> {
    random: &'a mut StdRng,
    version: i16,
    flexible: bool,
    bytes: Vec<u8>,
    /// How many more array elements there may be.
    elements: usize,
}

impl Maker<'_> {
    fn fields(&mut self, fields: &[Field]) {
        let version = self.version;
        for field in fields.iter().filter(|field| field.is_plain_in(version)) {
            self.value(field);
        }
        if self.flexible {
            self.tagged(fields);
        }
    }

    fn tagged(&mut self, fields: &[Field]) {
        let known: Vec<(u32, &Field)> = fields
            .iter()
            .filter_map(|field| field.tag.map(|(tag, _)| (tag, field)))
            .filter(|(tag, field)| field.has_tag_in(*tag, self.version))
            .collect();
        let known: Vec<_> = known.into_iter().filter(|_| self.random.random_bool(0.5)).collect();
        let unknown = self.random.random_range(0..3_u32);
        self.varint(known.len() as u32 + unknown);
        for (tag, field) in known {
            let before = std::mem::take(&mut self.bytes);
            self.value(field);
            let body = std::mem::replace(&mut self.bytes, before);
            self.varint(tag);
            self.varint(body.len() as u32);
            self.bytes.extend(body);
        }
        for tag in 0..unknown {
            self.varint(1000 + tag);
            self.varint(3);
            self.bytes.extend([1, 2, 3]);
        }
    }

    fn value(&mut self, field: &Field) {
        let null = field.nullable.contains(self.version) && self.random.random_bool(0.3);
        match &field.kind {
            Type::Struct(fields) if field.nullable.contains(self.version) => {
                self.bytes.push(if null { 0xff } else { 1 });
                if !null {
                    self.fields(fields);
                }
            }
            kind => self.kind(kind, null),
        }
    }

    fn kind(&mut self, kind: &Type, null: bool) {
        match kind {
            Type::Fixed(len) => {
                let bytes: Vec<u8> = (0..*len).map(|_| self.random.random_range(0..2)).collect();
                self.bytes.extend(bytes);
            }
            Type::String => {
                let len = self.random.random_range(0..20);
                self.length(len, null, 2);
                self.bytes.extend(std::iter::repeat_n(b'a', if null { 0 } else { len }));
            }
            Type::Bytes => {
                let len = self.random.random_range(0..200);
                self.length(len, null, 4);
                self.bytes.extend(std::iter::repeat_n(7, if null { 0 } else { len }));
            }
            Type::Array(element) => {
                let count = if null { 0 } else { self.random.random_range(0..4) };
                let count = usize::min(count, self.elements);
                self.elements -= count;
                self.length(count, null, 4);
                for _ in 0..count {
                    self.kind(element, false);
                }
            }
            Type::Struct(fields) => self.fields(fields),
        }
    }

    fn length(&mut self, len: usize, null: bool, width: usize) {
        match (self.flexible, null) {
            (true, true) => self.varint(0),
            (true, false) => self.varint(len as u32 + 1),
            (false, _) => {
                let len = if null { -1 } else { len as i32 };
                self.bytes.extend(&len.to_be_bytes()[4 - width..]);
            }
        }
    }

    fn varint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }
}

fn valid_body(random: &mut StdRng, key: Key, version: i16) -> Vec<u8> {
    let shape = schema::request(key.number()).unwrap();
    let flexible = shape.flexible.contains(version);
    let mut maker = Maker { random, version, flexible, bytes: Vec::new(), elements: 50 };
    maker.fields(&shape.fields);
    maker.bytes
}

/// Damages a body in one of the ways that do harm.
fn damage(random: &mut StdRng, body: &mut Vec<u8>) {
    const EXTREMES: [&[u8]; 8] = [
        &[0xff; 4],
        &[0x7f, 0xff, 0xff, 0xff],
        &[0x80, 0, 0, 0],
        &[0xff, 0xff, 0xff, 0xff, 0x0f],
        &[0xff, 0xff, 0xff, 0xff, 0xff],
        &[0xfe, 0xff, 0x03],
        &[0; 4],
        &[0x7f, 0xff],
    ];
    for _ in 0..random.random_range(1..4) {
        let at = random.random_range(0..=body.len());
        match random.random_range(0..5) {
            0 if at < body.len() => body[at] = random.random(),
            1 => body.truncate(at),
            2 => body.insert(at, random.random()),
            3 => {
                let extreme = EXTREMES.choose(random).unwrap();
                let end = usize::min(at + extreme.len(), body.len());
                body.splice(at..end, extreme.iter().copied());
            }
            _ => {
                let from = random.random_range(0..=at);
                let copied = body[from..at].to_vec();
                body.splice(at..at, copied);
            }
        }
    }
}

#[test]
fn every_version_that_is_served_can_be_decoded() {
    let mut unknown = Vec::new();
    for scope in [Scope::Broker, Scope::Controller] {
        for api in table::apis(scope) {
            let decodable = decodable(api.key);
            for version in api.advertised().filter(|version| api.serves(*version)) {
                if !(decodable.min..=decodable.max).contains(&version) {
                    unknown.push(format!("{:?} {version}", api.key));
                }
            }
        }
    }
    assert_eq!(unknown, Vec::<String>::new());
}

#[test]
fn every_valid_body_is_let_through_and_decoded_to_its_last_byte() {
    for_each_case(|random| {
        let (key, version) = any_request(random);
        let body = valid_body(random, key, version);
        assert_eq!(bounds::check(key.number(), version, &body), Ok(()), "{key:?} {version}");
        assert_eq!(decode(key, version, &body), Ok(0), "{key:?} {version} {body:?}");
    });
}

#[test]
fn a_damaged_body_is_refused_or_decoded_as_far_as_was_proven() {
    for_each_case(|random| {
        let (key, version) = any_request(random);
        let mut body = valid_body(random, key, version);
        damage(random, &mut body);
        if let Ok(taken) = bounds::extent(key.number(), version, &body)
            && let Ok(left) = decode(key, version, &body)
        {
            assert_eq!(left, body.len() - taken, "{key:?} {version} {body:?}");
        }
    });
}

#[test]
fn random_bytes_are_refused_or_decoded_as_far_as_was_proven() {
    for_each_case(|random| {
        let (key, version) = any_request(random);
        let len = random.random_range(0..64);
        let body: Vec<u8> = (0..len).map(|_| random.random()).collect();
        if let Ok(taken) = bounds::extent(key.number(), version, &body)
            && let Ok(left) = decode(key, version, &body)
        {
            assert_eq!(left, body.len() - taken, "{key:?} {version} {body:?}");
        }
    });
}

#[test]
fn any_header_is_taken_off_or_refused() {
    for_each_case(|random| {
        let len = random.random_range(0..40);
        let mut bytes: Vec<u8> = (0..len).map(|_| random.random()).collect();
        if random.random_bool(0.5) && len > 10 {
            // A plausible client id.
            bytes[8..10].copy_from_slice(&(random.random_range(-2..40_i16)).to_be_bytes());
        }
        let mut frame = Bytes::from(bytes);
        let before = frame.len();
        if Header::take(&mut frame, random.random_bool(0.5)).is_ok() {
            assert!(frame.len() <= before - 10);
        }
    });
}

/// Bodies that did harm: `API-KEY VERSION HEX # what it did`, one a line.
#[test]
fn what_once_did_harm_is_refused() {
    for line in include_str!("corpus/requests.txt").lines() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let mut words = line.split_whitespace();
        let key: i16 = words.next().unwrap().parse().unwrap();
        let version: i16 = words.next().unwrap().parse().unwrap();
        let hex = words.next().unwrap().trim_matches('"');
        let digits: Vec<u8> = hex.bytes().collect();
        let byte =
            |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        let body: Vec<u8> = digits.chunks(2).map(byte).collect();
        assert!(bounds::check(key, version, &body).is_err(), "{line}");
    }
}
