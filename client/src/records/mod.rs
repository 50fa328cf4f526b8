//! Record batches: reading and writing them as the Java client does.
