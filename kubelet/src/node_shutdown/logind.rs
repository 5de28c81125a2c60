//! What logind is asked for: to let a shutdown wait, and to tell of one. Blocking.
//!
//! Upstream: pkg/kubelet/nodeshutdown/systemd/inhibit_linux.go.

use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::dbus::{Connection, Descriptor, Error, Value};

const SERVICE: &str = "org.freedesktop.login1";
const OBJECT: &str = "/org/freedesktop/login1";
const INTERFACE: &str = "org.freedesktop.login1.Manager";
/// What the bus calls itself.
const BUS: &str = "org.freedesktop.DBus";
/// How long logind may take to read its configuration again: waits in milliseconds, between the looks.
const RELOAD_WAITS_MS: [u64; 5] = [0, 100, 200, 400, 800];

/// Where the system's bus is (`DBUS_SYSTEM_BUS_ADDRESS`, or its usual place).
pub fn bus_socket(address: Option<&str>) -> PathBuf {
    let paths = address.into_iter().flat_map(|address| address.split(';'));
    let mut paths = paths.filter_map(|one| one.strip_prefix("unix:")?.split(',').find_map(|part| part.strip_prefix("path=")));
    PathBuf::from(paths.next().unwrap_or("/run/dbus/system_bus_socket"))
}

/// As long as this is kept a shutdown waits, up to logind's limit.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "keeping it open is its use")] Descriptor);

/// logind, as it is reached by a bus.
pub struct Logind {
    connection: Connection,
    /// Where its configuration is put; `/etc/systemd/logind.conf.d`.
    configuration: PathBuf,
}

/// Ends what waits for a signal, from another thread.
pub struct Stopper(UnixStream);

impl Stopper {
    pub fn stop(&self) {
        if let Err(error) = self.0.shutdown(Shutdown::Both) {
            tracing::debug!(%error, "the connection to the bus has ended already");
        }
    }
}

impl Logind {
    pub fn connect(bus: &Path, configuration: &Path) -> Result<Logind, Error> {
        Ok(Logind { connection: Connection::open(bus)?, configuration: configuration.to_owned() })
    }

    pub fn stopper(&self) -> io::Result<Stopper> {
        self.connection.handle().map(Stopper)
    }

    /// How long logind lets a shutdown wait.
    fn delay(&mut self) -> Result<Duration, Error> {
        match self.connection.property(SERVICE, OBJECT, INTERFACE, "InhibitDelayMaxUSec")? {
            Value::Long(microseconds) => Ok(Duration::from_micros(microseconds)),
            _ => Err(Error::Malformed("InhibitDelayMaxUSec from logind is not a uint64 as expected")),
        }
    }

    /// Sees to it that a shutdown can wait for so long.
    pub fn allow(&mut self, needed: Duration) -> Result<(), Error> {
        if self.delay()? >= needed {
            return Ok(());
        }
        std::fs::create_dir_all(&self.configuration)?;
        let text = format!("# Kubelet logind override\n[Login]\nInhibitDelayMaxSec={}\n", needed.as_secs());
        std::fs::write(self.configuration.join("99-kubelet.conf"), text)?;
        // A hangup makes it read its configuration again.
        let arguments = vec![Value::text("systemd-logind.service"), Value::text("all"), Value::Int(1)];
        let systemd = "org.freedesktop.systemd1";
        self.connection.call(systemd, "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager", "KillUnit", arguments)?;
        let mut now = Duration::ZERO;
        for wait in RELOAD_WAITS_MS {
            std::thread::sleep(Duration::from_millis(wait));
            now = self.delay()?;
            if now >= needed {
                return Ok(());
            }
        }
        let message = format!(
            "node shutdown manager was timed out after {} attempts waiting for logind InhibitDelayMaxSec to update to {needed:?} (ShutdownGracePeriod), current value is {now:?}",
            RELOAD_WAITS_MS.len()
        );
        Err(io::Error::new(io::ErrorKind::TimedOut, message).into())
    }

    /// Makes shutdowns wait.
    pub fn inhibit(&mut self) -> Result<Lock, Error> {
        let arguments = ["shutdown", "kubelet", "Kubelet needs time to handle node shutdown", "delay"].map(Value::text).to_vec();
        let (_, descriptors) = self.connection.call(SERVICE, OBJECT, INTERFACE, "Inhibit", arguments)?;
        descriptors.into_iter().next().map(Lock).ok_or(Error::Malformed("an inhibitor without a file descriptor"))
    }

    /// Asks to be told of shutdowns.
    pub fn subscribe(&mut self) -> Result<(), Error> {
        let rule = format!("type='signal',interface='{INTERFACE}',member='PrepareForShutdown',path='{OBJECT}'");
        self.connection.call(BUS, "/org/freedesktop/DBus", BUS, "AddMatch", vec![Value::Text(rule)]).map(drop)
    }

    /// Waits until a shutdown begins (true) or is called off (false).
    pub fn next(&mut self) -> Result<bool, Error> {
        loop {
            let signal = self.connection.next_signal()?;
            if signal.interface != INTERFACE || signal.member != "PrepareForShutdown" {
                continue;
            }
            match signal.body.first() {
                Some(Value::Bool(begins)) => return Ok(*begins),
                _ => tracing::warn!("a PrepareForShutdown signal does not say whether a shutdown begins"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bus_is_where_the_address_says() {
        for (address, expect) in [
            (None, "/run/dbus/system_bus_socket"),
            (Some("unix:path=/a/b"), "/a/b"),
            (Some("tcp:host=h;unix:guid=1,path=/c"), "/c"),
            (Some("tcp:host=h"), "/run/dbus/system_bus_socket"),
        ] {
            assert_eq!(bus_socket(address), PathBuf::from(expect));
        }
    }
}
