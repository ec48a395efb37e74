//! Who a certificate is for.

use std::fmt;

use apus_engine::{ClusterId, NodeId};

/// A node of a cluster, as its certificate names it: `node-3.cluster-7.apus.internal`, a DNS name below a domain that is
/// reserved for private use, so that it can never be that of a public server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    /// Its cluster.
    pub cluster: ClusterId,
    /// Its number.
    pub node: NodeId,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node-{}.cluster-{}.apus.internal", self.node.0, self.cluster.0)
    }
}

impl Name {
    /// Reads a name; only the one spelling that [`Display`](fmt::Display) writes is one.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        let rest = text.strip_prefix("node-")?.strip_suffix(".apus.internal")?;
        let (node, cluster) = rest.split_once(".cluster-")?;
        let name = Self { cluster: ClusterId(cluster.parse().ok()?), node: NodeId(node.parse().ok()?) };
        (name.to_string() == text).then_some(name)
    }
}

#[cfg(test)]
mod tests {
    use apus_engine::{ClusterId, NodeId};

    use super::Name;

    #[test]
    fn only_one_spelling_is_a_name() {
        let name = Name { cluster: ClusterId(7), node: NodeId(3) };
        assert_eq!(Name::read(&name.to_string()), Some(name));
        for wrong in [
            "node-03.cluster-7.apus.internal",
            "node-+3.cluster-7.apus.internal",
            "node-3.cluster-7.apus.internal.",
            "node-70000.cluster-7.apus.internal",
            "Node-3.cluster-7.apus.internal",
            "*.cluster-7.apus.internal",
            "node-3.apus.internal",
            "",
        ] {
            assert_eq!(Name::read(wrong), None, "{wrong}");
        }
    }
}
