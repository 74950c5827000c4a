use super::*;

fn file(name: &str) -> String {
    std::fs::read_to_string(format!("{}/config/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn problems(text: &str) -> String {
    Config::parse(text, "x.toml").unwrap_err().to_string()
}

/// `#key = value` (no space) shows a key without default.
fn with_optional_keys(text: &str) -> String {
    let shows_key =
        |line: &&str| line.strip_prefix('#').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase()));
    text.lines().map(|line| if shows_key(&line) { &line[1..] } else { line }.to_owned() + "\n").collect()
}

fn paths(table: &toml::Table, at: &str, into: &mut std::collections::BTreeSet<String>) {
    for (key, value) in table {
        let path = format!("{at}{key}");
        match value {
            toml::Value::Table(inner) => paths(inner, &format!("{path}."), into),
            toml::Value::Array(items) => {
                items
                    .iter()
                    .filter_map(toml::Value::as_table)
                    .for_each(|inner| paths(inner, &format!("{path}."), into));
            }
            _ => _ = into.insert(path),
        }
    }
}

#[test]
fn the_commented_file_is_the_default() {
    assert_eq!(Config::parse(&file("highwater.toml"), "highwater.toml"), Ok(of_an_empty_file()));
}

/// What is served is reached, what is embedded is not.
fn of_an_empty_file() -> Config {
    let listeners = Listeners::of_a_file();
    assert_eq!((listeners.0.len(), Config::default().listeners.0.len()), (2, 0));
    Config { listeners, ..Config::default() }
}

#[test]
fn the_commented_file_has_every_key() {
    let (mut shown, mut known) = Default::default();
    let text = with_optional_keys(&file("highwater.toml"));
    paths(&text.parse().unwrap(), "", &mut shown);
    paths(&toml::Table::try_from(Config::with_every_key()).unwrap(), "", &mut known);
    assert_eq!(shown, known);
    let refused = problems(&text);
    assert_eq!(
        refused.lines().filter(|line| line.contains("unknown") || line.contains("invalid")).count(),
        0,
        "{refused}"
    );
}

#[test]
fn the_ready_files_are_a_local_cluster() {
    for id in 1..=3 {
        let name = format!("node-{id}.toml");
        assert_eq!(Config::parse(&file(&name), &name), Ok(Config::local(id, 3)));
    }
}

#[test]
fn an_empty_file_is_the_default() {
    assert_eq!(Config::parse("", "x.toml"), Ok(of_an_empty_file()));
}

#[test]
fn what_is_written_reads_back() {
    let mut config = Config::local(2, 3);
    config.listeners.0[0].anonymous = true;
    config.retention.bytes = Keep(Some(1 << 40));
    config.retention.ms = Keep(None);
    assert_eq!(Config::parse(&config.to_toml(), "x.toml"), Ok(config));
    let config = Config::default();
    assert_eq!(Config::parse(&config.to_toml(), "x.toml"), Ok(config));
}

