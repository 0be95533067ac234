//! What the index says of its memory, beside what it takes from the allocator.

#![allow(unsafe_code, reason = "an allocator is unsafe; this one counts and leaves the work to the system's")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use warmpath::Slot;
use warmpath::prefix::index::{IndexLimits, PrefixIndex};
use warmpath::request::blocks::mix;

/// What an allocation costs beside its bytes, at most: its head, and what rounding takes.
const EACH: usize = 16;

struct Counting;

static TAKEN: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static COUNTING: Counting = Counting;

// Growing in place is left to the default, which takes the new before it gives back the old: so does
// WebAssembly's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let taken = TAKEN.fetch_add(layout.size() + EACH, Relaxed) + layout.size() + EACH;
        MOST.fetch_max(taken, Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        TAKEN.fetch_sub(layout.size() + EACH, Relaxed);
        unsafe { System.dealloc(at, layout) }
    }
}

/// A conversation in its `round`: each is two blocks longer than the one before.
fn chain(conversation: u64, round: u64) -> Vec<u32> {
    (0..30 + 2 * round).map(|at| mix(conversation << 8 | at) as u32).collect()
}

#[test]
fn the_index_takes_what_it_says_and_never_more_than_its_limit() {
    let limits = IndexLimits { memory: 4 << 20, holdings: 1_000_000 };
    let before = TAKEN.load(Relaxed);
    let taken = || TAKEN.load(Relaxed) - before;
    let mut index = PrefixIndex::new(limits);
    // Conversations on eight pods, three times as many as there is room for; then prompts of one block; then
    // restarts.
    for n in 0..60_000 {
        index.insert(Slot((n % 8) as u16), &chain(n / 3, n % 3));
    }
    for n in 0..60_000 {
        index.insert(Slot((n % 8) as u16), &chain(1 << 40 | n, 0)[..1]);
        if n % 9_000 == 0 {
            index.flush(Slot((n % 8) as u16));
        }
    }
    for n in 0..20_000 {
        index.insert(Slot((n % 8) as u16), &chain(1 << 41 | n, 2));
        let said = index.memory();
        // The heads of chunks, and what is kept for the next prompt.
        assert!(taken() <= said + (16 << 10), "{} bytes are taken, and it says {said}", taken());
        assert!(said <= limits.memory);
    }
    // While the table of nodes is made anew, there are two of it.
    let most = MOST.load(Relaxed) - before;
    println!("{} bytes are taken, at most {most}; it says {}", taken(), index.memory());
    assert!(most < limits.memory + limits.memory / 10, "{most}");
}
