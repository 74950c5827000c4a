//! Making a cluster's CA and the certificates that it signs: Ed25519 throughout.

use super::{Identity, Roots, TlsError, is_cluster_name, provider};
use crate::types::NodeId;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ED25519, SanType,
};
use rustls::{
    client::{WebPkiServerVerifier, danger::ServerCertVerifier},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};
use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    time::Duration,
};

/// How long certificates are good when nobody says otherwise, in days: ten years. A cluster that stops because nobody
/// remembered is worse than a key that lives long inside one's own network.
pub const FOR_DAYS_DEFAULT: u32 = 3_650;
const DAY_S: u64 = 24 * 3_600;

/// Clocks of two machines may be apart by this much when a certificate is used for the first time.
const SKEW_S: u64 = 3_600;

/// A certificate and its private key, as PEM.
#[derive(Clone)]
pub struct Issued {
    /// The certificate.
    pub certificate_pem: String,
    /// The private key (PKCS#8).
    pub key_pem: String,
}

impl Issued {
    /// Writes `<stem>.pem` and, readable by the owner alone, `<stem>.key` into `directory`, over what is there.
    pub fn write(&self, directory: &Path, stem: &str) -> Result<(PathBuf, PathBuf), TlsError> {
        let (certificate, key) = files(directory, stem);
        make_directory(directory)?;
        write(&key, &self.key_pem, 0o600, Over::Replace)?;
        write(&certificate, &self.certificate_pem, 0o644, Over::Replace)?;
        Ok((certificate, key))
    }

    /// As it is used.
    pub fn identity(&self) -> Result<Identity, TlsError> {
        Identity::from_pem(&self.certificate_pem, &self.key_pem)
    }
}

impl std::fmt::Debug for Issued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Issued(…)")
    }
}

/// The names under which a cluster's certificates are known.
pub struct Names;

impl Names {
    /// The DNS name by which peers dial a node, whatever its address is.
    pub fn node_dns(cluster: &str, node: NodeId) -> String {
        format!("node-{node}.{cluster}.highwater")
    }

    /// The URI that says which node it is.
    pub fn node_uri(cluster: &str, node: NodeId) -> String {
        format!("highwater://{cluster}/node/{node}")
    }

    /// The URI that says which client it is.
    pub fn client_uri(cluster: &str, client: &str) -> String {
        format!("highwater://{cluster}/client/{client}")
    }
}

/// A cluster's CA with its private key.
pub struct Authority {
    cluster: String,
    certificate_pem: String,
    key: KeyPair,
    now_s: u64,
    keys: Keys,
}

/// Where private keys come from.
enum Keys {
    /// The system's entropy.
    Random,
    /// A seed and how many were made: the same keys, and so the same certificates, in each run of a simulation.
    #[cfg(feature = "testing")]
    Seeded(u64, std::sync::atomic::AtomicU64),
}

impl Keys {
    fn next(&self) -> Result<KeyPair, TlsError> {
        match self {
            Keys::Random => KeyPair::generate_for(&PKCS_ED25519).map_err(refused),
            #[cfg(feature = "testing")]
            Keys::Seeded(seed, count) => {
                // RFC 8410: a PKCS#8 key of Ed25519 is this and 32 bytes that may be any.
                let mut der = b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20".to_vec();
                let count = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                [*seed, count, 0, 0].iter().for_each(|part| der.extend_from_slice(&part.to_be_bytes()));
                KeyPair::try_from(der).map_err(refused)
            }
        }
    }
}

impl Authority {
    /// Makes a CA, in memory. `now_ms` by the wall clock.
    pub fn create(cluster: &str, for_days: u32, now_ms: u64) -> Result<Self, TlsError> {
        Self::create_with(cluster, for_days, now_ms, Keys::Random)
    }

    /// Makes a CA whose keys and certificates are a function of the seed: worth nothing outside of a simulation.
    #[cfg(feature = "testing")]
    pub fn seeded(cluster: &str, for_days: u32, seed: u64) -> Result<Self, TlsError> {
        Self::create_with(cluster, for_days, 0, Keys::Seeded(seed, Default::default()))
    }

