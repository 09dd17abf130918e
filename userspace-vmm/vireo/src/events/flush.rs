// SPDX-License-Identifier: Apache-2.0

//! Writes the guest's gathered output when its timer expires.

use std::sync::Arc;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};

use crate::outcome::{Outcome, Stop};
use crate::terminal::output::FlushTimer;

/// The subscriber for the flush timer.
pub struct Flush<F: FnMut() -> bool> {
    timer: Arc<FlushTimer>,
    flush: F,
    stop: Arc<Stop>,
}

impl<F: FnMut() -> bool> Flush<F> {
    /// Calls `flush` at every expiry of `timer`, and again later when it returns false.
    pub fn new(timer: Arc<FlushTimer>, flush: F, stop: Arc<Stop>) -> Self {
        Flush { timer, flush, stop }
    }
}

impl<F: FnMut() -> bool> MutEventSubscriber for Flush<F> {
    fn process(&mut self, _events: Events, _ops: &mut EventOps) {
        self.timer.acknowledge();
        if !(self.flush)() {
            if let Err(e) = self.timer.arm() {
                tracing::warn!("flush timer: {e}");
            }
        }
    }

    fn init(&mut self, ops: &mut EventOps) {
        if let Err(e) = ops.add(Events::new(&*self.timer, EventSet::IN)) {
            let what = format!("cannot watch the output's timer: {e:?}");
            self.stop.request(Outcome::Failure(what));
        }
    }
}
