//! How the binary is linked.

use std::io::Write as _;

fn main() -> std::io::Result<()> {
    let mut cargo = std::io::stdout();
    writeln!(cargo, "cargo::rerun-if-changed=build.rs")?;
    let is = |name: &str, value: &str| std::env::var(name).is_ok_and(|found| found == value);
    // Generic code is made again by each crate that needs it. The linker that rustc brings along for this target keeps functions that
    // are the same but once.
    let has_lld = is("CARGO_CFG_TARGET_ARCH", "x86_64") && is("CARGO_CFG_TARGET_OS", "linux") && is("CARGO_CFG_TARGET_ENV", "gnu");
    if has_lld && is("PROFILE", "release") {
        writeln!(cargo, "cargo::rustc-link-arg-bins=-Wl,--icf=all")?;
    }
    Ok(())
}
