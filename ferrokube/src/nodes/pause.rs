//! The image that holds a pod's namespaces, made here so that a cluster needs no registry to start its first pod.
//!
//! Its one program lets the kernel reap what it inherits and then sleeps for ever. As machine code for this machine's
//! architecture it is a few dozen bytes; elsewhere the published image of the same purpose is used.

use std::path::Path;

use anyhow::Context;
use serde_json::json;

/// What the image is called; nothing else has this name.
pub const NAME: &str = "localhost/ferrokube/pause:1";
/// What is used on architectures for which there is no program here.
pub const PUBLISHED: &str = "registry.k8s.io/pause:3.10.2";

/// The sandbox image for this machine.
pub fn image() -> &'static str {
    if program().is_some() { NAME } else { PUBLISHED }
}

/// Where the program is loaded, and how far into the file it starts: after an ELF header and one program header.
const BASE: u64 = 0x40_0000;
const HEADERS: u64 = 64 + 56;

/// x86-64: rt_sigaction(SIGCHLD, {SIG_IGN}, 0, 8); for (;;) pause();
const X86_64: &[u8] = &[
    0xb8, 0x0d, 0, 0, 0, // mov eax, 13
    0xbf, 0x11, 0, 0, 0, // mov edi, 17
    0x48, 0x8d, 0x35, 0x13, 0, 0, 0, // lea rsi, [rip + 19]
    0x31, 0xd2, // xor edx, edx
    0x41, 0xba, 0x08, 0, 0, 0, // mov r10d, 8
    0x0f, 0x05, // syscall
    0xb8, 0x22, 0, 0, 0, // mov eax, 34
    0x0f, 0x05, // syscall
    0xeb, 0xf7, // jmp to the mov above
    // struct sigaction: the handler is SIG_IGN; no flags, no restorer, no mask
    1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
];

/// The program as an executable file, if there is one for this architecture.
fn program() -> Option<Vec<u8>> {
    if std::env::consts::ARCH != "x86_64" {
        return None;
    }
    Some(elf(X86_64))
}

/// A 64-bit little-endian x86-64 executable with one segment, which holds the whole file.
fn elf(code: &[u8]) -> Vec<u8> {
    let size = HEADERS + code.len() as u64;
    let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let half = |file: &mut Vec<u8>, values: &[u16]| values.iter().for_each(|v| file.extend(v.to_le_bytes()));
    let word = |file: &mut Vec<u8>, values: &[u32]| values.iter().for_each(|v| file.extend(v.to_le_bytes()));
    let long = |file: &mut Vec<u8>, values: &[u64]| values.iter().for_each(|v| file.extend(v.to_le_bytes()));
    half(&mut file, &[2, 62]); // executable, x86-64
    word(&mut file, &[1]);
    long(&mut file, &[BASE + HEADERS, 64, 0]); // entry, program headers, section headers
    word(&mut file, &[0]);
    half(&mut file, &[64, 56, 1, 0, 0, 0]);
    word(&mut file, &[1, 5]); // loaded, readable and executable
    long(&mut file, &[0, BASE, BASE, size, size, 0x1000]);
    file.extend(code);
    file
}

/// Writes the image as a docker archive; nothing if this architecture has no program.
pub fn write(path: &Path) -> anyhow::Result<bool> {
    let Some(program) = program() else { return Ok(false) };
    let mut layer = Vec::new();
    entry(&mut layer, "pause", 0o755, &program);
    finish(&mut layer);
    let digest = hex(ring_sha256(&layer).as_ref());
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": { "Entrypoint": ["/pause"], "User": "65535:65535", "WorkingDir": "/" },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{digest}")] },
        "history": [{ "created": "1970-01-01T00:00:00Z", "created_by": "ferrokube" }],
    })
    .to_string();
    let config_name = format!("{}.json", hex(ring_sha256(config.as_bytes()).as_ref()));
    let manifest = json!([{ "Config": config_name, "RepoTags": [NAME], "Layers": [format!("{digest}/layer.tar")] }]).to_string();
    let mut archive = Vec::new();
    entry(&mut archive, &config_name, 0o644, config.as_bytes());
    entry(&mut archive, &format!("{digest}/layer.tar"), 0o644, &layer);
    entry(&mut archive, "manifest.json", 0o644, manifest.as_bytes());
    finish(&mut archive);
    std::fs::write(path, archive).with_context(|| path.display().to_string())?;
    Ok(true)
}

fn ring_sha256(bytes: &[u8]) -> ring::digest::Digest {
    ring::digest::digest(&ring::digest::SHA256, bytes)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Appends a regular file to a tar archive (POSIX.1-1988 `ustar`). Names are short.
fn entry(archive: &mut Vec<u8>, name: &str, mode: u32, content: &[u8]) {
    let mut header = [0u8; 512];
    let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, &format!("{mode:07o}"));
    put(108, "0000000");
    put(116, "0000000");
    put(124, &format!("{:011o}", content.len()));
    put(136, "00000000000");
    put(148, "        ");
    put(156, "0");
    put(257, "ustar");
    put(263, "00");
    let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    archive.extend(header);
    archive.extend(content);
    archive.resize(archive.len().next_multiple_of(512), 0);
}

fn finish(archive: &mut Vec<u8>) {
    archive.resize(archive.len() + 1024, 0);
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_program_sleeps_until_it_is_killed() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("pause");
        std::fs::write(&path, elf(X86_64)).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("executable");
        let mut child = Command::new(&path).spawn().expect("it starts");
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(child.try_wait().expect("it can be asked"), None);
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).expect("it is there");
        let ignored = status.lines().find_map(|l| l.strip_prefix("SigIgn:\t")).expect("its signals are known");
        assert_eq!(u64::from_str_radix(ignored, 16).expect("hexadecimal") >> 16 & 1, 1, "SIGCHLD is ignored");
        child.kill().expect("it can be killed");
        child.wait().expect("it ends");
    }

    #[test]
    fn the_archive_names_the_image() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("pause.tar");
        assert!(write(&path).expect("written"));
        let listing = Command::new("tar").arg("-tvf").arg(&path).output().expect("tar is there");
        assert!(listing.status.success());
        assert!(String::from_utf8_lossy(&listing.stdout).contains("manifest.json"));
    }
}
