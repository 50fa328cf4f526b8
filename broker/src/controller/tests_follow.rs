//! A broker and the controller over a real connection: following, joining, leaving.

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::{
    ApiKey, ApiVersionsResponse, BrokerHeartbeatRequest, BrokerHeartbeatResponse,
    BrokerRegistrationRequest, BrokerRegistrationResponse, FetchRequest, FetchSnapshotRequest,
};
use kafka_protocol::protocol::{Decodable, Encodable};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::*;
use crate::api::{Scope, table};
use crate::config::Settings;
use crate::env::{Stream, real};
use crate::wire::header::Header;

/// Answers what a broker asks its controller, on a port of its own.
async fn serve(controller: Arc<Controller>, stop: CancellationToken) -> u16 {
    let mut listener = real::env().net.listen("127.0.0.1", 0).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let stream = tokio::select! {
                () = stop.cancelled() => return,
                accepted = listener.accept() => accepted.unwrap().0,
            };
            let (controller, stop) = (controller.clone(), stop.clone());
            tokio::spawn(async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    _ = converse(stream, controller) => {}
                }
            });
        }
    });
    port
}

async fn converse(mut stream: Stream, controller: Arc<Controller>) -> std::io::Result<()> {
    loop {
        let len = stream.read_u32().await? as usize;
        let mut frame = vec![0; len];
        stream.read_exact(&mut frame).await?;
        let mut frame = Bytes::from(frame);
        let header = Header::take(&mut frame, true).unwrap();
        let mut out = BytesMut::new();
        out.put_i32(header.correlation);
        if header.api_key != ApiKey::ApiVersions as i16 {
            out.put_u8(0);
        }
        answer(&controller, &header, frame, &mut out).await;
        stream.write_u32(out.len() as u32).await?;
        stream.write_all_buf(&mut out).await?;
    }
}

async fn answer(
    controller: &Arc<Controller>,
    header: &Header,
    mut body: Bytes,
    out: &mut BytesMut,
) {
    let version = header.version;
    match ApiKey::try_from(header.api_key).unwrap() {
        ApiKey::ApiVersions => {
            let entry = |api: &crate::api::Api| {
                ApiVersion::default()
                    .with_api_key(api.key.number())
                    .with_min_version(*api.advertised().start())
                    .with_max_version(*api.advertised().end())
            };
            let keys = table::apis(Scope::Controller).iter().map(entry).collect();
            ApiVersionsResponse::default().with_api_keys(keys).encode(out, version).unwrap();
        }
        ApiKey::Fetch => {
            let request = FetchRequest::decode(&mut body, version).unwrap();
            let response = serve_metadata_fetch(controller, &request).await;
            response.encode(out, version).unwrap();
        }
        ApiKey::FetchSnapshot => {
            let request = FetchSnapshotRequest::decode(&mut body, version).unwrap();
            let response = controller.fetch_snapshot(request).await;
            response.encode(out, version).unwrap();
        }
        ApiKey::BrokerRegistration => {
            let request = BrokerRegistrationRequest::decode(&mut body, version).unwrap();
            let decided =
                controller.decide(move |core, now| core.register_broker(&request, None, now)).await;
            let response = match decided {
                Ok(epoch) => BrokerRegistrationResponse::default().with_broker_epoch(epoch),
                Err(refusal) => {
                    BrokerRegistrationResponse::default().with_error_code(refusal.code.code())
                }
            };
            response.encode(out, version).unwrap();
        }
        ApiKey::BrokerHeartbeat => {
            let request = BrokerHeartbeatRequest::decode(&mut body, version).unwrap();
            let decided =
                controller.decide(move |core, now| core.heartbeat(&request, None, now)).await;
            let refused = |refusal: crate::error::Refusal| {
                BrokerHeartbeatResponse::default().with_error_code(refusal.code.code())
            };
            decided.unwrap_or_else(refused).encode(out, version).unwrap();
        }
        other => panic!("{other:?} was not expected"),
    }
}

async fn start_controller(dir: &std::path::Path) -> (Arc<Controller>, u16, CancellationToken) {
    start_controller_with(dir, "").await
}

async fn start_controller_with(
    dir: &std::path::Path,
    more: &str,
) -> (Arc<Controller>, u16, CancellationToken) {
    let settings = Settings::for_test(&format!("log.dirs={}\n{more}", dir.display()));
    let stop = CancellationToken::new();
    let metadata = Metadata::new("cluster");
    metadata.start(stop.clone());
    let controller = Controller::start(Start {
        env: real::env(),
        settings: &settings,
        cluster_id: "cluster",
        directory_id: Uuid::from_u128(1 << 100),
        metadata,
        controllers: tokio::sync::watch::Sender::new(Controllers::of(&settings)),
        stop: stop.clone(),
        on_fault: Box::new(|fault| panic!("{fault}")),
    })
    .await
    .unwrap();
    let port = serve(controller.clone(), stop.clone()).await;
    (controller, port, stop)
}

