//! The contexts that Envoy has made: one per plugin and VM, and one per stream.
//!
//! Envoy may call one context in the middle of a call that another one makes: a scrape through a cluster with
//! an answer filter makes that filter's context before the scrape's call returns. So neither list is held
//! while a context runs.

use std::cell::RefCell;
use std::hash::{BuildHasherDefault, Hasher};
use std::rc::Rc;

use hashbrown::HashMap;

use super::Action;
use crate::callbacks::Callbacks;
use crate::profile;
use crate::root::Root;
use crate::stream::Stream;

thread_local! {
    static ROOTS: RefCell<Vec<(u32, Rc<RefCell<Root>>)>> = const { RefCell::new(Vec::new()) };
    static STREAMS: RefCell<HashMap<u32, Rc<RefCell<Stream>>, Spread>> =
        const { RefCell::new(HashMap::with_hasher(Spread::new())) };
}

/// Makes the context of a plugin, where `root` is 0, or that of a stream of the plugin `root`.
pub fn create(id: u32, root: u32) {
    if root == 0 {
        ROOTS.with_borrow_mut(|roots| roots.push((id, Rc::new(RefCell::new(Root::new(id))))));
        return;
    }
    let stream = with_root(root, |root| root.stream(id));
    if let Some(stream) = stream {
        STREAMS.with_borrow_mut(|streams| streams.insert(id, Rc::new(RefCell::new(stream))));
    }
}

/// The context is gone. What it does at its end, it does once it is in no list any more.
pub fn delete(id: u32) {
    let stream = STREAMS.with_borrow_mut(|streams| streams.remove(&id));
    if stream.is_some() {
        return profile::callback(|| drop(stream));
    }
    let root = ROOTS.with_borrow_mut(|roots| {
        let at = roots.iter().position(|&(known, _)| known == id)?;
        Some(roots.swap_remove(at))
    });
    drop(root);
}

/// Runs a callback of a plugin; `None` when it is not known, or runs already.
pub fn with_root<T>(id: u32, run: impl FnOnce(&mut Root) -> T) -> Option<T> {
    let root = ROOTS
        .with_borrow(|roots| roots.iter().find(|(known, _)| *known == id).map(|(_, root)| Rc::clone(root)))?;
    let mut root = root.try_borrow_mut().ok()?;
    Some(run(&mut root))
}

/// Runs a callback of a stream; one that is not known, or runs already, goes on.
pub fn with_stream(id: u32, run: impl FnOnce(&mut dyn Callbacks) -> Action) -> u32 {
    let stream = STREAMS.with_borrow(|streams| streams.get(&id).map(Rc::clone));
    let action = stream.and_then(|stream| {
        let mut stream = stream.try_borrow_mut().ok()?;
        Some(profile::callback(|| run(stream.filter())))
    });
    action.unwrap_or(Action::Continue) as u32
}

/// Spreads the numbers of contexts, which Envoy counts up, over the buckets of a map.
#[derive(Clone, Copy, Debug, Default)]
struct Number(u64);

type Spread = BuildHasherDefault<Number>;

impl Hasher for Number {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u32(byte.into()));
    }

    fn write_u32(&mut self, number: u32) {
        // The golden ratio: Knuth's multiplicative hashing.
        self.0 = (self.0 ^ u64::from(number)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}
