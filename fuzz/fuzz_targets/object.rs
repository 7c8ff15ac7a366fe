//! The second driver, for the body of the room `object`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| spanheap_fuzz::object::fuzz(data));
