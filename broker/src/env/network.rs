//! Connections: made by name, resolved each time, because a peer's address changes when it moves.

use std::io;
use std::net::SocketAddr;

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite};

/// A connection's two directions.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// An open connection.
pub type Stream = Box<dyn Io>;

#[async_trait]
pub trait Network: Send + Sync {
    /// Listens on `host:port`; an empty host means every address, port 0 a free one.
    async fn listen(&self, host: &str, port: u16) -> io::Result<Box<dyn Listener>>;
    /// Resolves `host` now and connects.
    async fn connect(&self, host: &str, port: u16) -> io::Result<Stream>;
}

#[async_trait]
pub trait Listener: Send + Sync {
    async fn accept(&mut self) -> io::Result<(Stream, SocketAddr)>;
    fn local_addr(&self) -> io::Result<SocketAddr>;
}
