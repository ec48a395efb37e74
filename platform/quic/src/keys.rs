//! The folder with a node's keys and certificates. Its files are the owner's only, replaced as a whole, never followed through a link.
//!
//! ```text
//! authorities.pem   whom the node believes: one certificate, two while they change
//! node.pem          the node's certificate          node.key        its private key
//! authority.pem     only where certificates are made:  authority.key  private key of the authority
//! authority.last    serial number of its last certificate
//! issued-N.pem      the newest certificate that was given to node N
//! revoked           lines of a node and the last serial number that is taken back
//! next/             the authority that will follow this one
//! tokens            see `token`
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use apus_engine::{ClusterId, NodeId};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};

use crate::authority::{Authority, NewKey};
use crate::base64::pem;
use crate::name::Name;
use crate::trust::{Refused, Trust};

/// The mode of the folder's files, where there are modes: read and written by the owner.
pub const NEVER_OTHERS: u32 = 0o600;

/// What is wrong with the keys: where, what, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeysError(String);

impl KeysError {
    pub(crate) fn new(place: impl fmt::Display, what: impl fmt::Display, mend: &str) -> Self {
        Self(format!("{place}: {what}; {mend}"))
    }
}

impl fmt::Display for KeysError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for KeysError {}

/// The folder.
#[derive(Clone, Debug)]
pub struct Keys {
    folder: PathBuf,
}

