//! Apus.
