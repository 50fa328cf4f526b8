//! The roles as they are shipped, in worlds of our making: transcripts, chaos, and a model.

mod chaos;
mod model;
mod transcripts;
mod world;
