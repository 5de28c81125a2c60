//! Listens on one family alone: `[::]` is not to take what `0.0.0.0` listens on.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, listen as start, setsockopt, socket, sockopt,
};
use tokio::net::TcpListener;

const BACKLOG: i32 = 128;

/// Must be called within a runtime.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let descriptor = socket(family, SockType::Stream, flags, SockProtocol::Tcp)?;
    setsockopt(&descriptor, sockopt::ReuseAddr, &true)?;
    if address.is_ipv6() {
        setsockopt(&descriptor, sockopt::Ipv6V6Only, &true)?;
    }
    bind(descriptor.as_raw_fd(), &SockaddrStorage::from(address))?;
    start(&descriptor, Backlog::new(BACKLOG)?)?;
    TcpListener::from_std(std::net::TcpListener::from(descriptor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn both_families_listen_on_one_port() {
        let v4 = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let port = v4.local_addr().unwrap().port();
        let all = listen(SocketAddr::new("0.0.0.0".parse().unwrap(), 0)).unwrap();
        assert!(all.local_addr().unwrap().port() != port);
        match listen(SocketAddr::new("::1".parse().unwrap(), port)) {
            Ok(v6) => assert_eq!(v6.local_addr().unwrap().port(), port),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable, "a host without IPv6: {error}"),
        }
    }
}
