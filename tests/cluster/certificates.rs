//! A listener that lets in only who shows a certificate, and the command line in front of it.

use crate::support::{self, Cluster};
use std::fs;

#[test]
fn a_client_shows_its_certificate_where_one_is_asked_for() {
    let _turn = support::turn();
    let mut cluster = Cluster::prepared(1, "");
    let path = cluster.config_of(1);
    let text = fs::read_to_string(&path).unwrap();
    let asks = text.replacen("kind = \"native\"\n", "kind = \"native\"\nclient_certificates = true\n", 1);
    assert_ne!(asks, text);
    fs::write(&path, asks).unwrap();
    cluster.run(&["cert", "client", "--name", "billing"]);
    cluster.start(1);
    cluster.ready();

    let refused = |words: &[&str]| {
        let output = cluster.try_run(words);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        eprintln!("{words:?}: {}", said.trim());
        said
    };
    let said = refused(&["topic", "list"]);
    assert!(said.contains("--certificate FILE --key FILE") && said.contains("cert client"), "{said}");
    let (certificate, key) = ("highwater-certs/client-billing.pem", "highwater-certs/client-billing.key");
    assert!(refused(&["topic", "list", "--certificate", certificate]).contains("add --key"));
    assert!(refused(&["topic", "list", "--key", key]).contains("add --certificate"));

    cluster.run(&["--certificate", certificate, "--key", key, "topic", "create", "orders"]);
    let by_environment = cluster
        .command(&["topic", "list"])
        .env("HIGHWATER_CERTIFICATE", certificate)
        .env("HIGHWATER_KEY", key)
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&by_environment.stdout).contains("orders"), "{by_environment:?}");
}
