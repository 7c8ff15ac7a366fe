//! The second driver, for the body about GC programs.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| spanheap_fuzz::program::fuzz(data));
