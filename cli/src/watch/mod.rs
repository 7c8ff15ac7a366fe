//! Looking at the heaps of other processes.
//!
//! - [`target`]: a process that has a statistics page: finding it, reading it, giving it orders;
//! - [`maps`]: what the kernel says about a process's memory, mapping by mapping;
//! - [`waterfall`]: from what the program asked for to what the process has, and whose the rest is;
//! - [`show`]: `spanheap stats`, `spanheap explain` and `spanheap release`.

pub(crate) mod maps;
pub(crate) mod show;
pub(crate) mod target;
pub(crate) mod waterfall;
