//! The `kafka-*.sh` tools: Kafka's flags, Kafka's output, Kafka's exit codes.
//!
//! One file per tool, each with its table of options on top. `options.rs` reads the command line as
//! Kafka's tools do, `connect.rs` finds the cluster. `tests/clients/tools_match_kafka` runs each
//! line of a table with Kafka's tool and with ours and compares what they print.
//!
//! Where we differ, on purpose: errors come without a Java stack trace, `--bootstrap-server` may be
//! left out where `OTTLA_BOOTSTRAP` names the cluster, topics are described in order of name.

mod cluster;
mod cluster_tool;
mod configs;
mod connect;
mod console_consumer;
mod console_producer;
mod consumer_groups;
mod describe_groups;
mod features;
mod filter;
mod formatter;
mod groups;
mod leader_election;
mod line_reader;
mod log_dir_moves;
mod metadata_quorum;
mod offsets;
mod options;
mod placing;
mod reassign_partitions;
mod reset_offsets;
mod time;
mod topics;
mod transactions;

use std::ffi::OsString;
use std::fmt;
use std::io::Write;
use std::process::ExitCode;

use futures::future::LocalBoxFuture;

use options::{Opt, Options};

/// One tool: what it is called, what it takes, what it does.
pub(crate) struct Tool {
    name: &'static str,
    about: &'static str,
    examples: &'static str,
    options: &'static [Opt],
    run: fn(Options) -> LocalBoxFuture<'static, Result<(), Stop>>,
}

const TOOLS: &[&Tool] = &[
    &topics::TOOL,
    &console_producer::TOOL,
    &console_consumer::TOOL,
    &consumer_groups::TOOL,
    &configs::TOOL,
    &offsets::GET_OFFSETS,
    &offsets::DELETE_RECORDS,
    &cluster::API_VERSIONS,
    &cluster::LOG_DIRS,
    &cluster_tool::TOOL,
    &features::TOOL,
    &groups::TOOL,
    &leader_election::TOOL,
    &metadata_quorum::TOOL,
    &reassign_partitions::TOOL,
    &transactions::TOOL,
];

/// Why a tool ends early.
#[derive(Debug)]
pub(crate) enum Stop {
    /// Wrong arguments: the message and the usage on stderr, exit code 1, as Kafka does.
    Usage(String),
    /// The message on stderr, exit code 1.
    Failed(String),
    /// What there was to say is said.
    Exit(u8),
}

impl From<ottla_client::Error> for Stop {
    fn from(error: ottla_client::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

pub fn is_tool(name: &str) -> bool {
    find(name).is_some()
}

fn find(name: &str) -> Option<&'static Tool> {
    let name = name.strip_suffix(".sh").unwrap_or(name);
    TOOLS.iter().copied().find(|tool| tool.name == name)
}

/// Runs `tool` (with or without `.sh`) with the arguments after its name.
pub fn run(tool: &str, args: Vec<OsString>) -> ExitCode {
    let Some(tool) = find(tool) else {
        let names: Vec<&str> = TOOLS.iter().map(|tool| tool.name).collect();
        complain(format_args!("{tool} is not one of the tools: {}", names.join(", ")));
        return ExitCode::FAILURE;
    };
    match start(tool, args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Stop::Exit(code)) => ExitCode::from(code),
        Err(Stop::Failed(message)) => {
            complain(message);
            ExitCode::FAILURE
        }
        Err(Stop::Usage(message)) => {
            complain(message);
            complain(options::usage(tool));
            ExitCode::FAILURE
        }
    }
}

fn start(tool: &'static Tool, args: Vec<OsString>) -> Result<(), Stop> {
    let args = args.into_iter().map(|arg| {
        arg.into_string()
            .map_err(|arg| Stop::Failed(format!("{} is not valid UTF-8", arg.to_string_lossy())))
    });
    let args: Vec<String> = args.collect::<Result<_, _>>()?;
    let options = Options::parse(tool, &args)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Stop::Failed(format!("cannot start: {error}")))?;
    let result = runtime.block_on((tool.run)(options));
    // A blocked read of stdin must not keep the tool from ending.
    runtime.shutdown_background();
    result
}

/// Prints a line. A reader that went away is not an error: `kafka-topics.sh --list | head -1`.
pub(crate) fn say(line: impl fmt::Display) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

pub(crate) fn complain(line: impl fmt::Display) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// Columns as wide as their widest word, each followed by a tab.
pub(crate) fn print_table(table: &[impl AsRef<[String]>]) {
    let columns = table.first().map_or(0, |row| row.as_ref().len());
    let width = |at: usize| table.iter().map(|row| row.as_ref()[at].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for row in table {
        let cells =
            row.as_ref().iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}\t"));
        say(cells.collect::<String>());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_image_has_each_tool_under_its_name() {
        let links: BTreeSet<&str> = include_str!("../../../image/tools").lines().collect();
        let names: Vec<String> = TOOLS.iter().map(|tool| format!("{}.sh", tool.name)).collect();
        assert_eq!(links, names.iter().map(String::as_str).collect());
    }
}