impl Keys {
    /// The keys in a folder, which need not exist.
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.into() }
    }

    /// Where they are.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether the node has a certificate.
    #[must_use]
    pub fn exist(&self) -> bool {
        self.path("node.pem").exists()
    }

    /// Whether certificates can be made here.
    #[must_use]
    pub fn can_issue(&self) -> bool {
        self.path("authority.key").exists()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn wrong(&self, name: &str, what: impl fmt::Display, mend: &str) -> KeysError {
        KeysError::new(self.path(name).display(), what, mend)
    }

    /// Puts a file in the place of the one before it, or of none: after a crash it is the old one or the new one.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> Result<(), KeysError> {
        let write = || {
            if !self.folder.exists() {
                let mut builder = fs::DirBuilder::new();
                #[cfg(unix)]
                std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
                builder.recursive(true).create(&self.folder)?;
            }
            let new = self.path(&format!("{name}.new"));
            match fs::remove_file(&new) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut options = OpenOptions::new();
            options.write(true).create_new(true);
            #[cfg(unix)]
            std::os::unix::fs::OpenOptionsExt::mode(&mut options, NEVER_OTHERS);
            let mut file = options.open(&new)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&new, self.path(name))?;
            #[cfg(unix)]
            fs::File::open(&self.folder)?.sync_all()?;
            Ok(())
        };
        write().map_err(|error: io::Error| self.wrong(name, error, "the folder must be the node's own to write"))
    }

    pub(crate) fn read(&self, name: &str) -> Result<Vec<u8>, KeysError> {
        let path = self.path(name);
        let failed = |error: io::Error| {
            self.wrong(
                name,
                error,
                "`apus cluster init` makes a cluster's keys, `apus cluster join` those of a new node",
            )
        };
        let about = fs::symlink_metadata(&path).map_err(failed)?;
        if !about.is_file() {
            return Err(self.wrong(name, "no plain file", "remove it and issue the certificate anew"));
        }
        #[cfg(unix)]
        if name.ends_with(".key") && std::os::unix::fs::PermissionsExt::mode(&about.permissions()) & 0o077 != 0 {
            return Err(self.wrong(
                name,
                "others may read this key",
                "take it as known to them: issue a new one, mode 0600",
            ));
        }
        fs::read(&path).map_err(failed)
    }

    fn certificates(&self, name: &str) -> Result<Vec<CertificateDer<'static>>, KeysError> {
        let bytes = self.read(name)?;
        let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
        match all {
            Ok(all) if !all.is_empty() => Ok(all),
            Ok(_) => Err(self.wrong(name, "no certificate in it", "issue it anew")),
            Err(error) => Err(self.wrong(name, format!("{error:?}"), "issue it anew")),
        }
    }

    fn key(&self, name: &str) -> Result<Vec<u8>, KeysError> {
        let bytes = self.read(name)?;
        let key = PrivatePkcs8KeyDer::from_pem_slice(&bytes)
            .map_err(|error| self.wrong(name, format!("{error:?}"), "issue a new key and certificate"))?;
        Ok(key.secret_pkcs8_der().to_vec())
    }

    /// Keeps an authority. Its serial number goes first: none is given out twice, whatever is lost.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn keep_authority(&self, authority: &Authority) -> Result<(), KeysError> {
        self.keep_last(authority)?;
        self.write("authority.key", pem("PRIVATE KEY", authority.pkcs8()).as_bytes())?;
        self.write("authority.pem", pem("CERTIFICATE", authority.certificate()).as_bytes())
    }

    /// Where the authority is kept that will follow this one.
    #[must_use]
    pub fn next(&self) -> Self {
        Self { folder: self.folder.join("next") }
    }

    /// Forgets an authority, once it is kept elsewhere.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn remove_authority(&self) -> Result<(), KeysError> {
        for name in ["authority.key", "authority.pem", "authority.last"] {
            fs::remove_file(self.path(name))
                .map_err(|error| self.wrong(name, error, "the folder must be the node's own to write"))?;
        }
        Ok(())
    }

    /// Keeps the serial number of the last certificate.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn keep_last(&self, authority: &Authority) -> Result<(), KeysError> {
        self.write("authority.last", authority.last().to_string().as_bytes())
    }

    /// The authority that makes certificates here.
    ///
    /// # Errors
    /// If it is not here, or damaged.
    pub fn authority(&self, cluster: ClusterId) -> Result<Authority, KeysError> {
        if !self.can_issue() {
            let mend = "certificates are made on the node where `apus cluster init` ran: do it there";
            return Err(self.wrong("authority.key", "not here", mend));
        }
        let last = self.read("authority.last")?;
        let last = str::from_utf8(&last).ok().and_then(|text| text.trim().parse().ok());
        let last =
            last.ok_or_else(|| self.wrong("authority.last", "no number", "write the milliseconds since 1970"))?;
        let certificate = self.certificates("authority.pem")?.swap_remove(0);
        Authority::read(cluster, &self.key("authority.key")?, certificate, last)
            .map_err(|what| self.wrong("authority.key", what, "restore it from a copy"))
    }

    /// Keeps whom the node believes, its certificate and its key. The key goes first and is read with its certificate only.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn keep_node(
        &self,
        authorities: &[CertificateDer<'static>],
        certificate: &CertificateDer<'static>,
        key: &NewKey,
    ) -> Result<(), KeysError> {
        self.keep_authorities(authorities)?;
        // One file, so that no crash leaves a key without its certificate.
        let both = pem("PRIVATE KEY", key.pkcs8()) + &pem("CERTIFICATE", certificate);
        self.write("node.key", both.as_bytes())?;
        self.write("node.pem", pem("CERTIFICATE", certificate).as_bytes())
    }

    /// Keeps whom the node believes.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn keep_authorities(&self, authorities: &[CertificateDer<'static>]) -> Result<(), KeysError> {
        let all: String = authorities.iter().map(|certificate| pem("CERTIFICATE", certificate)).collect();
        self.write("authorities.pem", all.as_bytes())
    }

    /// Keeps a copy of a certificate that was given to a node.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn keep_issued(&self, node: NodeId, certificate: &CertificateDer<'static>) -> Result<(), KeysError> {
        self.write(&format!("issued-{}.pem", node.0), pem("CERTIFICATE", certificate).as_bytes())
    }

    /// The newest certificate that was given to a node here.
    ///
    /// # Errors
    /// If the file is damaged.
    pub fn issued(&self, node: NodeId) -> Result<Option<CertificateDer<'static>>, KeysError> {
        let name = format!("issued-{}.pem", node.0);
        if !self.path(&name).exists() {
            return Ok(None);
        }
        Ok(Some(self.certificates(&name)?.swap_remove(0)))
    }

    /// Whom the node believes.
    ///
    /// # Errors
    /// If the file is missing or damaged.
    pub fn authorities(&self) -> Result<Vec<CertificateDer<'static>>, KeysError> {
        self.certificates("authorities.pem")
    }

    /// The node's certificate and its key in PKCS 8.
    ///
    /// # Errors
    /// If a file is missing or damaged.
    pub fn node(&self) -> Result<(CertificateDer<'static>, Vec<u8>), KeysError> {
        Ok((self.certificates("node.key")?.swap_remove(0), self.key("node.key")?))
    }

    /// What was taken back.
    ///
    /// # Errors
    /// If the file is damaged.
    pub fn revoked(&self) -> Result<BTreeMap<NodeId, u64>, KeysError> {
        if !self.path("revoked").exists() {
            return Ok(BTreeMap::new());
        }
        let bytes = self.read("revoked")?;
        let line = |line: &str| {
            let (node, serial) = line.split_once(' ')?;
            Some((NodeId(node.parse().ok()?), serial.parse().ok()?))
        };
        let all = str::from_utf8(&bytes).ok().and_then(|text| text.lines().map(line).collect());
        all.ok_or_else(|| self.wrong("revoked", "not lines of a node and a number", "copy it from another node"))
    }

    /// Keeps what was taken back.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn keep_revoked(&self, revoked: &BTreeMap<NodeId, u64>) -> Result<(), KeysError> {
        let all: String = revoked.iter().map(|(node, serial)| format!("{} {serial}\n", node.0)).collect();
        self.write("revoked", all.as_bytes())
    }

    /// Whom the node believes, all together.
    ///
    /// # Errors
    /// If something is missing, damaged, or of another node.
    pub fn trust(&self, me: Name, audit: impl Fn(&Refused) + Send + Sync + 'static) -> Result<Arc<Trust>, KeysError> {
        let (certificate, key) = self.node()?;
        let named = webpki::EndEntityCert::try_from(&certificate)
            .ok()
            .and_then(|certificate| certificate.valid_dns_names().find_map(Name::read));
        if named != Some(me) {
            let whose = named.map_or("nobody".into(), |name| name.to_string());
            let mend = "the configuration's `cluster` and `node` must be those of the certificate";
            return Err(self.wrong("node.key", format!("the certificate of {whose}, not of {me}"), mend));
        }
        let trust = Trust::new(me, &self.authorities()?, certificate, &key, audit)?;
        for (node, serial) in self.revoked()? {
            trust.revoke(node, serial);
        }
        Ok(trust)
    }

    /// Takes in what the files say now.
    ///
    /// # Errors
    /// As [`trust`](Self::trust); then nothing changes.
    pub fn renew(&self, trust: &Trust) -> Result<(), KeysError> {
        let (certificate, key) = self.node()?;
        trust.renew(&self.authorities()?, certificate, &key)?;
        for (node, serial) in self.revoked()? {
            trust.revoke(node, serial);
        }
        Ok(())
    }
}
