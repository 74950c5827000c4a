//! Bytes as they are on disks and wires out there.

use std::{env, fmt::Write as _, fs, path::Path};

/// Holds `bytes` against `tests/golden/<name>`: a difference is a new format and needs a new version.
/// `HIGHWATER_GOLDEN=write` writes the file.
///
/// # Panics
/// When they differ, or the file is not there.
pub fn golden(name: &str, bytes: &[u8]) {
    let mut text = String::new();
    for line in bytes.chunks(32) {
        line.iter().for_each(|byte| write!(text, "{byte:02x}").expect("a string takes all"));
        text.push('\n');
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(name);
    if env::var_os("HIGHWATER_GOLDEN").is_some_and(|v| v == "write") {
        fs::create_dir_all(path.parent().expect("it stands in a folder")).expect("the folder can be made");
        fs::write(&path, &text).expect("the file can be written");
    }
    let stored = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert_eq!(text, stored, "{name}: the format changed; it needs a new version");
}
