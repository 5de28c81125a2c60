//! Whether requests' senders were known, and whether they were allowed what they asked for: how often, and how long it took to tell.

use std::time::Duration;

use apimachinery::metrics::{Buckets, Counter, Histogram, Series, head, sample};

const DURATIONS: Buckets = Buckets::Exponential(0.001, 2.0, 15);
/// Users that are told by their names; all others are told in two groups.
const USERS: [&str; 7] = ["admin", "client", "kube_proxy", "kubelet", "system:serviceaccount:kube-system:default", EMAIL, OTHER];
const EMAIL: &str = "email_id";
const OTHER: &str = "other";

/// What became of the wish to be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authenticated {
    Success,
    /// Nothing was shown.
    Failure,
    /// What was shown is not believed.
    Error,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authorized {
    Allowed,
    Denied,
    NoOpinion,
    Error,
}

/// How long something took, by what came of it; how often it was is the number of times.
struct Attempts<const N: usize> {
    results: [&'static str; N],
    durations: [Histogram; N],
}

impl<const N: usize> Attempts<N> {
    fn new(results: [&'static str; N]) -> Attempts<N> {
        Attempts { results, durations: std::array::from_fn(|_| Histogram::of(DURATIONS)) }
    }

    fn render(&self, out: &mut String, (counter, about): (&str, &str), durations: &str) {
        let made = || self.results.iter().zip(&self.durations).filter(|(_, times)| times.count() > 0);
        if made().next().is_none() {
            return;
        }
        head(out, counter, "counter", &format!("[ALPHA] Attempts at {about}, by what came of them."));
        made().for_each(|(result, times)| sample(out, counter, &format!("result=\"{result}\""), times.count() as f64));
        head(out, durations, "histogram", &format!("[ALPHA] How long {about} took, in seconds, by what came of it."));
        made().for_each(|(result, times)| times.write(out, durations, &format!("result=\"{result}\"")));
    }
}

pub struct Access {
    authentication: Attempts<3>,
    authorization: Attempts<4>,
    users: [Counter; USERS.len()],
}

impl Default for Access {
    fn default() -> Access {
        Access {
            authentication: Attempts::new(["success", "failure", "error"]),
            authorization: Attempts::new(["allowed", "denied", "no-opinion", "error"]),
            users: Default::default(),
        }
    }
}

impl Access {
    /// `user` is the name of whom the sender is, if that is known.
    pub fn authenticated(&self, result: Authenticated, user: Option<&str>, time: Duration) {
        self.authentication.durations[result as usize].observe_time(time);
        if let Some(user) = user {
            self.users[group(user)].inc();
        }
    }

    pub fn authorized(&self, result: Authorized, time: Duration) {
        self.authorization.durations[result as usize].observe_time(time);
    }

    pub fn render(&self, out: &mut String) {
        let name = "authenticated_user_requests";
        let seen = || USERS.iter().zip(&self.users).filter(|(_, count)| count.get() > 0);
        if seen().next().is_some() {
            head(out, name, "counter", "[ALPHA] Requests whose sender was known, by groups of names.");
        }
        seen().for_each(|(user, count)| sample(out, name, &format!("username=\"{user}\""), count.get() as f64));
        self.authentication.render(out, ("authentication_attempts", "authentication"), "authentication_duration_seconds");
        self.authorization.render(out, ("authorization_attempts_total", "authorization"), "authorization_duration_seconds");
    }
}

/// Which of [`USERS`] a user is counted as. Names are not told.
fn group(user: &str) -> usize {
    let [named @ .., _, _] = &USERS;
    let email = named.len();
    named.iter().position(|name| *name == user).unwrap_or(if user.contains('@') { email } else { email + 1 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_users_are_not_told() {
        let access = Access::default();
        for user in ["kubelet", "ann@example.com", "system:node:n", "system:serviceaccount:a:b"] {
            access.authenticated(Authenticated::Success, Some(user), Duration::from_millis(3));
        }
        access.authenticated(Authenticated::Error, None, Duration::ZERO);
        access.authorized(Authorized::NoOpinion, Duration::from_micros(5));
        let mut text = String::new();
        access.render(&mut text);
        for line in [
            "authenticated_user_requests{username=\"kubelet\"} 1",
            "authenticated_user_requests{username=\"email_id\"} 1",
            "authenticated_user_requests{username=\"other\"} 2",
            "authentication_attempts{result=\"success\"} 4",
            "authentication_attempts{result=\"error\"} 1",
            "authentication_duration_seconds_bucket{result=\"success\",le=\"0.002\"} 0",
            "authentication_duration_seconds_bucket{result=\"success\",le=\"0.004\"} 4",
            "authorization_attempts_total{result=\"no-opinion\"} 1",
            "authorization_duration_seconds_count{result=\"no-opinion\"} 1",
        ] {
            assert!(text.lines().any(|told| told == line), "{line}\n{text}");
        }
        assert!(!text.contains("ann") && !text.contains("failure") && !text.contains("allowed"), "{text}");
    }
}
