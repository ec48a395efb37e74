//! What operators do.
use crate::cluster::{Clients, Cluster};
use crate::strike::Row;
pub(crate) fn roll(_: &mut Cluster, _: &mut Clients) -> Result<Row, String> { Ok(Row::new("x")) }
pub(crate) fn roll_into(_: &mut Cluster, _: &mut Clients, _: &mut Row) -> Result<(), String> { Ok(()) }
pub(crate) fn set(_: &Cluster) -> Result<(), String> { Ok(()) }
pub(crate) fn crash(_: &mut Cluster) -> Result<(), String> { Ok(()) }
