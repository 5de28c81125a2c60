//! Empty. Depending on this crate gives every crate of the workspace the same features of its dependencies, so that building one
//! crate alone and building them all share one build of everything below them.
