//! Many small clusters on a lossy, reordering network with crashes; the four properties of Raft after every step.
