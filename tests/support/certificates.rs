//! A certificate authority of a test's own, and what it issues: PEM files among the data of the test process.
//!
//! Made when a test runs, so that none expires and no key lies in the repository.

use std::fs;
use std::path::PathBuf;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};

use super::directories;

/// Who signs.
pub struct Authority {
    directory: PathBuf,
    issuer: Issuer<'static, KeyPair>,
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
        let mut params = named(&format!("the authority of {}", directory.display()), &[])?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().map_err(text)?;
        let certificate = params.self_signed(&key).map_err(text)?.pem();
        fs::write(directory.join("ca.pem"), certificate).map_err(text)?;
        Ok(Self { directory, issuer: Issuer::new(params, key) })
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
        let mut params = named(name, &["127.0.0.1"])?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().map_err(text)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(text)?.pem();
        let key = key.serialize_pem();
        let write = |suffix: &str, content: &str| {
            let path = self.directory.join(format!("{name}{suffix}"));
            fs::write(&path, content).map_err(text).map(|()| path)
        };
        Ok(Issued {
            certificate: write(".pem", &certificate)?,
            key: write(".key.pem", &key)?,
            both: write(".both.pem", &format!("{key}{certificate}"))?,
        })
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn named(name: &str, addresses: &[&str]) -> Result<CertificateParams, String> {
    let addresses: Vec<String> = addresses.iter().map(|address| (*address).to_owned()).collect();
    let mut params = CertificateParams::new(addresses).map_err(text)?;
    params.distinguished_name.push(DnType::CommonName, name);
    Ok(params)
}

fn text(error: impl ToString) -> String {
    error.to_string()
}
