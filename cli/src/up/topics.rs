//! The cluster as clients see it: is it serving, is it in sync, are its topics as the files say?

use std::time::Duration;

use ottla_operator::kafka::{Brokers, Kafka};
use ottla_operator::topic::plan::{describe, plan};
use tokio::time::{Instant, sleep};

use super::plan::{ClusterPlan, TopicPlan};
use super::say;

const ASK: Duration = Duration::from_millis(100);
/// A wait that is longer says what it waits for, again and again.
const PATIENCE: Duration = Duration::from_secs(10);

/// Waits until every broker is registered and unfenced.
pub async fn wait_until_serving(cluster: &ClusterPlan) {
    let bootstrap = cluster.bootstrap();
    let mut patience = Patience::new();
    loop {
        let why = match Brokers.cluster(&bootstrap).await {
            Ok(found) => {
                let serving = found.brokers.iter().filter(|broker| !broker.fenced).count();
                if serving >= cluster.brokers.len() {
                    return;
                }
                format!("{serving} of {} brokers serve", cluster.brokers.len())
            }
            Err(error) => error.to_string(),
        };
        patience.say(&cluster.name, &why);
        sleep(ASK).await;
    }
}

/// Waits until every replica of every partition is in sync again.
pub async fn wait_until_in_sync(cluster: &ClusterPlan) {
    wait_until_serving(cluster).await;
    let bootstrap = cluster.bootstrap();
    let mut patience = Patience::new();
    loop {
        match lagging(&bootstrap).await {
            Ok(0) => return,
            Ok(count) => patience.say(&cluster.name, &format!("{count} partitions catch up")),
            Err(error) => patience.say(&cluster.name, &error.to_string()),
        }
        sleep(ASK).await;
    }
}

async fn lagging(bootstrap: &str) -> ottla_client::Result<usize> {
    let admin = ottla_client::Admin::connect(bootstrap, ottla_client::Options::default()).await?;
    let topics = admin.topics(None).await?;
    let partitions = topics.iter().flat_map(|topic| &topic.partitions);
    Ok(partitions.filter(|partition| partition.isr.len() < partition.replicas.len()).count())
}

/// Makes the topics what the files say, and says what cannot be.
pub async fn apply(cluster: &ClusterPlan) {
    let bootstrap = cluster.bootstrap();
    for topic in &cluster.topics {
        if let Err(error) = apply_one(&cluster.name, &bootstrap, topic).await {
            say!("{}: topic {}: {error}", cluster.name, topic.name);
        }
    }
}

async fn apply_one(cluster: &str, bootstrap: &str, topic: &TopicPlan) -> ottla_client::Result<()> {
    let found = Brokers.topic(bootstrap, &topic.name).await?;
    let plan = plan(topic, found.as_ref());
    for cannot in &plan.cannot {
        say!("{cluster}: topic {}: {}", topic.name, cannot.message);
    }
    for action in &plan.actions {
        Brokers.act(bootstrap, &topic.name, action).await?;
        let (_, what) = describe(action, &topic.name);
        say!("{cluster}: topic {what}");
    }
    Ok(())
}

/// Says why we still wait, but not all the time.
pub struct Patience(Instant);

impl Patience {
    pub fn new() -> Self {
        Self(Instant::now() + PATIENCE)
    }

    pub fn say(&mut self, cluster: &str, why: &str) {
        if Instant::now() >= self.0 {
            say!("{cluster}: still waiting: {why}");
            self.0 = Instant::now() + PATIENCE;
        }
    }
}
