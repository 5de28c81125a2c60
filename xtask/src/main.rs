//! Checks and fixes of the repository.

mod check;
mod schema;

use std::process::ExitCode;

fn main() -> ExitCode {
    let result = match std::env::args().nth(1).as_deref() {
        Some("check") => check::run(),
        Some("fix") => check::fix(),
        Some("schema") => schema::regenerate(),
        _ => Err("usage: cargo xtask check|fix|schema".into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            // The lints forbid printing macros; a tool for people at a terminal has nothing else to report with.
            let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("xtask: {message}\n").as_bytes());
            ExitCode::FAILURE
        }
    }
}
