//! Nodes that cannot start say why, and which line to change; peers that are not who they say are told so.

use crate::support::{self, BINARY, Cluster, Program, topic};
use highwater::client::Record;
use highwater_raft::{
    NodeId,
    env::Env,
    transport::tls::{Identity, dns_name},
};
use quinn::crypto::rustls::QuicClientConfig;
use std::{
    fs,
    io::Read as _,
    net::{TcpListener, UdpSocket},
    process::{Command, Stdio},
    sync::Arc,
};

/// Runs `serve`, which must end by itself with 1; gives what it said.
fn serve(cluster: &Cluster, name: &str, text: &str) -> String {
    let path = cluster.dir.path().join(format!("{name}.toml"));
    fs::write(&path, text).unwrap();
    let mut command = Command::new(BINARY);
    command.arg("serve").arg("--config").arg(&path).current_dir(cluster.dir.path());
    let mut program =
        Program(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap());
    let status = program.ended(name);
    let mut said = String::new();
    program.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(status.code(), Some(1), "{name}: {said}");
    assert!(!said.contains("panicked"), "{name}: {said}");
    said
}

#[test]
fn a_node_that_cannot_start_says_why() {
    let _turn = support::turn();
    let cluster = Cluster::one("");
    let good = fs::read_to_string(cluster.config_of(1)).unwrap();
    cluster.run(&["cert", "node", "--node", "2"]);
    let ports = support::free_ports(1);
    // Elsewhere, so that only what is planted is wrong.
    let other = support::config(1, &ports, 1).replace("highwater-data/node-1", "other-data");
    let port = |offset: u16| format!("127.0.0.1:{}", ports[0] + offset);
    let cases = [
        ("unknown-key", other.replace("data_dir", "data_dri"), &["data_dri", "data_dir", ".toml:"][..]),
        ("unknown-table", other.clone() + "\n[pool]\nproduce_bytes = 1\n", &["pool", "pools"]),
        ("bad-value", other.replace("id = 1\n", "id = 0\n"), &["id"]),
        ("no-toml", "[cluster\n".into(), &[".toml:1"]),
        ("long-name", other.replace("name = \"highwater\"", &format!("name = \"{}\"", "x".repeat(41))), &["1 to 40"]),
        ("no-certificate", other.replace("node-1.pem", "nowhere.pem"), &["nowhere.pem", "files of [tls]"]),
        (
            "others-certificate",
            other.replace("certs/node-1.", "certs/node-2."),
            &["for node 2, not for node 1", "`node.id`"],
        ),
    ];
    for (name, text, expected) in &cases {
        let said = serve(&cluster, name, text);
        eprintln!("{name}: {}", said.trim());
        for word in *expected {
            assert!(said.contains(word), "{name}: {word:?} is not in {said}");
        }
    }
    // Each of the four addresses, taken by somebody else.
    for (name, offset) in [("native-in-use", 0), ("peer-in-use", 1), ("control-in-use", 2)] {
        let _taken = UdpSocket::bind(port(offset)).unwrap();
        let said = serve(&cluster, name, &other);
        eprintln!("{name}: {}", said.trim());
        assert!(said.contains(&port(offset)) && said.contains("in use"), "{name}: {said}");
    }
    let taken = TcpListener::bind(port(3)).unwrap();
    let said = serve(&cluster, "http-in-use", &other);
    assert!(said.contains(&port(3)) && said.contains("in use"), "{said}");
    drop(taken);
    // Directories: below a file, and one that another node has.
    fs::write(cluster.dir.path().join("file"), "").unwrap();
    let said = serve(&cluster, "no-directory", &other.replace("other-data", "file/data"));
    eprintln!("no-directory: {}", said.trim());
    assert!(said.contains("file/data"), "{said}");
    let said = serve(&cluster, "directory-in-use", &other.replace("other-data", "highwater-data/node-1"));
    eprintln!("directory-in-use: {}", said.trim());
    assert!(said.contains("highwater-data/node-1"), "{said}");
    let said = serve(&cluster, "no-right", &other.replace("other-data", "/proc/other-data"));
    eprintln!("no-right: {}", said.trim());
    assert!(said.contains("/proc/other-data"), "{said}");
    // The node whose things were wanted lives.
    assert_eq!(support::http(cluster.node(1).http, "/health/ready").map(|answer| answer.0), Some(200));
    assert!(good.contains("127.0.0.1"));
}

