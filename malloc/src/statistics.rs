//! What C programs can ask the allocator about itself, and tell it.
//!
//! The words are those of glibc's allocator, which has arenas and bins where this one has spans and purposes. Each
//! figure is the nearest true one; what has no counterpart is zero.
//!
//! # Safety
//! Called by C code, which keeps C's contract.

use core::ffi::{c_char, c_int, c_void};
use core::fmt::{self, Write};
use spanheap::front::{process, report};
use spanheap::stats::{Account, Snapshot};

/// glibc's figures, as sizes.
#[repr(C)]
#[derive(Default)]
pub struct MallInfo2 {
    /// Bytes that the heap has from the system: all that is committed.
    pub arena: usize,
    /// Free blocks of ordinary size: not counted here.
    pub ordblks: usize,
    /// Free small blocks: not counted here.
    pub smblks: usize,
    /// Blocks that are mappings of their own: there are none.
    pub hblks: usize,
    /// Bytes of those.
    pub hblkhd: usize,
    /// Unused in glibc too.
    pub usmblks: usize,
    /// Bytes of free small blocks: not counted here.
    pub fsmblks: usize,
    /// Bytes in use: in spans of every purpose.
    pub uordblks: usize,
    /// Bytes free and kept from the system.
    pub fordblks: usize,
    /// Bytes that `malloc_trim` could give back.
    pub keepcost: usize,
}

/// glibc's figures, as they were before sizes had 64 bits: wrapped.
#[repr(C)]
#[derive(Default)]
pub struct MallInfo {
    arena: c_int,
    ordblks: c_int,
    smblks: c_int,
    hblks: c_int,
    hblkhd: c_int,
    usmblks: c_int,
    fsmblks: c_int,
    uordblks: c_int,
    fordblks: c_int,
    keepcost: c_int,
}

fn figures(snapshot: &Snapshot) -> MallInfo2 {
    let size = |bytes: i64| bytes.max(0) as usize;
    MallInfo2 {
        arena: size(snapshot.committed()),
        uordblks: size(snapshot.in_spans()),
        fordblks: size(snapshot.free()),
        keepcost: size(snapshot.balance(Account::Free)),
        ..MallInfo2::default()
    }
}

/// The heap's figures in glibc's words.
#[unsafe(no_mangle)]
pub extern "C" fn mallinfo2() -> MallInfo2 {
    process::heap()
        .and_then(|heap| report::with_books(heap, |snapshot| figures(snapshot)).ok())
        .unwrap_or_default()
}

/// As [`mallinfo2`], in numbers that wrap.
#[unsafe(no_mangle)]
pub extern "C" fn mallinfo() -> MallInfo {
    let MallInfo2 { arena, uordblks, fordblks, keepcost, .. } = mallinfo2();
    MallInfo {
        arena: arena as c_int,
        uordblks: uordblks as c_int,
        fordblks: fordblks as c_int,
        keepcost: keepcost as c_int,
        ..MallInfo::default()
    }
}

/// Gives free memory back to the system. Returns 1 if any was given, else 0. `pad` bytes may stay, and none do.
#[unsafe(no_mangle)]
pub extern "C" fn malloc_trim(_pad: usize) -> c_int {
    process::heap().is_some_and(|heap| heap.release_all().0 > 0).into()
}

/// Prints the books to standard error.
#[unsafe(no_mangle)]
pub extern "C" fn malloc_stats() {
    report::write_table();
}

/// Sets one of glibc's parameters. None of them has a counterpart here; all are accepted, since programs take
/// a refusal for an error.
#[unsafe(no_mangle)]
pub extern "C" fn mallopt(_parameter: c_int, _value: c_int) -> c_int {
    1
}

/// Writes the books as XML to a stream of the C library's. Returns 0, or `EINVAL` unless `options` is 0.
///
/// # Safety
/// `stream` is a stream open for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn malloc_info(options: c_int, stream: *mut libc::FILE) -> c_int {
    if options != 0 {
        return libc::EINVAL;
    }
    match report::write_xml(&mut Stream(stream)) {
        Ok(()) => 0,
        Err(_) => libc::EIO,
    }
}

struct Stream(*mut libc::FILE);

impl Write for Stream {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // SAFETY: the stream is open, by the contract of `malloc_info`.
        let written = unsafe { libc::fwrite(text.as_ptr().cast::<c_void>(), 1, text.len(), self.0) };
        if written == text.len() { Ok(()) } else { Err(fmt::Error) }
    }
}

/// The name and version of this allocator, for programs that ask whom they run on.
#[unsafe(no_mangle)]
pub extern "C" fn spanheap_version() -> *const c_char {
    concat!("spanheap ", env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}
