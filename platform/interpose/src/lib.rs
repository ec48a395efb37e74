//! Preloaded into a program (`LD_PRELOAD`), with `APUS_CAPTURE` naming a ring: what the program does to files of the ring's group is
//! recorded there. Nothing is allocated in a call, `errno` is kept, and no call fails that would not have failed without the library,
//! but for `io_uring_setup`, which is refused.
//!
//! Linux on x86-64 with glibc only; elsewhere the library is empty.

#[cfg(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu"))]
mod linux;
