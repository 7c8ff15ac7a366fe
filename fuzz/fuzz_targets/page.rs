//! The second driver, for the body of the room `page`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| spanheap_fuzz::page::fuzz(data));
