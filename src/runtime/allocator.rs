//! Memory given back to the system. The only file with `unsafe` in it.
//!
//! The allocator keeps pages that have become free for a second, in case they are wanted again, and looks whether that
//! second is over only when it is asked for more memory. After a burst a proxy asks for nothing: what two thousand
//! connections needed while they were served would stay for ever. So a worker says now and then that it is time to look.

/// Gives back what this thread has not used for a while. Cheap when there is nothing.
pub fn give_back() {
    // SAFETY: the function takes no pointer and keeps none; it may be called from any thread at any time, and without
    // `force` it does what an allocation might do as well. Where another allocator is in use it finds an empty heap.
    #[allow(unsafe_code)]
    unsafe {
        libmimalloc_sys::mi_collect(false);
    }
}
