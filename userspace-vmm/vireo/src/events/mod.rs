// SPDX-License-Identifier: Apache-2.0

//! The main thread's event loop: the terminal's input, signals, and the end of the run.

pub mod flush;
pub mod input;
pub mod signals;

use std::sync::Arc;

use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberOps};

use crate::error::{Error, Result};
use crate::outcome::{Outcome, Stop};

/// Wakes the loop when the run ends.
struct StopWatch(Arc<Stop>);

impl MutEventSubscriber for StopWatch {
    fn process(&mut self, _events: Events, _ops: &mut EventOps) {
        // The loop looks at `Stop` itself; the event only has to be consumed.
        let _ = self.0.event().read();
    }

    fn init(&mut self, ops: &mut EventOps) {
        if let Err(e) = ops.add(Events::new(self.0.event(), EventSet::IN)) {
            self.0
                .request(Outcome::Failure(format!("cannot watch events: {e:?}")));
        }
    }
}

/// Serves `subscribers` until the run ends, and says how it ended.
pub fn run(stop: &Arc<Stop>, subscribers: Vec<Box<dyn MutEventSubscriber>>) -> Result<Outcome> {
    let failed = |e: event_manager::Error| Error::Host {
        what: "cannot wait for events",
        source: std::io::Error::other(format!("{e:?}")),
    };
    let mut manager = EventManager::<Box<dyn MutEventSubscriber>>::new().map_err(failed)?;
    manager.add_subscriber(Box::new(StopWatch(stop.clone())));
    for subscriber in subscribers {
        manager.add_subscriber(subscriber);
    }
    loop {
        if let Some(outcome) = stop.outcome() {
            return Ok(outcome);
        }
        manager.run().map_err(failed)?;
    }
}