struct Node {
    metadata: Arc<Metadata>,
    lifecycle: Arc<Lifecycle>,
    stop: CancellationToken,
    _replica: Arc<Controller>,
}

impl Node {
    async fn start(dir: &std::path::Path, controller: u16) -> Self {
        Self::start_with(dir, controller, Box::new(|fault| panic!("{fault}"))).await
    }

    async fn start_with(
        dir: &std::path::Path,
        controller: u16,
        on_fault: Box<dyn FnOnce(crate::error::Fault) + Send>,
    ) -> Self {
        let settings = Settings::for_test(&format!(
            "node.id=2\nprocess.roles=broker\ncontroller.quorum.voters=1@127.0.0.1:{controller}\n\
             controller.listener.names=CONTROLLER\nlisteners=PLAINTEXT://127.0.0.1:9092\n\
             broker.heartbeat.interval.ms=100\n\
             controller.quorum.fetch.snapshot.max.bytes=500\nlog.dirs={}",
            dir.display()
        ));
        let stop = CancellationToken::new();
        let metadata = Metadata::new("cluster");
        metadata.start(stop.clone());
        let controllers = tokio::sync::watch::Sender::new(Controllers::of(&settings));
        let link =
            ControllerLink::to(&real::env(), &settings, "lifecycle", controllers.subscribe());
        let replica = Controller::start(Start {
            env: real::env(),
            settings: &settings,
            cluster_id: "cluster",
            directory_id: Uuid::from_u128(2 << 100),
            metadata: metadata.clone(),
            controllers,
            stop: stop.clone(),
            on_fault,
        })
        .await
        .unwrap();
        let lifecycle = Lifecycle::start(Join {
            env: real::env(),
            settings: &settings,
            cluster_id: "cluster",
            offline: tokio::sync::watch::channel(Vec::new()).1,
            directories: vec![Uuid::from_u128(2 << 100)],
            clean_shutdown_epoch: None,
            metadata: metadata.clone(),
            link,
            stop: stop.clone(),
            on_fault: Box::new(|fault| panic!("{fault}")),
        });
        Self { metadata, lifecycle, stop, _replica: replica }
    }

    async fn until(&self, what: impl Fn(&Image) -> bool) {
        let mut applied = self.metadata.applied();
        while !what(&self.metadata.image()) {
            applied.changed().await.unwrap();
        }
    }
}

async fn within<T>(seconds: u64, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(seconds), work).await.expect("in time")
}

#[tokio::test]
async fn a_broker_joins_follows_and_leaves_and_finds_its_copy_again() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (controller, port, stop) = start_controller(one.path()).await;
    let node = Node::start(two.path(), port).await;
    node.lifecycle.set_ready();
    within(5, node.lifecycle.unfenced()).await;
    within(5, node.until(|image| image.is_active(2))).await;
    assert_eq!(node.metadata.image().broker(2).unwrap().epoch, node.lifecycle.broker_epoch());
    assert!(within(5, node.lifecycle.shut_down(Duration::from_secs(4))).await);
    within(5, node.until(|image| image.broker(2).unwrap().fenced)).await;
    node.stop.cancel();

    // The copy is the controller's log, byte for byte.
    let read = |dir: &std::path::Path| {
        real::env().disk.read(&dir.join("__cluster_metadata-0/00000000000000000000.log")).unwrap()
    };
    assert_eq!(read(one.path()), read(two.path()));

    // A controller in a new epoch is followed by the same broker, started again.
    stop.cancel();
    drop(controller);
    let (controller, port, stop) = start_controller(one.path()).await;
    let node = Node::start(two.path(), port).await;
    node.lifecycle.set_ready();
    within(5, node.lifecycle.unfenced()).await;
    assert_eq!(node.metadata.image().epoch, controller.epoch());
    node.stop.cancel();
    stop.cancel();
}

