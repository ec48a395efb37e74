//! Nodes speak QUIC with certificates of their cluster's own authority.
//!
//! ```text
//!   Transport (apus-host) ── Sockets ──▶ Quic ── one connection for each pair ──▶ quinn, UDP
//!                                         │
//!                                       Trust ── authorities, own certificate, members, revocations
//!                                         │
//!                       Keys (folder) ────┴──── Authority ── issues ── join: Token, Request, Admission
//! ```
//! A peer is who its certificate says, wherever its packets come from. The page is `docs/transport.md`.
#![forbid(unsafe_code)]

/// Whether a bug is planted; without the feature `mutants` none can be, and nothing of them is compiled.
macro_rules! planted {
    ($mutant:ident) => {{
        #[cfg(feature = "mutants")]
        let planted = crate::mutant::planted(crate::Mutant::$mutant);
        #[cfg(not(feature = "mutants"))]
        let planted = false;
        planted
    }};
}

mod authority;
mod base64;
mod bulk;
mod der;
mod gate;
mod keys;
mod link;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(feature = "mutants")]
mod mutant;
mod name;
mod places;
mod quic;
mod token;
mod trust;
mod udp;
mod web;

pub mod join;

pub use authority::{Authority, Issued, NewKey};
pub use bulk::{Bulk, Door, Standing, Sum, dial};
pub use der::{Validity, public_key, serial, validity};
pub use gate::Paces;
pub use keys::{Keys, KeysError, NEVER_OTHERS};
#[cfg(feature = "mutants")]
pub use mutant::{Mutant, plant};
pub use name::Name;
pub use quic::{Counters, Limits, Quic, transport_settings};
pub use rustls::pki_types::CertificateDer;
pub use token::{Token, TokenError, Tokens};
pub use trust::{Refused, Trust, Why};
pub use web::{Shaken, Web};