    fn create_with(cluster: &str, for_days: u32, now_ms: u64, keys: Keys) -> Result<Self, TlsError> {
        if !is_cluster_name(cluster) {
            return Err(TlsError::Name { what: "cluster", name: cluster.into() });
        }
        let key = keys.next()?;
        let now_s = now_ms / 1_000;
        let certificate = params(cluster, now_s, for_days).self_signed(&key).map_err(refused)?;
        Ok(Self { cluster: cluster.into(), certificate_pem: certificate.pem(), key, now_s, keys })
    }

    /// Reads `ca.pem` and `ca.key` of `directory` and checks that they are this cluster's.
    pub fn read(directory: &Path, cluster: &str, now_ms: u64) -> Result<Self, TlsError> {
        let (certificate, key) = files(directory, "ca");
        let text = |path: &Path| {
            fs::read_to_string(path)
                .map_err(|error| TlsError::Read { file: path.display().to_string(), why: error.to_string() })
        };
        let certificate_pem = text(&certificate)?;
        let key = KeyPair::from_pem(&text(&key)?).map_err(|error| TlsError::Pem {
            file: key.display().to_string(),
            what: "private key",
            why: error.to_string(),
        })?;
        let now_s = now_ms / 1_000;
        let authority = Self { cluster: cluster.into(), certificate_pem, key, now_s, keys: Keys::Random };
        match authority.signs_what_it_believes()? {
            true => Ok(authority),
            false => Err(TlsError::OtherAuthority { file: certificate.display().to_string(), cluster: cluster.into() }),
        }
    }

    /// Writes `ca.pem` and, readable by the owner alone, `ca.key` into `directory`; refuses when one is there.
    pub fn write(&self, directory: &Path) -> Result<(PathBuf, PathBuf), TlsError> {
        let (certificate, key) = files(directory, "ca");
        make_directory(directory)?;
        if certificate.exists() {
            return Err(TlsError::AuthorityExists { file: certificate.display().to_string() });
        }
        write(&key, &self.key.serialize_pem(), 0o600, Over::Refuse)?;
        write(&certificate, &self.certificate_pem, 0o644, Over::Refuse)?;
        Ok((certificate, key))
    }

    /// The CA's certificate, as PEM.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The CA as it is believed.
    pub fn roots(&self) -> Result<Roots, TlsError> {
        Roots::from_pem(&self.certificate_pem)
    }

