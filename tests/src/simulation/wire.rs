//! The smallest Kafka client that a simulated workload needs: one connection, one call at a time.

use std::io;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::{RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};
use kafka_protocol::records::{
    Compression, Record, RecordBatchDecoder, RecordBatchEncoder, RecordEncodeOptions, TimestampType,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use turmoil::net::TcpStream;

/// No answer within this: the call failed, its outcome is unknown.
const CALL_LIMIT: Duration = Duration::from_secs(5);

pub struct Connection {
    /// To whom.
    pub host: String,
    stream: TcpStream,
    correlation: i32,
}

impl Connection {
    pub async fn open(host: &str, port: u16) -> io::Result<Self> {
        let stream = timeout(CALL_LIMIT, TcpStream::connect((host, port))).await??;
        Ok(Self { host: host.to_owned(), stream, correlation: 0 })
    }

    /// Sends `request` in `version` and waits for its answer. After an error the connection is of
    /// no use any more.
    pub async fn call<R: Request>(&mut self, request: &R, version: i16) -> io::Result<R::Response> {
        timeout(CALL_LIMIT, self.exchange(request, version)).await?
    }

    async fn exchange<R: Request>(&mut self, request: &R, version: i16) -> io::Result<R::Response> {
        self.correlation += 1;
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(self.correlation)
            .with_client_id(Some(StrBytes::from_static_str("simulation")));
        let mut frame = BytesMut::new();
        frame.put_i32(0);
        header.encode(&mut frame, R::header_version(version)).map_err(io::Error::other)?;
        request.encode(&mut frame, version).map_err(io::Error::other)?;
        let len = frame.len() as i32 - 4;
        frame[..4].copy_from_slice(&len.to_be_bytes());
        self.stream.write_all(&frame).await?;

        let len = self.stream.read_i32().await?;
        let mut answer = vec![0; usize::try_from(len).map_err(io::Error::other)?];
        self.stream.read_exact(&mut answer).await?;
        let mut answer = Bytes::from(answer);
        let header = ResponseHeader::decode(
            &mut answer,
            <R::Response as HeaderVersion>::header_version(version),
        )
        .map_err(io::Error::other)?;
        if header.correlation_id != self.correlation {
            return Err(io::Error::other(format!(
                "answer {} to request {}",
                header.correlation_id, self.correlation
            )));
        }
        let response = R::Response::decode(&mut answer, version).map_err(io::Error::other)?;
        if answer.has_remaining() {
            return Err(io::Error::other(format!("{} bytes after the answer", answer.remaining())));
        }
        Ok(response)
    }
}

/// Who writes a batch: a plain producer, or an idempotent one with its next sequence number, or one
/// in a transaction.
#[derive(Debug, Clone, Copy)]
pub struct Identity {
    pub producer_id: i64,
    pub epoch: i16,
    pub sequence: i32,
    pub transactional: bool,
}

impl Identity {
    pub const PLAIN: Self = Self { producer_id: -1, epoch: -1, sequence: -1, transactional: false };
}

/// A batch of `values` as a producer sends it.
pub fn batch(values: &[String], identity: Identity, timestamp: i64) -> Bytes {
    let records: Vec<_> = values.iter().map(|value| (None, Some(value.clone()))).collect();
    keyed_batch(&records, identity, timestamp)
}

/// A batch of keys and values.
pub fn keyed_batch(
    records: &[(Option<String>, Option<String>)],
    identity: Identity,
    timestamp: i64,
) -> Bytes {
    let records: Vec<Record> = records
        .iter()
        .enumerate()
        .map(|(at, (key, value))| Record {
            transactional: identity.transactional,
            control: false,
            delete_horizon: false,
            partition_leader_epoch: -1,
            producer_id: identity.producer_id,
            producer_epoch: identity.epoch,
            timestamp_type: TimestampType::Creation,
            offset: at as i64,
            // A plain producer's batch has the base sequence -1, and the encoder counts on.
            sequence: identity.sequence + at as i32,
            timestamp,
            key: key.clone().map(Bytes::from),
            value: value.clone().map(Bytes::from),
            headers: indexmap::IndexMap::new(),
        })
        .collect();
    let mut encoded = BytesMut::new();
    RecordBatchEncoder::encode(
        &mut encoded,
        &records,
        &RecordEncodeOptions { version: 2, compression: Compression::None },
    )
    .expect("a batch of our own can be encoded");
    encoded.freeze()
}

/// A whole batch of a fetched piece of log.
pub struct FetchedBatch {
    pub last_offset: i64,
    pub producer_id: i64,
    pub transactional: bool,
    pub control: bool,
    pub records: Vec<Record>,
}

impl FetchedBatch {
    /// Whether it is the marker of an abort.
    pub fn is_abort(&self) -> bool {
        // Version and kind, two bytes each.
        let key = self.records.first().and_then(|record| record.key.as_ref());
        self.control && key.is_some_and(|key| key.ends_with(&[0, 0]))
    }
}

/// The batches of a fetched piece of log; one that is cut at its end is left out.
pub fn batches(mut records: Bytes) -> Result<Vec<FetchedBatch>, String> {
    let mut batches = Vec::new();
    while records.len() >= 61 {
        let len =
            12 + i32::from_be_bytes([records[8], records[9], records[10], records[11]]) as usize;
        if records.len() < len {
            break;
        }
        let mut batch = records.split_to(len);
        let number = |from: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&batch[from..from + 8]);
            i64::from_be_bytes(bytes)
        };
        let attributes = batch[22];
        let last_delta = i32::from_be_bytes([batch[23], batch[24], batch[25], batch[26]]);
        let mut seen = FetchedBatch {
            last_offset: number(0) + i64::from(last_delta),
            producer_id: number(43),
            transactional: attributes & 0x10 != 0,
            control: attributes & 0x20 != 0,
            records: Vec::new(),
        };
        let set = RecordBatchDecoder::decode(&mut batch).map_err(|error| error.to_string())?;
        seen.records = set.records;
        batches.push(seen);
    }
    Ok(batches)
}

pub fn value_of(record: &Record) -> String {
    String::from_utf8_lossy(record.value.as_deref().unwrap_or_default()).into_owned()
}

/// The values of a fetched piece of log with their offsets; a cut batch at its end is left out.
pub fn values(records: Bytes) -> Result<Vec<(i64, String)>, String> {
    let batches = batches(records)?;
    let records = batches.iter().flat_map(|batch| &batch.records);
    Ok(records.map(|record| (record.offset, value_of(record))).collect())
}
