//! Starts a broker, wires its parts together, and shuts it down.
