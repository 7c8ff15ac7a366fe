//! Threads on stacks of a heap, and a handler for stacks that overflow.
//!
//! The standard library takes no stack from its caller, and neither does the core know the C library; so this is a crate
//! of its own. What it offers:
//!
//! - [`Builder`]: a thread like one of `std`'s whose stack stands in the books under a purpose, and is reused;
//! - [`overflow`]: a handler of `SIGSEGV` that says which stack of which purpose has overflowed, and then leaves the matter
//!   to whoever handled the signal before.
//!
//! ```
//! use spanheap::{Bytes, Config, Heap};
//! use std::sync::Arc;
//!
//! let heap = Arc::new(Heap::new(Config::default())?);
//! let workers = heap.declare_stacks("workers")?;
//! let thread = spanheap_thread::Builder::new(&heap, workers).stack_size(Bytes::kib(256)).spawn(|| 6 * 7)?;
//! assert!(workers.inuse() >= Bytes::kib(256));
//! assert_eq!(thread.join().unwrap(), 42);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod builder;
pub mod overflow;

pub use builder::{Builder, JoinHandle, reap};
