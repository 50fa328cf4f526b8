//! turmoil's network as [`Network`], and what it does not tell apart.
//!
//! To turmoil a connection that nobody answers is refused, be it that the process is gone or that
//! the packets are lost. To a broker that is the difference between a dead peer and a silent one. So
//! whoever breaks things says here what is broken, and a connection that cannot get through waits,
//! as TCP would go on trying.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

use async_trait::async_trait;
use turmoil::net::{TcpListener, TcpStream};

use crate::env::{Listener, Network, Stream};

/// Between two tries of a connection that nobody answers.
const TRY_AGAIN: Duration = Duration::from_millis(50);
/// While packets get lost, so many tries are needed to believe that a port is closed.
const TRIES: u32 = 4;

/// Why a host accepts nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Down {
    /// Its process is gone: the machine refuses connections.
    Process,
    /// The machine is off: it says nothing.
    Machine,
}

#[derive(Default)]
struct Broken {
    down: BTreeMap<String, Down>,
    /// From and to.
    cuts: BTreeSet<(String, String)>,
    lossy: bool,
}

thread_local! {
    static BROKEN: RefCell<Broken> = RefCell::default();
}

/// Says that a host is down, or up again.
pub fn set_down(host: &str, down: Option<Down>) {
    BROKEN.with_borrow_mut(|broken| match down {
        Some(down) => broken.down.insert(host.to_owned(), down),
        None => broken.down.remove(host),
    });
}

/// Says between which hosts, from and to, nothing gets through, and whether packets get lost
/// elsewhere.
pub fn set_cuts(cuts: BTreeSet<(String, String)>) {
    BROKEN.with_borrow_mut(|broken| broken.cuts = cuts);
}

pub fn set_lossy(lossy: bool) {
    BROKEN.with_borrow_mut(|broken| broken.lossy = lossy);
}

impl Broken {
    /// `None`: no answer.
    fn answers(&self, from: &str, to: &str) -> Option<io::Result<()>> {
        let cut = |from: &str, to: &str| self.cuts.contains(&(from.to_owned(), to.to_owned()));
        match self.down.get(to) {
            _ if cut(from, to) || cut(to, from) => None,
            Some(Down::Machine) => None,
            Some(Down::Process) => Some(Err(ErrorKind::ConnectionRefused.into())),
            None => Some(Ok(())),
        }
    }
}

pub(super) struct SimulatedNetwork {
    /// Where it is used.
    pub(super) host: String,
}

#[async_trait]
impl Network for SimulatedNetwork {
    async fn listen(&self, _host: &str, port: u16) -> io::Result<Box<dyn Listener>> {
        // A simulated node has one address; turmoil takes the wildcard for it.
        Ok(Box::new(SimulatedListener(TcpListener::bind(("0.0.0.0", port)).await?)))
    }

    async fn connect(&self, host: &str, port: u16) -> io::Result<Stream> {
        let mut refused = 0;
        loop {
            let answer = BROKEN.with_borrow(|broken| broken.answers(&self.host, host));
            match answer {
                Some(Err(error)) => return Err(error),
                Some(Ok(())) => match TcpStream::connect((host, port)).await {
                    Ok(stream) => return Ok(Box::new(stream)),
                    Err(error) => {
                        let lossy = BROKEN.with_borrow(|broken| {
                            broken.lossy || broken.answers(&self.host, host).is_none()
                        });
                        refused += 1;
                        if !lossy || refused == TRIES {
                            return Err(error);
                        }
                    }
                },
                None => {}
            }
            tokio::time::sleep(TRY_AGAIN).await;
        }
    }
}

struct SimulatedListener(TcpListener);

#[async_trait]
impl Listener for SimulatedListener {
    async fn accept(&mut self) -> io::Result<(Stream, SocketAddr)> {
        let (stream, peer) = self.0.accept().await?;
        Ok((Box::new(stream), peer))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}
