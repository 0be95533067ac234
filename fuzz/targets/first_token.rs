//! libFuzzer's way into [`warmpath_fuzz::first_token`].

#![no_main]
#![allow(unsafe_code, missing_docs, reason = "libFuzzer calls it by name")]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| warmpath_fuzz::first_token(bytes));
