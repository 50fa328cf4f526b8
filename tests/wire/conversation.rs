//! Asking a broker over a plain socket, and writing down what it said in a form that can be compared.

use std::fmt::Debug;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{
    ApiKey, BrokerId, ListOffsetsRequest, MetadataRequest, RequestHeader, ResponseHeader, TopicName,
};
use kafka_protocol::protocol::{Decodable, Encodable as _, Request, StrBytes};
use ottla_broker::wire::key::Key;
use ottla_broker::wire::message::Message;
use regex::Regex;

const PATIENCE: Duration = Duration::from_secs(10);
/// An answer is never longer than this here; a larger length means that we have lost the frame.
const LONGEST: usize = 32 << 20;

pub struct Talk {
    address: SocketAddr,
    /// Of the same cluster's controller, where that is asked, too.
    controller: Option<SocketAddr>,
    socket: Option<TcpStream>,
    correlation: i32,
    lines: Vec<(String, String)>,
    /// A time a minute ago, the same for both sides.
    pub time: i64,
}

impl Talk {
    pub fn with(address: SocketAddr, controller: Option<SocketAddr>, time: i64) -> Self {
        Self { address, controller, socket: None, correlation: 0, lines: Vec::new(), time }
    }

    /// From now on the controller is asked.
    pub fn turn_to_controller(&mut self) {
        self.address = self.controller.unwrap_or(self.address);
        self.socket = None;
    }

    /// How much has been noted.
    pub fn lines_so_far(&self) -> usize {
        self.lines.len()
    }

    /// What was noted after the first `count` lines never was: another attempt follows.
    pub fn forget_from(&mut self, count: usize) {
        self.lines.truncate(count);
    }

    /// What was asked and what was said, in order.
    pub fn into_lines(self) -> Vec<(String, String)> {
        self.lines
    }

    pub fn note(&mut self, asked: impl Into<String>, said: impl Into<String>) {
        self.lines.push((asked.into(), said.into()));
    }

    pub fn note_masked(&mut self, asked: impl Into<String>, said: &str) {
        self.note(asked, mask(said));
    }

    /// Asks, notes the masked answer, and gives it back when there was one.
    pub fn ask<R: Request>(&mut self, version: i16, request: &R) -> Option<R::Response>
    where
        R::Response: std::fmt::Debug,
    {
        self.ask_with(version, request, |_| {})
    }

    /// As `ask`; `arrange` brings an answer whose order means nothing into one order.
    pub fn ask_with<R: Request>(
        &mut self,
        version: i16,
        request: &R,
        arrange: impl FnOnce(&mut R::Response),
    ) -> Option<R::Response>
    where
        R::Response: std::fmt::Debug,
    {
        self.noted(version, version, request, arrange)
    }

    /// Asks in a version that is newer than the words for it, but says nothing else.
    pub fn ask_as<R: Request>(&mut self, version: i16, said_as: i16, request: &R)
    where
        R::Response: std::fmt::Debug,
    {
        self.noted(version, said_as, request, |_| {});
    }

    fn noted<R: Request>(
        &mut self,
        version: i16,
        said_as: i16,
        request: &R,
        arrange: impl FnOnce(&mut R::Response),
    ) -> Option<R::Response>
    where
        R::Response: std::fmt::Debug,
    {
        let asked = format!("{:?} v{version}", ApiKey::try_from(R::KEY).expect("a known key"));
        match self.call_as(version, said_as, request) {
            Ok(mut answer) => {
                arrange(&mut answer);
                self.note(asked, mask(&format!("{answer:?}")));
                Some(answer)
            }
            Err(problem) => {
                self.note(asked, problem.to_string());
                None
            }
        }
    }

    /// Asks in every version that the request knows.
    pub fn ask_all<R: Request>(&mut self, request: impl Fn(i16) -> R)
    where
        R::Response: std::fmt::Debug,
    {
        let versions = ApiKey::try_from(R::KEY).expect("a known key").valid_versions();
        for version in versions.min..=versions.max {
            self.ask(version, &request(version));
        }
    }

    /// Asks without noting anything.
    pub fn call<R: Request>(&mut self, version: i16, request: &R) -> Result<R::Response, Problem> {
        self.call_as(version, version, request)
    }

