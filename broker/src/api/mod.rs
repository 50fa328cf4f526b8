//! One file per API key, and the one table that lists them.
