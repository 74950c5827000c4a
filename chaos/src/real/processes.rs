//! What this machine says of processes: which one is which node, and whether one does anything.

use std::{fs, path::PathBuf};

/// The process that has this UDP port open; any address of this machine will do.
pub(super) fn at_port(port: u16) -> Option<u32> {
    let tables = ["/proc/net/udp", "/proc/net/udp6"].map(|path| fs::read_to_string(path).unwrap_or_default());
    let sockets: Vec<PathBuf> = tables.iter().flat_map(|table| sockets(table, port)).collect();
    let pids = fs::read_dir("/proc").ok()?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.into_iter().find(|pid| {
        // Somebody else's process cannot be looked into, or killed.
        let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten();
        open.filter_map(|file| fs::read_link(file.ok()?.path()).ok()).any(|file| sockets.contains(&file))
    })
}

/// Whether no thread of a process runs, or will before it is told to: a stopped one may still be in a call that nothing interrupts.
pub(super) fn stand_still(pid: i32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().filter_map(Result::ok);
    threads.filter_map(|thread| fs::read_to_string(thread.path().join("stat")).ok()).all(|stat| {
        // `77 (name of (any) kind) S 1 …`
        let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
        matches!(state, Some('T' | 't' | 'D' | 'Z' | 'X') | None)
    })
}

/// Of lines such as `  12: 0100007F:1CFC 00000000:0000 07 00000000:00000000 00:00000000 00000000  0  0 424242 2 …`.
fn sockets(table: &str, port: u16) -> Vec<PathBuf> {
    let of = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (_, local) = words.get(1)?.rsplit_once(':')?;
        let is_it = u16::from_str_radix(local, 16).ok()? == port;
        is_it.then(|| words.get(9).map(|inode| format!("socket:[{inode}]").into()))?
    };
    table.lines().filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_runs_does_not_stand_still() {
        let pid = i32::try_from(std::process::id()).unwrap();
        assert!(!stand_still(pid));
    }

    #[test]
    fn a_port_is_somebodys() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        assert_eq!(at_port(port), Some(std::process::id()));
        drop(socket);
        assert_eq!(at_port(port), None);
    }
}
