//! A stand-in for the malloc door: it serves no memory and only keeps the contract about the books. Compiled by the
//! tests of `spanheap run`, which are about the command and not about the heap.

use std::{env, fs, process};

/// Runs when the process that was given this library by preload calls `exit`.
extern "C" fn write_books() {
    let Ok(pattern) = env::var("SPANHEAP_STATS") else { return };
    let pid = process::id();
    let limit = env::var("SPANHEAP_MEMORY_LIMIT").map_or("null".into(), |limit| limit.trim_end_matches('B').to_string());
    let books = format!(
        r#"{{"version":1,"pid":{pid},"command":"stand-in","check":"ok","accounts":{{"system":-4096,"span/blocks":4096}},
            "purposes":{{"blocks":{{"inuse":4096,"spans":1,"peak":8192,"allocated":8192,"freed":4096,"limit":{limit}}}}}}}"#
    );
    let _ = fs::write(pattern.replace("%p", &pid.to_string()), books);
}

#[used]
#[unsafe(link_section = ".fini_array")]
static AT_EXIT: extern "C" fn() = write_books;
