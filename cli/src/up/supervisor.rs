//! Keeps one broker running: starts it, restarts it when it dies, stops it when asked.

use std::fs;
use std::io;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::plan::BrokerPlan;
use super::process::Process;
use super::say;

/// The pause before a dead broker is started again, doubled with each death in a row.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A broker that ran this long has recovered from what killed it before.
const STEADY: Duration = Duration::from_mins(1);
/// How much of a dead broker's log is shown.
const SHOWN_LINES: usize = 10;

enum Command {
    /// Stop, take these settings, start again.
    Restart(Box<BrokerPlan>, oneshot::Sender<io::Result<()>>),
    Stop(oneshot::Sender<()>),
}

/// The handle of a supervised broker.
pub struct Supervisor {
    commands: mpsc::Sender<Command>,
    task: JoinHandle<()>,
}

impl Supervisor {
    /// Writes the broker's files and starts it. An error means that it never ran.
    pub fn start(cluster: &str, plan: BrokerPlan) -> io::Result<Self> {
        let process = launch(cluster, &plan)?;
        let (commands, inbox) = mpsc::channel(4);
        let task = tokio::spawn(supervise(cluster.to_owned(), plan, process, inbox));
        Ok(Self { commands, task })
    }

    pub async fn restart(&self, plan: BrokerPlan) -> io::Result<()> {
        let (done, answer) = oneshot::channel();
        if self.commands.send(Command::Restart(Box::new(plan), done)).await.is_err() {
            return Err(io::Error::other("its supervisor has ended"));
        }
        answer.await.unwrap_or_else(|_| Err(io::Error::other("its supervisor has ended")))
    }

    pub async fn stop(self) {
        let (done, answer) = oneshot::channel();
        if self.commands.send(Command::Stop(done)).await.is_ok() {
            let _ = answer.await;
        }
        let _ = self.task.await;
    }
}

fn launch(cluster: &str, plan: &BrokerPlan) -> io::Result<Process> {
    let files = plan.files();
    fs::create_dir_all(files.data())?;
    fs::write(files.settings(), &plan.settings)?;
    let process = Process::start(&files)?;
    say!("{cluster}: broker {} started on 127.0.0.1:{} (pid {})", plan.id, plan.port, process.pid);
    Ok(process)
}

async fn supervise(
    cluster: String,
    mut plan: BrokerPlan,
    process: Process,
    mut inbox: mpsc::Receiver<Command>,
) {
    let mut running = Some(process);
    let mut started = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        let command = tokio::select! {
            biased;
            command = inbox.recv() => command,
            () = life(&cluster, &plan, &mut running, pause) => {
                if started.elapsed() > STEADY {
                    pause = FIRST_PAUSE;
                }
                match launch(&cluster, &plan) {
                    Ok(process) => running = Some(process),
                    Err(error) => say!("{cluster}: broker {} cannot be started: {error}", plan.id),
                }
                started = Instant::now();
                pause = (pause * 2).min(LONGEST_PAUSE);
                continue;
            }
        };
        if let Some(process) = running.take() {
            stop(&cluster, &plan, process).await;
        }
        match command {
            Some(Command::Restart(new, done)) => {
                plan = *new;
                let launched = launch(&cluster, &plan);
                let _ = done.send(launched.map(|process| running = Some(process)));
            }
            Some(Command::Stop(done)) => {
                let _ = done.send(());
                return;
            }
            None => return,
        }
    }
}

/// Ends when the broker has died and its pause is over.
async fn life(cluster: &str, plan: &BrokerPlan, running: &mut Option<Process>, pause: Duration) {
    if let Some(process) = running {
        let how = match process.ended().await {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        };
        say!(
            "{cluster}: broker {} died ({how}); the end of {}:",
            plan.id,
            plan.files().log().display()
        );
        for line in plan.files().last_lines(SHOWN_LINES) {
            say!("{cluster}:   | {line}");
        }
        say!("{cluster}: broker {} starts again in {:.1} s", plan.id, pause.as_secs_f32());
        *running = None;
    }
    sleep(pause).await;
}

async fn stop(cluster: &str, plan: &BrokerPlan, process: Process) {
    let begun = Instant::now();
    match process.stop(&plan.files()).await {
        Ok(true) => say!(
            "{cluster}: broker {} stopped after {:.1} s",
            plan.id,
            begun.elapsed().as_secs_f32()
        ),
        Ok(false) => say!(
            "{cluster}: broker {} did not stop cleanly: it will check its logs at the next start; see {}",
            plan.id,
            plan.files().log().display()
        ),
        Err(error) => say!("{cluster}: broker {} could not be stopped: {error}", plan.id),
    }
}
