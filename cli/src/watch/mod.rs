//! Looking at the heaps of other processes.
//!
//! - [`target`]: a process that has a statistics page: finding it, reading it, giving it orders;
//! - [`maps`]: what the kernel says about a process's memory, mapping by mapping;
//! - [`waterfall`]: from what the program asked for to what the process has, and whose the rest is;
//! - [`show`]: `spanheap stats`, `spanheap explain` and `spanheap release`;
//! - [`top`]: the view in the terminal;
//! - [`serve`]: the page for the browser, and [`openmetrics`] for scrapers.

pub(crate) mod maps;
#[cfg(feature = "serve")]
pub(crate) mod openmetrics;
#[cfg(feature = "serve")]
pub(crate) mod serve;
pub(crate) mod show;
pub(crate) mod target;
#[cfg(feature = "top")]
pub(crate) mod top;
pub(crate) mod waterfall;
