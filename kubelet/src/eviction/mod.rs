//! Which pods have to go when the node runs short of memory, disk or process ids, and why.
