//! Tests of the room, on a bench: a page heap, room for objects, and a collector, without threads or a clock of their
//! own.
//!
//! # Safety
//! Spans and buffers are the tests' own.

mod lists;
