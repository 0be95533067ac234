//! Values under numbers that stay the same, in chunks that stay where they are.
//!
//! A vector that grows is copied, and leaves a hole as large as itself: in WebAssembly that memory is never
//! given back. A slab grows by one chunk at a time, and knows its memory to the byte.

/// Values per chunk: few compared to any limit, and so many that the list of chunks is short.
const CHUNK: usize = 256;

/// The number of no value.
pub(super) const NONE: u32 = u32::MAX;

/// Values of one type, by number.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    chunks: Vec<Box<[T; CHUNK]>>,
    free: Vec<u32>,
    /// Numbers that were ever given out.
    given: usize,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Slab { chunks: Vec::new(), free: Vec::new(), given: 0 }
    }
}

impl<T: Default> Slab<T> {
    /// The value under a number; of one that was removed, the default.
    #[inline]
    pub fn get(&self, id: u32) -> Option<&T> {
        self.chunks.get(id as usize / CHUNK)?.get(id as usize % CHUNK)
    }

    /// The value under a number, to be changed.
    #[inline]
    pub fn get_mut(&mut self, id: u32) -> Option<&mut T> {
        self.chunks.get_mut(id as usize / CHUNK)?.get_mut(id as usize % CHUNK)
    }

    /// Puts a value in and gives it a number.
    pub fn insert(&mut self, value: T) -> u32 {
        let id = self.free.pop().unwrap_or_else(|| {
            if self.given == self.chunks.len() * CHUNK {
                self.chunks.push(Box::new(std::array::from_fn(|_| T::default())));
            }
            self.given += 1;
            self.given as u32 - 1
        });
        if let Some(place) = self.get_mut(id) {
            *place = value;
        }
        id
    }

    /// Frees a number that is in use.
    pub fn remove(&mut self, id: u32) {
        if let Some(place) = self.get_mut(id) {
            *place = T::default();
            self.free.push(id);
        }
    }

    /// Values in use.
    pub fn len(&self) -> usize {
        self.given - self.free.len()
    }

    /// Bytes of a chunk.
    pub const CHUNK_MEMORY: usize = CHUNK * size_of::<T>();

    /// Values that can be put in before another chunk is needed.
    pub fn room(&self) -> usize {
        self.chunks.len() * CHUNK - self.len()
    }

    /// Bytes of freed numbers, which only other values of this type can use.
    pub fn idle(&self) -> usize {
        self.free.len() * size_of::<T>()
    }

    /// Bytes that are taken, in use or not.
    pub fn memory(&self) -> usize {
        self.chunks.len() * Self::CHUNK_MEMORY
            + self.chunks.capacity() * size_of::<Box<[T; CHUNK]>>()
            + self.free.capacity() * size_of::<u32>()
    }
}

#[cfg(test)]
impl<T> Slab<T> {
    /// The numbers in use.
    pub fn live(&self) -> Vec<u32> {
        (0..self.given as u32).filter(|id| !self.free.contains(id)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_stay_and_are_used_again(operations in prop::collection::vec(prop::option::of(0usize..1000), 1..1500)) {
            let (mut slab, mut twin) = (Slab::default(), std::collections::BTreeMap::new());
            let mut most = 0;
            for (value, remove) in operations.into_iter().enumerate() {
                match remove.filter(|_| !twin.is_empty()) {
                    Some(nth) => {
                        let id = *twin.keys().nth(nth % twin.len()).unwrap();
                        twin.remove(&id);
                        slab.remove(id);
                        prop_assert_eq!(slab.get(id), Some(&0));
                    }
                    None => {
                        let id = slab.insert(value + 1);
                        prop_assert_eq!(twin.insert(id, value + 1), None);
                    }
                }
                most = most.max(twin.len());
                prop_assert_eq!(slab.len(), twin.len());
                prop_assert!(slab.chunks.len() <= most.div_ceil(CHUNK));
            }
            for (id, value) in &twin {
                prop_assert_eq!(slab.get(*id), Some(value));
            }
            prop_assert_eq!(slab.live(), twin.into_keys().collect::<Vec<_>>());
        }
    }
}
