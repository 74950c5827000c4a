//! Bytes as they are on disks and wires out there.

use std::{env, fmt::Write as _, fs, path::Path};

/// Holds `bytes` against `tests/golden/<name>`, see [`golden_text`].
///
/// # Panics
/// When they differ, or the file is not there.
pub fn golden(name: &str, bytes: &[u8]) {
    golden_text(name, &hex(bytes));
}

/// Holds `text` against `tests/golden/<name>`: a difference is a new format, which needs a new version and so a file of
/// another name. `HIGHWATER_GOLDEN=write` writes files that are missing and leaves those that are there.
///
/// # Panics
/// When they differ, or the file is not there.
pub fn golden_text(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(name);
    if env::var_os("HIGHWATER_GOLDEN").is_some_and(|v| v == "write") && !path.exists() {
        fs::create_dir_all(path.parent().expect("it stands in a folder")).expect("the folder can be made");
        fs::write(&path, text).expect("the file can be written");
    }
    let stored = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert_eq!(text, stored, "{name}: the format changed; it needs a new version");
}

/// Bytes as golden files have them: 32 to a line.
pub fn hex(bytes: &[u8]) -> String {
    bytes.chunks(32).fold(String::new(), |mut text, line| {
        line.iter().for_each(|byte| write!(text, "{byte:02x}").expect("a string takes all"));
        text.push('\n');
        text
    })
}
