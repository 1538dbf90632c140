//! One buffer for all copying of a worker.
//!
//! Bytes that are read and written on within one poll need a place for that moment only. A buffer for each connection
//! would be as many buffers as connections, most of them empty, none of them in the processor's cache. One for all is
//! large enough for few system calls and always in the cache.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;

/// Its size in bytes: four times what other proxies read at once, and well within a core's second-level cache.
pub const SCRATCH: usize = 64 * 1024;

/// A worker's buffer for bytes that are passed on at once.
#[derive(Clone)]
pub struct Scratch(Rc<RefCell<Box<[u8]>>>);

impl Scratch {
    /// Lends the buffer out for the time of a call, in which it may not be asked for again.
    pub fn with<R>(&self, use_it: impl FnOnce(&mut [u8]) -> R) -> R {
        use_it(&mut self.0.borrow_mut())
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self(Rc::new(RefCell::new(vec![0; SCRATCH].into_boxed_slice())))
    }
}

impl fmt::Debug for Scratch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Scratch")
    }
}
