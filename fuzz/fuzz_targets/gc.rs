//! The second driver, for the body of the room `gc`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| spanheap_fuzz::gc::fuzz(data));
