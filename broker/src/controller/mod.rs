//! decide → records → replay: topics, partitions, brokers, configs, and the image they make.
