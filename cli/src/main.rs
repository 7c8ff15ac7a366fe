//! The `spanheap` command.

fn main() {}
