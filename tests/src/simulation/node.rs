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

use super::scenario::{CONTROLLER_PORT, CONTROLLERS, PORT, Scenario, host};

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
    /// It founds the cluster when it starts for the first time.
    may_found: bool,
    founded: Cell<bool>,
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
            may_found: scenario.quorum.dynamic && number == 0,
            founded: Cell::new(false),
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
        let mut properties = self.properties.clone();
        if self.may_found {
            // Given once, to one node.
            let first = !self.founded.get();
            properties.insert("ottla.quorum.founding".to_owned(), first.to_string());
        }
        let settings = Settings::load(properties).map_err(|it| it.to_string())?;
        let env = self.machine.env(self.seed ^ self.life.get() << 40);
        let broker = Broker::start(env, settings.settings).await.map_err(|it| it.to_string())?;
        self.founded.set(true);
        *self.broker.borrow_mut() = Arc::downgrade(&broker);
        Ok(broker)
    }
}

fn properties(scenario: &Scenario, node: usize) -> BTreeMap<String, String> {
    let broker = format!("PLAINTEXT://:{PORT}");
    let controller = format!("CONTROLLER://:{CONTROLLER_PORT}");
    let (listeners, roles) = match (node < CONTROLLERS, scenario.brokers().contains(&node)) {
        (true, true) => (format!("{broker},{controller}"), "broker,controller"),
        (true, false) => (controller, "controller"),
        (false, _) => (broker, "broker"),
    };
    let at = |node: usize| format!("{}:{CONTROLLER_PORT}", host(node));
    let listed = |name: fn(usize) -> String| {
        (0..CONTROLLERS).map(|it| format!("{}{}", name(it), at(it))).collect::<Vec<_>>().join(",")
    };
    let quorum = if scenario.quorum.dynamic {
        ("controller.quorum.bootstrap.servers", listed(|_| String::new()))
    } else {
        ("controller.quorum.voters", listed(|it| format!("{it}@")))
    };
    let mut settings = vec![
        ("node.id", node.to_string()),
        ("process.roles", roles.to_owned()),
        ("listeners", listeners),
        ("listener.security.protocol.map", "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT".to_owned()),
        ("controller.listener.names", "CONTROLLER".to_owned()),
        quorum,
        ("log.dirs", "/data".to_owned()),
        ("cluster.id", "c2ltdWxhdGVkLWNsdXN0ZXI".to_owned()),
        ("group.initial.rebalance.delay.ms", "0".to_owned()),
    ];
    if scenario.brokers().contains(&node) {
        settings.push(("advertised.listeners", format!("PLAINTEXT://{}:{PORT}", host(node))));
    } else {
        settings.push((
            "advertised.listeners",
            format!("CONTROLLER://{}:{CONTROLLER_PORT}", host(node)),
        ));
    }
    settings.into_iter().chain(scenario.settings.clone()).map(|(k, v)| (k.to_owned(), v)).collect()
}
