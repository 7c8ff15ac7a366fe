//! Fuzz bodies, one a room.
