"""The images of the conformance suite: what each must contain, written as OCI layouts and pushed. Run by ./build."""
import gzip
import hashlib
import io
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

TOOLS, WORK, REGISTRY = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
SOURCES = TOOLS / "source/test/images"
LAYOUT = WORK / "layout"
MEDIA = "application/vnd.oci.image."
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
SEARCH_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def store(data, kind):
    """Puts a blob into the layout and gives its descriptor."""
    digest = hashlib.sha256(data).hexdigest()
    (LAYOUT / "blobs/sha256" / digest).write_bytes(data)
    return {"mediaType": MEDIA + kind, "digest": "sha256:" + digest, "size": len(data)}


class Layer:
    """Files that are laid over those of the layers below."""

    def __init__(self):
        self.bytes = io.BytesIO()
        self.tar = tarfile.open(fileobj=self.bytes, mode="w", format=tarfile.GNU_FORMAT)

    def _add(self, path, data=b"", **attributes):
        entry = tarfile.TarInfo(path.lstrip("/"))
        entry.size = len(data)
        for name, value in attributes.items():
            setattr(entry, name, value)
        self.tar.addfile(entry, io.BytesIO(data))
        return self

    def file(self, path, data, mode=0o644):
        return self._add(path, data.encode() if isinstance(data, str) else data, mode=mode)

    def program(self, path, source, mode=0o755):
        return self.file(path, Path(source).read_bytes(), mode)

    def folder(self, path, mode=0o755):
        return self._add(path, type=tarfile.DIRTYPE, mode=mode)

    def link(self, path, target, hard=False):
        return self._add(path, type=tarfile.LNKTYPE if hard else tarfile.SYMTYPE, linkname=target, mode=0o755)

    def finish(self):
        """The descriptor, and the digest of what is not compressed."""
        self.tar.close()
        plain = self.bytes.getvalue()
        return store(gzip.compress(plain, 1, mtime=0), "layer.v1.tar+gzip"), "sha256:" + hashlib.sha256(plain).hexdigest()


def base():
    """The Debian base, without what a runtime mounts anyway; and its users and groups, which some images add to."""
    kept, words = Layer(), {}
    with tarfile.open(WORK / "base.tar") as source:
        for entry in source:
            name = entry.name.removeprefix("./")
            if name.startswith(("dev/", "proc/", "sys/")):
                continue
            data = source.extractfile(entry).read() if entry.isreg() else b""
            if name in ("etc/passwd", "etc/group"):
                words[name] = data.decode()
            kept.tar.addfile(entry, io.BytesIO(data) if entry.isreg() else None)
    return kept.finish(), words


