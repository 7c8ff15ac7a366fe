//! Debian packages: what is missing and how it gets here.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The path of `command`: the distribution's own before whatever else the search path holds, for that is the
/// program the documentation names.
pub(crate) fn find(command: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    std::iter::once("/usr/bin")
        .chain(path.split(':'))
        .map(|folder| Path::new(folder).join(command))
        .find(|p| p.is_file())
}

/// Installs `packages` with apt-get if we may: as root, and `allowed`. Otherwise says the command that would.
pub(crate) fn install(packages: &[&str], allowed: bool) {
    if packages.is_empty() {
        return;
    }
    let line = format!("apt-get install -y {}", packages.join(" "));
    // SAFETY: `geteuid` takes nothing and cannot fail.
    let root = unsafe { libc::geteuid() } == 0;
    if !root || !allowed {
        eprintln!("missing; to have them: {line}");
        return;
    }
    eprintln!("missing; running {line}");
    let mut command = Command::new("apt-get");
    command.args(["install", "-y", "-qq"]).args(packages).env("DEBIAN_FRONTEND", "noninteractive");
    command.stdin(Stdio::null()).stdout(Stdio::null());
    if !command.status().is_ok_and(|status| status.success()) {
        eprintln!("that failed; what needs them is left out");
    }
}
