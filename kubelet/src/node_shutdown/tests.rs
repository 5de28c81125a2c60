//! A real bus with a logind of a few lines on it.

use std::process::{Child, Command, Stdio};

use serde_json::json;

use super::dbus::{Connection, Value};
use super::*;

const LOGIND: &str = "org.freedesktop.login1";
const MANAGER: &str = "org.freedesktop.login1.Manager";
const CONFIG: &str = r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>unix:path=SOCKET</listen><auth>EXTERNAL</auth>
<policy context="default"><allow user="*"/><allow own="*"/><allow send_destination="*" eavesdrop="true"/><allow receive_sender="*"/></policy>
</busconfig>"#;

struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn daemon(dir: &Path) -> Option<(Daemon, PathBuf)> {
    let (socket, config) = (dir.join("bus"), dir.join("bus.conf"));
    std::fs::write(&config, CONFIG.replace("SOCKET", &socket.display().to_string())).expect("it is writable");
    let mut command = Command::new("dbus-daemon");
    command.args(["--nofork", "--nosyslog", "--nopidfile"]).arg(format!("--config-file={}", config.display()));
    let daemon = Daemon(command.stdin(Stdio::null()).spawn().ok()?);
    for _ in 0..200 {
        if socket.exists() {
            return Some((daemon, socket));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("the bus does not start");
}

/// Answers as logind does: the delay grows when it is told to read its configuration, and a lock is the end of a pipe. What the pipe's
/// other end sees is told, and signals are sent as they are asked for.
fn logind(socket: &Path, signals: std::sync::mpsc::Receiver<bool>, locks: std::sync::mpsc::Sender<std::io::PipeReader>) {
    let mut service = Connection::open(socket).expect("the bus is there");
    service.own(LOGIND);
    service.own("org.freedesktop.systemd1");
    std::thread::spawn(move || {
        let mut delay = 5_000_000;
        loop {
            let Ok((call, _)) = service.receive() else { return };
            match call.member.as_str() {
                "Get" => {
                    assert_eq!(call.body, [Value::text(MANAGER), Value::text("InhibitDelayMaxUSec")]);
                    service.answer(&call, vec![Value::Variant(Box::new(Value::Long(delay)))], None);
                }
                "KillUnit" => {
                    assert_eq!(call.body, [Value::text("systemd-logind.service"), Value::text("all"), Value::Int(1)]);
                    delay = 30_000_000;
                    service.answer(&call, Vec::new(), None);
                }
                "Inhibit" => {
                    let (reader, writer) = std::io::pipe().expect("there are pipes");
                    service.answer(&call, vec![Value::Descriptor(0)], Some(&writer));
                    drop(writer);
                    locks.send(reader).expect("the test goes on");
                    // The first lock is followed by a wish to hear of shutdowns, which the bus alone sees.
                    let Ok(begins) = signals.recv() else { return };
                    service.signal("/org/freedesktop/login1", MANAGER, "PrepareForShutdown", vec![Value::Bool(begins)]);
                    if begins {
                        let Ok(begins) = signals.recv() else { return };
                        service.signal("/org/freedesktop/login1", MANAGER, "PrepareForShutdown", vec![Value::Bool(begins)]);
                    }
                }
                _ => {}
            }
        }
    });
}

#[derive(Default)]
struct Pods(Mutex<Vec<(String, i64)>>);

impl Node for Arc<Pods> {
    fn active_pods(&self) -> Vec<Arc<Pod>> {
        let pod = |name: &str, priority: i32| {
            let spec = json!({"containers": [], "priority": priority, "terminationGracePeriodSeconds": 30});
            let pod = json!({"metadata": {"name": name, "namespace": "n", "uid": name}, "spec": spec});
            Arc::new(serde_json::from_value(pod).expect("it is a pod"))
        };
        vec![pod("critical", 2_000_000_001), pod("ordinary", 0)]
    }

    fn end(&self, uid: &str, end: End) {
        self.0.lock().push((uid.to_owned(), end.grace_seconds.expect("there is one")));
    }

    fn is_gone(&self, uid: &str) -> bool {
        self.0.lock().iter().any(|(known, _)| known == uid)
    }
}

#[tokio::test]
async fn a_shutdown_waits_until_pods_have_been_stopped_lowest_first() {
    let dir = tempfile::tempdir().expect("there is a directory for temporary files");
    let Some((_daemon, socket)) = daemon(dir.path()) else {
        tracing::warn!("there is no dbus-daemon to test with");
        return;
    };
    let (signal, signals) = std::sync::mpsc::channel();
    let (locked, locks) = std::sync::mpsc::channel();
    logind(&socket, signals, locked);
    let configuration = KubeletConfiguration {
        shutdown_grace_period: Duration::from_secs(30),
        shutdown_grace_period_critical_pods: Duration::from_secs(10),
        ..KubeletConfiguration::default()
    };
    let (pods, state) = (Arc::<Pods>::default(), State::default());
    let (recorder, mut told) = Recorder::recording();
    let about = crate::node::reference("node", "node");
    let manager = Manager::new(&configuration, pods.clone(), state.clone(), recorder, about, dir.path());
    let manager = Manager { bus: socket, logind_configuration: dir.path().join("conf"), ..manager.expect("it is wanted") };
    assert!(state.admit().is_ok());
    let shutdown = Shutdown::new();
    let running = tokio::spawn(manager.run(shutdown.clone()));
    let wait = || tokio::time::timeout(Duration::from_secs(20), state.changed());

    let lock = tokio::task::spawn_blocking(move || (locks.recv().expect("a lock is taken"), locks)).await;
    let (lock, locks) = lock.expect("it ends");
    let written = std::fs::read_to_string(dir.path().join("conf/99-kubelet.conf")).expect("it was written");
    assert!(written.ends_with("InhibitDelayMaxSec=30\n"), "{written}");
    // The subscription reaches the bus before the signal does.
    tokio::time::sleep(Duration::from_millis(200)).await;
    signal.send(true).expect("it listens");
    wait().await.expect("it is told");
    assert_eq!(state.problem().as_deref(), Some("node is shutting down"));
    assert_eq!(state.admit().map_err(|rejection| rejection.reason), Err("NodeShutdown".to_owned()));
    // The pipe ends when the lock is let go.
    let released = tokio::task::spawn_blocking(move || std::io::copy(&mut { lock }, &mut std::io::sink())).await;
    released.expect("it ends").expect("it is readable");
    assert_eq!(*pods.0.lock(), [("ordinary".to_owned(), 20), ("critical".to_owned(), 10)]);
    let event = told.recv().await.expect("it is told");
    assert_eq!((event.reason.as_str(), event.message.as_str()), ("Shutdown", "Shutdown manager detected shutdown event"));
    let (began, ended) = state.times();
    assert!(began > 0.0 && ended >= began);
    assert!(dir.path().join(STATE_FILE).exists());

    signal.send(false).expect("it listens");
    wait().await.expect("it is told");
    assert_eq!(state.problem(), None);
    tokio::task::spawn_blocking(move || locks.recv().expect("a lock is taken anew")).await.expect("it ends");
    shutdown.cancel();
    tokio::time::timeout(Duration::from_secs(5), running).await.expect("it ends at once").expect("it does not panic");
}
