//! Images for tests, made of the machine's static busybox.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().expect("the program is there");
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn sha256(path: &Path) -> String {
    run("sha256sum", &[&path.display().to_string()]).split_whitespace().next().expect("a sum").to_owned()
}

/// A docker archive with busybox, a page `/www/index.html`, and a user `web` (1000) whom `/etc/group` has in the group `staff` (5000).
pub fn archive(directory: &Path, name: &str, page: &str) -> PathBuf {
    let root = directory.join(name.replace([':', '/'], "-"));
    for folder in ["root/bin", "root/www", "root/tmp", "root/etc", "files"] {
        std::fs::create_dir_all(root.join(folder)).expect("a folder");
    }
    std::fs::copy("/bin/busybox", root.join("root/bin/busybox")).expect("a static busybox");
    for applet in run("/bin/busybox", &["--list"]).lines().filter(|applet| *applet != "busybox") {
        std::os::unix::fs::symlink("busybox", root.join("root/bin").join(applet)).expect("a link");
    }
    std::fs::write(root.join("root/www/index.html"), page).expect("a page");
    std::fs::write(root.join("root/etc/passwd"), "root:x:0:0::/:/bin/sh\nweb:x:1000:1000::/:/bin/sh\n").expect("users");
    std::fs::write(root.join("root/etc/group"), "root:x:0:\nweb:x:1000:\nstaff:x:5000:web\n").expect("groups");
    let text = |path: PathBuf| path.display().to_string();
    let layer = root.join("files/layer.tar");
    run("tar", &["-C", &text(root.join("root")), "--owner=0", "--group=0", "-cf", &text(layer.clone()), "."]);
    let config = json!({
        "architecture": std::env::consts::ARCH.replace("x86_64", "amd64").replace("aarch64", "arm64"),
        "os": "linux",
        "config": { "Env": ["PATH=/bin"], "Cmd": ["sh"] },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", sha256(&layer))] },
    });
    std::fs::write(root.join("files/config.json"), config.to_string()).expect("a config");
    let manifest = json!([{ "Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"] }]);
    std::fs::write(root.join("files/manifest.json"), manifest.to_string()).expect("a manifest");
    let archive = root.with_extension("tar");
    run("tar", &["-C", &text(root.join("files")), "-cf", &text(archive.clone()), "config.json", "layer.tar", "manifest.json"]);
    archive
}

/// Puts an archive where the nodes of a cluster with this data directory import it from when they start.
pub fn put(archive: &Path, data_dir: &Path) {
    let images = data_dir.join("images");
    std::fs::create_dir_all(&images).expect("a folder");
    std::fs::copy(archive, images.join("web.tar")).expect("an archive");
}