/// The first words of a peer on a connection.
#[derive(serde::Serialize)]
struct Hello {
    v: u16,
    c: &'static str,
    n: u32,
    b: u64,
    l: u8,
    a: &'static str,
    k: &'static str,
}

const CONTROL: (u16, u8) = (2, 0);
const DATA: (u16, u8) = (1, 1);

/// Dials a peer port of node 1 with the certificate of node 2, and says to be `node`. `Err` is why node 1 closed the connection.
async fn hello(cluster: &Cluster, (port, lane): (u16, u8), node: u32) -> Result<(), String> {
    let read = |name: &str| fs::read(cluster.dir.path().join("highwater-certs").join(name)).unwrap();
    let (ca_pem, cert_pem, key_pem) = (read("ca.pem"), read("node-2.pem"), read("node-2.key"));
    let cluster_name = "highwater";
    let identity = Identity { cluster_name: cluster_name.into(), node: NodeId(2), ca_pem, cert_pem, key_pem };
    let tls = identity.credentials(&Env::real()).unwrap().client;
    let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    let mut address = cluster.node(1).native;
    address.set_port(address.port() + port);
    let endpoint = quinn::Endpoint::client(([127, 0, 0, 1], 0).into()).unwrap();
    let dialled = endpoint.connect_with(config, address, &dns_name(cluster_name, NodeId(1))).unwrap();
    let connection = dialled.await.expect("the certificate is good");
    let said = Hello { v: 1, c: cluster_name, n: node, b: 7, l: lane, a: "", k: "" };
    let said = rmp_serde::to_vec_named(&said).unwrap();
    let length = u32::try_from(said.len()).unwrap().to_le_bytes();
    let (mut send, mut receive) = connection.open_bi().await.unwrap();
    send.write_all(&[&length[..], &said].concat()).await.unwrap();
    let answer = tokio::time::timeout(support::SOON, receive.read_exact(&mut [0; 4])).await.expect("it answers");
    if answer.is_ok() {
        return Ok(());
    }
    match connection.closed().await {
        quinn::ConnectionError::ApplicationClosed(close) => Err(String::from_utf8_lossy(&close.reason).into()),
        other => panic!("{other}"),
    }
}

#[test]
fn a_peer_that_claims_another_id_than_its_certificate_is_told_so() {
    let _turn = support::turn();
    let cluster = Cluster::one("");
    cluster.run(&["cert", "node", "--node", "2"]);
    let runtime = support::runtime();
    let name = topic("orders");
    runtime.block_on(async {
        let client = cluster.client().await;
        support::create(&client, &name, 1).await;
        for port in [DATA, CONTROL] {
            for claimed in [1, 3, 9] {
                let why = hello(&cluster, port, claimed).await.expect_err("it is not let in");
                eprintln!("node 2 as node {claimed}: {why}");
                let expected = format!("HELLO says node {claimed}, the certificate node 2");
                assert!(why.contains(&expected) && why.contains("compare node.id"), "{why}");
            }
            assert_eq!(hello(&cluster, port, 2).await, Ok(()), "the same words with its own id");
        }
        // The node goes on.
        let record = Record::new(name.clone(), "after").partition(0);
        client.producer().build().send(record).await.unwrap().await.unwrap();
    });
    assert_eq!(support::http(cluster.node(1).http, "/health/ready").map(|answer| answer.0), Some(200));
    assert!(!cluster.log_of(1).contains("panicked"), "{}", cluster.log_of(1));
}
