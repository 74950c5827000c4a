//! The only place that names openraft.
