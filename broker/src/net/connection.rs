//! One connection: requests are started in order and answered in order.
//!
//! Reading and writing go on side by side within one task, with a bounded queue of answers between
//! them: the next request starts as soon as the one before has taken its place, and when
//! [`MAX_UNANSWERED`] answers are due, no more is read. A frame that is malformed, or names what is
//! not served here, ends the connection after the answers before it have gone out.

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
use crate::api::{self, Answer, Api, Client, Connection, Refused, api_versions};
use crate::broker::Broker;
use crate::env::Stream;

/// Requests of one connection that are started and not answered.
pub const MAX_UNANSWERED: usize = 64;
/// How long answers may still go out once nothing more is read.
const DRAIN: Duration = Duration::from_secs(1);

/// What a connection shares with the others.
pub(super) struct Shared {
    pub broker: Arc<Broker>,
    pub budget: Arc<Budget>,
    pub metrics: Arc<Metrics>,
    /// Cancelled when the node shuts down.
    pub stop: CancellationToken,
}

/// An answer that is due, in its turn.
struct Due {
    api: ApiKey,
    /// The header, once the answer has none of its own.
    header: Bytes,
    answer: Answer,
    /// The request's share of the memory for requests.
    _held: Held,
}

/// Serves `stream` until either side ends it, or the node stops.
pub(super) async fn serve(shared: &Shared, connection: &Arc<Connection>, stream: Stream) {
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
async fn read_requests<R>(
    shared: &Shared,
    connection: &Arc<Connection>,
    reader: R,
    due: mpsc::Sender<Due>,
) -> String
where
    R: AsyncRead + Unpin,
{
    let settings = &shared.broker.settings;
    let max = usize::try_from(settings.socket_request_max_bytes).unwrap_or(0);
    let mut frames = FrameReader::new(reader, max);
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
        match start(shared, connection, frame, held).await {
            Ok(due) => place.send(due),
            Err(why) => {
                shared.metrics.refused(&connection.listener);
                return why;
            }
        }
    }
}

/// The next frame, unless nothing comes for so long that the connection counts as idle.
async fn next_frame<R>(
    shared: &Shared,
    frames: &mut FrameReader<R>,
    due: &mpsc::Sender<Due>,
) -> Result<Bytes, String>
where
    R: AsyncRead + Unpin,
{
    shared.budget.has_room().await;
    let idle = shared.broker.settings.connections_max_idle;
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

/// Lets a request take its place; an error ends the connection.
async fn start(
    shared: &Shared,
    connection: &Arc<Connection>,
    frame: Bytes,
    held: Held,
) -> Result<Due, String> {
    let correlation = frame.get(4..8).map(Bytes::copy_from_slice).unwrap_or_default();
    let (api, client, body) = match api::admit(connection, frame) {
        Ok(admitted) => admitted,
        Err(Refused::UnknownApiVersions) => {
            let answer = Answer::Now(api_versions::unsupported_version());
            return Ok(Due { api: ApiKey::ApiVersions, header: correlation, answer, _held: held });
        }
        Err(Refused::Close(why)) => return Err(why),
    };
    shared.metrics.request(api.key);
    let answer = answer(shared, api, &client, body).await?;
    let header = api::response_header(api.key, client.version, client.correlation);
    Ok(Due { api: api.key, header, answer, _held: held })
}

async fn answer(
    shared: &Shared,
    api: &Api,
    client: &Client,
    body: Bytes,
) -> Result<Answer, String> {
    api::start(&shared.broker, api, client, body).await.map_err(|unreadable| unreadable.0)
}

/// Writes answers in the order of their requests; returns why it stopped.
async fn write_answers<W>(
    shared: &Shared,
    connection: &Arc<Connection>,
    writer: &mut W,
    answers: &mut mpsc::Receiver<Due>,
) -> String
where
    W: AsyncWrite + Unpin,
{
    while let Some(due) = answers.recv().await {
        let body = match due.answer {
            Answer::Now(body) => body,
            Answer::Later(body) => match body.await {
                Ok(body) => body,
                Err(unreadable) => return unreadable.0,
            },
            Answer::None => continue,
            Answer::Close => return format!("{:?} ends without an answer", due.api),
        };
        let mut chunks = Vec::with_capacity(body.len() + 2);
        chunks.push(due.header);
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
