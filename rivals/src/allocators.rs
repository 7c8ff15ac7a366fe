//! The allocators: which library each is and how it comes here.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::packages;

/// The rival everything is measured against.
pub(crate) const BASELINE: &str = "mimalloc";
/// The allocator whose output is right by definition.
pub(crate) const REFERENCE: &str = "glibc";
/// Our own.
pub(crate) const OURS: &str = "spanheap";

/// A library to preload, by the name of its column.
#[derive(Clone, Debug)]
pub(crate) struct Allocator {
    /// Column and JSON key.
    pub(crate) name: &'static str,
    /// What `LD_PRELOAD` names. For glibc it is libc itself: some programs bring a rival along as a shared
    /// library (Debian's redis-server does), and only a preloaded libc comes before it.
    pub(crate) library: PathBuf,
}

/// Name, Debian package and file names, the first that exists being taken.
const RIVALS: [(&str, &str, &[&str]); 4] = [
    (REFERENCE, "libc6", &["libc.so.6"]),
    (BASELINE, "libmimalloc2.0", &["libmimalloc.so.2.0", "libmimalloc.so.2"]),
    ("jemalloc", "libjemalloc2", &["libjemalloc.so.2"]),
    ("tcmalloc", "libtcmalloc-minimal4", &["libtcmalloc_minimal.so.4"]),
];

const FOLDERS: [&str; 4] = ["/usr/lib/x86_64-linux-gnu", "/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib"];

/// Finds the allocators of `wanted` (all of them if it is empty), in the order of the table. What is missing is
/// installed or built if it can be, and said clearly and left out if not.
pub(crate) fn gather(wanted: &[String], install: bool) -> Result<Vec<Allocator>, String> {
    let known = || RIVALS.iter().map(|rival| rival.0).chain([OURS]);
    if let Some(stranger) = wanted.iter().find(|name| *name != "ours" && !known().any(|known| known == *name))
    {
        let known: Vec<_> = known().collect();
        return Err(format!("no allocator is called {stranger}; there are {}", known.join(", ")));
    }
    let want =
        |name: &str| wanted.is_empty() || wanted.iter().any(|w| w == name || (name == OURS && w == "ours"));
    let rivals: Vec<_> = RIVALS.iter().filter(|rival| want(rival.0)).collect();
    let missing: Vec<&str> =
        rivals.iter().filter(|rival| locate(rival.2).is_none()).map(|rival| rival.1).collect();
    packages::install(&missing, install);
    let mut found = Vec::new();
    if want(OURS) {
        match build() {
            Ok(library) => found.push(Allocator { name: OURS, library }),
            Err(reason) => eprintln!("{OURS} is left out: {reason}"),
        }
    }
    for (name, package, files) in rivals {
        match locate(files) {
            Some(library) => found.push(Allocator { name, library }),
            None => eprintln!("{name} is left out: {} is not here; apt-get install {package}", files[0]),
        }
    }
    Ok(found)
}

fn locate(files: &[&str]) -> Option<PathBuf> {
    let paths = files.iter().flat_map(|file| FOLDERS.iter().map(move |folder| Path::new(folder).join(file)));
    paths.into_iter().find(|path| path.exists())
}

/// The workspace's root: this member's parent folder.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the member lies in the workspace")
}

/// The folder cargo builds into.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// Builds our library and returns its path.
fn build() -> Result<PathBuf, String> {
    let status = Command::new("cargo")
        .args(["build", "--release", "-q", "-p", "spanheap-malloc"])
        .current_dir(root())
        .status()
        .map_err(|error| format!("cargo does not start: {error}"))?;
    let library = target().join("release/libspanheap_malloc.so");
    match (status.success(), library.exists()) {
        (true, true) if serves(&library) => Ok(library),
        (true, true) => Err(format!("{} defines no malloc", library.display())),
        (true, false) => Err(format!("the build made no {}", library.display())),
        (false, _) => Err("cargo build --release -p spanheap-malloc failed".into()),
    }
}

/// Whether `library` defines `malloc`, by `nm`. Without nm we take its word.
fn serves(library: &Path) -> bool {
    let listing = Command::new("nm").args(["-D", "--defined-only"]).arg(library).output();
    listing.map_or(true, |output| {
        String::from_utf8_lossy(&output.stdout).lines().any(|line| line.ends_with(" T malloc"))
    })
}
