//! One connection: requests are started in order and answered in order.
//!
//! Reading and writing go on side by side within one task, with a bounded queue of answers between
//! them: the next request starts as soon as the one before has taken its place, and when
//! [`MAX_UNANSWERED`] answers are due, no more is read. A frame that is malformed, or names what is
//! not served here, ends the connection after the answers before it have gone out.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::ApiKey;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::budget::{Budget, Held};
use super::frame::FrameReader;
use super::metrics::Metrics;
use super::write;
use crate::api::{self, Answer, Connection, Refused, api_versions};
use crate::broker::Broker;
use crate::env::Stream;
use crate::wire::key::Key;

/// Requests of one connection that are started and not answered.
pub const MAX_UNANSWERED: usize = 64;
/// How long answers may still go out once nothing more is read.
const DRAIN: Duration = Duration::from_secs(1);

/// What a connection shares with the others.
pub(super) struct Shared<S> {
    pub service: S,
    pub budget: Arc<Budget>,
    pub metrics: Arc<Metrics>,
    /// The largest frame that is read.
    pub max_frame: usize,
    /// A connection on which nothing happens for so long is closed.
    pub max_idle: Option<Duration>,
    /// Cancelled when the node shuts down.
    pub stop: CancellationToken,
}

/// Who answers frames.
pub(super) trait Service: Send + Sync + 'static {
    /// Lets the request in `frame` take its place; an error ends the connection.
    fn start(
        &self,
        connection: &Arc<Connection>,
        frame: Bytes,
    ) -> impl Future<Output = Result<Started, String>> + Send;
}

/// A request that has taken its place.
pub(super) struct Started {
    pub api: Key,
    /// Goes in front of the answer.
    pub header: Bytes,
    pub answer: Answer,
}

impl Service for Arc<Broker> {
    async fn start(&self, connection: &Arc<Connection>, frame: Bytes) -> Result<Started, String> {
        let correlation = frame.get(4..8).map(Bytes::copy_from_slice).unwrap_or_default();
        let (api, client, body) = match api::admit(connection, frame) {
            Ok(admitted) => admitted,
            Err(Refused::UnknownApiVersions) => {
                let answer = Answer::Now(api_versions::unsupported_version());
                return Ok(Started {
                    api: ApiKey::ApiVersions.into(),
                    header: correlation,
                    answer,
                });
            }
            Err(Refused::Close(why)) => return Err(why),
        };
        let answer = api::start(self, api, &client, body).await.map_err(|error| error.0)?;
        let header = api::response_header(api.key, client.version, client.correlation);
        Ok(Started { api: api.key, header, answer })
    }
}

/// An answer that is due, in its turn.
struct Due {
    started: Started,
    /// The request's share of the memory for requests.
    _held: Held,
}

/// Serves `stream` until either side ends it, or the node stops.
pub(super) async fn serve<S: Service>(
    shared: &Shared<S>,
    connection: &Arc<Connection>,
    stream: Stream,
) {
    let (reader, mut writer) = tokio::io::split(stream);
    let (due, mut answers) = mpsc::channel(MAX_UNANSWERED);
    let writing = write_answers(shared, connection, &mut writer, &mut answers);
    tokio::pin!(writing);
    tokio::select! {
        biased;
        why = &mut writing => debug!(why, "closed while answering"),
        why = read_requests(shared, connection, reader, due) => {
            // `due` is dropped: the writer ends after the last answer.
            let drained = tokio::time::timeout(DRAIN, writing).await.is_ok();
            debug!(why, drained, "closed");
        }
    }
}

/// Reads and starts requests; returns why it stopped.
async fn read_requests<S, R>(
    shared: &Shared<S>,
    connection: &Arc<Connection>,
    reader: R,
    due: mpsc::Sender<Due>,
) -> String
where
    S: Service,
    R: AsyncRead + Unpin,
{
    let mut frames = FrameReader::new(reader, shared.max_frame);
    loop {
        let Ok(place) = due.reserve().await else {
            return "nothing can be written".to_owned();
        };
        let frame = tokio::select! {
            biased;
            () = shared.stop.cancelled() => return "this node stops".to_owned(),
            frame = next_frame(shared, &mut frames, &due) => match frame {
                Ok(frame) => frame,
                Err(why) => return why,
            },
        };
        shared.metrics.received(&connection.listener, frames.take_received());
        let held = shared.budget.hold(frame.len());
        match shared.service.start(connection, frame).await {
            Ok(started) => {
                shared.metrics.request(started.api);
                place.send(Due { started, _held: held });
            }
            Err(why) => {
                shared.metrics.refused(&connection.listener);
                return why;
            }
        }
    }
}

