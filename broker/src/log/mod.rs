//! A partition on disk: segments, indexes, producer state, epochs, recovery, retention.
