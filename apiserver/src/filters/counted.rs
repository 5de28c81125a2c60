//! Answers that take their time: counted when they have been written, or given up.
//!
//! What is there as a whole is counted at once.

use std::error::Error as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::Bytes;
use http::{Response, StatusCode};
use http_body::{Body as _, Frame, SizeHint};

use super::written::Overdue;
use crate::metrics::tally::{Serving, Tally, Terminated};

/// The answer, which is counted when it ends. `serving`: who else may hold what the request has begun, such as a stream.
pub fn followed(response: Response<Body>, mut tally: Tally, serving: Option<Arc<Serving>>) -> Response<Body> {
    if let Some(serving) = &serving {
        tally.others += serving.webhooks();
    }
    let exact = response.body().size_hint().exact();
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        tally.leave();
        tally.run();
        // Whoever carries the stream holds it too, and the answer has no body.
        if let Some(serving) = serving {
            *serving.tally.lock() = Some(tally);
        }
        return response;
    }
    if let Some(bytes) = exact {
        tally.bytes = bytes;
        return response;
    }
    if tally.is_long {
        tally.leave();
        tally.run();
    }
    response.map(|body| Body::new(Counted { body, tally }))
}

struct Counted {
    body: Body,
    tally: Tally,
}

impl http_body::Body for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => self.tally.bytes += frame.data_ref().map_or(0, |data| data.len() as u64),
            Poll::Ready(Some(Err(error))) => {
                self.tally.is_aborted = true;
                // A body within a body wraps its error once more.
                if std::iter::successors(error.source(), |error| (*error).source()).any(|error| error.is::<Overdue>()) {
                    self.tally.terminated(Terminated::BY_US, StatusCode::GATEWAY_TIMEOUT.as_u16());
                }
            }
            _ => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::time::{Duration, Instant};

    use futures::stream;
    use http_body_util::BodyExt;

    use super::*;
    use crate::filters::written;
    use crate::metrics::Metrics;
    use crate::metrics::requests::Key;

    fn tally(metrics: &Arc<Metrics>) -> Tally {
        let key = Key { verb: "LIST", resource: "pods", scope: "cluster", component: "apiserver", ..Key::default() };
        let mut tally = Tally::new(metrics.clone(), metrics.requests.labelled(&key), Instant::now());
        tally.answered(200);
        (tally.is_served, tally.is_read) = (true, true);
        tally
    }

    fn chunks() -> Response<Body> {
        Response::new(Body::from_stream(stream::iter(["abc", "de"].map(Ok::<_, Infallible>))))
    }

    fn sizes(metrics: &Metrics) -> Vec<String> {
        let mut text = String::new();
        metrics.requests.render(&mut text);
        let value = |line: &str| line.rsplit(' ').next().unwrap_or("").to_owned();
        ["apiserver_response_sizes_sum", "apiserver_response_sizes_count", "apiserver_request_aborts_total"]
            .map(|name| text.lines().find(|line| line.starts_with(name)).map_or_else(String::new, value))
            .to_vec()
    }

    #[tokio::test]
    async fn an_answer_in_parts_is_counted_when_it_has_ended() {
        let metrics = Arc::<Metrics>::default();
        drop(followed(Response::new(Body::from("whole")), tally(&metrics), None));
        assert_eq!(sizes(&metrics), ["5", "1", ""]);
        let mut answer = followed(chunks(), tally(&metrics), None).into_body();
        assert!(answer.frame().await.is_some());
        assert_eq!(sizes(&metrics), ["5", "1", ""], "there is more to come");
        assert!(answer.frame().await.is_some() && answer.frame().await.is_none());
        drop(answer);
        assert_eq!(sizes(&metrics), ["10", "2", ""]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_not_written_in_time_is_an_abort_and_a_termination() {
        let metrics = Arc::<Metrics>::default();
        let held = written::holding(chunks(), None, Duration::from_secs(1));
        let mut answer = followed(held, tally(&metrics), None).into_body();
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert!(answer.frame().await.is_some_and(|frame| frame.is_err()));
        drop(answer);
        assert_eq!(sizes(&metrics), ["0", "1", "1"]);
        let mut text = String::new();
        metrics.requests.render(&mut text);
        assert!(
            text.lines().any(|line| line.starts_with("apiserver_request_terminations_total{code=\"504\",") && line.ends_with(" 1")),
            "{text}"
        );
    }
}
