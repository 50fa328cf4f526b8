//! Keeps one broker running: starts it, restarts it when it dies, stops it when asked.

use std::fs;
use std::io;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::books::Books;
use super::plan::NodePlan;
use super::process::Process;
use super::say;

/// The pause before a broker that died soon after its start is started again, doubled with each
/// such death in a row. One that ran for a while is started again at once.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A broker that ran this long has not died of its start.
const STEADY: Duration = Duration::from_secs(3);
/// How much of a dead broker's log is shown.
const SHOWN_LINES: usize = 10;

enum Command {
    /// Stop, take these settings, start again.
    Restart(Box<NodePlan>, oneshot::Sender<io::Result<()>>),
    Stop(oneshot::Sender<()>),
}

/// The handle of a supervised broker.
pub struct Supervisor {
    commands: mpsc::Sender<Command>,
    task: JoinHandle<()>,
}

impl Supervisor {
    /// Writes the broker's files and starts it. An error means that it never ran.
    pub fn start(cluster: &str, plan: NodePlan) -> io::Result<Self> {
        let process = launch(cluster, &plan)?;
        let (commands, inbox) = mpsc::channel(4);
        let task = tokio::spawn(supervise(cluster.to_owned(), plan, process, inbox));
        Ok(Self { commands, task })
    }

    pub async fn restart(&self, plan: NodePlan) -> io::Result<()> {
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

fn launch(cluster: &str, plan: &NodePlan) -> io::Result<Process> {
    let files = plan.files();
    fs::create_dir_all(files.data())?;
    fs::write(files.settings(), &plan.settings)?;
    // Asked at each start: what is spent since the last one is not given again.
    let may_found = plan.founder.as_ref().is_some_and(Books::may_found);
    let process = Process::start(&files, may_found)?;
    say!("{cluster}: {} started on 127.0.0.1:{} (pid {})", plan.title(), plan.port, process.pid);
    Ok(process)
}

async fn supervise(
    cluster: String,
    mut plan: NodePlan,
    process: Process,
    mut inbox: mpsc::Receiver<Command>,
) {
    let mut running = Some(process);
    let mut restarts = Restarts::new();
    loop {
        let command = tokio::select! {
            biased;
            command = inbox.recv() => command,
            () = life(&cluster, &plan, &mut running, &mut restarts) => {
                restarts.started = Instant::now();
                match launch(&cluster, &plan) {
                    Ok(process) => running = Some(process),
                    Err(error) => {
                        say!("{cluster}: {} cannot be started: {error}", plan.title());
                        restarts.died_after(Duration::ZERO);
                    }
                }
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

/// How often a broker died, and how long to wait before it is started again.
struct Restarts {
    started: Instant,
    in_a_row: u32,
    pause: Duration,
}

impl Restarts {
    fn new() -> Self {
        Self { started: Instant::now(), in_a_row: 0, pause: Duration::ZERO }
    }

    fn died_after(&mut self, ran: Duration) {
        if ran > STEADY {
            (self.in_a_row, self.pause) = (0, Duration::ZERO);
        } else {
            self.pause =
                LONGEST_PAUSE.min(FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(self.in_a_row)));
            self.in_a_row = self.in_a_row.saturating_add(1);
        }
    }
}

/// Ends when the broker has died and its pause is over.
async fn life(
    cluster: &str,
    plan: &NodePlan,
    running: &mut Option<Process>,
    restarts: &mut Restarts,
) {
    if let Some(process) = running {
        let how = match process.ended().await {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        };
        restarts.died_after(restarts.started.elapsed());
        say!(
            "{cluster}: {} died ({how}); the end of {}:",
            plan.title(),
            plan.files().log().display()
        );
        for line in plan.files().last_lines(SHOWN_LINES) {
            say!("{cluster}:   | {line}");
        }
        if !restarts.pause.is_zero() {
            let pause = restarts.pause.as_secs_f32();
            say!("{cluster}: {} starts again in {pause:.1} s", plan.title());
        }
        *running = None;
    }
    sleep(restarts.pause).await;
}

async fn stop(cluster: &str, plan: &NodePlan, process: Process) {
    let begun = Instant::now();
    match process.stop(&plan.files()).await {
        Ok(true) => {
            say!("{cluster}: {} stopped after {:.1} s", plan.title(), begun.elapsed().as_secs_f32())
        }
        Ok(false) => say!(
            "{cluster}: {} did not stop cleanly: it will check its logs at the next start; see {}",
            plan.title(),
            plan.files().log().display()
        ),
        Err(error) => say!("{cluster}: {} could not be stopped: {error}", plan.title()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_that_ran_is_started_again_at_once_and_one_that_cannot_start_ever_later() {
        let mut restarts = Restarts::new();
        let pause = |restarts: &mut Restarts, ran: u64| {
            restarts.died_after(Duration::from_secs(ran));
            restarts.pause.as_millis()
        };
        assert_eq!(pause(&mut restarts, 60), 0);
        let pauses: Vec<_> = (0..10).map(|_| pause(&mut restarts, 1)).collect();
        assert_eq!(pauses, [200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30_000, 30_000]);
        restarts.in_a_row = u32::MAX;
        assert_eq!(pause(&mut restarts, 0), 30_000);
        assert_eq!(pause(&mut restarts, 4), 0);
        assert_eq!(pause(&mut restarts, 1), 200);
    }
}
