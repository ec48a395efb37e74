//! The mark of a thread that holds a lock.

// Whether this thread holds a lock: a handler of a signal that changes files must not wait for it. A byte at a fixed distance from the
// thread's own place (the initial-exec model of ELF's thread-local storage): Rust's own goes through a call in a library, twice for each
// record.
core::arch::global_asm!(
    ".pushsection .tbss.apus_capture_busy,\"awT\",@nobits",
    ".globl apus_capture_busy",
    ".hidden apus_capture_busy",
    ".type apus_capture_busy, @object",
    ".size apus_capture_busy, 1",
    "apus_capture_busy:",
    ".zero 1",
    ".popsection",
);

/// Set while a lock is held.
pub(super) struct Busy(());

impl Busy {
    /// `None` if this thread holds one already.
    #[inline]
    pub(super) fn enter() -> Option<Self> {
        let before: u8;
        // SAFETY: reads and writes the byte above, which is this thread's alone. A handler in between leaves it as it found it.
        unsafe {
            core::arch::asm!(
                "mov {at}, qword ptr [rip + apus_capture_busy@GOTTPOFF]",
                "mov {before}, byte ptr fs:[{at}]",
                "mov byte ptr fs:[{at}], 1",
                at = out(reg) _,
                before = out(reg_byte) before,
                options(nostack, preserves_flags),
            );
        }
        // Made where it is wanted alone: one that is dropped unused would say that no lock is held.
        if before == 0 { Some(Self(())) } else { None }
    }
}

impl Drop for Busy {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: as above.
        unsafe {
            core::arch::asm!(
                "mov {at}, qword ptr [rip + apus_capture_busy@GOTTPOFF]",
                "mov byte ptr fs:[{at}], 0",
                at = out(reg) _,
                options(nostack, preserves_flags),
            );
        }
    }
}
