//! The second driver, for the body of the room `span`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| spanheap_fuzz::span::fuzz(data));
