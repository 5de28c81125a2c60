//! Ten thousand Services with a hundred thousand endpoints: how long all rules take, and how long one change. Run with
//! `cargo test -p kube-proxy --release --test netns -- --ignored --nocapture`.
