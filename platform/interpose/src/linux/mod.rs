#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    reason = "the C library's numbers, which are the kernel's"
)]
#![allow(
    clippy::missing_safety_doc,
    missing_docs,
    unreachable_pub,
    reason = "each function is the C library's of the same name, with its contract"
)]

#[macro_use]
mod hook;
mod attributes;
mod bytes;
mod descriptors;
mod memory;
mod names;
mod process;
mod state;
mod stdio;
mod system;
