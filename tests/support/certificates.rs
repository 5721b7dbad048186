//! A certificate authority of a test's own, and what it issues: PEM files among the data of the test process.
//!
//! Made when a test runs, so that none expires and no key lies in the repository.

use std::fs;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use openssl::asn1::Asn1Time;
use openssl::bn::{BigNum, MsbOption};
use openssl::ec::{EcGroup, EcKey};
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::x509::extension::{BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAlternativeName};
use openssl::x509::{X509, X509Builder, X509Name};

use super::directories;

/// Who signs.
pub struct Authority {
    directory: PathBuf,
    name: X509Name,
    key: PKey<Private>,
}

/// A certificate and its key.
pub struct Issued {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its key, PKCS #8.
    pub key: PathBuf,
    /// Both in one file, as Kafka's key stores have them.
    pub both: PathBuf,
}

impl Authority {
    /// A new one, which nobody trusts yet.
    ///
    /// # Errors
    /// What the library or the file system says.
    pub fn create() -> Result<Self, String> {
        let directory = directories::scratch("certificates")?;
        // Names tell authorities apart: of two with one name it would be the signature that does not fit.
        let name = directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let (name, key) = (common_name(&name).map_err(text)?, new_key().map_err(text)?);
        let authority = Self { directory, name, key };
        let certificate = authority.sign(&authority.name, &authority.key, 3650, |certificate| {
            certificate.append_extension(BasicConstraints::new().critical().ca().build()?)?;
            certificate.append_extension(KeyUsage::new().critical().key_cert_sign().crl_sign().build()?)
        });
        let certificate = certificate.and_then(|certificate| certificate.to_pem()).map_err(text)?;
        fs::write(authority.certificate(), certificate).map_err(text)?;
        Ok(authority)
    }

    /// Its own certificate: what clients and servers are to trust.
    pub fn certificate(&self) -> PathBuf {
        self.directory.join("ca.pem")
    }

    /// A certificate for `name`, as a client or for servers on the loopback interface.
    ///
    /// # Errors
    /// What the library or the file system says.
    pub fn issue(&self, name: &str) -> Result<Issued, String> {
        self.issue_until(name, 3650)
    }

    /// The same with the last of its days so many from now.
    ///
    /// # Errors
    /// What the library or the file system says.
    pub fn issue_until(&self, name: &str, last_day: i64) -> Result<Issued, String> {
        let key = new_key().map_err(text)?;
        let signed = common_name(name).and_then(|name| {
            self.sign(&name, &key, last_day, |certificate| {
                certificate.append_extension(ExtendedKeyUsage::new().server_auth().client_auth().build()?)?;
                let addresses =
                    SubjectAlternativeName::new().ip("127.0.0.1").build(&certificate.x509v3_context(None, None))?;
                certificate.append_extension(addresses)
            })
        });
        let certificate = signed.and_then(|certificate| certificate.to_pem()).map_err(text)?;
        let key = key.private_key_to_pem_pkcs8().map_err(text)?;
        let write = |suffix: &str, content: &[u8]| {
            let path = self.directory.join(format!("{name}{suffix}"));
            fs::write(&path, content).map_err(text).map(|()| path)
        };
        Ok(Issued {
            certificate: write(".pem", &certificate)?,
            key: write(".key.pem", &key)?,
            both: write(".both.pem", &[key, certificate].concat())?,
        })
    }

    fn sign(
        &self,
        name: &X509Name,
        key: &PKey<Private>,
        last_day: i64,
        extend: impl FnOnce(&mut X509Builder) -> Result<(), ErrorStack>,
    ) -> Result<X509, ErrorStack> {
        let mut certificate = X509::builder()?;
        // The third version, which is counted from 0.
        certificate.set_version(2)?;
        let mut serial = BigNum::new()?;
        serial.rand(159, MsbOption::MAYBE_ZERO, false)?;
        certificate.set_serial_number(&*serial.to_asn1_integer()?)?;
        certificate.set_issuer_name(&self.name)?;
        certificate.set_subject_name(name)?;
        certificate.set_pubkey(key)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs().cast_signed());
        let day = |day: i64| Asn1Time::from_unix(now + day * 86_400);
        certificate.set_not_before(&*day(-30)?)?;
        certificate.set_not_after(&*day(last_day)?)?;
        extend(&mut certificate)?;
        certificate.sign(&self.key, MessageDigest::sha256())?;
        Ok(certificate.build())
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn new_key() -> Result<PKey<Private>, ErrorStack> {
    PKey::from_ec_key(EcKey::generate(&*EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?)?)
}

fn common_name(name: &str) -> Result<X509Name, ErrorStack> {
    let mut common_name = X509Name::builder()?;
    common_name.append_entry_by_text("CN", name)?;
    Ok(common_name.build())
}

fn text(error: impl ToString) -> String {
    error.to_string()
}
