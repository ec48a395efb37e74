//! The cluster's own certificate authority: it makes certificates and nothing else.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ED25519, PublicKeyData, SanType, SerialNumber, SignatureAlgorithm, SigningKey as _,
};
use rustls::pki_types::CertificateDer;

use crate::name::Name;
use apus_engine::ClusterId;

/// How much a clock of a node may be behind that of who issues: certificates are good from so long ago.
const SKEW: Duration = Duration::from_secs(300);
/// How long an authority is good.
pub(crate) const AUTHORITY_LIFE: Duration = Duration::from_secs(10 * 365 * 86_400);

/// A new private key, in PKCS 8. Never shown by `{:?}`.
pub struct NewKey(KeyPair);

impl std::fmt::Debug for NewKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NewKey")
    }
}

/// Something the libraries refuse; with a text that says what.
pub(crate) fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

impl NewKey {
    /// Makes an Ed25519 key out of the system's randomness.
    ///
    /// # Errors
    /// If the system has none.
    pub fn make() -> Result<Self, String> {
        KeyPair::generate_for(&PKCS_ED25519).map(Self).map_err(text)
    }

    /// Reads PKCS 8.
    ///
    /// # Errors
    /// If it is none, or of another kind of key.
    pub fn read(pkcs8: &[u8]) -> Result<Self, String> {
        KeyPair::from_pkcs8_der_and_sign_algo(&pkcs8.into(), &PKCS_ED25519).map(Self).map_err(text)
    }

    /// The PKCS 8 form.
    #[must_use]
    pub fn pkcs8(&self) -> &[u8] {
        self.0.serialized_der()
    }

    /// The public half: 32 bytes.
    #[must_use]
    pub fn public(&self) -> &[u8] {
        self.0.public_key_raw()
    }

    /// Signs.
    ///
    /// # Errors
    /// Never for these keys.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, String> {
        self.0.sign(message).map_err(text)
    }
}

/// Somebody else's public key.
struct Public<'k>(&'k [u8]);

impl PublicKeyData for Public<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0
    }
    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ED25519
    }
}

/// A certificate that was made just now.
#[derive(Clone, Debug)]
pub struct Issued {
    /// Its DER form.
    pub der: CertificateDer<'static>,
    /// Its serial number: milliseconds since 1970, and greater than any before it of this authority.
    pub serial: u64,
}

/// An authority with its private key.
#[derive(Debug)]
pub struct Authority {
    cluster: ClusterId,
    key: NewKey,
    certificate: CertificateDer<'static>,
    /// Serial number of the last certificate.
    last: u64,
}

fn since_1970(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// The parameters that only depend on cluster and key: issuer names match without reading the certificate.
fn params(cluster: ClusterId, key: &NewKey) -> CertificateParams {
    let mut params = CertificateParams::default();
    let tail: String = key.public().iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("apus cluster {} authority {tail}", cluster.0));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

/// Sets the times of a certificate.
fn times(params: &mut CertificateParams, from: SystemTime, life: Duration) {
    let zero = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = zero + since_1970(from).saturating_sub(SKEW);
    params.not_after = zero + since_1970(from) + life;
}

impl Authority {
    /// Makes a new authority.
    ///
    /// # Errors
    /// If the system has no randomness.
    pub fn make(cluster: ClusterId, now: SystemTime) -> Result<Self, String> {
        let key = NewKey::make()?;
        let mut params = params(cluster, &key);
        times(&mut params, now, AUTHORITY_LIFE);
        let certificate = params.self_signed(&key.0).map_err(text)?;
        Ok(Self { cluster, key, certificate: certificate.der().clone(), last: 0 })
    }

    /// An authority of which key and certificate are kept, and the serial number of its last certificate.
    ///
    /// # Errors
    /// If the key is none.
    pub fn read(
        cluster: ClusterId,
        pkcs8: &[u8],
        certificate: CertificateDer<'static>,
        last: u64,
    ) -> Result<Self, String> {
        Ok(Self { cluster, key: NewKey::read(pkcs8)?, certificate, last })
    }

    /// Its certificate.
    #[must_use]
    pub const fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Its private key, in PKCS 8.
    #[must_use]
    pub fn pkcs8(&self) -> &[u8] {
        self.key.pkcs8()
    }

    /// Serial number of the last certificate.
    #[must_use]
    pub const fn last(&self) -> u64 {
        self.last
    }

    /// Makes a node's certificate for a public key of 32 bytes, good for `life` from `now` on.
    ///
    /// # Errors
    /// If the libraries refuse.
    pub fn issue(&mut self, node: Name, public: &[u8], now: SystemTime, life: Duration) -> Result<Issued, String> {
        if node.cluster != self.cluster || public.len() != 32 {
            return Err(format!("no certificate of cluster {} for {node} and this key", self.cluster.0));
        }
        let serial = u64::try_from(since_1970(now).as_millis()).unwrap_or(u64::MAX).max(self.last + 1);
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, node.to_string());
        params.subject_alt_names = vec![SanType::DnsName(node.to_string().try_into().map_err(text)?)];
        params.serial_number = Some(SerialNumber::from(serial));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        times(&mut params, now, life);
        let issuer = Issuer::new(self::params(self.cluster, &self.key), &self.key.0);
        let certificate = params.signed_by(&Public(public), &issuer).map_err(text)?;
        self.last = serial;
        Ok(Issued { der: certificate.der().clone(), serial })
    }
}
