//! Deadlines that cost next to nothing when they are kept.
//!
//! # Why
//! Every exchange has deadlines and nearly none is ever missed. A timer made, set and dropped for each would take the
//! runtime's timer lock twice per exchange. Deadlines mostly move forward by the same amounts, so a timer that is
//! already set for an *earlier* moment serves just as well: it fires, sees that its deadline lies ahead, and is set
//! again. Timers are therefore kept on a shelf per worker while set, and a lease only touches the runtime when it needs
//! an earlier moment than the one its timer is set for, or when the timer fires: about once per deadline's length
//! instead of once per exchange.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::time::{Instant, Sleep};

/// A worker's shelf of timers.
#[derive(Debug, Default)]
pub struct Timers {
    shelf: RefCell<Vec<Pin<Box<Sleep>>>>,
}

/// Timers kept when not in use; more are dropped.
const MAX_SHELVED: usize = 4096;

impl Timers {
    /// A timer from the shelf; back there when dropped.
    pub fn lease(self: &Rc<Self>) -> Timer {
        Timer {
            sleep: self.shelf.borrow_mut().pop(),
            home: Rc::clone(self),
        }
    }
}

/// A timer that can wait for one deadline after the other.
#[derive(Debug)]
pub struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
    home: Rc<Timers>,
}

impl Timer {
    /// Ready once the deadline has passed. The deadline may differ from call to call.
    pub fn poll_passed(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let sleep = self
            .sleep
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        loop {
            ready!(sleep.as_mut().poll(cx));
            if deadline <= Instant::now() {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
    }

    /// Whether the moment it is set for has come; much cheaper than polling. False before it was first polled.
    pub fn has_fired(&self) -> bool {
        self.sleep.as_ref().is_some_and(|sleep| sleep.is_elapsed())
    }

    /// The future's result, or none when the deadline passes first. No deadline: the future's result.
    ///
    /// The future is given pinned, so that it is not moved in here and kept twice.
    pub async fn within<F: Future>(
        &mut self,
        deadline: Option<Instant>,
        mut future: Pin<&mut F>,
    ) -> Option<F::Output> {
        std::future::poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Some(output));
            }
            match deadline {
                Some(deadline) => self.poll_passed(cx, deadline).map(|()| None),
                None => Poll::Pending,
            }
        })
        .await
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        let mut shelf = self.home.shelf.borrow_mut();
        if let Some(sleep) = self.sleep.take()
            && shelf.len() < MAX_SHELVED
        {
            shelf.push(sleep);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn a_timer_serves_one_deadline_after_the_other() {
        let timers = Rc::new(Timers::default());
        let start = Instant::now();
        let never = std::future::pending::<()>;
        for (seconds, passes_at) in [(10, 10), (5, 15), (60, 75)] {
            let mut timer = timers.lease();
            let deadline = Instant::now() + Duration::from_secs(seconds);
            assert_eq!(timer.within(Some(deadline), pin!(never())).await, None);
            assert_eq!(start.elapsed().as_secs(), passes_at);
        }
        assert_eq!(timers.shelf.borrow().len(), 1);
        assert_eq!(timers.lease().within(None, pin!(async { 7 })).await, Some(7));
    }

    #[tokio::test(start_paused = true)]
    async fn a_kept_timer_set_for_earlier_does_not_fire_early() {
        let timers = Rc::new(Timers::default());
        let soon = Instant::now() + Duration::from_secs(1);
        assert_eq!(
            timers
                .lease()
                .within(Some(soon), pin!(tokio::task::yield_now()))
                .await,
            Some(())
        );
        let later = Instant::now() + Duration::from_secs(30);
        let start = Instant::now();
        assert_eq!(
            timers
                .lease()
                .within(Some(later), pin!(std::future::pending::<()>()))
                .await,
            None
        );
        assert_eq!(start.elapsed().as_secs(), 30);
    }
}
