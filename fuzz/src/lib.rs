//! Fuzz bodies, one a room. Each takes an input as a program and runs it on the room and on its slow twin.

#[path = "../../src/block/model.rs"]
#[doc(hidden)]
pub mod block_model;
#[doc(hidden)]
pub mod collected;
#[doc(hidden)]
pub mod input;
#[path = "../../src/object/model.rs"]
#[doc(hidden)]
pub mod object_model;
#[path = "../../src/object/program/model.rs"]
#[doc(hidden)]
pub mod program_model;
#[path = "../../src/stack/model.rs"]
#[doc(hidden)]
pub mod stack_model;

pub mod base;
pub mod block;
pub mod front;
pub mod gc;
pub mod object;
pub mod os;
pub mod page;
pub mod program;
pub mod span;
pub mod stack;
pub mod stats;
