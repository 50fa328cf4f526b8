//! The records of the metadata log, as Kafka 4.3.1 writes them.
//!
//! A record's value is a frame: frame version (1), API key and version as unsigned varints, then
//! the message. [`records`] has the tables of fields, [`control`] the control records that stand
//! between. All versions are read; one is written per type, the one that metadata.version 30 uses.
//! Deliberately absent: ZkMigrationState (it can be read by nobody since Kafka 4.0, so it is an
//! error to us, too).

pub mod control;
pub mod records;

use bytes::{Bytes, BytesMut};

use super::message::{Malformed, Message, put_unsigned_varint, take_unsigned_varint};
pub use records::*;

/// The metadata.version that this software speaks: 4.3-IV0.
pub const METADATA_VERSION: i16 = 30;
/// The oldest metadata.version that Kafka 4 can be on: 3.3-IV3.
pub const MIN_METADATA_VERSION: i16 = 7;

const FRAME_VERSION: u32 = 1;

macro_rules! record_types {
    ($($key:literal $name:ident($type:ident),)*) => {
        /// One record of the metadata log.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Record {
            $($name($type),)*
        }

        impl Record {
            pub fn api_key(&self) -> u32 {
                match self {
                    $(Self::$name(_) => $key,)*
                }
            }

            /// The name of its schema in Kafka.
            pub fn name(&self) -> &'static str {
                match self {
                    $(Self::$name(_) => stringify!($type),)*
                }
            }

            fn put_message(&self, version: i16, out: &mut BytesMut) {
                match self {
                    $(Self::$name(message) => message.encode(version, out),)*
                }
            }

            fn max_version(&self) -> i16 {
                match self {
                    $(Self::$name(_) => $type::MAX,)*
                }
            }

            fn take_message(key: u32, version: i16, input: &mut &[u8]) -> Result<Self, Malformed> {
                match key {
                    $($key => $type::decode(input, version).map(Self::$name),)*
                    _ => Err(Malformed::Other("not the API key of a metadata record")),
                }
            }
        }

        $(
            impl From<$type> for Record {
                fn from(message: $type) -> Self {
                    Self::$name(message)
                }
            }
        )*
    };
}

record_types! {
    0 RegisterBroker(RegisterBrokerRecord),
    1 UnregisterBroker(UnregisterBrokerRecord),
    2 Topic(TopicRecord),
    3 Partition(PartitionRecord),
    4 Config(ConfigRecord),
    5 PartitionChange(PartitionChangeRecord),
    7 FenceBroker(FenceBrokerRecord),
    8 UnfenceBroker(UnfenceBrokerRecord),
    9 RemoveTopic(RemoveTopicRecord),
    10 DelegationToken(DelegationTokenRecord),
    11 UserScramCredential(UserScramCredentialRecord),
    12 FeatureLevel(FeatureLevelRecord),
    14 ClientQuota(ClientQuotaRecord),
    15 ProducerIds(ProducerIdsRecord),
    17 BrokerRegistrationChange(BrokerRegistrationChangeRecord),
    18 AccessControlEntry(AccessControlEntryRecord),
    19 RemoveAccessControlEntry(RemoveAccessControlEntryRecord),
    20 NoOp(NoOpRecord),
    22 RemoveUserScramCredential(RemoveUserScramCredentialRecord),
    23 BeginTransaction(BeginTransactionRecord),
    24 EndTransaction(EndTransactionRecord),
    25 AbortTransaction(AbortTransactionRecord),
    26 RemoveDelegationToken(RemoveDelegationTokenRecord),
    27 RegisterController(RegisterControllerRecord),
    28 ClearElr(ClearElrRecord),
}

impl Record {
    /// The version it is written in. Fencing and unfencing use the lowest that can say it, as
    /// Kafka does.
    fn version(&self) -> i16 {
        match self {
            Self::BrokerRegistrationChange(change) if change.cordoned_log_dirs.is_none() => {
                if change.log_dirs.is_empty() {
                    i16::from(change.in_controlled_shutdown != 0)
                } else {
                    2
                }
            }
            _ => self.max_version(),
        }
    }

    /// The frame that is a record's value.
    pub fn to_frame(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(64);
        put_unsigned_varint(&mut out, FRAME_VERSION);
        put_unsigned_varint(&mut out, self.api_key());
        let version = self.version();
        put_unsigned_varint(&mut out, version as u32);
        self.put_message(version, &mut out);
        out.freeze()
    }

    pub fn from_frame(mut frame: &[u8]) -> Result<Self, Malformed> {
        let input = &mut frame;
        if take_unsigned_varint(input)? != FRAME_VERSION {
            return Err(Malformed::Other("not frame version 1 of a metadata record"));
        }
        let key = take_unsigned_varint(input)?;
        let version = i16::try_from(take_unsigned_varint(input)?)
            .map_err(|_| Malformed::Other("the version of a metadata record is out of range"))?;
        let record = Self::take_message(key, version, input)?;
        if !input.is_empty() {
            return Err(Malformed::Other("bytes after the end of a metadata record"));
        }
        Ok(record)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_partition_change_reads_back_with_its_tagged_fields() {
        let change = Record::from(PartitionChangeRecord {
            partition_id: 3,
            topic_id: Uuid::from_u128(7),
            isr: Some(vec![1, 2]),
            leader: 2,
            directories: Some(vec![Uuid::from_u128(9)]),
            ..Default::default()
        });
        let frame = change.to_frame();
        assert_eq!(&frame[..3], &[1, 5, 2]);
        assert_eq!(Record::from_frame(&frame), Ok(change));
    }

    #[test]
    fn unfencing_is_written_in_version_0() {
        let change = BrokerRegistrationChangeRecord {
            broker_id: 1,
            broker_epoch: 11,
            fenced: -1,
            ..Default::default()
        };
        let frame = Record::from(change).to_frame();
        assert_eq!(&frame[..], &[1, 17, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 11, 1, 0, 1, 0xff],);
    }

    #[test]
    fn an_unknown_api_key_is_an_error() {
        assert!(matches!(Record::from_frame(&[1, 21, 0, 0, 0]), Err(Malformed::Other(_))));
    }

    proptest! {
        #[test]
        fn any_frame_decodes_or_fails_without_a_panic(
            key in 0u8..30, version in 0u8..5, body in prop::collection::vec(any::<u8>(), 0..80),
        ) {
            let mut frame = vec![1, key, version];
            frame.extend(body);
            let _ = Record::from_frame(&frame);
        }
    }
}
