//! What the kernel does for the cluster's address while this process runs, is frozen, or is gone: nftables.
//!
//! - In: the system itself hears no question for the address and no packet to it, but what a dispatcher of no lower epoch than the
//!   fence has sent. So it never answers for the address, and a server goes on serving without this process.
//! - Out: nothing is dispatched, and no answer about the address leaves, without an element in a set whose elements end with the
//!   lease. So a process that was frozen between looking at its lease and sending does no harm either.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::lease::Lease;
use super::system::{at, command};

/// The rules for one port. Dropping them takes them away; a crash leaves them, and the next start replaces them.
#[derive(Debug)]
pub struct Guard {
    port: String,
    v4: Option<Ipv4Addr>,
    v6: Option<Ipv6Addr>,
    fence: u64,
}

fn table(port: &str) -> String {
    format!("apus_{}", port.replace(|c: char| !c.is_ascii_alphanumeric(), "_"))
}

fn nft(input: &str) -> io::Result<()> {
    command("nft", &["-f", "-"], input)
}

impl Guard {
    /// Sets the rules up; nobody may dispatch yet.
    ///
    /// # Errors
    /// If `nft` is missing or the kernel does not know these rules (egress needs Linux 5.16).
    pub fn new(port: &str, v4: Option<Ipv4Addr>, v6: Option<Ipv6Addr>) -> io::Result<Self> {
        let guard = Self { port: port.into(), v4, v6, fence: 0 };
        let table = guard.table();
        let mut text = format!(
            "table netdev {table}\ndelete table netdev {table}\n\
             table netdev {table} {{\n\
             set lease4 {{ type ipv4_addr; flags timeout; }}\nset lease6 {{ type ipv6_addr; flags timeout; }}\n\
             chain in {{ type filter hook ingress device \"{port}\" priority -300; policy accept; }}\n\
             chain out {{ type filter hook egress device \"{port}\" priority 0; policy accept;\n"
        );
        if let Some(v4) = v4 {
            text += &format!("arp saddr ip {v4} arp saddr ip != @lease4 counter drop\n");
            text += &format!("ip daddr {v4} @ll,88,8 0 ip daddr != @lease4 counter drop\n");
        }
        if let Some(v6) = v6 {
            text += &format!("icmpv6 type nd-neighbor-advert ip6 saddr {v6} ip6 saddr != @lease6 counter drop\n");
            text += &format!("ip6 daddr {v6} @ll,88,8 0 ip6 daddr != @lease6 counter drop\n");
        }
        text += &format!("}}\n}}\n{}", guard.inward());
        nft(&text).map_err(at(&format!("rules for {port}")))?;
        Ok(guard)
    }

    /// Takes away what a process that was killed has left for this port. Nothing there: nothing to do.
    ///
    /// # Errors
    /// If `nft` is missing or is refused.
    pub fn clear(port: &str) -> io::Result<()> {
        let table = table(port);
        // Made first, so that there is something to take away.
        let text = format!("table netdev {table}\ndelete table netdev {table}\n");
        nft(&text).map_err(at(&format!("rules for {port}")))
    }

    fn table(&self) -> String {
        table(&self.port)
    }

    /// The rules of frames that come in, anew.
    fn inward(&self) -> String {
        let table = self.table();
        let mut text = format!("flush chain netdev {table} in\n");
        let mut rule = |rule: &str| text += &format!("add rule netdev {table} in {rule}\n");
        // A tag has 16 bits of the epoch, which go round: half of all numbers are not before the fence.
        let from = u16::try_from(self.fence & 0xffff).unwrap_or_default();
        let to = from.wrapping_add(0x7fff);
        let epochs = if from <= to {
            vec![format!("@ll,72,16 {from}-{to}")]
        } else {
            vec![format!("@ll,72,16 >= {from}"), format!("@ll,72,16 <= {to}")]
        };
        let mut address = |daddr: &str| {
            for epoch in &epochs {
                rule(&format!("{daddr} @ll,48,16 0x5241 {epoch} accept"));
            }
            rule(&format!("{daddr} counter drop"));
        };
        if let Some(v4) = self.v4 {
            address(&format!("ip daddr {v4}"));
        }
        if let Some(v6) = self.v6 {
            address(&format!("ip6 daddr {v6}"));
        }
        if let Some(v4) = self.v4 {
            rule(&format!("arp daddr ip {v4} drop"));
            rule(&format!("arp saddr ip {v4} drop"));
        }
        if let Some(v6) = self.v6 {
            let kinds = "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert }";
            rule(&format!("{kinds} @th,64,128 0x{:032x} drop", u128::from(v6)));
        }
        text
    }

    /// Refuses dispatchers of epochs lower than this one; it never falls.
    ///
    /// # Errors
    /// If the kernel does not take the rules; the old ones hold.
    pub fn fence(&mut self, epoch: u64) -> io::Result<()> {
        if epoch <= self.fence {
            return Ok(());
        }
        let before = std::mem::replace(&mut self.fence, epoch);
        nft(&self.inward()).inspect_err(|_| self.fence = before).map_err(at("fence"))
    }

    /// By which this node is let dispatch.
    ///
    /// # Errors
    /// If the kernel has no netfilter.
    pub fn lease(&self) -> io::Result<Lease> {
        let addresses = self.v4.map(IpAddr::V4).into_iter().chain(self.v6.map(IpAddr::V6)).collect();
        Lease::new(self.table(), addresses)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = nft(&format!("delete table netdev {}\n", self.table()));
    }
}
