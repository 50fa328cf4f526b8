//! What the tests of Ottla as a whole share. The simulation's clock, network and disk are the
//! broker's own (`env::simulated`); its clients here speak Kafka's protocol through
//! `kafka-protocol` alone, so that a mistake of the broker's own codec cannot hide in its mirror.

pub mod group;
pub mod simulation;
