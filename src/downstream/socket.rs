//! Listening sockets: one per worker for each address, so that the kernel spreads connections and no worker wakes
//! another.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};

use socket2::{Domain, Protocol, Socket, Type};

/// Connections that may wait to be accepted, per socket; the kernel cuts it to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Sockets bound to one address, one for each worker. Port 0: the kernel chooses one, the same for all.
pub fn bind(address: SocketAddr, workers: usize) -> io::Result<Vec<TcpListener>> {
    let first = bind_one(address)?;
    let bound = first.local_addr()?;
    let mut sockets = vec![first];
    for _ in 1..workers {
        sockets.push(bind_one(bound)?);
    }
    Ok(sockets)
}

/// As [`bind`], for datagrams. The kernel gives all of a client's to the same one.
pub fn bind_datagrams(address: SocketAddr, workers: usize) -> io::Result<Vec<UdpSocket>> {
    let first = one(address, Type::DGRAM, Protocol::UDP)?;
    let first = UdpSocket::from(first);
    let bound = first.local_addr()?;
    let mut sockets = vec![first];
    for _ in 1..workers {
        sockets.push(one(bound, Type::DGRAM, Protocol::UDP)?.into());
    }
    Ok(sockets)
}

fn bind_one(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = one(address, Type::STREAM, Protocol::TCP)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn one(address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    if kind == Type::STREAM {
        // For datagrams it would let another process of the same user take a part of them.
        socket.set_reuse_address(true)?;
    }
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_sockets_share_one_port() {
        let sockets = bind("127.0.0.1:0".parse().unwrap(), 3).unwrap();
        let ports: Vec<_> = sockets
            .iter()
            .map(|socket| socket.local_addr().unwrap().port())
            .collect();
        assert!(ports.len() == 3 && ports[0] != 0 && ports.iter().all(|port| *port == ports[0]));
    }
}
