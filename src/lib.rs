//! call-legs: polls the 8x8 Work Analytics call-legs API and publishes every call leg to Kafka.

pub mod core;
