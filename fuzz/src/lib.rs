//! Fuzz bodies, one a room.

pub mod page;
