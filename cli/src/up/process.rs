//! One node as a child process: its folder, its log file, its pid file, its end.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use ottla_operator::cluster::build::properties::FOUNDING;
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::timeout;

/// A log file that has grown past this is set aside when its broker starts.
const LOG_LIMIT: u64 = 64 * 1024 * 1024;
/// How long a broker may take to hand over its leaders and close its logs.
const STOP_LIMIT: Duration = Duration::from_mins(1);

/// The files of one broker.
#[derive(Debug, Clone)]
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn settings(&self) -> PathBuf {
        self.0.join("server.properties")
    }

    pub fn log(&self) -> PathBuf {
        self.0.join("broker.log")
    }

    pub fn pid(&self) -> PathBuf {
        self.0.join("broker.pid")
    }

    pub fn data(&self) -> PathBuf {
        self.0.join("data")
    }

    /// The end of the broker's log, at most `lines` lines.
    pub fn last_lines(&self, lines: usize) -> Vec<String> {
        let tail = || -> io::Result<String> {
            let mut file = File::open(self.log())?;
            let len = file.metadata()?.len();
            file.seek(SeekFrom::Start(len.saturating_sub(16 * 1024)))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        let tail = tail().unwrap_or_default();
        let all: Vec<&str> = tail.lines().collect();
        all[all.len().saturating_sub(lines)..].iter().map(|line| (*line).to_owned()).collect()
    }
}

/// A running broker.
pub struct Process {
    child: Child,
    /// Waiting for the child would close it, if the child still had it.
    stdin: Option<ChildStdin>,
    pub pid: u32,
}

impl Process {
    /// Starts the node of `folder`, whose settings file is in place; with the permission to found
    /// its cluster if it `may_found`.
    ///
    /// It gets a process group of its own, so that Ctrl-C reaches only us, and our end of its
    /// standard input, so that it stops when we are gone, however we went.
    pub fn start(folder: &Folder, may_found: bool) -> io::Result<Self> {
        let log = open_log(&folder.log())?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("broker").arg("--stop-with-stdin").arg("--config").arg(folder.settings());
        if may_found {
            // Not in the file, which outlives the permission.
            let (name, value) = FOUNDING;
            command.arg("--override").arg(format!("{name}={value}"));
        }
        let mut child = command
            .env_clear()
            .envs(std::env::vars_os().filter(|(name, _)| keeps(&name.to_string_lossy())))
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let pid = child.id().unwrap_or_default();
        fs::write(folder.pid(), format!("{pid}\n"))?;
        let stdin = child.stdin.take();
        Ok(Self { child, stdin, pid })
    }

    /// Waits for the process to end by itself.
    pub async fn ended(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Asks the process to stop, waits for it, and ends it by force when it takes too long.
    /// Returns whether it stopped by itself.
    pub async fn stop(mut self, folder: &Folder) -> io::Result<bool> {
        // Closing its standard input is the request to stop.
        drop(self.stdin.take());
        let stopped = if let Ok(status) = timeout(STOP_LIMIT, self.child.wait()).await {
            status?.success()
        } else {
            self.child.kill().await?;
            false
        };
        remove_if_there(&folder.pid())?;
        Ok(stopped)
    }
}

/// Our own environment may hold KAFKA_* settings of another purpose: a broker of `up` takes its
/// settings from its file alone.
fn keeps(name: &str) -> bool {
    !name.starts_with("KAFKA_") && name != "CLUSTER_ID"
}

fn open_log(path: &Path) -> io::Result<File> {
    if fs::metadata(path).is_ok_and(|metadata| metadata.len() > LOG_LIMIT) {
        fs::rename(path, path.with_extension("log.1"))?;
    }
    OpenOptions::new().create(true).append(true).open(path)
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
