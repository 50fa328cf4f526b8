//! The one binary: by its name one of the `kafka-*.sh` tools, or by its first argument.

mod kafka;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args: Vec<OsString> = std::env::args_os().collect();
    let called =
        args.first().and_then(|path| Path::new(path).file_name()?.to_str().map(str::to_owned));
    if let Some(tool) = called.filter(|name| kafka::is_tool(name)) {
        return kafka::run(&tool, args.split_off(1));
    }
    if let Some(tool) = args
        .get(1)
        .and_then(|arg| arg.to_str().map(str::to_owned))
        .filter(|name| kafka::is_tool(name))
    {
        return kafka::run(&tool, args.split_off(2));
    }
    eprintln!("usage: ottla kafka-topics.sh|kafka-console-producer.sh|... [ARGUMENTS]");
    ExitCode::FAILURE
}
