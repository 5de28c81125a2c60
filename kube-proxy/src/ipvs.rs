//! Mode `ipvs`: what the host must have for it.

use std::fs;

/// Why the mode cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("IPVS proxier will not be used because the following required kernel modules are not loaded: [{}]", .0.join(", "))]
    Modules(Vec<String>),
    #[error("mode ipvs is not implemented; upstream has deprecated it, use nftables")]
    NotImplemented,
}

/// Whether the kernel has IPVS, built in or loaded.
pub fn check(scheduler: &str) -> Result<(), Error> {
    let scheduler = if scheduler.is_empty() { "rr" } else { scheduler };
    // The file is there when IPVS is, whether it is a module or not.
    if fs::exists("/proc/net/ip_vs").unwrap_or(false) {
        return Ok(());
    }
    Err(Error::Modules(vec!["ip_vs".to_owned(), format!("ip_vs_{scheduler}")]))
}
