//! Spanheap's stacks where others want stacks: [corosensei](coroutines)'s coroutines and [wasmtime](wasm)'s fibers.
//!
//! Both keep a stack for as long as something runs on it, and then drop it, on whatever thread. A [`Stack`](spanheap::Stack)
//! goes back to its heap then, with its guard, and the next one that is wanted is taken from the thread's cache without
//! a system call. What the stacks cost stands in the books under their purpose.
//!
//! The crate is no member of the workspace: wasmtime takes minutes to build.

pub mod coroutines;
pub mod wasm;
