//! Are the ports free that the brokers are to listen on?

use std::io;
use std::net::TcpListener;

/// A port that cannot be used, and why.
#[derive(Debug, thiserror::Error)]
#[error(
    "port {port} on 127.0.0.1 cannot be used: {reason}. Stop the program that has it \
         (`ss -ltnp 'sport = :{port}'` names it) or choose other ports with --port"
)]
pub struct Taken {
    port: u16,
    reason: String,
}

/// Checks all ports before anything is started, so that a start is all or nothing.
pub fn check(ports: impl IntoIterator<Item = u16>) -> Result<(), Taken> {
    for port in ports {
        TcpListener::bind(("127.0.0.1", port)).map_err(|error| Taken {
            port,
            reason: match error.kind() {
                io::ErrorKind::AddrInUse => "another program listens there".to_owned(),
                _ => error.to_string(),
            },
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_named_with_a_way_out() {
        let holder = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = holder.local_addr().unwrap().port();
        let message = check([port]).unwrap_err().to_string();
        assert!(message.contains(&port.to_string()) && message.contains("--port"), "{message}");
    }

    #[test]
    fn a_free_port_is_fine() {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        assert!(check([port]).is_ok());
    }
}