#[test]
fn unknown_keys_are_refused() {
    let said = problems(
        "nodes = 3\n[log]\nwal_fle_bytes = 3\nheartbeat_ms = 7\nzebra = 1\n[rafts]\nx = 1\n[cluster]\nseeds = [\n  { id = 1, peer = \"h:1\", \
         control = \"h:2\", adress = 1 },\n]\n[[listener]]\nkind = \"http\"\nbind = \"127.0.0.1:1\"\nadvertized = \"h:1\"",
    );
    insta::assert_snapshot!(said, @r"
    x.toml:1: 127.0.0.1:7421 is reachable from this machine only, but others are told h:1; bind 0.0.0.0:7421
    x.toml:1: 127.0.0.1:7422 is reachable from this machine only, but others are told h:2; bind 0.0.0.0:7422
    x.toml:1: unknown key `nodes` at the top; did you mean `node`?
    x.toml:3: unknown key `wal_fle_bytes` in [log]; did you mean `wal_file_bytes`?
    x.toml:4: unknown key `heartbeat_ms` in [log]; it belongs in [raft]
    x.toml:5: unknown key `zebra` in [log]; known are cache_bytes, free_bytes_min, segment_bytes, tail_bytes, wal_file_bytes, wal_files_max
    x.toml:6: unknown key `rafts` at the top; did you mean `raft`?
    x.toml:10: unknown key `adress` in [cluster.seeds]; known are control, id, peer
    x.toml:15: unknown key `advertized` in [listener]; did you mean `advertised`?
    ");
}

#[test]
fn an_unknown_key_may_be_a_number() {
    let said = problems("7 = 1\n[node]\n7 = 1\n");
    assert!(said.contains("x.toml:1: unknown key `7` at the top"), "{said}");
    assert!(said.contains("x.toml:3: unknown key `7` in [node]; known are"), "{said}");
}

#[test]
fn all_problems_of_a_file_are_said_at_once() {
    let said = problems(
        r#"
[cluster]
name = "Köln"
seeds = [
  { id = 1, peer = "10.0.0.1:7421", control = "10.0.0.1:7422" },
  { id = 1, peer = "10.0.0.1:7421", control = "10.0.0.2:7422" },
]
home_groups = 0
[node]
id = 70000
peer_bind = "0.0.0.0:7421"
control_bind = "127.0.0.1:7420"
[[listener]]
kind = "native"
bind = "0.0.0.0:7420"
[[listener]]
kind = "http"
bind = "192.168.1.1:7423"
[[listener]]
kind = "kafka"
bind = "127.0.0.1:9092"
[[listener]]
kind = "http"
bind = "0.0.0.0:7423"
anonymous = true
client_certificates = true
[log]
segment_bytes = 5
[raft]
heartbeat_ms = 400
[retention]
bytes = 1
"#,
    );
    insta::assert_snapshot!(said, @r#"
    x.toml:3: "Köln" cannot name a cluster; use 1 to 40 of a-z, 0-9 and '-' (not at its ends): certificates carry it
    x.toml:6: 10.0.0.1:7421 is there twice; each seed has its own two addresses
    x.toml:6: seed 1 is there twice; each node has its own id
    x.toml:8: home_groups is between 1 and 16
    x.toml:10: 70000 cannot be a node's id; ids are from 1 to 65535
    x.toml:11: 0.0.0.0:7421 listens everywhere and this node is no seed: say in peer_advertised where others reach it
    x.toml:15: 0.0.0.0:7420 is open to the network: bind 127.0.0.1, ask for client_certificates = true, or let everybody in by anonymous = true
    x.toml:15: 0.0.0.0:7420 listens everywhere: say in advertised which address clients connect to
    x.toml:15: UDP port 7420 is already taken by node.control_bind
    x.toml:18: 192.168.1.1:7423 is open to the network: bind 127.0.0.1, or let everybody in by anonymous = true
    x.toml:20: this version does not serve Kafka's protocol; use kind = "native" or "http"
    x.toml:24: TCP port 7423 is already taken by listener.1.bind
    x.toml:25: anonymous and client_certificates exclude each other; choose one
    x.toml:26: an http listener has no TLS; bind it to loopback, or allow anonymous = true
    x.toml:28: 5 is not between 1048576 and 17179869184: a segment holds the largest batch
    x.toml:29: suspicion_ms must be at least twice heartbeat_ms (400), else one lost packet is a death
    x.toml:32: 1 is not between 5 and 18446744073709551615: retention removes whole segments (log.segment_bytes)
    "#);
}

#[test]
fn wrong_types_and_syntax_have_their_line() {
    let said = [
        problems("[node]\n\nid = \"one\""),
        problems("[node]\nid = -1"),
        problems("[node]\npeer_bind = \"localhost:7421\""),
        problems("[[listener]]\nkind = \"nativ\"\nbind = \"127.0.0.1:1\""),
        problems("[[listener]]\nkind = \"native\""),
        problems("[node]\npeer_advertised = \"host\""),
        problems("[node]\npeer_advertised = \"host:0\""),
        problems("[node]\npeer_advertised = \"a b:1\""),
        problems("[node]\nid = 1\nid = 2\n[log\nx = 1"),
        problems("[cluster]\nseeds = [{ id = 1 }]"),
        Config::load("no/such/file.toml".as_ref()).unwrap_err().to_string(),
    ];
    insta::assert_snapshot!(said.join("\n"), @r#"
    x.toml:3: invalid type: string "one", expected u32
    x.toml:2: invalid value: integer `-1`, expected u32
    x.toml:2: invalid socket address syntax; write it as "127.0.0.1:7420", with an IP address
    x.toml:2: unknown variant `nativ`, expected one of `native`, `http`, `kafka`
    x.toml:1: missing field `bind`
    x.toml:2: "host" is not an address (it has no port); write it as "host:port"
    x.toml:2: "host:0" is not an address (nobody can connect to port 0); write it as "host:port"
    x.toml:2: "a b:1" is not an address (its host has a character that no name or IP address has; IPv6 goes into brackets); write it as "host:port"
    x.toml:3: duplicate key
    x.toml:4: unclosed table, expected `]`
    x.toml:2: missing field `peer`
    no/such/file.toml: cannot be read: No such file or directory (os error 2); name an existing file, or copy one from config/
    "#);
}

#[test]
fn open_listeners_say_whom_they_let_in() {
    let listener = |more: &str| {
        Config::parse(&format!("[[listener]]\nkind = \"native\"\nbind = \"0.0.0.0:7420\"\n{more}"), "x.toml")
    };
    assert!(listener("advertised = \"h:1\"").is_err());
    assert!(listener("anonymous = true").is_err());
    assert!(listener("advertised = \"h:1\"\nanonymous = true").is_ok());
    assert!(listener("advertised = \"h:1\"\nclient_certificates = true").is_ok());
}

#[test]
fn addresses_print_as_they_parse() {
    for text in ["localhost:1", "10.0.0.1:7421", "[::1]:7421", "broker-1.example.org:65535"] {
        assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
    }
    for bad in ["", ":1", "h", "h:", "h:0", "h:65536", "::1:80", "[h]:1", "a b:1", "h:1:2", "h/x:1"] {
        assert!(bad.parse::<Address>().is_err(), "{bad}");
    }
    assert!("[::1]:1".parse::<Address>().unwrap().is_loopback());
    assert!(!"10.0.0.1:1".parse::<Address>().unwrap().is_loopback());
}

#[test]
fn the_digest_is_of_the_cluster_alone() {
    let digest = |change: fn(&mut Config)| {
        let mut config = Config::local(1, 3);
        change(&mut config);
        config.cluster.digest()
    };
    let same = digest(|_| ());
    assert_eq!(same, Config::local(3, 3).cluster.digest());
    assert_eq!(same, digest(|c| c.cluster.seeds.reverse()));
    // Stored and sent between versions: it may only change together with its leading version number.
    assert_eq!(format!("{same:016x}"), "fb289f62f9f94185");
    for other in [
        digest(|c| c.cluster.name.push('x')),
        digest(|c| c.cluster.home_groups = 4),
        digest(|c| c.cluster.seeds[1].id = NodeId(9)),
        digest(|c| _ = c.cluster.seeds.pop()),
        digest(|c| c.cluster.seeds[2].control = "h:1".parse().unwrap()),
    ] {
        assert_ne!(same, other);
    }
}

#[test]
fn a_node_tells_its_peers_where_it_is() {
    let mut config = Config::local(2, 3);
    assert_eq!(config.advertised_to_peers().0.to_string(), "127.0.0.1:7431");
    config.cluster.seeds[1].peer = "ten:7431".parse().unwrap();
    assert_eq!(config.advertised_to_peers().0.to_string(), "ten:7431");
    config.node.id = NodeId(7);
    assert_eq!(config.advertised_to_peers().1.to_string(), "127.0.0.1:7432");
    config.node.control_advertised = Some("seven:1".parse().unwrap());
    assert_eq!(config.advertised_to_peers().1.to_string(), "seven:1");
}
