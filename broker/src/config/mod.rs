//! server.properties and KAFKA_* environment → typed settings, static and dynamic, and their docs.