    fn call_as<R: Request>(
        &mut self,
        version: i16,
        said_as: i16,
        request: &R,
    ) -> Result<R::Response, Problem> {
        let mut body = BytesMut::new();
        request.encode(&mut body, said_as).map_err(Problem::unsayable)?;
        let key = ApiKey::try_from(R::KEY).expect("a known key");
        self.call_encoded(key, version, said_as, &body)
    }

    /// As `ask`, with a body that `kafka-protocol` cannot encode.
    pub fn ask_encoded<A: Decodable + Debug>(&mut self, key: ApiKey, version: i16, body: &[u8]) {
        let said = self.call_encoded::<A>(key, version, version, body);
        let said =
            said.map_or_else(|problem| problem.to_string(), |answer| mask(&format!("{answer:?}")));
        self.note(format!("{key:?} v{version}"), said);
    }

    /// `heard_as` is the version that the answer is read as.
    fn call_encoded<A: Decodable>(
        &mut self,
        key: ApiKey,
        version: i16,
        heard_as: i16,
        body: &[u8],
    ) -> Result<A, Problem> {
        let mut answer = self.call_framed(key.into(), version, body)?;
        let response = A::decode(&mut answer, heard_as).map_err(|_| Problem::Garbled)?;
        if answer.has_remaining() { Err(Problem::Garbled) } else { Ok(response) }
    }

    /// As `ask`, in version 0 of an API that `kafka-protocol` does not know.
    pub fn ask_own<A: Message + Debug>(
        &mut self,
        key: Key,
        request: &impl Message,
        arrange: impl FnOnce(&mut A),
    ) -> Option<A> {
        let answer = self.call_framed(key, 0, &request.to_bytes(0)).and_then(|answer| {
            let answer = &mut &answer[..];
            let response = A::decode(answer, 0).map_err(|_| Problem::Garbled)?;
            if answer.is_empty() { Ok(response) } else { Err(Problem::Garbled) }
        });
        let asked = format!("{key:?} v0");
        match answer {
            Ok(mut answer) => {
                arrange(&mut answer);
                self.note(asked, mask(&format!("{answer:?}")));
                Some(answer)
            }
            Err(problem) => {
                self.note(asked, problem.to_string());
                None
            }
        }
    }

    /// The body of an answer, when it is to what was asked.
    fn call_framed(&mut self, key: Key, version: i16, body: &[u8]) -> Result<Bytes, Problem> {
        self.correlation += 1;
        let header = RequestHeader::default()
            .with_request_api_key(key.number())
            .with_request_api_version(version)
            .with_correlation_id(self.correlation)
            .with_client_id(Some(StrBytes::from_static_str("wire")));
        let mut frame = BytesMut::new();
        frame.put_i32(0);
        header
            .encode(&mut frame, key.request_header_version(version))
            .map_err(Problem::unsayable)?;
        frame.put_slice(body);
        let length = frame.len() as i32 - 4;
        frame[..4].copy_from_slice(&length.to_be_bytes());
        let mut answer = self.exchange(&frame)?;
        let header = ResponseHeader::decode(&mut answer, key.response_header_version(version))
            .map_err(|_| Problem::Garbled)?;
        if header.correlation_id != self.correlation {
            return Err(Problem::Garbled);
        }
        Ok(answer)
    }

    /// Sends raw bytes, notes what kind of answer they got.
    pub fn send_raw(&mut self, what: &str, bytes: &[u8]) {
        let said = match self.exchange(bytes) {
            Ok(answer) => format!(
                "an answer of {} bytes: {:?}",
                answer.len(),
                &answer[..answer.len().min(12)]
            ),
            Err(problem) => problem.to_string(),
        };
        self.socket = None;
        self.note(what, said);
    }

    /// Sends raw bytes, notes only whether there was an answer.
    pub fn send_raw_for_kind(&mut self, what: &str, bytes: &[u8]) {
        let said = self
            .exchange(bytes)
            .map_or_else(|problem| problem.to_string(), |_| "an answer".to_owned());
        self.socket = None;
        self.note(what, said);
    }

    /// Sends bytes on a connection of their own, whatever comes of it.
    pub fn fling(&mut self, bytes: &[u8]) {
        if let Ok(mut socket) = connect(self.address) {
            let _ = socket.write_all(bytes);
            let _ = socket.shutdown(std::net::Shutdown::Write);
            let _ = io::copy(&mut socket, &mut io::sink());
        }
    }

