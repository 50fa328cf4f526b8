//! One simulated node: the shipped broker on its simulated machine, life after life.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, Weak};

use ottla_broker::broker::Broker;
use ottla_broker::config::Settings;
use ottla_broker::env::simulated::Machine;
use ottla_broker::env::simulated::network::{self, Down};
use tokio::sync::Notify;

use super::scenario::{CONTROLLER_PORT, PORT, Scenario, host};

/// Why a process ended by itself.
#[derive(Debug, Clone)]
pub enum Ended {
    /// It was asked to.
    Stopped,
    /// It could not start, or go on.
    Gave(String),
}

/// What outlives the processes of a node, and what the loop that strikes knows of the one that runs.
pub struct Node {
    pub number: usize,
    pub machine: Machine,
    /// Counts the processes.
    pub life: Cell<u64>,
    pub ended: RefCell<Option<Ended>>,
    /// The errors that the disk had answered when this process started.
    pub refused_before: Cell<u64>,
    broker: RefCell<Weak<Broker>>,
    /// Of the process that runs.
    stop: RefCell<Rc<Notify>>,
    properties: BTreeMap<String, String>,
    seed: u64,
}

impl Node {
    pub fn new(scenario: &Scenario, number: usize) -> Rc<Self> {
        let seed = scenario.seed ^ (number as u64) << 32;
        let machine = Machine::new(host(number), seed ^ 0x000d_15c0);
        machine.disk.set_latency_ms(scenario.disk_ms.0, scenario.disk_ms.1);
        Rc::new(Self {
            number,
            machine,
            life: Cell::new(0),
            ended: RefCell::default(),
            refused_before: Cell::new(0),
            broker: RefCell::default(),
            stop: RefCell::default(),
            properties: properties(scenario, number),
            seed,
        })
    }

    /// The broker, from the moment at which it has joined its cluster.
    pub fn broker(&self) -> Option<Arc<Broker>> {
        self.broker.borrow().upgrade()
    }

    /// Asks the process to end.
    pub fn ask_to_stop(&self) {
        self.stop.borrow().notify_one();
    }

    /// The process is gone, and perhaps the whole machine is off.
    pub fn is_dead(&self, down: Down) {
        network::set_down(&host(self.number), Some(down));
        *self.broker.borrow_mut() = Weak::new();
        *self.ended.borrow_mut() = None;
        self.machine.disk.end_of_process();
    }

    /// The life of a process. Says in `ended` how it ended, and then waits to be buried.
    pub async fn live(self: Rc<Self>) -> turmoil::Result {
        network::set_down(&host(self.number), None);
        self.life.set(self.life.get() + 1);
        self.refused_before.set(self.machine.disk.refused());
        let asked = Rc::new(Notify::new());
        self.stop.replace(asked.clone());
        let mut stop = std::pin::pin!(asked.notified());
        let ended = tokio::select! {
            biased;
            () = &mut stop => Ended::Stopped,
            started = self.start() => match started {
                Ok(broker) => {
                    tokio::select! {
                        biased;
                        () = &mut stop => {
                            broker.shut_down().await;
                            Ended::Stopped
                        }
                        fault = broker.ended() => match fault {
                            Ok(()) => Ended::Gave("no reason".to_owned()),
                            Err(fault) => Ended::Gave(fault.to_string()),
                        },
                    }
                }
                Err(why) => Ended::Gave(why),
            }
        };
        *self.ended.borrow_mut() = Some(ended);
        std::future::pending().await
    }

    async fn start(&self) -> Result<Arc<Broker>, String> {
        let settings = Settings::load(self.properties.clone()).map_err(|it| it.to_string())?;
        let env = self.machine.env(self.seed ^ self.life.get() << 40);
        let broker = Broker::start(env, settings.settings).await.map_err(|it| it.to_string())?;
        *self.broker.borrow_mut() = Arc::downgrade(&broker);
        Ok(broker)
    }
}

fn properties(scenario: &Scenario, node: usize) -> BTreeMap<String, String> {
    let (listeners, roles) = if node == 0 {
        (format!("PLAINTEXT://:{PORT},CONTROLLER://:{CONTROLLER_PORT}"), "broker,controller")
    } else {
        (format!("PLAINTEXT://:{PORT}"), "broker")
    };
    let settings = [
        ("node.id", node.to_string()),
        ("process.roles", roles.to_owned()),
        ("listeners", listeners),
        ("advertised.listeners", format!("PLAINTEXT://{}:{PORT}", host(node))),
        ("listener.security.protocol.map", "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT".to_owned()),
        ("controller.listener.names", "CONTROLLER".to_owned()),
        ("controller.quorum.voters", format!("0@{}:{CONTROLLER_PORT}", host(0))),
        ("log.dirs", "/data".to_owned()),
        ("cluster.id", "c2ltdWxhdGVkLWNsdXN0ZXI".to_owned()),
        ("group.initial.rebalance.delay.ms", "0".to_owned()),
    ];
    settings.into_iter().chain(scenario.settings.clone()).map(|(k, v)| (k.to_owned(), v)).collect()
}
