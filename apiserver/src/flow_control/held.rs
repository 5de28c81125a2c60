//! A seat that is kept until an answer has been written, but no longer than the request may take.
//!
//! Whoever does not read their answer would keep a seat from others as long as their connection stands, so the time ends it without them.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::AbortHandle;

use super::Right;

/// Gives the seat back when it is dropped, or when the time is over.
pub struct Held {
    _right: Arc<Mutex<Option<Right>>>,
    timer: AbortHandle,
}

impl Held {
    pub fn for_at_most(right: Right, time: Duration) -> Held {
        let right = Arc::new(Mutex::new(Some(right)));
        let weak = Arc::downgrade(&right);
        let timer = tokio::spawn(async move {
            tokio::time::sleep(time).await;
            if let Some(right) = weak.upgrade() {
                right.lock().take();
            }
        });
        Held { _right: right, timer: timer.abort_handle() }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.timer.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::super::gate::Gate;
    use super::super::queue_set::Flow;
    use super::*;

    async fn seat(gate: &Arc<Gate>) -> Right {
        let flow = Flow { schema: "s".into(), distinguisher: "".into(), hash: 0, seats: 1 };
        Right::Seat(gate.enter(flow, Duration::ZERO).await.ok().unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn a_seat_is_given_back_when_its_holder_goes_or_its_time_is_over() {
        let gate = Arc::new(Gate::new("level"));
        gate.configure(Some(1), None);
        let taken = || gate.look(|set, _| set.seats_in_use);
        let held = Held::for_at_most(seat(&gate).await, Duration::from_secs(60));
        assert_eq!(taken(), 1);
        drop(held);
        assert_eq!(taken(), 0);
        let held = Held::for_at_most(seat(&gate).await, Duration::from_secs(60));
        tokio::time::sleep(Duration::from_secs(61)).await;
        assert_eq!(taken(), 0);
        drop(held);
        assert_eq!(taken(), 0);
    }
}
