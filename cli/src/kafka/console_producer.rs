//! kafka-console-producer.sh: one record per line of standard input.

use std::io::{BufRead, IsTerminal, Write};
use std::time::Duration;

use ottla_client::records::Compression;
use ottla_client::{Acks, Delivery, Producer, ProducerOptions};
use tokio::sync::mpsc;

use super::connect::{self, BOOTSTRAP, Properties, take_millis, take_number};
use super::line_reader::LineReader;
use super::options::{Options, flag, perhaps, value};
use super::{Stop, Tool, complain};

pub(crate) const TOOL: Tool = Tool {
    name: "kafka-console-producer",
    about: "This tool helps to read data from standard input and publish it to Kafka.",
    examples: "
  echo hello | kafka-console-producer.sh --bootstrap-server localhost:9092 --topic orders
  kafka-console-producer.sh --bootstrap-server localhost:9092 --topic orders \\
      --reader-property parse.key=true --reader-property key.separator=: --compression-codec zstd",
    options: &[
        value("topic", "topic", "REQUIRED: The topic name to produce messages to."),
        BOOTSTRAP,
        value("broker-list", "broker-list", "The old name of --bootstrap-server."),
        flag(
            "sync",
            "If set message send requests to the brokers are synchronously, one at a time as they arrive.",
        ),
        perhaps(
            "compression-codec",
            "compression-codec",
            "The compression codec: either 'none', 'gzip', 'snappy', 'lz4', or 'zstd'. If specified without value, then it defaults to 'gzip'",
        ),
        value(
            "batch-size",
            "size",
            "Number of bytes to send in a single batch if they are not being sent synchronously. (default: 16384)",
        ),
        value(
            "message-send-max-retries",
            "Integer",
            "Brokers can fail receiving the message for multiple reasons, and being unavailable transiently is just one of them. This is the number of retries before the producer gives up. (default: 3)",
        ),
        value("retry-backoff-ms", "Long", "The pause before each retry. (default: 100)"),
        value(
            "timeout",
            "timeout_ms",
            "The maximum amount of time a message will queue awaiting sufficient batch size. (default: 1000)",
        ),
        value(
            "request-required-acks",
            "request required acks",
            "The required `acks` of the producer requests: 0, 1, -1 or all. (default: -1)",
        ),
        value(
            "request-timeout-ms",
            "request timeout ms",
            "The ack timeout of the producer requests. (default: 1500)",
        ),
        value(
            "metadata-expiry-ms",
            "metadata expiration interval",
            "Accepted; metadata is renewed as needed.",
        ),
        value(
            "max-block-ms",
            "max block on send",
            "The max time that the producer will block for during a send request. (default: 60000)",
        ),
        value(
            "max-memory-bytes",
            "total memory in bytes",
            "The total memory used by the producer to buffer records waiting to be sent. (default: 33554432)",
        ),
        value(
            "max-partition-memory-bytes",
            "memory in bytes per partition",
            "As --batch-size. (default: 16384)",
        ),
        value("socket-buffer-size", "size", "Accepted; the system sizes the buffer."),
        value(
            "line-reader",
            "reader_class",
            "Only the default, org.apache.kafka.tools.LineMessageReader, is supported.",
        ),
        value("property", "prop", "The old name of --reader-property."),
        value(
            "reader-property",
            "prop",
            "How lines are read: parse.key=true|false, key.separator=<tab>, parse.headers=true|false, headers.delimiter=<tab>, headers.separator=, headers.key.separator=: ignore.error=true|false, null.marker=<text>. May be repeated.",
        ),
        value(
            "reader-config",
            "config file",
            "Config properties file for the reader. --reader-property takes precedence.",
        ),
        value("producer-property", "producer_prop", "The old name of --command-property."),
        value(
            "command-property",
            "producer_prop",
            "A property of the producer, key=value. May be repeated.",
        ),
        value("producer.config", "config file", "The old name of --command-config."),
        value(
            "command-config",
            "config file",
            "Producer config properties file. --command-property takes precedence.",
        ),
    ],
    run: |options| Box::pin(run(options)),
};

async fn run(options: Options) -> Result<(), Stop> {
    let topic = options.require("topic")?.to_owned();
    let mut properties = file_and_properties(&options, &["producer.config", "command-config"])?;
    for name in ["producer-property", "command-property"] {
        properties.extend(options.pairs(name));
    }
    let from_file = properties.remove("bootstrap.servers");
    let bootstrap =
        connect::bootstrap(&options, &["bootstrap-server", "broker-list"])?.or(from_file);
    let bootstrap = bootstrap
        .ok_or_else(|| Stop::Usage("Missing required argument \"[bootstrap-server]\"".into()))?;
    let reader = line_reader(&options)?;
    let settings = producer_options(&options, &mut properties)?;
    let client = connect::client_options(&mut properties, "console-producer")?;
    connect::check_left_over(&properties)?;
    let producer = Producer::new(connect::connect(&bootstrap, client).await?, settings);
    let outcome = produce(&producer, &topic, reader, options.has("sync")).await;
    // What was read before an error, or before Ctrl-C, is still delivered.
    producer.close().await?;
    outcome
}

fn file_and_properties(options: &Options, files: &[&str]) -> Result<Properties, Stop> {
    let mut properties = Properties::new();
    for name in files {
        if let Some(path) = options.value(name)? {
            properties.extend(connect::property_file(path)?);
        }
    }
    Ok(properties)
}

