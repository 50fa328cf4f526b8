//! The one binary: `ottla broker`, `ottla operator`, `ottla up`, `ottla crds`, and Kafka's tools by
//! their own names (`kafka-topics.sh` and its siblings), either as a subcommand or as the name that
//! the binary is called by.

mod broker;
mod crds;
mod kafka;
mod logging;
mod operator;
mod up;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
#[command(
    name = "ottla",
    version,
    about = "Kafka for Kubernetes: brokers, operator and command line in one binary",
    after_help = "Examples:
  ottla up examples/quickstart.yaml          three brokers on 127.0.0.1:9092, 9093 and 9094
  ottla broker --config server.properties    one broker, from a settings file
  ottla kafka-topics.sh --list               Kafka's own tools, by their own names"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the clusters and topics of manifest files as local processes
    Up(up::Args),
    /// Run one broker, from a server.properties file or from KAFKA_* environment variables
    Broker(broker::Args),
    /// Run the operator: turn KafkaCluster and KafkaTopic resources into brokers and topics
    Operator(operator::Args),
    /// Print or write the CustomResourceDefinitions
    Crds(crds::Args),
    /// One of Kafka's tools: kafka-topics.sh, kafka-console-producer.sh, …
    #[command(external_subcommand)]
    Tool(Vec<OsString>),
}

fn main() -> ExitCode {
    let mut args = std::env::args_os();
    let called_as = args.next().unwrap_or_default();
    let name = Path::new(&called_as).file_name().unwrap_or_default().to_string_lossy().into_owned();
    if kafka::is_tool(&name) {
        return kafka::run(&name, args.collect());
    }
    match Cli::parse().command {
        Command::Up(args) => up::run(args),
        Command::Broker(args) => broker::run(args),
        Command::Operator(args) => operator::run(args),
        Command::Crds(args) => crds::run(args),
        Command::Tool(mut words) => {
            let name = words.remove(0).to_string_lossy().into_owned();
            if kafka::is_tool(&name) {
                return kafka::run(&name, words);
            }
            eprintln!("ottla: there is no command {name:?}: see `ottla --help`");
            ExitCode::from(2)
        }
    }
}
