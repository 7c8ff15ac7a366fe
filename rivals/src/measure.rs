//! One process, measured: wall time, processor time, peak resident set.
//!
//! The figures are the kernel's, from `wait4`: user and system time of the process and of all descendants it
//! waited for, added up; the peak is that of the *largest single process* among them (a pipeline's processes are
//! not added up). `exec` keeps the peak of what went before it, so no figure can lie below the size of this
//! program: about 4 MB, and it keeps no outputs in memory.

use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

/// A process that runs longer than this is ended and counts as failed.
const LIMIT: Duration = Duration::from_secs(180);

/// What a run has cost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    /// Seconds from start to end.
    pub(crate) wall: f64,
    /// Seconds of processor time, user and system.
    pub(crate) processor: f64,
    /// Peak resident set of the largest process, in bytes.
    pub(crate) peak: f64,
}

/// Starts `command`, waits for it and says how it ended and what it cost.
pub(crate) fn run(command: &mut Command) -> io::Result<(ExitStatus, Cost)> {
    let start = Instant::now();
    let child = command.process_group(0).spawn()?;
    finish(child, start)
}

/// Waits for `child`, which leads a process group and was started at `start`. The group is killed after
/// [`LIMIT`].
pub(crate) fn finish(child: Child, start: Instant) -> io::Result<(ExitStatus, Cost)> {
    let process = child.id().cast_signed();
    let (ended, watch) = channel::<()>();
    let watchdog = thread::spawn(move || {
        if watch.recv_timeout(LIMIT) == Err(RecvTimeoutError::Timeout) {
            // SAFETY: the group is our own child's, and it has not been waited for: the sender is still there.
            unsafe { libc::kill(-process, libc::SIGKILL) };
        }
    });
    let waited = wait(process);
    let wall = start.elapsed().as_secs_f64();
    drop(ended);
    watchdog.join().expect("the watchdog does not panic");
    let (status, usage) = waited?;
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    let processor = seconds(usage.ru_utime) + seconds(usage.ru_stime);
    Ok((status, Cost { wall, processor, peak: usage.ru_maxrss as f64 * 1024.0 }))
}

/// `wait4` for one process.
fn wait(process: i32) -> io::Result<(ExitStatus, libc::rusage)> {
    let mut status = 0;
    // SAFETY: `rusage` is plain numbers, for which zero is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: both results are locals of the right type.
        if unsafe { libc::wait4(process, &mut status, 0, &mut usage) } == process {
            return Ok((ExitStatus::from_raw(status), usage));
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}
