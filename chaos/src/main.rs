//! The `highwater-chaos` command.
fn main() {}
