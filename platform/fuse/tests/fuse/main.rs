//! Programs on a mount.
fn main() {}
