//! Bugs that can be planted, to show that the tests of attacks see them.

/// A planted bug. Only the feature `mutants` has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// The gate knows nobody: peers have the pace of strangers.
    NobodyKnown,
    /// First packets of peers have the pace of strangers.
    PaceShared,
    /// No token is ever given for the next dial.
    NoTokens,
    /// Any token opens the gate, whoever made it.
    AnyToken,
}

impl Mutant {
    /// Every planted bug.
    pub const ALL: [Self; 4] = [Self::NobodyKnown, Self::PaceShared, Self::NoTokens, Self::AnyToken];
}

thread_local! {
    static PLANTED: std::cell::Cell<Option<Mutant>> = const { std::cell::Cell::new(None) };
}

/// Plants a bug in all that this thread runs, in place of the one that was planted.
pub fn plant(mutant: Option<Mutant>) {
    PLANTED.set(mutant);
}

/// Whether this bug is planted.
pub(crate) fn planted(mutant: Mutant) -> bool {
    PLANTED.get() == Some(mutant)
}