fn line_reader(options: &Options) -> Result<LineReader, Stop> {
    match options.value("line-reader")? {
        None | Some("org.apache.kafka.tools.LineMessageReader") => {}
        Some(other) => {
            return Err(Stop::Failed(format!(
                "{other}: only the default line reader is supported"
            )));
        }
    }
    let mut properties = file_and_properties(options, &["reader-config"])?;
    for name in ["property", "reader-property"] {
        properties.extend(options.pairs(name));
    }
    LineReader::new(&properties)
}

fn producer_options(
    options: &Options,
    properties: &mut Properties,
) -> Result<ProducerOptions, Stop> {
    let millis =
        |name: &str| Ok::<_, Stop>(options.number::<u64>(name)?.map(Duration::from_millis));
    let acks = match options.value("request-required-acks")? {
        Some(acks) => acks.to_owned(),
        None => properties.remove("acks").unwrap_or_else(|| "-1".into()),
    };
    let acks = match acks.trim() {
        "0" => Acks::None,
        "1" => Acks::Leader,
        "-1" | "all" => Acks::All,
        other => {
            let words = format!(
                "Invalid value {other} for configuration acks: String must be one of: all, -1, 0, 1"
            );
            return Err(Stop::Failed(words));
        }
    };
    let defaults = ProducerOptions::default();
    let batch_size =
        options.number("batch-size")?.or(options.number("max-partition-memory-bytes")?);
    let chosen = ProducerOptions {
        acks,
        idempotent: properties
            .remove("enable.idempotence")
            .is_none_or(|text| text.trim() != "false"),
        compression: compression(options, properties)?,
        batch_size: batch_size
            .or(take_number(properties, "batch.size")?)
            .unwrap_or(defaults.batch_size),
        linger: millis("timeout")?
            .or(take_millis(properties, "linger.ms")?)
            .unwrap_or(Duration::from_secs(1)),
        retries: options
            .number("message-send-max-retries")?
            .or(take_number(properties, "retries")?)
            .unwrap_or(3),
        retry_backoff: millis("retry-backoff-ms")?
            .or(take_millis(properties, "retry.backoff.ms")?)
            .unwrap_or(defaults.retry_backoff),
        request_timeout: millis("request-timeout-ms")?
            .or(take_millis(properties, "request.timeout.ms")?)
            .unwrap_or(Duration::from_millis(1500)),
        delivery_timeout: take_millis(properties, "delivery.timeout.ms")?
            .unwrap_or(defaults.delivery_timeout),
        max_block: millis("max-block-ms")?
            .or(take_millis(properties, "max.block.ms")?)
            .unwrap_or(defaults.max_block),
        max_request_size: take_number(properties, "max.request.size")?
            .unwrap_or(defaults.max_request_size),
        buffer_memory: options
            .number("max-memory-bytes")?
            .or(take_number(properties, "buffer.memory")?)
            .unwrap_or(defaults.buffer_memory),
    };
    Ok(chosen)
}

fn compression(options: &Options, properties: &mut Properties) -> Result<Compression, Stop> {
    let from_file = properties.remove("compression.type");
    let name = match options.value("compression-codec")? {
        Some("") => "gzip".to_owned(),
        Some(name) => name.to_owned(),
        None if options.has("compression-codec") => "gzip".to_owned(),
        None => from_file.unwrap_or_else(|| "none".into()),
    };
    Compression::by_name(&name)
        .ok_or_else(|| Stop::Failed(format!("Unknown compression name: {name}")))
}

async fn produce(
    producer: &Producer,
    topic: &str,
    mut reader: LineReader,
    sync: bool,
) -> Result<(), Stop> {
    let prompt = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let mut lines = read_lines(prompt);
    loop {
        let line = tokio::select! {
            biased;
            _ = tokio::signal::ctrl_c() => return Err(Stop::Exit(130)),
            line = lines.recv() => line,
        };
        let Some(line) = line else { return Ok(()) };
        let line =
            line.map_err(|error| Stop::Failed(format!("cannot read standard input: {error}")))?;
        let record = reader.record(topic, line)?;
        match (producer.send(record).await, sync) {
            (Ok(delivery), true) => {
                delivery.wait().await?;
            }
            (Ok(delivery), false) => drop(tokio::spawn(report(topic.to_owned(), delivery))),
            (Err(error), true) => return Err(error.into()),
            (Err(error), false) => complain_about(topic, &error),
        }
    }
}

async fn report(topic: String, delivery: Delivery) {
    if let Err(error) = delivery.wait().await {
        complain_about(&topic, &error);
    }
}

fn complain_about(topic: &str, error: &ottla_client::Error) {
    complain(format_args!("ERROR Error when sending message to topic {topic}: {error}"));
}

/// Reads on a thread of its own: standard input cannot be waited for otherwise.
fn read_lines(prompt: bool) -> mpsc::Receiver<std::io::Result<Vec<u8>>> {
    let (sender, lines) = mpsc::channel(256);
    std::thread::spawn(move || {
        let mut input = std::io::stdin().lock();
        loop {
            if prompt {
                let mut out = std::io::stdout().lock();
                let _ = out.write_all(b">").and_then(|()| out.flush());
            }
            let mut line = Vec::new();
            let read = match input.read_until(b'\n', &mut line) {
                Ok(0) => return,
                Ok(_) => {
                    let ending =
                        [&b"\r\n"[..], b"\n"].into_iter().find(|ending| line.ends_with(ending));
                    line.truncate(line.len() - ending.map_or(0, <[u8]>::len));
                    Ok(line)
                }
                Err(error) => Err(error),
            };
            let failed = read.is_err();
            if sender.blocking_send(read).is_err() || failed {
                return;
            }
        }
    });
    lines
}
