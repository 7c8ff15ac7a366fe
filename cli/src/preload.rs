//! Where the library for the preload is, and the assignments that make the dynamic loader take it.
//!
//! The library is looked for in this order:
//!
//! 1. `SPANHEAP_LIB`, when set: the library itself or the directory that holds it. Nothing else is tried then, since
//!    whoever sets it means exactly that one.
//! 2. beside the executable (a build directory);
//! 3. in `../lib` from the executable (an installation).

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// The file name of the malloc door.
const LIBRARY: &str = "libspanheap_malloc.so";

/// The file name of the library in the place of the Boehm collector's, and the name that programs ask for.
const COLLECTOR: &str = "libspanheap_gc.so";
pub(crate) const COLLECTOR_NAME: &str = "libgc.so.1";

/// The environment variable with the directories that the dynamic loader looks into first.
const SEARCHED: &str = "LD_LIBRARY_PATH";

/// The environment variable the dynamic loader reads.
pub(crate) const PRELOAD: &str = "LD_PRELOAD";

/// Finds the malloc door; the error is a message for the user.
pub(crate) fn find_library() -> Result<PathBuf, String> {
    let library = match env::var_os("SPANHEAP_LIB").filter(|value| !value.is_empty()) {
        Some(value) => named_library(Path::new(&value))?,
        None => installed_library()?,
    };
    let library = library.canonicalize().map_err(|e| format!("cannot use {}: {e}", library.display()))?;
    // The loader takes blanks and colons for separators and knows no way to quote them.
    if library.as_os_str().as_bytes().iter().any(|b| b" \t\n:".contains(b)) {
        return Err(format!(
            "the dynamic loader cannot preload {library:?}, because the path holds a blank or a colon; \
             copy the library elsewhere and set SPANHEAP_LIB to it"
        ));
    }
    Ok(library)
}

/// The library that `SPANHEAP_LIB` names.
fn named_library(value: &Path) -> Result<PathBuf, String> {
    let library = if value.is_dir() { value.join(LIBRARY) } else { value.to_path_buf() };
    if library.is_file() {
        return Ok(library);
    }
    Err(format!("SPANHEAP_LIB is set, but there is no library at {}", library.display()))
}

/// The library near the executable.
fn installed_library() -> Result<PathBuf, String> {
    let executable = env::current_exe().map_err(|e| format!("cannot tell where this executable is: {e}"))?;
    let directory = executable.parent().unwrap_or(Path::new("/"));
    let places = [directory.join(LIBRARY), directory.join("../lib").join(LIBRARY)];
    if let Some(found) = places.iter().find(|place| place.is_file()) {
        return Ok(found.clone());
    }
    Err(format!(
        "cannot find {LIBRARY} (looked at {} and {}); build it with `cargo build --release -p spanheap-malloc`, \
         or set SPANHEAP_LIB to where it is",
        places[0].display(),
        places[1].display()
    ))
}

/// The value of `LD_PRELOAD` that puts `library` first and keeps what was preloaded before.
pub(crate) fn preload_value(library: &Path, existing: Option<&OsStr>) -> OsString {
    let mut value = library.as_os_str().as_bytes().to_vec();
    let others = existing.map(OsStr::as_bytes).unwrap_or_default();
    // Colons only, so that the assignment stays one word of a shell's command line.
    for other in others.split(|b| b" \t\n:".contains(b)).filter(|other| !other.is_empty()) {
        if other != library.as_os_str().as_bytes() {
            value.push(b':');
            value.extend_from_slice(other);
        }
    }
    OsString::from_vec(value)
}

/// The assignments for the environment of a program that shall run on Spanheap.
pub(crate) fn assignments() -> Result<Vec<(&'static str, OsString)>, String> {
    let library = find_library()?;
    Ok(vec![(PRELOAD, preload_value(&library, env::var_os(PRELOAD).as_deref()))])
}

/// The assignments by which a program that was built for the Boehm collector gets ours: its directory comes first.
pub(crate) fn collector_assignments() -> Result<Vec<(&'static str, OsString)>, String> {
    let directory = collector_directory()?;
    let mut value = directory.into_os_string();
    if let Some(existing) = env::var_os(SEARCHED).filter(|existing| !existing.is_empty()) {
        value.push(":");
        value.push(existing);
    }
    Ok(vec![(SEARCHED, value)])
}

/// A directory that has the library under the name that programs ask for. In an installation it is `../lib/spanheap`; in a
/// build directory it is made beside the executable.
fn collector_directory() -> Result<PathBuf, String> {
    let executable = env::current_exe().map_err(|e| format!("cannot tell where this executable is: {e}"))?;
    let beside = executable.parent().unwrap_or(Path::new("/"));
    let installed = beside.join("../lib/spanheap");
    if installed.join(COLLECTOR_NAME).is_file() {
        return installed.canonicalize().map_err(|e| format!("cannot use {}: {e}", installed.display()));
    }
    let library = beside.join(COLLECTOR);
    if !library.is_file() {
        return Err(format!(
            "cannot find {COLLECTOR} (looked at {} and {}); build it with `cargo build --release -p spanheap-libgc`",
            library.display(),
            installed.display()
        ));
    }
    let directory = beside.join("libgc");
    let link = directory.join(COLLECTOR_NAME);
    if !link.is_file() {
        let made = fs::create_dir_all(&directory).and_then(|()| symlink(&library, &link));
        made.map_err(|e| format!("cannot make {}: {e}", link.display()))?;
    }
    Ok(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(existing: &str) -> OsString {
        preload_value(Path::new("/l/ours.so"), Some(OsStr::new(existing)))
    }

    #[test]
    fn ours_comes_first_and_the_others_stay() {
        assert_eq!(preload_value(Path::new("/l/ours.so"), None), "/l/ours.so");
        assert_eq!(value(""), "/l/ours.so");
        assert_eq!(value("/a.so b.so"), "/l/ours.so:/a.so:b.so");
        assert_eq!(value("::/a.so:"), "/l/ours.so:/a.so");
    }

    #[test]
    fn ours_is_not_named_twice() {
        assert_eq!(value("/a.so:/l/ours.so"), "/l/ours.so:/a.so");
    }
}