#[tokio::test]
async fn a_broker_whose_controller_lost_metadata_stops_and_forgets_nothing() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    // Both start as the same log; then the broker's grows on its own in epoch 1.
    let (_, _, stop) = start_controller(one.path()).await;
    stop.cancel();
    let log = crate::raft::MetadataLog::open(&real::env(), two.path()).unwrap();
    let ours = crate::raft::MetadataLog::open(&real::env(), one.path()).unwrap();
    log.append(&ours.read(0, ours.end_offset(), 1 << 20).unwrap()).unwrap();
    let place = crate::raft::batch::Place { offset: log.end_offset(), epoch: 1, now: 0 };
    let stray =
        crate::wire::metadata::TopicRecord { name: "stray".into(), topic_id: Uuid::from_u128(7) };
    log.append(&crate::raft::batch::of_records(&[stray.into()], place)).unwrap();
    let end = log.end_offset();
    drop((log, ours));
    let (_controller, port, stop) = start_controller(one.path()).await;
    let (told, fault) = tokio::sync::oneshot::channel();
    let on_fault = Box::new(|fault: crate::error::Fault| told.send(fault.to_string()).unwrap());
    let node = Node::start_with(two.path(), port, on_fault).await;
    let fault = within(5, fault).await.unwrap();
    assert!(fault.contains("no longer has metadata"), "{fault}");
    node.stop.cancel();
    stop.cancel();
    let log = crate::raft::MetadataLog::open(&real::env(), two.path()).unwrap();
    assert_eq!(log.end_offset(), end, "nothing was cut");
}

/// Creates topics `prefix-0`, …; the controller writes a snapshot of them and trims its log.
async fn create_and_snapshot(controller: &Arc<Controller>, prefix: &'static str) {
    use crate::wire::metadata::TopicRecord;
    controller
        .decide(move |core, _| {
            let topic = |n: u32| {
                let topic_id = core.random.uuid();
                TopicRecord { name: format!("{prefix}-{n}"), topic_id }.into()
            };
            Ok(Decision::new((0..20).map(topic).collect(), ()))
        })
        .await
        .unwrap();
    let end = controller.quorum.log().end_offset();
    while controller.quorum.log().snapshots().newest_image().is_none_or(|it| it.id.end_offset < end)
    {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    controller.quorum.log().trim(i64::MAX).unwrap();
}

/// A snapshot after each commit, and nothing kept besides the newest.
const EAGER: &str = "metadata.log.max.record.bytes.between.snapshots=1\n\
    metadata.max.retention.bytes=0";

#[tokio::test]
async fn a_broker_whose_log_ends_before_the_controllers_begins_starts_from_its_snapshot() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (controller, port, stop) = start_controller_with(one.path(), EAGER).await;
    create_and_snapshot(&controller, "early").await;
    create_and_snapshot(&controller, "late").await;
    assert!(controller.quorum.log().start_offset() > 20);

    // A new broker, and the same one when it was away for long.
    let node = Node::start(two.path(), port).await;
    node.lifecycle.set_ready();
    within(5, node.lifecycle.unfenced()).await;
    within(5, node.until(|image| image.topic("late-19").is_some())).await;
    node.stop.cancel();
    create_and_snapshot(&controller, "later").await;
    let start = controller.quorum.log().start_offset();
    let node = Node::start(two.path(), port).await;
    within(5, node.until(|image| image.topic("later-19").is_some())).await;
    let image = node.metadata.image();
    assert_eq!((image.topic_count(), image.controller_id), (60, 1));
    node.stop.cancel();
    stop.cancel();

    // What it has is what the controller has, and both start from it.
    let log = crate::raft::MetadataLog::open(&real::env(), two.path()).unwrap();
    assert!(log.start_offset() >= start, "{} {start}", log.start_offset());
    let (controller, _, stop) = start_controller_with(one.path(), EAGER).await;
    controller.metadata.applied().wait_for(|offset| *offset >= start).await.unwrap();
    assert_eq!(controller.metadata.image().topic_count(), 60);
    stop.cancel();
}

#[tokio::test]
async fn a_controller_whose_snapshot_ends_before_a_brokers_log_makes_it_stop() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (controller, port, stop) = start_controller_with(one.path(), EAGER).await;
    create_and_snapshot(&controller, "early").await;
    let log = crate::raft::MetadataLog::open(&real::env(), two.path()).unwrap();
    for offset in 0..200 {
        let place = crate::raft::batch::Place { offset, epoch: 0, now: 0 };
        let record = crate::wire::metadata::NoOpRecord {}.into();
        log.append(&crate::raft::batch::of_records(&[record], place)).unwrap();
    }
    drop(log);
    let (told, fault) = tokio::sync::oneshot::channel();
    let on_fault = Box::new(|fault: crate::error::Fault| told.send(fault.to_string()).unwrap());
    let node = Node::start_with(two.path(), port, on_fault).await;
    let fault = within(5, fault).await.unwrap();
    assert!(fault.contains("no longer has metadata"), "{fault}");
    node.stop.cancel();
    stop.cancel();
    let log = crate::raft::MetadataLog::open(&real::env(), two.path()).unwrap();
    assert_eq!(log.end_offset(), 200, "nothing was cut");
}
