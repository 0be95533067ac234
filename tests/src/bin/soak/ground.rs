//! Which pods are well, so that what a client complains of can be judged.

use std::sync::Mutex;
use std::time::Instant;

/// The pods, as the soak treats them.
pub struct Ground(Mutex<Vec<Place>>);

struct Place {
    address: String,
    listed: bool,
    faulty: bool,
    /// The last moment at which it was off the list or had a fault.
    unwell: Instant,
}

impl Ground {
    /// Pods at these addresses, all on the list and without faults.
    pub fn new(addresses: Vec<String>) -> Ground {
        let unwell = Instant::now();
        let place = |address| Place { address, listed: true, faulty: false, unwell };
        Ground(Mutex::new(addresses.into_iter().map(place).collect()))
    }

    /// Exactly these pods are on the list from now on.
    pub fn list(&self, listed: &[usize]) {
        for (pod, place) in self.0.lock().unwrap().iter_mut().enumerate() {
            place.change(|place| place.listed = listed.contains(&pod));
        }
    }

    /// A pod has a fault from now on, or has none any more.
    pub fn fault(&self, pod: usize, begins: bool) {
        self.0.lock().unwrap()[pod].change(|place| place.faulty = begins);
    }

    /// Whether the pod at this address takes few requests at a time: the first one does.
    pub fn fills_soon(&self, address: &str) -> bool {
        self.0.lock().unwrap()[0].address == address
    }

    /// Whether the pod at this address has been on the list and without fault since then.
    pub fn well_since(&self, address: &str, since: Instant) -> bool {
        let places = self.0.lock().unwrap();
        let place = places.iter().find(|place| place.address == address);
        place.is_some_and(|place| place.is_well() && place.unwell < since)
    }
}

impl Place {
    fn is_well(&self) -> bool {
        self.listed && !self.faulty
    }

    fn change(&mut self, with: impl FnOnce(&mut Place)) {
        let before = self.is_well();
        with(self);
        if !before || !self.is_well() {
            self.unwell = Instant::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_well_from_its_last_trouble_on() {
        let ground = Ground::new(vec!["a".to_owned(), "b".to_owned()]);
        let start = Instant::now();
        assert!(ground.well_since("a", start) && !ground.well_since("c", start));
        ground.fault(0, true);
        assert!(!ground.well_since("a", Instant::now()) && ground.well_since("b", start));
        ground.fault(0, false);
        assert!(!ground.well_since("a", start) && ground.well_since("a", Instant::now()));
        ground.list(&[0]);
        assert!(!ground.well_since("b", Instant::now()));
        ground.list(&[0, 1]);
        assert!(!ground.well_since("b", start) && ground.well_since("b", Instant::now()));
    }
}
