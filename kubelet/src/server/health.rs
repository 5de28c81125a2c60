//! `/healthz`: whether the kubelet does its work.

use axum::body::Body;
use http::{Response, StatusCode};

use super::Node;
use super::respond::text;

/// The checks, in the order in which they are listed.
const CHECKS: [&str; 4] = ["ping", "log", "syncloop", "device-plugin"];

/// `outcomes` of the checks by name, made a page. A check that fails is named, its reason withheld.
fn page(outcomes: &[(&str, bool)], excluded: &[&str], verbose: bool) -> (StatusCode, String) {
    let mut lines = String::new();
    let mut has_failed = false;
    for (name, good) in outcomes {
        if excluded.contains(name) {
            lines.push_str(&format!("[+]{name} excluded: ok\n"));
        } else if *good {
            lines.push_str(&format!("[+]{name} ok\n"));
        } else {
            has_failed = true;
            lines.push_str(&format!("[-]{name} failed: reason withheld\n"));
        }
    }
    let unknown: Vec<String> = excluded.iter().filter(|name| !CHECKS.contains(name)).map(|name| format!("\"{name}\"")).collect();
    if !unknown.is_empty() {
        lines.push_str(&format!("warn: some health checks cannot be excluded: no matches for {}\n", unknown.join(",")));
    }
    match (has_failed, verbose) {
        (true, _) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{lines}healthz check failed\n")),
        (false, true) => (StatusCode::OK, format!("{lines}healthz check passed\n")),
        (false, false) => (StatusCode::OK, "ok".to_owned()),
    }
}

/// All checks, or one of them.
pub fn healthz(node: &dyn Node, check: Option<&str>, query: &[(String, String)]) -> Response<Body> {
    let outcome = |name: &str| match name {
        "syncloop" => node.check_sync_loop(),
        "device-plugin" => node.check_device_plugins(),
        _ => Ok(()),
    };
    let Some(check) = check else {
        let excluded: Vec<&str> = query.iter().filter(|(key, _)| key == "exclude").map(|(_, name)| name.as_str()).collect();
        let verbose = query.iter().any(|(key, _)| key == "verbose");
        let outcomes = CHECKS.map(|name| {
            let outcome = outcome(name);
            if let Err(reason) = &outcome {
                tracing::info!(check = name, %reason, "healthz check failed");
            }
            (name, outcome.is_ok())
        });
        let (code, page) = page(&outcomes, &excluded, verbose);
        return text(code, page);
    };
    match (CHECKS.contains(&check), outcome(check)) {
        (true, Err(reason)) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("internal server error: {reason}\n")),
        (true, Ok(())) => text(StatusCode::OK, "ok"),
        (false, _) => text(StatusCode::NOT_FOUND, "404 page not found\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_check_is_told_without_its_reason() {
        let outcomes = [("ping", true), ("syncloop", false)];
        assert_eq!(
            page(&outcomes, &[], false),
            (StatusCode::INTERNAL_SERVER_ERROR, "[+]ping ok\n[-]syncloop failed: reason withheld\nhealthz check failed\n".to_owned())
        );
        assert_eq!(page(&outcomes, &["syncloop"], false), (StatusCode::OK, "ok".to_owned()));
        let verbose = "[+]ping ok\n[+]syncloop excluded: ok\nwarn: some health checks cannot be excluded: no matches for \"x\"\nhealthz check passed\n";
        assert_eq!(page(&outcomes, &["syncloop", "x"], true).1, verbose);
    }
}
