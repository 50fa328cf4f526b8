//! DescribeLogDirs and AlterReplicaLogDirs, on brokers with one log directory.

use kafka_protocol::messages::alter_replica_log_dirs_request::{
    AlterReplicaLogDir, AlterReplicaLogDirTopic,
};
use kafka_protocol::messages::describe_log_dirs_request::DescribableLogDirTopic;
use kafka_protocol::messages::{
    AlterReplicaLogDirsRequest, AlterReplicaLogDirsResponse, DescribeLogDirsRequest,
};
use kafka_protocol::protocol::StrBytes;

use crate::Case;
use crate::conversation::{Talk, name};
use crate::topics::make;

pub const CASES: &[Case] = &[
    Case { name: "AlterReplicaLogDirs: what is refused, and with which code", hold: alter },
    Case { name: "DescribeLogDirs: of one topic", hold: describe },
];

fn of(path: &str, topic: &str, partitions: &[i32]) -> AlterReplicaLogDir {
    let topic = AlterReplicaLogDirTopic::default()
        .with_name(name(topic))
        .with_partitions(partitions.to_vec());
    AlterReplicaLogDir::default()
        .with_path(StrBytes::from_string(path.to_owned()))
        .with_topics(vec![topic])
}

fn arrange(answer: &mut AlterReplicaLogDirsResponse) {
    answer.results.sort_by(|a, b| a.topic_name.cmp(&b.topic_name));
    for topic in &mut answer.results {
        topic.partitions.sort_by_key(|one| one.partition_index);
    }
}

fn alter(talk: &mut Talk) {
    make(talk, "lies", 2);
    let all = DescribeLogDirsRequest::default().with_topics(None);
    let Ok(dirs) = talk.call(4, &all) else { return talk.note("the directories", "no answer") };
    let Some(dir) = dirs.results.first().map(|dir| dir.log_dir.to_string()) else {
        return talk.note("the directories", "there is none");
    };
    let long = "x".repeat(230);
    for version in [1, 2] {
        for dirs in [
            vec![],
            vec![of(&dir, "lies", &[0, 1])],
            vec![of("/nowhere", "lies", &[0, 1])],
            vec![of(&format!("{dir}/"), "lies", &[0])],
            vec![of("", "lies", &[0])],
            vec![of(&dir, "lies", &[7, -1])],
            vec![of(&dir, "nobody-made-this", &[0])],
            vec![of(&dir, &long, &[0])],
            vec![of("/nowhere", &long, &[0])],
            vec![of("/nowhere", "lies", &[0]), of(&dir, "lies", &[0, 1])],
            vec![of(&dir, "lies", &[])],
        ] {
            let request = AlterReplicaLogDirsRequest::default().with_dirs(dirs);
            talk.ask_with(version, &request, arrange);
        }
    }
}

fn describe(talk: &mut Talk) {
    make(talk, "described-lies", 2);
    let topic = |partitions: &[i32]| {
        DescribableLogDirTopic::default()
            .with_topic(name("described-lies"))
            .with_partitions(partitions.to_vec())
    };
    for version in 1..=4 {
        for partitions in [&[0][..], &[1, 0], &[5], &[]] {
            let request =
                DescribeLogDirsRequest::default().with_topics(Some(vec![topic(partitions)]));
            talk.ask_with(version, &request, |answer| {
                for dir in &mut answer.results {
                    dir.log_dir = StrBytes::from_static_str("masked");
                    dir.total_bytes = dir.total_bytes.signum();
                    dir.usable_bytes = dir.usable_bytes.signum();
                    for topic in &mut dir.topics {
                        topic.partitions.sort_by_key(|one| one.partition_index);
                    }
                }
            });
        }
    }
}
