//! `/healthz`, `/livez` and `/readyz`: named checks, as upstream's components answer for them.

use apiserver::endpoints::options::Query;
use apiserver::endpoints::respond;
use axum::body::Body;
use http::{Response, StatusCode};

/// One thing that must hold, and its name.
pub struct Check {
    pub name: String,
    pub holds: Box<dyn Fn() -> bool + Send + Sync>,
}

impl Check {
    pub fn new(name: &str, holds: impl Fn() -> bool + Send + Sync + 'static) -> Check {
        Check { name: name.to_owned(), holds: Box::new(holds) }
    }
}

/// What must hold for the component to be healthy, and what else for it to be ready.
#[derive(Default)]
pub struct Checks {
    pub healthy: Vec<Check>,
    pub ready: Vec<Check>,
}

impl Checks {
    /// The answer to a request of this path; nothing if the path is about something else.
    pub fn answer(&self, path: &str, query: &str) -> Option<Response<Body>> {
        let mut parts = path.trim_start_matches('/').splitn(2, '/');
        let (name, one) = (parts.next()?, parts.next());
        let ready: &[Check] = match name {
            "healthz" | "livez" => &[],
            "readyz" => &self.ready,
            _ => return None,
        };
        let mut checks = self.healthy.iter().chain(ready);
        if let Some(one) = one {
            let check = checks.find(|check| check.name == one);
            return Some(match check {
                Some(check) if (check.holds)() => respond::text(StatusCode::OK, "ok"),
                Some(_) => respond::text(StatusCode::INTERNAL_SERVER_ERROR, "internal server error: reason withheld\n"),
                None => respond::text(StatusCode::NOT_FOUND, "404 page not found\n"),
            });
        }
        let (good, report) = report(name, checks, query);
        Some(match good {
            false => respond::text(StatusCode::INTERNAL_SERVER_ERROR, report),
            true if Query::parse(query).get("verbose").is_some() => respond::text(StatusCode::OK, report),
            true => respond::text(StatusCode::OK, "ok"),
        })
    }
}

/// Whether all checks hold, and a line for each.
fn report<'a>(name: &str, checks: impl Iterator<Item = &'a Check>, query: &str) -> (bool, String) {
    let excluded: Vec<String> = query.split('&').filter_map(|pair| pair.strip_prefix("exclude=")).map(str::to_owned).collect();
    let (mut good, mut text) = (true, String::new());
    for check in checks {
        if excluded.contains(&check.name) {
            text.push_str(&format!("[+]{} excluded: ok\n", check.name));
        } else if (check.holds)() {
            text.push_str(&format!("[+]{} ok\n", check.name));
        } else {
            good = false;
            text.push_str(&format!("[-]{} failed: reason withheld\n", check.name));
        }
    }
    text.push_str(&format!("{name} check {}\n", if good { "passed" } else { "failed" }));
    (good, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_check_that_fails_fails_all_but_it_can_be_left_out() {
        let checks = [Check::new("ping", || true), Check::new("leaderElection", || false)];
        let expect = "[+]ping ok\n[-]leaderElection failed: reason withheld\nhealthz check failed\n";
        assert_eq!(report("healthz", checks.iter(), ""), (false, expect.to_owned()));
        let expect = "[+]ping ok\n[+]leaderElection excluded: ok\nreadyz check passed\n";
        assert_eq!(report("readyz", checks.iter(), "verbose&exclude=leaderElection"), (true, expect.to_owned()));
    }

    #[test]
    fn readiness_asks_more_than_health() {
        let checks = Checks { healthy: vec![Check::new("ping", || true)], ready: vec![Check::new("informers", || false)] };
        let code = |path: &str| checks.answer(path, "").map(|answer| answer.status().as_u16());
        assert_eq!(code("/healthz"), Some(200));
        assert_eq!(code("/readyz"), Some(500));
        assert_eq!(code("/healthz/ping"), Some(200));
        assert_eq!(code("/readyz/informers"), Some(500));
        assert_eq!(code("/livez/other"), Some(404));
        assert_eq!(code("/metrics"), None);
    }
}