    /// Signs a node's certificate; `hosts` are names and IP addresses by which clients dial it, beside `localhost`.
    pub fn issue_node(&self, node: NodeId, hosts: &[String], for_days: u32) -> Result<Issued, TlsError> {
        let mut names = vec![Names::node_dns(&self.cluster, node)];
        for host in ["localhost", "127.0.0.1", "::1"].into_iter().chain(hosts.iter().map(String::as_str)) {
            let good = host.parse::<std::net::IpAddr>().is_ok() || ServerName::try_from(host).is_ok();
            if !good {
                return Err(TlsError::Host { host: host.into() });
            }
            if !names.iter().any(|name| name == host) {
                names.push(host.into());
            }
        }
        let usages = [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(&format!("node {node}"), names, Names::node_uri(&self.cluster, node), &usages, for_days)
    }

    /// Signs a client's certificate.
    pub fn issue_client(&self, client: &str, for_days: u32) -> Result<Issued, TlsError> {
        if !is_cluster_name(client) {
            return Err(TlsError::Name { what: "client", name: client.into() });
        }
        let uri = Names::client_uri(&self.cluster, client);
        self.issue(client, vec![], uri, &[ExtendedKeyUsagePurpose::ClientAuth], for_days)
    }

    fn issue(
        &self,
        common_name: &str,
        names: Vec<String>,
        uri: String,
        usages: &[ExtendedKeyUsagePurpose],
        for_days: u32,
    ) -> Result<Issued, TlsError> {
        let mut leaf = CertificateParams::new(names).map_err(refused)?;
        leaf.subject_alt_names.push(SanType::URI(uri.try_into().map_err(refused)?));
        leaf.distinguished_name.remove(DnType::CommonName);
        leaf.distinguished_name.push(DnType::CommonName, common_name);
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages = usages.to_vec();
        leaf.use_authority_key_identifier_extension = true;
        set_validity(&mut leaf, self.now_s, for_days);
        let key = self.keys.next()?;
        let ca = params(&self.cluster, self.now_s, FOR_DAYS_DEFAULT);
        let certificate = leaf.signed_by(&key, &Issuer::from_params(&ca, &self.key)).map_err(refused)?;
        Ok(Issued { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }

    /// Signs a certificate and asks the certificate of the CA about it: false when it has another name or key.
    fn signs_what_it_believes(&self) -> Result<bool, TlsError> {
        let issued = self.issue_node(NodeId(1), &[], 1)?;
        let leaf = CertificateDer::from_pem_slice(issued.certificate_pem.as_bytes())
            .map_err(|error| TlsError::Refused { why: error.to_string() })?;
        let name = ServerName::try_from(Names::node_dns(&self.cluster, NodeId(1)))
            .map_err(|_| TlsError::Name { what: "cluster", name: self.cluster.clone() })?;
        let verifier = WebPkiServerVerifier::builder_with_provider(self.roots()?.0, provider())
            .build()
            .map_err(|error| TlsError::Refused { why: error.to_string() })?;
        let now = UnixTime::since_unix_epoch(Duration::from_secs(self.now_s));
        Ok(verifier.verify_server_cert(&leaf, &[], &name, &[], now).is_ok())
    }
}

/// The CA's own certificate: its name is a function of the cluster's, so that the two files are enough to sign.
fn params(cluster: &str, now_s: u64, for_days: u32) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.remove(DnType::CommonName);
    params.distinguished_name.push(DnType::OrganizationName, "Highwater");
    params.distinguished_name.push(DnType::CommonName, format!("CA of {cluster}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_validity(&mut params, now_s, for_days);
    params
}

/// At most to the end of the year 9999, the last that a certificate can name (RFC 5280, 4.1.2.5).
fn set_validity(params: &mut CertificateParams, now_s: u64, for_days: u32) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let last = rcgen::date_time_ymd(9999, 12, 31);
    let left = u64::try_from((last - epoch).whole_days()).unwrap_or(0).saturating_sub(now_s / DAY_S);
    let days = u64::from(for_days).min(left);
    params.not_before = epoch + Duration::from_secs(now_s.saturating_sub(SKEW_S));
    params.not_after = (epoch + Duration::from_secs(now_s + days * DAY_S)).min(last);
}

fn refused(error: rcgen::Error) -> TlsError {
    TlsError::Refused { why: error.to_string() }
}

fn files(directory: &Path, stem: &str) -> (PathBuf, PathBuf) {
    (directory.join(format!("{stem}.pem")), directory.join(format!("{stem}.key")))
}

fn make_directory(directory: &Path) -> Result<(), TlsError> {
    fs::create_dir_all(directory).map_err(|error| cannot_write(directory, &error))
}

fn cannot_write(path: &Path, error: &io::Error) -> TlsError {
    TlsError::Write { file: path.display().to_string(), why: error.to_string() }
}

enum Over {
    Replace,
    Refuse,
}

/// The whole text or nothing: written beside, then renamed (or linked, which never replaces).
fn write(path: &Path, text: &str, mode: u32, over: Over) -> Result<(), TlsError> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    let written = (|| {
        let _ = fs::remove_file(&beside);
        let mut options = fs::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
        #[cfg(not(unix))]
        let _ = mode;
        let mut file = options.open(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        match over {
            Over::Replace => fs::rename(&beside, path),
            Over::Refuse => fs::hard_link(&beside, path).and_then(|()| fs::remove_file(&beside)),
        }
    })();
    written.map_err(|error| {
        let _ = fs::remove_file(&beside);
        match error.kind() {
            io::ErrorKind::AlreadyExists => TlsError::AuthorityExists { file: path.display().to_string() },
            _ => cannot_write(path, &error),
        }
    })
}
