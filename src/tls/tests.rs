use super::*;
use crate::types::NodeId;
use rustls::{
    ClientConnection, HandshakeKind, ServerConnection, client::Resumption, pki_types::ServerName,
    server::ServerSessionMemoryCache,
};
use std::time::SystemTime;

#[allow(clippy::disallowed_methods, reason = "rustls compares certificates with the real clock")]
fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    u64::try_from(since.as_millis()).unwrap()
}

fn authority(cluster: &str) -> Authority {
    Authority::create(cluster, 10, now_ms()).unwrap()
}

/// Runs a handshake in memory; the first side that refuses says why.
fn handshake(server: ServerConfig, client: ClientConfig, dialled: &str) -> Result<(), String> {
    handshake_kind(server, client, dialled).map(|_| ())
}

fn handshake_kind(server: ServerConfig, client: ClientConfig, dialled: &str) -> Result<HandshakeKind, String> {
    let name = ServerName::try_from(dialled.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
    let mut server = ServerConnection::new(Arc::new(server)).unwrap();
    for _ in 0..4 {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        server.read_tls(&mut bytes.as_slice()).unwrap();
        server.process_new_packets().map_err(|error| format!("server: {error}"))?;
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        client.read_tls(&mut bytes.as_slice()).unwrap();
        client.process_new_packets().map_err(|error| format!("client: {error}"))?;
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    assert_eq!(client.alpn_protocol(), Some(ALPN_NATIVE));
    Ok(client.handshake_kind().unwrap())
}

fn server(ca: &Authority, clients: ClientCertificates) -> ServerConfig {
    let issued = ca.issue_node(NodeId(2), &["broker.example.org".into(), "10.1.2.3".into()], 5).unwrap();
    server_config(&issued.identity().unwrap(), &ca.roots().unwrap(), clients).unwrap()
}

#[test]
fn a_node_is_believed_under_its_names() {
    let ca = authority("orders");
    for name in ["node-2.orders.highwater", "localhost", "127.0.0.1", "::1", "broker.example.org", "10.1.2.3"] {
        let client = client_config(&ca.roots().unwrap(), None).unwrap();
        assert_eq!(handshake(server(&ca, ClientCertificates::Ignored), client, name), Ok(()), "{name}");
    }
}

#[test]
fn refusals_say_which() {
    let ca = authority("orders");
    let client = || client_config(&ca.roots().unwrap(), None).unwrap();
    let open = |ca: &Authority| server(ca, ClientCertificates::Ignored);
    let expired = Authority::create("orders", 20, now_ms() - 15 * 86_400_000).unwrap();
    let closed = server(&ca, ClientCertificates::Required);
    let stranger = authority("orders").issue_client("shop", 5).unwrap().identity().unwrap();
    let said = [
        handshake(open(&authority("orders")), client(), "localhost").unwrap_err(),
        handshake(open(&ca), client(), "node-3.orders.highwater").unwrap_err(),
        handshake(open(&expired), client_config(&expired.roots().unwrap(), None).unwrap(), "localhost")
            .unwrap_err()
            .split(':')
            .take(3)
            .collect(),
        handshake(closed.clone(), client(), "localhost").unwrap_err(),
        handshake(closed, client_config(&ca.roots().unwrap(), Some(&stranger)).unwrap(), "localhost").unwrap_err(),
    ];
    insta::assert_snapshot!(said.join("\n"), @r#"
    client: invalid peer certificate: BadSignature
    client: invalid peer certificate: certificate not valid for name "node-3.orders.highwater"; certificate is only valid for DnsName("node-2.orders.highwater"), DnsName("localhost"), IpAddress(127.0.0.1), IpAddress(0::1), DnsName("broker.example.org"), IpAddress(10.1.2.3) or UniformResourceIdentifier("highwater://orders/node/2")
    client invalid peer certificate certificate expired
    server: peer sent no certificates
    server: invalid peer certificate: BadSignature
    "#);
}

#[test]
fn clients_and_nodes_may_show_certificates() {
    let ca = authority("orders");
    for issued in [ca.issue_client("shop", 5).unwrap(), ca.issue_node(NodeId(1), &[], 5).unwrap()] {
        let client = client_config(&ca.roots().unwrap(), Some(&issued.identity().unwrap())).unwrap();
        assert_eq!(handshake(server(&ca, ClientCertificates::Required), client, "localhost"), Ok(()));
    }
}

/// Each side refuses by itself: the other one may be of another make.
#[test]
fn no_session_is_resumed_and_nothing_is_said_early() {
    let ca = authority("orders");
    let shop = ca.issue_client("shop", 5).unwrap().identity().unwrap();
    for (clients, identity) in [(ClientCertificates::Ignored, None), (ClientCertificates::Required, Some(&shop))] {
        let client = client_config(&ca.roots().unwrap(), identity).unwrap();
        let server = server(&ca, clients);
        let (mut resuming_client, mut resuming_server) = (client.clone(), server.clone());
        resuming_client.resumption = Resumption::in_memory_sessions(8);
        resuming_server.session_storage = ServerSessionMemoryCache::new(8);
        resuming_server.send_tls13_tickets = 2;
        let twice = |server: &ServerConfig, client: &ClientConfig| {
            [(), ()].map(|()| handshake_kind(server.clone(), client.clone(), "localhost").unwrap())
        };
        let both_full = [HandshakeKind::Full, HandshakeKind::Full];
        assert_eq!(twice(&server, &client), both_full);
        assert_eq!(twice(&server, &resuming_client), both_full);
        assert_eq!(twice(&resuming_server, &client), both_full);
        assert_eq!(twice(&resuming_server, &resuming_client), [HandshakeKind::Full, HandshakeKind::Resumed]);
        assert!(!client.enable_early_data && server.max_early_data_size == 0);
    }
}

#[test]
fn a_clients_certificate_is_no_servers() {
    let ca = authority("orders");
    let identity = ca.issue_client("shop", 5).unwrap().identity().unwrap();
    let server = server_config(&identity, &ca.roots().unwrap(), ClientCertificates::Ignored).unwrap();
    assert!(handshake(server, client_config(&ca.roots().unwrap(), None).unwrap(), "localhost").is_err());
}

#[test]
fn files_are_private_and_a_ca_is_never_overwritten() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path().join("certs");
    let ca = authority("orders");
    let (certificate, key) = ca.write(&at).unwrap();
    let before = std::fs::read(&key).unwrap();
    let other = authority("orders");
    assert_eq!(other.write(&at), Err(TlsError::AuthorityExists { file: certificate.display().to_string() }));
    std::fs::remove_file(&certificate).unwrap();
    assert_eq!(other.write(&at), Err(TlsError::AuthorityExists { file: key.display().to_string() }));
    assert_eq!(std::fs::read(&key).unwrap(), before);
    std::fs::write(&certificate, ca.certificate_pem()).unwrap();

    let read = Authority::read(&at, "orders", now_ms()).unwrap();
    let issued = read.issue_node(NodeId(1), &[], 5).unwrap();
    let (certificate, node_key) = issued.write(&at, "node-1").unwrap();
    issued.write(&at, "node-1").unwrap();
    let identity = Identity::read(&certificate, &node_key).unwrap();
    let server = server_config(&identity, &read.roots().unwrap(), ClientCertificates::Ignored).unwrap();
    let client = client_config(&Roots::read(&at.join("ca.pem")).unwrap(), None).unwrap();
    assert_eq!(handshake(server, client, "localhost"), Ok(()));
    #[cfg(unix)]
    for path in [&key, &node_key] {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let mut names: Vec<_> =
        std::fs::read_dir(&at).unwrap().map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["ca.key", "ca.pem", "node-1.key", "node-1.pem"]);
}

#[test]
fn another_clusters_authority_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let (certificate, key) = authority("orders").write(directory.path()).unwrap();
    let refused = |cluster| Authority::read(directory.path(), cluster, now_ms()).err().unwrap();
    let other =
        |cluster: &str| TlsError::OtherAuthority { file: certificate.display().to_string(), cluster: cluster.into() };
    assert_eq!(refused("payments"), other("payments"));
    let elsewhere = tempfile::tempdir().unwrap();
    let (_, strange) = authority("orders").write(elsewhere.path()).unwrap();
    std::fs::copy(strange, key).unwrap();
    assert_eq!(refused("orders"), other("orders"));
}

#[test]
fn bad_names_files_and_pairs_are_refused() {
    for name in ["", "A", "a.b", "-a", "a-", &"x".repeat(41), "ä"] {
        assert!(Authority::create(name, 1, 0).is_err(), "{name:?}");
    }
    assert!(Authority::create(&"x".repeat(40), 1, 0).is_ok());
    let ca = authority("orders");
    for host in ["", "a b", "h:1", "[::1]"] {
        assert!(matches!(ca.issue_node(NodeId(1), &[host.into()], 1), Err(TlsError::Host { .. })), "{host:?}");
    }
    assert!(matches!(Roots::from_pem("no PEM"), Err(TlsError::Pem { what: "certificate", .. })));
    let (a, b) = (ca.issue_node(NodeId(1), &[], 1).unwrap(), ca.issue_node(NodeId(1), &[], 1).unwrap());
    assert!(matches!(Identity::from_pem(&a.certificate_pem, &a.certificate_pem), Err(TlsError::Pem { .. })));
    let mixed = Identity::from_pem(&a.certificate_pem, &b.key_pem).unwrap();
    let refused = server_config(&mixed, &ca.roots().unwrap(), ClientCertificates::Ignored).unwrap_err();
    assert!(matches!(refused, TlsError::Refused { .. }), "{refused}");
    let missing = Identity::read("no/such.pem".as_ref(), "no/such.key".as_ref()).unwrap_err();
    assert!(matches!(missing, TlsError::Read { .. }));
}
