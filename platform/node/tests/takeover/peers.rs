use crate::cluster::Cluster;
pub(crate) fn nginx(_: &mut Cluster) -> Result<(), String> { Ok(()) }
