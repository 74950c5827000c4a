use super::*;
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType, date_time_ymd,
};
use rustls::{
    ClientConnection, HandshakeKind, ServerConnection, pki_types::ServerName, server::ServerSessionMemoryCache,
};

/// A CA for tests.
pub(crate) struct Ca {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    pub(crate) fn new() -> Ca {
        let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Ca { pem, issuer: Issuer::new(params, key) }
    }

    /// The identity of a node; valid until the end of `until_year`.
    pub(crate) fn identity_until(&self, cluster: &str, node: u32, until_year: i32) -> Identity {
        let node = NodeId(node);
        let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let mut params = CertificateParams::new(vec![dns_name(cluster, node)]).unwrap();
        params.subject_alt_names.push(SanType::URI(uri_name(cluster, node).try_into().unwrap()));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(until_year, 12, 31);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Identity {
            cluster_name: cluster.into(),
            node,
            ca_pem: self.pem.clone().into(),
            cert_pem: certificate.pem().into(),
            key_pem: key.serialize_pem().into(),
        }
    }

    pub(crate) fn identity(&self, cluster: &str, node: u32) -> Identity {
        self.identity_until(cluster, node, 2999)
    }
}

fn refused(identity: &Identity) -> String {
    match identity.credentials(&Env::real()) {
        Ok(_) => "accepted".into(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn an_identity_is_checked_as_a_peer_would() {
    let (ca, other) = (Ca::new(), Ca::new());
    let good = ca.identity("prod", 1);
    assert_eq!(refused(&good), "accepted");
    let own = "peers will refuse this node's own certificate: ";
    let cases = [
        (
            Identity { ca_pem: other.pem.clone().into(), ..good.clone() },
            format!(
                "{own}the certificate of node 1 is signed by another CA: all nodes need the same ca.pem and certificates made with it"
            ),
        ),
        (
            Identity { node: NodeId(2), ..good.clone() },
            format!("{own}the certificate is for node 1, not for node 2: compare node ids, addresses and certificates"),
        ),
        (
            Identity { cluster_name: "test".into(), ..good.clone() },
            format!(
                "{own}the certificate is for cluster \"prod\", this is cluster \"test\": compare cluster.name and certificates"
            ),
        ),
        (
            Identity { cluster_name: "Prod".into(), ..good.clone() },
            "cluster name \"Prod\" must be 1 to 40 lower-case letters, digits or inner hyphens".into(),
        ),
    ];
    for (identity, expected) in cases {
        assert_eq!(refused(&identity), expected);
    }
    let expired = refused(&ca.identity_until("prod", 1, 2019));
    assert!(expired.starts_with(&format!("{own}the certificate of node 1 expired ")), "{expired}");
    let key = refused(&Identity { key_pem: ca.identity("prod", 1).key_pem, ..good.clone() });
    assert!(key.starts_with("certificate and private key do not fit"), "{key}");
    let none = refused(&Identity { cert_pem: b"nothing".to_vec(), ..good });
    assert!(none.contains("node's certificate is not usable PEM"), "{none}");
}

#[test]
fn names_are_read_from_certificates_and_reasons_from_wrapped_text() {
    let identity = Ca::new().identity("prod", 7);
    let certificate = CertificateDer::from_pem_slice(&identity.cert_pem).unwrap();
    assert_eq!(named(&certificate), Some(("prod".into(), NodeId(7))));
    let error = rustls::Error::from(NotTrusted::NoNode).to_string();
    assert_eq!(told(&error), NotTrusted::NoNode.to_string());
    assert_eq!(told("timed out"), "timed out");
}

/// Two handshakes in memory of the same two sides.
fn twice(client: &ClientConfig, server: &ServerConfig) -> [HandshakeKind; 2] {
    let name = ServerName::try_from(dns_name("prod", NodeId(2))).unwrap();
    let (client, server) = (Arc::new(client.clone()), Arc::new(server.clone()));
    [(), ()].map(|()| {
        let mut client = ClientConnection::new(client.clone(), name.clone()).unwrap();
        let mut server = ServerConnection::new(server.clone()).unwrap();
        for _ in 0..4 {
            let mut bytes = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut bytes).unwrap();
            }
            server.read_tls(&mut bytes.as_slice()).unwrap();
            server.process_new_packets().unwrap();
            let mut bytes = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut bytes).unwrap();
            }
            client.read_tls(&mut bytes.as_slice()).unwrap();
            client.process_new_packets().unwrap();
        }
        assert_eq!(client.handshake_kind(), server.handshake_kind());
        server.handshake_kind().unwrap()
    })
}

/// Each side refuses by itself: the other one may be of another make.
#[test]
fn no_session_is_resumed_and_nothing_is_said_early() {
    let ca = Ca::new();
    let credentials = |node| ca.identity("prod", node).credentials(&Env::real()).unwrap();
    let (client, server) = (credentials(1).client, credentials(2).server);
    let (mut resuming_client, mut resuming_server) = ((*client).clone(), (*server).clone());
    resuming_client.resumption = Resumption::in_memory_sessions(8);
    resuming_server.session_storage = ServerSessionMemoryCache::new(8);
    resuming_server.send_tls13_tickets = 2;
    let both_full = [HandshakeKind::Full, HandshakeKind::Full];
    assert_eq!(twice(&client, &server), both_full);
    assert_eq!(twice(&resuming_client, &server), both_full);
    assert_eq!(twice(&client, &resuming_server), both_full);
    assert_eq!(twice(&resuming_client, &resuming_server), [HandshakeKind::Full, HandshakeKind::Resumed]);
    assert!(!client.enable_early_data && server.max_early_data_size == 0);
}