def publish(name, layers, **config):
    config.setdefault("Env", [SEARCH_PATH])
    image = {
        "architecture": ARCHITECTURE, "os": "linux", "created": "2026-01-01T00:00:00Z", "config": config,
        "rootfs": {"type": "layers", "diff_ids": [plain for _, plain in layers]},
    }
    manifest = {
        "schemaVersion": 2, "mediaType": MEDIA + "manifest.v1+json", "config": store(json.dumps(image).encode(), "config.v1+json"),
        "layers": [descriptor for descriptor, _ in layers],
    }
    tag = name.rsplit(":", 1)[1]
    entry = store(json.dumps(manifest).encode(), "manifest.v1+json") | {"annotations": {"org.opencontainers.image.ref.name": tag}}
    (LAYOUT / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    subprocess.run(["skopeo", "copy", "--quiet", "--insecure-policy", "--dest-tls-verify=false", f"oci:{LAYOUT}:{tag}", f"docker://{REGISTRY}/{name}"],
                   check=True)
    print("    pushed", name, flush=True)


def agnhost(words):
    layer = Layer().program("agnhost", TOOLS / "agnhost").link("agnhost-2", "agnhost").folder("uploads", 0o777)
    for name in ("localhost.crt", "localhost.key"):
        layer.program(name, SOURCES / "agnhost/porter" / name, 0o644)
    # The supplementary groups of a test come from the image.
    layer.file("etc/passwd", words["etc/passwd"] + "user-defined-in-image:x:1000:1000::/home/user-defined-in-image:/bin/sh\n")
    layer.file("etc/group", words["etc/group"] + "user-defined-in-image:x:1000:\ngroup-defined-in-image:x:50000:user-defined-in-image\n")
    # Image volumes are recognised by the original's distribution.
    layer.file("etc/os-release", 'NAME="stand-in for Alpine Linux"\nID=alpine\nPRETTY_NAME="stand-in for Alpine Linux"\n')
    return layer.finish()


def nginx(version):
    configuration = """daemon off;
pid /run/nginx.pid;
error_log /dev/stderr notice;
events {}
http {
  include /etc/nginx/mime.types;
  access_log /dev/stdout;
  server { listen 80; root /usr/share/nginx/html; }
}
"""
    page = "<!DOCTYPE html>\n<html><head><title>Welcome to nginx!</title></head><body><h1>Welcome to nginx!</h1></body></html>\n"
    # Two versions must be two images.
    return Layer().file("etc/nginx/nginx.conf", configuration).file("usr/share/nginx/html/index.html", page).file("etc/stands-in-for", version + "\n").finish()


def busybox():
    layer = Layer()
    for path in "bin dev etc home proc root run sbin sys usr usr/bin usr/local usr/local/bin usr/sbin var var/spool".split():
        layer.folder(path)
    layer.folder("tmp", 0o1777).folder("var/tmp", 0o1777)
    binary = shutil.which("busybox")
    layer.program("bin/busybox", binary)
    for applet in subprocess.run([binary, "--list"], check=True, capture_output=True, text=True).stdout.split():
        if applet != "busybox":
            layer.link("bin/" + applet, "bin/busybox", hard=True)
    # Debian's ash passes on no variables that are not identifiers ("data-1"), which tests with `sh -c env` need; another test wants the very
    # words of ash from /bin/sh. So PATH finds bash, and /bin/sh is ash.
    layer.program("usr/local/bin/sh", WORK / "bash-static").link("usr/bin/env", "/bin/env")
    users = [("root", 0, 0, "/root", "/bin/sh"), ("daemon", 1, 1, "/usr/sbin", "/bin/false"), ("bin", 2, 2, "/bin", "/bin/false"),
             ("mail", 8, 8, "/var/mail", "/bin/false"), ("www-data", 33, 33, "/var/www", "/bin/false"), ("nobody", 65534, 65534, "/home", "/bin/false")]
    groups = {name: group for name, _, group, _, _ in users if name != "nobody"} | {"tty": 5, "disk": 6, "users": 100, "nogroup": 65534}
    layer.file("etc/passwd", "".join(f"{name}:x:{user}:{group}:{name}:{home}:{shell}\n" for name, user, group, home, shell in users))
    layer.file("etc/group", "".join(f"{name}:x:{group}:\n" for name, group in groups.items()))
    return layer.finish()


def main():
    shutil.rmtree(LAYOUT, ignore_errors=True)
    (LAYOUT / "blobs/sha256").mkdir(parents=True)
    (LAYOUT / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    debian, words = base()
    tests = "e2e-test-images/"

    programs = [debian, agnhost(words)]
    for version in ("2.66.1", "2.55"):
        publish(f"{tests}agnhost:{version}", programs, Entrypoint=["/agnhost"], Cmd=["pause"])
    publish(tests + "nonroot:1.5", programs, Entrypoint=["/agnhost"], Cmd=["pause"], User="1234")
    for pet in ("kitten", "nautilus"):
        pages = Layer()
        for name in (pet + ".jpg", "data.json"):
            pages.program(name, SOURCES / pet / "html" / name, 0o644)
        publish(f"{tests}{pet}:1.8", programs + [pages.finish()], Entrypoint=["/agnhost"], Cmd=["test-webserver"])

    publish(tests + "glibc-dns-testing:2.1.1", [debian], Cmd=["bash"])
    for version in ("1.27.0-2", "1.28.0-2"):
        publish(f"{tests}nginx:{version}", [debian, nginx(version)], Cmd=["nginx"])
    # Runs as its owner whoever starts it, unless privileges may not grow.
    publish(tests + "nonewprivs:1.4", [debian, Layer().program("usr/local/bin/nnp", TOOLS / "nnp", 0o6755).finish()], Cmd=["nnp"])
    shell = busybox()
    for version in ("1.37.0-2", "1.36.1-1"):
        publish(f"{tests}busybox:{version}", [shell], Cmd=["sh"])
    publish("pause:3.10.2", [Layer().program("pause", WORK / "pause").finish()], Entrypoint=["/pause"], User="65535:65535")
    server = Layer().program("sample-apiserver", TOOLS / "sample-apiserver").finish()
    publish(tests + "sample-apiserver:1.29.2", [debian, server], Entrypoint=["/sample-apiserver"])
    publish("etcd:3.7.0-0", [debian, Layer().program("usr/local/bin/etcd", TOOLS / "etcd").finish()], Cmd=["/usr/local/bin/etcd"])
    # The registry has them now.
    shutil.rmtree(LAYOUT)


main()
