//! turmoil's network as [`Network`].

use std::io;
use std::net::SocketAddr;

use async_trait::async_trait;
use turmoil::net::{TcpListener, TcpStream};

use crate::env::{Listener, Network, Stream};

pub(super) struct SimulatedNetwork;

#[async_trait]
impl Network for SimulatedNetwork {
    async fn listen(&self, _host: &str, port: u16) -> io::Result<Box<dyn Listener>> {
        // A simulated node has one address; turmoil takes the wildcard for it.
        Ok(Box::new(SimulatedListener(TcpListener::bind(("0.0.0.0", port)).await?)))
    }

    async fn connect(&self, host: &str, port: u16) -> io::Result<Stream> {
        Ok(Box::new(TcpStream::connect((host, port)).await?))
    }
}

struct SimulatedListener(TcpListener);

#[async_trait]
impl Listener for SimulatedListener {
    async fn accept(&mut self) -> io::Result<(Stream, SocketAddr)> {
        let (stream, peer) = self.0.accept().await?;
        Ok((Box::new(stream), peer))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}