    fn exchange(&mut self, frame: &[u8]) -> Result<Bytes, Problem> {
        let answer = self.try_exchange(frame);
        if answer.is_err() {
            self.socket = None;
        }
        answer
    }

    fn try_exchange(&mut self, frame: &[u8]) -> Result<Bytes, Problem> {
        let socket = match &mut self.socket {
            Some(socket) => socket,
            none => none.insert(connect(self.address)?),
        };
        socket.write_all(frame)?;
        let mut length = [0; 4];
        socket.read_exact(&mut length)?;
        let length = usize::try_from(i32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if length > LONGEST {
            return Err(Problem::Garbled);
        }
        let mut answer = vec![0; length];
        socket.read_exact(&mut answer)?;
        Ok(Bytes::from(answer))
    }

    /// Waits until every partition of the topic has a leader that serves.
    pub fn wait_for_leaders(&mut self, topic: &str) {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if self.is_served(topic).unwrap_or(false) {
                return;
            }
        }
        self.note("wait for leaders", format!("{topic} never had them"));
    }

    /// The metadata may name a leader before that broker has heard of it: its own word counts.
    fn is_served(&mut self, topic: &str) -> Result<bool, Problem> {
        let request = MetadataRequest::default()
            .with_topics(Some(vec![MetadataRequestTopic::default().with_name(Some(name(topic)))]))
            .with_allow_auto_topic_creation(false);
        let known = self.call(9, &request)?;
        let Some(found) = known.topics.first().filter(|found| found.error_code == 0) else {
            return Ok(false);
        };
        let latest = |index: i32| {
            ListOffsetsPartition::default().with_partition_index(index).with_timestamp(-1)
        };
        let partitions = found.partitions.iter().map(|one| latest(one.partition_index)).collect();
        let request =
            ListOffsetsRequest::default().with_replica_id(BrokerId(-1)).with_topics(vec![
                ListOffsetsTopic::default().with_name(name(topic)).with_partitions(partitions),
            ]);
        let answer = self.call(7, &request)?;
        Ok(answer.topics.iter().flat_map(|topic| &topic.partitions).all(|one| one.error_code == 0))
    }
}

fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpStream::connect_timeout(&address, PATIENCE)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_nodelay(true)?;
    Ok(socket)
}

pub fn name(text: &str) -> TopicName {
    TopicName(text_of(text))
}

pub fn text_of(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

/// Why there is no answer. Both sides may have none, as long as it is for the same reason.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    #[error("this version cannot say it: {0}")]
    Unsayable(String),
    #[error("the connection was closed")]
    Closed,
    #[error("no answer within {PATIENCE:?}")]
    Silence,
    #[error("an answer that does not parse")]
    Garbled,
}

impl Problem {
    fn unsayable(why: impl std::fmt::Display) -> Self {
        Self::Unsayable(why.to_string())
    }
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Self::Silence,
            _ => Self::Closed,
        }
    }
}

/// Hides what differs between any two clusters.
fn mask(line: &str) -> String {
    static MASKS: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
        [
            (r"throttle_time_ms: \d+", "throttle_time_ms: _"),
            (r"(\w+_id): 00000000-0000-0000-0000-000000000000", "$1: none"),
            (r"(\w+_id): [0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "$1: some"),
            (r#"(\w*message): (?:None|Some\("(?:[^"\\]|\\.)*"\))"#, "$1: _"),
            (r#"host: "[^"]*", port: \d+"#, "host: _, port: _"),
            (r#"cluster_id: (Some\()?"[^"]*"\)?"#, "cluster_id: _"),
            (r"session_id: [1-9]\d*", "session_id: some"),
            (r" producer_id: \d+", " producer_id: some"),
            (r#""(\w+)-[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"#, "\"$1-_"),
            (r"log_append_time_ms: \d+", "log_append_time_ms: some"),
            (r#"client_host: "[^"]*""#, "client_host: _"),
            (r"broker_epoch: \d+", "broker_epoch: some"),
        ]
        .map(|(pattern, put)| (Regex::new(pattern).expect("a pattern of ours"), put))
        .into()
    });
    MASKS
        .iter()
        .fold(line.to_owned(), |line, (pattern, put)| pattern.replace_all(&line, *put).into_owned())
}
