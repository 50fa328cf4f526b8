//! The simulated world: one seed decides time, network and disk.
