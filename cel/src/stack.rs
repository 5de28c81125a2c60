//! Room for recursion. Expressions may be nested as deeply as cel-go's, deeper than a small stack holds: what is nested deeply is
//! looked at on a thread of its own that has room, everything else where it is.

use std::thread;

/// Levels for which any stack has room.
const SHALLOW: usize = 40;
/// Bytes of the stack for deeper ones; only what is used is taken.
const STACK_BYTES: usize = 256 << 20;

/// Calls a function that recurses so deeply; none if there is no thread to be had for it.
pub(crate) fn with_room<T: Send>(depth: usize, call: impl FnOnce() -> T + Send) -> Option<T> {
    if depth <= SHALLOW {
        return Some(call());
    }
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("deep expression".to_owned()).stack_size(STACK_BYTES).spawn_scoped(scope, call);
        thread.ok()?.join().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deep_recursion_has_room() {
        fn down(depth: usize) -> usize {
            let page = std::hint::black_box([depth; 1024]);
            if depth == 0 { 0 } else { down(depth - 1) + usize::from(page[7] == depth) }
        }
        assert_eq!(with_room(10_000, || down(10_000)), Some(10_000));
    }
}
