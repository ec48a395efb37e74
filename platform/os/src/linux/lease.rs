//! The elements of the guard's sets.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use super::netfilter::{NEW_ELEMENT, Netfilter, OLD_ELEMENT, element};
use super::system::at;

/// Who may dispatch, and how long: until its elements expire in the kernel.
#[derive(Debug)]
pub struct Lease {
    netfilter: Netfilter,
    table: String,
    addresses: Vec<IpAddr>,
}

impl Lease {
    pub(super) fn new(table: String, addresses: Vec<IpAddr>) -> io::Result<Self> {
        Ok(Self { netfilter: Netfilter::new().map_err(at("netfilter"))?, table, addresses })
    }

    fn element(&self, address: IpAddr, left: Option<Duration>) -> Vec<u8> {
        match address {
            IpAddr::V4(v4) => element(&self.table, "lease4", &v4.octets(), left),
            IpAddr::V6(v6) => element(&self.table, "lease6", &v6.octets(), left),
        }
    }

    /// Lets this node dispatch for so long.
    ///
    /// # Errors
    /// If the kernel does not take it: then this node does not dispatch.
    pub fn arm(&mut self, left: Duration) -> io::Result<()> {
        let mut batch = Vec::new();
        for address in self.addresses.clone() {
            let (with, without) = (self.element(address, Some(left)), self.element(address, None));
            batch.extend(self.netfilter.renew(&with, &without));
        }
        self.netfilter.transact(&batch, self.addresses.len()).map_err(at("lease"))
    }

    /// Lets this node dispatch no more.
    ///
    /// # Errors
    /// If the kernel does not take it: then the lease ends by itself.
    pub fn disarm(&mut self) -> io::Result<()> {
        let mut batch = Vec::new();
        for address in self.addresses.clone() {
            // It may be over already.
            let (with, without) = (self.element(address, Some(Duration::from_secs(1))), self.element(address, None));
            batch.extend(self.netfilter.message(NEW_ELEMENT, libc::NLM_F_CREATE, &with));
            batch.extend(self.netfilter.message(OLD_ELEMENT, libc::NLM_F_ACK, &without));
        }
        self.netfilter.transact(&batch, self.addresses.len()).map_err(at("lease"))
    }
}
