//! A registry on the cluster's own bridge, and its nodes told that every image comes from there.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub struct Registry {
    child: Child,
    address: String,
    /// Whom it serves, if not everybody.
    user: Option<&'static str>,
}

/// The one user of a guarded registry and the word that he says, as people and as the registry (bcrypt) are told of them.
pub const USER: &str = "web:word";
const HTPASSWD: &str = "web:$2y$05$abcdefghijklmnopqrstuuQDoL5Sa/TtfS/XN4AY/jgq.HBbO1BTu\n";

impl Registry {
    /// `data_dir` is the cluster's: its nodes look for their registries there.
    pub fn start(directory: &Path, address: Ipv4Addr, data_dir: &Path) -> Registry {
        Registry::with(directory, address, data_dir, "", None)
    }

    /// The same, for [`USER`] alone.
    pub fn guarded(directory: &Path, address: Ipv4Addr, data_dir: &Path) -> Registry {
        let users = directory.join("htpasswd");
        std::fs::write(&users, HTPASSWD).expect("users");
        let guard = format!("auth: {{ htpasswd: {{ realm: test, path: {} }} }}\n", users.display());
        Registry::with(directory, address, data_dir, &guard, Some(USER))
    }

    fn with(directory: &Path, address: Ipv4Addr, data_dir: &Path, guard: &str, user: Option<&'static str>) -> Registry {
        let address = format!("{address}:5000");
        let config = format!(
            "version: 0.1\nlog: {{ level: error }}\nstorage: {{ filesystem: {{ rootdirectory: {} }} }}\nhttp: {{ addr: \"{address}\" }}\n{guard}",
            directory.join("registry").display(),
        );
        let file = directory.join("registry.yml");
        std::fs::write(&file, config).expect("a configuration");
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let registry = Registry { child: child.expect("docker-registry is there"), address: address.clone(), user };
        let deadline = Instant::now() + Duration::from_secs(20);
        while std::net::TcpStream::connect(&address).is_err() {
            assert!(Instant::now() < deadline, "the registry did not start in time");
            std::thread::sleep(Duration::from_millis(20));
        }
        let hosts = data_dir.join("certs.d/_default");
        std::fs::create_dir_all(&hosts).expect("a folder");
        let text = format!("server = \"http://{address}\"\n[host.\"http://{address}\"]\ncapabilities = [\"pull\", \"resolve\"]\n");
        std::fs::write(hosts.join("hosts.toml"), text).expect("the registry's name");
        registry
    }

    pub fn push(&self, archive: &Path, name: &str) {
        let output = Command::new("skopeo")
            .args(["copy", "-q", "--insecure-policy", "--dest-tls-verify=false"])
            .args(self.user.map(|user| format!("--dest-creds={user}")))
            .arg(format!("docker-archive:{}", archive.display()))
            .arg(format!("docker://{}/{name}", self.address))
            .output()
            .expect("skopeo is there");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
