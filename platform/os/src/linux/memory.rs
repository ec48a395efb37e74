//! Memory that was used once.

/// Gives pages that hold only what was freed back to the system. glibc keeps them for ever where something that lives on lies behind
/// them; other libraries have no such call, and nothing is done.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes no pointer, and glibc locks its own arenas.
    unsafe {
        libc::malloc_trim(0);
    }
}
