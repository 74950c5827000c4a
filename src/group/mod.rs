//! Consumer groups: members, assignment and offsets, at each group's home.

pub mod machine;
