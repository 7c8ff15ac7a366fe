//! Signals between the caller, this process and the program it runs.
//!
//! The program stays in our process group, so that a terminal treats both as one job: the keys for interrupt, quit and
//! stop reach the program from the kernel, exactly as without us. We only have to survive them. A signal that somebody
//! *sends* to us (`kill`, a supervisor) is meant for the program and is passed on.
//!
//! - A signal that the kernel raised for the whole group is not passed on: the program has it already.
//! - A signal that the caller ignores (`nohup`) stays ignored, for us and for the program: a handler here would turn into
//!   the default action in the program.
//! - Stop signals keep their default action: the group stops and continues together.
//!
//! What this does not know: whether a sender addressed us alone or the whole group. In the second case the program gets
//! the signal twice.

use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};
use signal_hook::consts::signal::{
    SIGALRM, SIGHUP, SIGINT, SIGKILL, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH,
};
use signal_hook::iterator::SignalsInfo;
use signal_hook::iterator::exfiltrator::WithOrigin;
use signal_hook::low_level::siginfo::Cause;
use std::io;
use std::process::Child;
use std::thread;

/// The signals that are meant for the program when they are sent to us.
const FORWARDED: [i32; 8] = [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGALRM, SIGWINCH];

/// Signals caught for a program that is not started yet. Catching begins here, so that none is lost or kills us between.
pub(crate) struct Forwarder {
    caught: SignalsInfo<WithOrigin>,
}

impl Forwarder {
    /// Begins to catch every signal of the list that the caller does not ignore.
    pub(crate) fn new() -> io::Result<Forwarder> {
        let ignored = ignored_signals();
        let wanted = FORWARDED.into_iter().filter(|signal| ignored & (1 << (signal - 1)) == 0);
        Ok(Forwarder { caught: SignalsInfo::with_exfiltrator(wanted, WithOrigin::default())? })
    }

    /// Passes signals on to `child` until this process ends. The child must not have been waited for yet: the handle
    /// taken here keeps meaning this process even after its number is given to another.
    pub(crate) fn pass_to(mut self, child: &Child) -> io::Result<()> {
        let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        // Without handles for processes (an old kernel, a sandbox) the number has to do.
        let handle = pidfd_open(pid, PidfdFlags::empty()).ok();
        thread::Builder::new().name("signals".into()).spawn(move || {
            for origin in self.caught.forever().filter(|origin| origin.cause != Cause::Kernel) {
                let Some(signal) = Signal::from_named_raw(origin.signal) else { continue };
                // The program may have ended meanwhile; then there is nobody to tell.
                let _ = match &handle {
                    Some(handle) => pidfd_send_signal(handle, signal),
                    None => kill_process(pid, signal),
                };
            }
        })?;
        Ok(())
    }
}

/// The signals this process ignores, as a mask (bit 0 = signal 1). Nothing is ignored where the system does not say.
fn ignored_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// The name of a signal, such as `SIGSEGV`, or its number where it has no name.
pub(crate) fn name(signal: i32) -> String {
    match signal_hook::low_level::signal_name(signal) {
        Some(name) => name.into(),
        None => format!("signal {signal}"),
    }
}

/// Ends this process the way `signal` ended the program, so that the caller sees the same.
///
/// Returns an exit status (128 + signal, as shells have it) where the signal cannot be raised or did not kill us.
pub(crate) fn die_of(signal: i32) -> i32 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    // The program has left its core already; ours would only take its place.
    let hard = getrlimit(Resource::Core).maximum;
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: hard });
    if signal == SIGKILL || signal_hook::low_level::signal_name(signal).is_some() {
        let _ = signal_hook::low_level::emulate_default_handler(signal);
    }
    128 + signal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names() {
        assert_eq!(name(9), "SIGKILL");
        assert_eq!(name(40), "signal 40");
    }

    #[test]
    fn the_runtime_ignores_broken_pipes_and_the_mask_shows_it() {
        // Rust's start-up code ignores SIGPIPE (13) in every program, tests included.
        assert_ne!(ignored_signals() & (1 << 12), 0);
    }
}
