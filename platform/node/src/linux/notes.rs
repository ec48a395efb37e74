//! Notes that clients put into the log.

use apus_engine::{Command, SubmitError};
use serde_json::{Value, json};

use super::control::Serving;
use super::now;

impl Serving {
    /// Puts a note into the log, if this node leads it; otherwise tells who may.
    pub(super) fn note(&self, question: &Value) -> Result<Value, String> {
        let text = question["text"].as_str().ok_or("`text` must be a text")?;
        let taken = self.engine.borrow_mut().submit(now(), Command::Note(text.as_bytes().to_vec()));
        self.nudge.notify_one();
        match taken {
            Ok(()) => Ok(json!({"done": true})),
            Err(SubmitError::NotCoordinator { hint }) => {
                Ok(json!({"done": false, "coordinator": hint.map(|node| node.0)}))
            }
            Err(error) => Err(format!("refused: {error:?}")),
        }
    }
}
