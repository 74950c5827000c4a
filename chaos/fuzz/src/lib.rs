//! What all shells share: the body of a target, looked up once.

use highwater::testing::fuzz;
use std::sync::OnceLock;

/// Runs the body of this process's target.
pub fn run(name: &str, data: &[u8]) {
    static TARGET: OnceLock<fuzz::Target> = OnceLock::new();
    (TARGET.get_or_init(|| fuzz::target(name)).run)(data);
}
