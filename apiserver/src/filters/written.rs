//! The time in which an answer is written: the request keeps its seat, and its deadline goes on.
//!
//! What is written at once is left alone. Watches and the like are not for this filter.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::Response;
use http_body::{Body as _, Frame, SizeHint};
use tokio::time::Sleep;

use crate::flow_control::Right;
use crate::flow_control::held::Held;

/// An answer that is no longer goes into the buffers of a connection, whoever reads it.
const AT_ONCE_BYTES: u64 = 64 * 1024;

/// An answer that is not written in time is broken off: it is too late for a status.
#[derive(Debug, thiserror::Error)]
#[error("request did not complete within the allotted timeout")]
pub(super) struct Overdue;

/// The answer, which keeps the right to run until it is written. `left`: what is left of the request's time.
pub fn holding(response: Response<Body>, right: Option<Right>, left: Duration) -> Response<Body> {
    if response.body().size_hint().upper().is_some_and(|bytes| bytes <= AT_ONCE_BYTES) {
        return response;
    }
    let held = right.map(|right| Held::for_at_most(right, left));
    response.map(|body| Body::new(Written { body, deadline: Box::pin(tokio::time::sleep(left)), held }))
}

struct Written {
    body: Body,
    deadline: Pin<Box<Sleep>>,
    held: Option<Held>,
}

impl http_body::Body for Written {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.deadline.as_mut().poll(cx).is_ready() {
            self.held = None;
            return Poll::Ready(Some(Err(axum::Error::new(Overdue))));
        }
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if matches!(polled, Poll::Ready(None | Some(Err(_)))) {
            self.held = None;
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
    use std::sync::Arc;

    use futures::stream;
    use http_body_util::BodyExt;

    use super::*;
    use crate::flow_control::gate::Gate;
    use crate::flow_control::queue_set::Flow;

    const MINUTE: Duration = Duration::from_secs(60);

    async fn seat(gate: &Arc<Gate>) -> Option<Right> {
        let flow = Flow { schema: "s".into(), distinguisher: "".into(), hash: 0, seats: 1 };
        gate.enter(flow, Duration::ZERO).await.ok().map(Right::Seat)
    }

    fn gate() -> Arc<Gate> {
        let gate = Arc::new(Gate::new("level"));
        gate.configure(Some(1), None);
        gate
    }

    fn chunks() -> Response<Body> {
        Response::new(Body::from_stream(stream::iter(["a", "b"].map(Ok::<_, Infallible>))))
    }

    #[tokio::test(start_paused = true)]
    async fn a_seat_is_kept_until_the_last_chunk_was_taken() {
        let gate = gate();
        let taken = || gate.look(|set, _| set.seats_in_use);
        let mut answer = holding(chunks(), seat(&gate).await, MINUTE).into_body();
        for _ in 0..2 {
            assert!(answer.frame().await.is_some_and(|frame| frame.is_ok()));
            assert_eq!(taken(), 1);
        }
        assert!(answer.frame().await.is_none());
        assert_eq!(taken(), 0);
        let short = holding(Response::new(Body::from("short")), seat(&gate).await, MINUTE);
        assert_eq!(taken(), 0, "it is written at once");
        drop(short);
        drop(holding(chunks(), seat(&gate).await, MINUTE));
        assert_eq!(taken(), 0, "nobody wants it any more");
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_read_in_time_loses_the_seat_and_the_rest() {
        let gate = gate();
        let mut answer = holding(chunks(), seat(&gate).await, MINUTE).into_body();
        assert!(answer.frame().await.is_some_and(|frame| frame.is_ok()));
        tokio::time::sleep(2 * MINUTE).await;
        assert_eq!(gate.look(|set, _| set.seats_in_use), 0);
        assert!(answer.frame().await.is_some_and(|frame| frame.is_err()));
    }
}
