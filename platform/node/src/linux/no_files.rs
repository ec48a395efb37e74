//! Groups of files need x86-64: programs are captured there alone. A node elsewhere has none.

use apus_engine::shipping::Order;
use apus_engine::{Engine, GuardOrder, Input, NodeId, ServiceId};
use apus_os::program::Spec;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::control::Serving;
use super::programs::Programs;
use super::{Note, Say};
use crate::{Config, Error, Group};

const NONE: &str = "groups of files need x86-64: take `[[groups]]` out, or run the node on such a machine";

/// No group.
pub(super) struct Files;

impl Files {
    pub(super) fn start(config: &Config, _: &mpsc::UnboundedSender<Input>, _: &Say, _: &Note) -> Result<Self, Error> {
        if config.groups.iter().any(|group| group.engine.copies.contains(&config.me)) {
            return Err(Error::Usage(NONE.into()));
        }
        Ok(Self)
    }

    pub(super) fn order(&self, _: Order) {}

    pub(super) fn turn(&self, _: &Programs) {}

    pub(super) fn guard(&self, _: GuardOrder) {}

    pub(super) fn rows(&self, _: &Engine, _: NodeId) -> Value {
        json!([])
    }
}

pub(crate) fn library(_: &Group) -> Result<std::path::PathBuf, String> {
    Err(NONE.into())
}

pub(super) fn clear(_: &Config) -> Result<(), Error> {
    Ok(())
}

pub(super) fn captured(_: &Config, _: ServiceId, spec: Spec) -> Spec {
    spec
}

impl Serving {
    pub(super) async fn files_status(&self, _: &Value) -> Result<Value, String> {
        Err(NONE.into())
    }

    pub(super) fn orphans(&self, _: &Value) -> Result<Value, String> {
        Err(NONE.into())
    }

    pub(super) async fn look_through(&self, _: &Value) -> Result<Value, String> {
        Err(NONE.into())
    }
}
