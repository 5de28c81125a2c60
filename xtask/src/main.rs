//! Checks and fixes of the repository.
fn main() {}
