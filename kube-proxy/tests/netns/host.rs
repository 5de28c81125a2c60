//! A host, its pods and its neighbours, each a network namespace of its own. All are gone when the test is.
//!
//! Namespaces have no names: they live as long as somebody holds them, so that nothing is left behind.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, setns, unshare};

/// A network namespace, held open.
pub struct Namespace {
    file: File,
}

fn current() -> File {
    File::open("/proc/thread-self/ns/net").expect("a thread has a network namespace")
}

impl Namespace {
    pub fn new() -> Namespace {
        let file = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("root may have a network namespace");
            ip("link set lo up");
            current()
        });
        Namespace { file: file.join().expect("the namespace is made") }
    }

    /// Runs on a thread of this namespace.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(&self.file, CloneFlags::CLONE_NEWNET).expect("the namespace is open");
                work()
            });
            thread.join().expect("the work is done")
        })
    }

    /// Goes on on a thread of this namespace.
    pub fn start(&self, work: impl FnOnce() + Send + 'static) {
        let file = self.file.try_clone().expect("a file can be cloned");
        thread::spawn(move || {
            setns(&file, CloneFlags::CLONE_NEWNET).expect("the namespace is open");
            work();
        });
    }

    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }
}

/// Runs `ip` with these words.
pub fn ip(words: &str) {
    command("ip", &words.split(' ').collect::<Vec<_>>());
}

pub fn command(program: &str, words: &[&str]) -> String {
    let output = Command::new(program).args(words).output().expect("the program is installed");
    assert!(output.status.success(), "{program} {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Somebody on the network: a pod of this host, or a neighbour of it.
pub struct Peer {
    pub namespace: Namespace,
}

/// The host's own address towards its pods and towards its neighbours.
pub const TO_PODS: &str = "10.244.1.254";
pub const TO_PODS_6: &str = "fd00:1::fe";
pub const TO_NEIGHBOURS: &str = "192.168.50.1";
pub const TO_NEIGHBOURS_6: &str = "fd00:50::1";

/// A peer with these addresses, behind an interface of this name; the calling thread is the host.
pub fn peer(interface: &str, [address, address6]: [&str; 2], [gateway, gateway6]: [&str; 2]) -> Peer {
    let namespace = Namespace::new();
    ip(&format!("link add {interface} type veth peer name eth0 netns {}", namespace.path()));
    ip(&format!("addr add {gateway}/32 dev {interface}"));
    ip(&format!("link set {interface} up"));
    ip(&format!("route add {address}/32 dev {interface}"));
    ip(&format!("-6 addr add {gateway6}/128 dev {interface} nodad"));
    ip(&format!("-6 route add {address6}/128 dev {interface}"));
    namespace.run(|| {
        ip(&format!("addr add {address}/32 dev eth0"));
        ip("link set eth0 up");
        ip(&format!("route add {gateway}/32 dev eth0"));
        ip(&format!("route add default via {gateway}"));
        ip(&format!("-6 addr add {address6}/128 dev eth0 nodad"));
        ip(&format!("-6 route add {gateway6}/128 dev eth0"));
        ip(&format!("-6 route add default via {gateway6}"));
    });
    Peer { namespace }
}

impl Peer {
    /// Answers every connection with `name` and the address that it comes from.
    pub fn serve(&self, name: &'static str, port: u16) {
        let (ready, is_ready) = std::sync::mpsc::channel();
        self.namespace.start(move || {
            let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).expect("the port is free");
            ready.send(()).expect("the test waits");
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { continue };
                let Ok(from) = stream.peer_addr() else { continue };
                // A client that has gone does not read.
                let _ = stream.write_all(format!("{name} {}", from.ip().to_canonical()).as_bytes());
            }
        });
        is_ready.recv().expect("the server listens");
    }

    /// Answers every datagram with `name`.
    pub fn serve_udp(&self, name: &'static str, port: u16) {
        let (ready, is_ready) = std::sync::mpsc::channel();
        self.namespace.start(move || {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).expect("the port is free");
            ready.send(()).expect("the test waits");
            let mut buffer = [0; 64];
            while let Ok((_, from)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(name.as_bytes(), from);
            }
        });
        is_ready.recv().expect("the server listens");
    }

    /// What a server says to this peer.
    pub fn ask(&self, address: &str) -> Result<String, std::io::ErrorKind> {
        self.namespace.run(|| ask(address))
    }
}

/// So long a connection may take; nothing here is far away.
const PATIENCE: Duration = Duration::from_millis(400);

/// What the server at this address says, to whoever calls.
pub fn ask(address: &str) -> Result<String, std::io::ErrorKind> {
    let address: SocketAddr = address.parse().expect("an address");
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).map_err(|error| error.kind())?;
    stream.set_read_timeout(Some(PATIENCE)).expect("a time that is not zero");
    let mut text = String::new();
    stream.read_to_string(&mut text).map_err(|error| error.kind())?;
    Ok(text)
}

/// Runs a test on a host of its own, with interfaces up and packets passed on.
pub fn on_a_host(test: impl FnOnce() + Send + 'static) {
    let host = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("root may have a network namespace");
        ip("link set lo up");
        for switch in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
            std::fs::write(format!("/proc/sys/{switch}"), "1").expect("a namespace's switches can be set");
        }
        test();
    });
    if let Err(panic) = host.join() {
        std::panic::resume_unwind(panic);
    }
}

/// The host's addresses as a Node has them.
pub fn host_ip() -> IpAddr {
    TO_NEIGHBOURS.parse().expect("an address")
}
