//! PodLogOptions, as the kubelet reads them from a query.

use http::StatusCode;
use jiff::{SignedDuration, Timestamp};

use crate::server::route::first;

/// What of a log is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    pub follow: bool,
    pub previous: bool,
    /// Each line begins with the time at which it was said.
    pub timestamps: bool,
    /// Nothing older.
    pub since: Option<Timestamp>,
    /// The last so many lines; all without.
    pub tail_lines: Option<u64>,
    pub limit_bytes: Option<u64>,
}

/// Why options cannot be followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    Undecodable,
    Invalid,
    /// One stream of the two is wanted, which takes a feature that is off in v1.37.
    OneStream(String),
}

impl Refusal {
    pub fn code(&self) -> StatusCode {
        match self {
            Refusal::Undecodable | Refusal::OneStream(_) => StatusCode::BAD_REQUEST,
            Refusal::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
        }
    }

    pub fn message(&self) -> String {
        match self {
            Refusal::Undecodable => r#"{"message": "Unable to decode query."}"#.to_owned(),
            Refusal::Invalid => r#"{"message": "Invalid request."}"#.to_owned(),
            Refusal::OneStream(stream) => {
                format!(
                    "unable to return the given log stream: \"{stream}\". Please enable PodLogsQuerySplitStreams feature gate in kubelet"
                )
            }
        }
    }
}

impl Options {
    pub fn parse(query: &[(String, String)], now: Timestamp) -> Result<Options, Refusal> {
        // `tail` is an older name of `tailLines`, which knows a word for all lines.
        let tail = match first(query, "tail").filter(|tail| !tail.is_empty()) {
            Some("all") => None,
            Some(tail) => Some(integer(tail)?),
            None => number(query, "tailLines")?,
        };
        let limit = number(query, "limitBytes")?;
        let since_seconds = number(query, "sinceSeconds")?;
        let since_time = match first(query, "sinceTime").filter(|text| !text.is_empty() && *text != "null") {
            Some(text) => Some(text.parse::<Timestamp>().map_err(|_| Refusal::Undecodable)?),
            None => None,
        };
        let is_valid = tail.is_none_or(|lines| lines >= 0)
            && limit.is_none_or(|bytes| bytes >= 1)
            && since_seconds.is_none_or(|seconds| seconds >= 1)
            && !(since_seconds.is_some() && since_time.is_some());
        if !is_valid {
            return Err(Refusal::Invalid);
        }
        if let Some(stream) = first(query, "stream").filter(|stream| *stream != "All") {
            return Err(Refusal::OneStream(stream.to_owned()));
        }
        let before = since_seconds.map(|seconds| now.checked_sub(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MIN));
        Ok(Options {
            follow: flag(query, "follow"),
            previous: flag(query, "previous"),
            timestamps: flag(query, "timestamps"),
            since: before.or(since_time),
            tail_lines: tail.and_then(|lines| u64::try_from(lines).ok()),
            limit_bytes: limit.and_then(|bytes| u64::try_from(bytes).ok()),
        })
    }
}

fn number(query: &[(String, String)], key: &str) -> Result<Option<i64>, Refusal> {
    first(query, key).map(integer).transpose()
}

fn integer(text: &str) -> Result<i64, Refusal> {
    text.parse().map_err(|_| Refusal::Undecodable)
}

/// Given is true, unless it says otherwise.
fn flag(query: &[(String, String)], key: &str) -> bool {
    first(query, key).is_some_and(|value| value != "0" && !value.eq_ignore_ascii_case("false"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Options, Refusal> {
        Options::parse(&crate::server::route::query(Some(text)), Timestamp::from_second(1_000).unwrap())
    }

    #[test]
    fn queries_become_options() {
        let options = parse("follow=true&timestamps=1&previous=false&tailLines=5&limitBytes=7&sinceSeconds=10").unwrap();
        let since = Some(Timestamp::from_second(990).unwrap());
        assert_eq!(options, Options { follow: true, previous: false, timestamps: true, since, tail_lines: Some(5), limit_bytes: Some(7) });
        assert_eq!(parse("tail=all&tailLines=5").unwrap().tail_lines, None);
        assert_eq!(parse("sinceTime=1970-01-01T00:00:01Z").unwrap().since, Some(Timestamp::from_second(1).unwrap()));
    }

    #[test]
    fn impossible_options_are_refused() {
        assert_eq!(parse("tailLines=x"), Err(Refusal::Undecodable));
        assert_eq!(parse("tailLines=-1"), Err(Refusal::Invalid));
        assert_eq!(parse("limitBytes=0"), Err(Refusal::Invalid));
        assert_eq!(parse("sinceSeconds=1&sinceTime=1970-01-01T00:00:01Z"), Err(Refusal::Invalid));
        assert_eq!(parse("stream=Stdout"), Err(Refusal::OneStream("Stdout".to_owned())));
        assert!(parse("stream=All").is_ok());
    }
}