/// The next frame, unless nothing comes for so long that the connection counts as idle.
async fn next_frame<S, R>(
    shared: &Shared<S>,
    frames: &mut FrameReader<R>,
    due: &mpsc::Sender<Due>,
) -> Result<Bytes, String>
where
    R: AsyncRead + Unpin,
{
    shared.budget.has_room().await;
    let idle = shared.max_idle;
    loop {
        let before = frames.received();
        tokio::select! {
            biased;
            frame = frames.next() => return match frame {
                Ok(Some(frame)) => Ok(frame),
                Ok(None) => Err("the client is done".to_owned()),
                Err(error) => Err(error.to_string()),
            },
            () = sleep(idle) => {
                // One place in the queue is ours.
                let unanswered = due.max_capacity() - due.capacity() > 1;
                if !unanswered && frames.received() == before {
                    return Err("idle for connections.max.idle.ms".to_owned());
                }
            }
        }
    }
}

async fn sleep(time: Option<Duration>) {
    match time {
        Some(time) => tokio::time::sleep(time).await,
        None => std::future::pending().await,
    }
}

/// Writes answers in the order of their requests; returns why it stopped.
async fn write_answers<S, W>(
    shared: &Shared<S>,
    connection: &Arc<Connection>,
    writer: &mut W,
    answers: &mut mpsc::Receiver<Due>,
) -> String
where
    W: AsyncWrite + Unpin,
{
    while let Some(due) = answers.recv().await {
        let Started { api, header, answer } = due.started;
        let body = match answer {
            Answer::Now(body) => body,
            Answer::Later(body) => match body.await {
                Ok(body) => body,
                Err(unreadable) => return unreadable.0,
            },
            Answer::None => continue,
            Answer::Close => return format!("{api:?} ends without an answer"),
        };
        let mut chunks = Vec::with_capacity(body.len() + 2);
        chunks.push(header);
        chunks.extend(body);
        let sent: usize = chunks.iter().map(Bytes::len).sum();
        let written = match write::prefix(&mut chunks) {
            Ok(()) => write::write_all(writer, chunks).await,
            Err(error) => Err(error),
        };
        if let Err(error) = written {
            return error.to_string();
        }
        shared.metrics.sent(&connection.listener, sent as u64 + 4);
    }
    "all is answered".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Principal, Scope};
    use kafka_protocol::protocol::StrBytes;
    use parking_lot::Mutex;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
    use tokio::sync::oneshot;

    /// Answers a frame by its first byte; the rest of the frame comes back.
    #[derive(Clone, Default)]
    struct Fake {
        started: Arc<Mutex<Vec<Bytes>>>,
        waiting: Arc<Mutex<Vec<oneshot::Sender<()>>>>,
    }

    impl Service for Fake {
        async fn start(&self, _: &Arc<Connection>, frame: Bytes) -> Result<Started, String> {
            self.started.lock().push(frame.clone());
            let body = vec![frame.slice(1..)];
            let answer = match frame[0] {
                b'n' => Answer::Now(body),
                b'l' => {
                    let (tell, told) = oneshot::channel();
                    self.waiting.lock().push(tell);
                    Answer::Later(Box::pin(async move {
                        let _ = told.await;
                        Ok(body)
                    }))
                }
                b'0' => Answer::None,
                b'c' => Answer::Close,
                _ => return Err("malformed".to_owned()),
            };
            Ok(Started { api: ApiKey::Produce.into(), header: Bytes::new(), answer })
        }
    }

    struct Talk {
        client: DuplexStream,
        fake: Fake,
        stop: CancellationToken,
        serving: tokio::task::JoinHandle<()>,
    }

    impl Talk {
        fn new(max_idle: Option<Duration>) -> Self {
            let (client, server) = tokio::io::duplex(1 << 20);
            let (fake, stop) = (Fake::default(), CancellationToken::new());
            let shared = Shared {
                service: fake.clone(),
                budget: Budget::new(-1),
                metrics: Arc::new(Metrics::default()),
                max_frame: 1000,
                max_idle,
                stop: stop.clone(),
            };
            let serving = tokio::spawn(async move {
                serve(&shared, &connection(), Box::new(server)).await;
            });
            Self { client, fake, stop, serving }
        }

        async fn send(&mut self, frames: &[&str]) {
            for frame in frames {
                self.client.write_i32(frame.len() as i32).await.unwrap();
                self.client.write_all(frame.as_bytes()).await.unwrap();
            }
        }

        async fn answer(&mut self) -> String {
            let len = self.client.read_i32().await.unwrap();
            let mut body = vec![0; len as usize];
            self.client.read_exact(&mut body).await.unwrap();
            String::from_utf8(body).unwrap()
        }

        async fn started(&self, count: usize) {
            while self.fake.started.lock().len() < count {
                tokio::task::yield_now().await;
            }
        }

        async fn ends(mut self) {
            assert_eq!(self.client.read(&mut [0]).await.unwrap(), 0);
            self.serving.await.unwrap();
        }
    }

    fn connection() -> Arc<Connection> {
        Arc::new(Connection {
            number: 0,
            address: ([127, 0, 0, 1], 1).into(),
            listener: "PLAINTEXT".into(),
            scope: Scope::Broker,
            principal: Principal { kind: StrBytes::new(), name: StrBytes::new() },
            software: Mutex::new(None),
            misdirected: std::sync::atomic::AtomicBool::new(false),
            attached: crate::api::Attached::default(),
        })
    }

    #[tokio::test]
    async fn the_next_request_starts_while_one_waits_and_answers_stay_in_order() {
        let mut talk = Talk::new(None);
        talk.send(&["lfirst", "nsecond", "0", "nthird"]).await;
        talk.started(4).await;
        let tell = talk.fake.waiting.lock().remove(0);
        tell.send(()).unwrap();
        for expected in ["first", "second", "third"] {
            assert_eq!(talk.answer().await, expected);
        }
    }

    #[tokio::test]
    async fn no_more_is_started_than_may_be_unanswered() {
        let mut talk = Talk::new(None);
        let frames = vec!["l"; MAX_UNANSWERED * 2];
        talk.send(&frames).await;
        // One more than the queue holds: the writer has taken the first out of it.
        talk.started(MAX_UNANSWERED + 1).await;
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        assert_eq!(talk.fake.started.lock().len(), MAX_UNANSWERED + 1);
        talk.fake.waiting.lock().remove(0).send(()).unwrap();
        assert_eq!(talk.answer().await, "");
        talk.started(MAX_UNANSWERED + 2).await;
    }

    #[tokio::test]
    async fn a_malformed_frame_ends_the_connection_after_the_answers_before_it() {
        let mut talk = Talk::new(None);
        talk.send(&["na", "nb", "x", "nc"]).await;
        assert_eq!(talk.answer().await, "a");
        assert_eq!(talk.answer().await, "b");
        talk.ends().await;
    }

    #[tokio::test]
    async fn a_frame_beyond_the_bound_ends_the_connection() {
        let mut talk = Talk::new(None);
        talk.client.write_i32(1001).await.unwrap();
        talk.ends().await;
    }

    #[tokio::test]
    async fn a_request_may_end_the_connection_in_its_turn() {
        let mut talk = Talk::new(None);
        talk.send(&["na", "c", "nb"]).await;
        assert_eq!(talk.answer().await, "a");
        talk.ends().await;
    }

    #[tokio::test]
    async fn a_stopping_node_lets_answers_in_flight_go_out() {
        let mut talk = Talk::new(None);
        talk.send(&["llast"]).await;
        talk.started(1).await;
        talk.stop.cancel();
        let tell = talk.fake.waiting.lock().remove(0);
        tell.send(()).unwrap();
        assert_eq!(talk.answer().await, "last");
        talk.ends().await;
    }

    #[tokio::test]
    async fn an_idle_connection_is_closed_but_not_one_that_waits_for_an_answer() {
        let idle = Duration::from_millis(10);
        let mut talk = Talk::new(Some(idle));
        talk.send(&["lx"]).await;
        talk.started(1).await;
        // Each of these is idle for as long, one after the other.
        for _ in 0..3 {
            Talk::new(Some(idle)).ends().await;
        }
        let tell = talk.fake.waiting.lock().remove(0);
        tell.send(()).unwrap();
        assert_eq!(talk.answer().await, "x");
    }
}
