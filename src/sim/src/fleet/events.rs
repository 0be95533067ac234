//! What happens when: events in the order of their time, and of their kind where times are equal.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

/// Something that happens in a fleet. The order of the kinds is the order at equal times: what pods do comes
/// after what they are sent, so that requests that arrive together are planned together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FleetEvent {
    /// The fleet changes.
    Change {
        /// Which change of the workload.
        number: usize,
    },
    /// Health checks notice what became of a pod.
    Health {
        /// The pod.
        pod: usize,
    },
    /// A request arrives at its pod.
    Deliver {
        /// The request.
        request: usize,
        /// Which of its picks the pod is.
        attempt: usize,
    },
    /// A LoRA adapter is loaded.
    AdapterReady {
        /// The pod.
        pod: usize,
    },
    /// A pod ends a step.
    Step {
        /// The pod.
        pod: usize,
    },
    /// The headers of an answer come to the gateway.
    Headers {
        /// The request.
        request: usize,
        /// Which of its picks answers.
        attempt: usize,
    },
    /// The first token of an answer comes to the gateway.
    FirstToken {
        /// The request.
        request: usize,
        /// Which of its picks answers.
        attempt: usize,
    },
    /// The end of an answer comes to the gateway.
    Finish {
        /// The request.
        request: usize,
        /// Which of its picks answers.
        attempt: usize,
    },
    /// A gateway's policy wants to be called.
    Timer {
        /// The gateway.
        gateway: usize,
    },
    /// A client sends its next turn.
    Turn {
        /// Its session.
        session: usize,
    },
    /// A client sends again what nobody answered.
    Again {
        /// The request that takes its place.
        request: usize,
    },
    /// A look at every pod.
    Sample,
}

/// Events by time.
#[derive(Debug, Default)]
pub struct EventQueue {
    heap: BinaryHeap<Reverse<Scheduled>>,
    count: u64,
}

#[derive(Debug)]
struct Scheduled {
    at: f64,
    event: FleetEvent,
    /// Tells events apart that are equal otherwise: first in, first out.
    number: u64,
}

impl EventQueue {
    /// Puts in an event at a time in seconds.
    pub fn push(&mut self, at: f64, event: FleetEvent) {
        self.count += 1;
        self.heap.push(Reverse(Scheduled { at, event, number: self.count }));
    }

    /// The next event and its time.
    pub fn pop(&mut self) -> Option<(f64, FleetEvent)> {
        self.heap.pop().map(|Reverse(entry)| (entry.at, entry.event))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> Ordering {
        let key = |entry: &Scheduled| (entry.event, entry.number);
        self.at.total_cmp(&other.at).then_with(|| key(self).cmp(&key(other)))
    }
}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Scheduled {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_comes_first_then_kind() {
        let mut queue = EventQueue::default();
        queue.push(2.0, FleetEvent::Deliver { request: 1, attempt: 0 });
        queue.push(1.0, FleetEvent::Sample);
        queue.push(1.0, FleetEvent::Step { pod: 0 });
        queue.push(1.0, FleetEvent::Deliver { request: 2, attempt: 0 });
        let order: Vec<FleetEvent> = std::iter::from_fn(|| queue.pop()).map(|(_, event)| event).collect();
        assert_eq!(
            order,
            [
                FleetEvent::Deliver { request: 2, attempt: 0 },
                FleetEvent::Step { pod: 0 },
                FleetEvent::Sample,
                FleetEvent::Deliver { request: 1, attempt: 0 },
            ]
        );
    }
}
