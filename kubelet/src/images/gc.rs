//! Which images to remove when the disk is full: those that are not used, the longest unused first.
