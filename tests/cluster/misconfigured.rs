//! Nodes that cannot start say why, and which line to change.

use crate::support::{self, BINARY, Cluster, Program};
use std::{
    fs,
    io::Read as _,
    net::{TcpListener, UdpSocket},
    process::{Command, Stdio},
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

#[test]
fn a_node_with_the_certificate_of_another_is_not_let_in() {
    let _turn = support::turn();
    let mut cluster = Cluster::three("");
    cluster.kill(3);
    let path = cluster.config_of(3);
    let good = fs::read_to_string(&path).unwrap();
    fs::write(&path, good.replace("node-3.pem", "node-2.pem").replace("node-3.key", "node-2.key")).unwrap();
    let from = cluster.log_of(1).len();
    cluster.start(3);
    let said = support::wait("the others say why", || {
        let said = [&cluster.log_of(3), &cluster.log_of(1)[from..]].concat();
        said.contains("certificate").then_some(said)
    });
    for line in said.lines().filter(|line| line.contains("certificate")).take(3) {
        eprintln!("another's certificate: {line}");
    }
    let heard = support::http(cluster.node(3).http, "/health/ready").map(|answer| answer.0);
    assert_ne!(heard, Some(200), "it is not part of the cluster");
    // With its own it is.
    cluster.kill(3);
    fs::write(&path, good).unwrap();
    cluster.start(3);
    cluster.ready();
}
