//! What clients see of a cluster while something happens to it.

use std::time::Duration;

use super::lab::Lab;
use crate::Error;
use crate::judge::Asked;

/// Clients, and how often each asks in a second: a request each 5 ms.
const CLIENTS: u16 = 10;
const RATE: u32 = 20;

/// What clients saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Requests that came to an end.
    pub asked: usize,
    /// Of them without an answer within 400 ms.
    pub failed: usize,
    /// From when the first of those was sent to when the last was.
    pub failing: Duration,
    /// The longest time in which no answer came at all.
    pub silent: Duration,
}

impl Lab {
    /// Starts clients at a steady pace: a new connection to the cluster's address each 5 ms. They go with the lab.
    ///
    /// # Errors
    /// If they cannot be started.
    pub fn clients(&self) -> Result<(), Error> {
        self.cluster.load(CLIENTS, RATE).map_err(|error| Error::Failed(format!("the clients: {error}")))
    }

    /// What they saw until now.
    ///
    /// # Errors
    /// If they asked nothing.
    pub fn seen(&self) -> Result<Seen, Error> {
        let all = self.cluster.asked(0);
        if all.is_empty() {
            return Err(Error::Failed("the clients asked nothing".into()));
        }
        Ok(sum_up(&all))
    }
}

fn sum_up(all: &[Asked]) -> Seen {
    let failed = || all.iter().filter(|asked| !asked.answered).map(|asked| asked.from);
    let mut answers: Vec<u64> = all.iter().filter(|asked| asked.answered).map(|asked| asked.to).collect();
    answers.sort_unstable();
    let silent = answers.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0);
    let failing = failed().max().unwrap_or(0) - failed().min().unwrap_or(0);
    Seen {
        asked: all.len(),
        failed: failed().count(),
        failing: Duration::from_nanos(failing),
        silent: Duration::from_nanos(silent),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_between_answers_and_failing_from_first_to_last() {
        let asked = |from, to, answered| Asked { client: 0, from, to, answered };
        let all = [
            asked(0, 1, true),
            asked(5, 405, false),
            asked(300, 700, false),
            asked(400, 402, true),
            asked(410, 411, true),
        ];
        let seen = sum_up(&all);
        assert_eq!((seen.asked, seen.failed), (5, 2));
        assert_eq!((seen.failing.as_nanos(), seen.silent.as_nanos()), (295, 401));
    }
}
