//! The library of the Boehm-Demers-Weiser collector, on Spanheap: programs that were built for `libgc.so.1` load this
//! one in its place, unmodified.
//!
//! ```text
//!   program ─▶ GC_malloc ─▶ thread's cache ─▶ object             alloc: no lock, no call, no count
//!                                │ none
//!                                ▼
//!                  time for a collection? ──▶ cycle ─▶ stop ─▶ roots, kinds, finalize ─▶ go on
//!                                │ no
//!                                ▼
//!                  swept slots, or a fresh span                  rooms `object` and `gc` of the core
//! ```
//!
//! One file a family of calls:
//!
//! - [`alloc`] allocates and frees, [`shapes`] by alignment and kind; [`kinds`] and [`typed`] have what the collector
//!   must know of an object's inside;
//! - [`cycle`] is a collection, [`pace`] when there is one, [`mark`] who marks, [`concurrent`] how that is done while the
//!   program runs;
//! - [`roots`] finds the program's data, [`threads`] knows its threads and their stacks, [`stop`] stops them;
//! - [`finalize`] has finalizers and [`links`] what disappears;
//! - [`settings`], [`hints`] and [`stats`] are what programs set and ask, [`events`] what they are told;
//! - [`toggle`] has references that are sometimes weak, [`debug`] the calls of programs compiled with `GC_DEBUG`,
//!   and [`verify`] looks for faults of ours;
//! - [`pthreads`] stands before the C library's functions of the same name, [`fork`] before and after a `fork`.
//!
//! Below them are [`heap`], the parts that all share, and [`tls`], a thread's words.
//!
//! 1. A thread that touches shared state of the heap is *inside* ([`tls::Inside`]): it is not stopped there, but as it
//!    leaves. So a collector never waits for a lock that a stopped thread holds.
//! 2. Nobody inside waits for the allocation lock ([`heap::lock`]), calls the program, or calls the C library's
//!    allocator.
//! 3. The world is stopped by the holder of the allocation lock, and goes on before the lock is free.
//! 4. Programs' callbacks run without Rust values on the stack that would have to be dropped: they may jump past us.
//!
//! # Safety
//! Functions are called by programs that keep the contract of the collector's headers. What they promise there is not
//! repeated at every function.

#![allow(clippy::missing_safety_doc, reason = "the contract is the collector's public one: the headers")]

pub mod alloc;
mod concurrent;
pub mod cycle;
pub mod debug;
pub mod events;
pub mod finalize;
pub mod fork;
pub mod heap;
pub mod hints;
pub mod kinds;
pub mod links;
mod map;
pub mod mark;
pub mod pace;
pub mod pthreads;
pub mod roots;
pub mod settings;
pub mod shapes;
pub mod stats;
pub mod stop;
pub mod threads;
pub mod tls;
pub mod toggle;
pub mod typed;
mod verify;
