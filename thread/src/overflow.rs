//! What happens when a guarded stack overflows: a message that names it, instead of a bare `Segmentation fault`.
//!
//! The handler writes one line, as `spanheap: stack overflow: stack 1234 of fibers, …`, if the access was to the guard of a
//! stack of some heap of this process. Then, in every case, it leaves the signal to whoever handled it before: a debugger's
//! or a runtime's handler, or the system, which ends the process. It waits for no lock and allocates nothing.
//!
//! A handler cannot run on the stack that has just overflowed. A thread needs another one for that, as threads of `std` and
//! of [`Builder`](crate::Builder) have; others call [`use_own_stack`] once.
//!
//! # Safety
//! The handler calls only what may be called at any point of a program: `write`, `sigaction`, and look-ups that do not
//! wait. Who handled the signal before is known before the first signal can come.

use core::ffi::{c_int, c_void};
use core::fmt::{self, Write};
use core::mem::MaybeUninit;
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};
use spanheap::base::Address;
use std::io;
use std::sync::Mutex;

/// Bytes of a stack for signals.
const SIGNAL_STACK: usize = 64 << 10;
/// The longest message.
const LINE: usize = 512;

/// Who handled the signal before; null before the handler is installed.
static PREVIOUS: AtomicPtr<libc::sigaction> = AtomicPtr::new(ptr::null_mut());

/// Installs the handler, once a process, and sees to it that the calling thread can run it.
///
/// # Errors
/// What the system says.
pub fn install() -> io::Result<()> {
    static INSTALLING: Mutex<()> = Mutex::new(());
    use_own_stack()?;
    let _installing = INSTALLING.lock();
    if !PREVIOUS.load(Ordering::Acquire).is_null() {
        return Ok(());
    }
    let previous = Box::into_raw(Box::new(MaybeUninit::<libc::sigaction>::zeroed())).cast();
    // SAFETY: the action that is there is read into memory that stays for ever; then ours, a function of the right form,
    // takes its place.
    unsafe {
        if libc::sigaction(libc::SIGSEGV, ptr::null(), previous) != 0 {
            drop(Box::from_raw(previous));
            return Err(io::Error::last_os_error());
        }
        PREVIOUS.store(previous, Ordering::Release);
        let mut action = MaybeUninit::<libc::sigaction>::zeroed().assume_init();
        action.sa_sigaction = handle as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
        libc::sigemptyset(&mut action.sa_mask);
        match libc::sigaction(libc::SIGSEGV, &action, ptr::null_mut()) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// Gives the calling thread a stack to handle signals on, unless it has one. It stays until the process ends.
///
/// # Errors
/// What the system says.
pub fn use_own_stack() -> io::Result<()> {
    // SAFETY: asked for, and then set to memory that stays.
    unsafe {
        let mut now = MaybeUninit::<libc::stack_t>::zeroed().assume_init();
        libc::sigaltstack(ptr::null(), &mut now);
        if now.ss_flags & libc::SS_DISABLE == 0 {
            return Ok(());
        }
        let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        let memory = libc::mmap(ptr::null_mut(), SIGNAL_STACK, access, flags, -1, 0);
        if memory == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        use_stack(memory.cast(), SIGNAL_STACK);
    }
    Ok(())
}

/// Has the calling thread handle signals on this stack.
///
/// # Safety
/// The memory is nobody else's until the thread ends.
pub(crate) unsafe fn use_stack(at: *mut u8, size: usize) {
    let stack = libc::stack_t { ss_sp: at.cast::<c_void>(), ss_flags: 0, ss_size: size };
    // SAFETY: the caller's promise. If the system refuses, signals come as they would have without it.
    unsafe { libc::sigaltstack(&stack, ptr::null_mut()) };
}

unsafe extern "C" fn handle(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    let mut line = Line { text: [0; LINE], length: 0 };
    // SAFETY: the kernel's record of the signal.
    let address = Address(unsafe { (*info).si_addr() }.addr());
    let _ = line.write_str("spanheap: ");
    if spanheap::describe_overflow(address, &mut line) {
        let _ = line.write_str("\n");
        // SAFETY: the text is there. Whether anybody reads it is not ours to mend.
        unsafe { libc::write(libc::STDERR_FILENO, line.text.as_ptr().cast(), line.length) };
    }
    // SAFETY: the signal's own arguments, and an action that was read before this one was installed.
    unsafe { pass_on(&*PREVIOUS.load(Ordering::Acquire), signal, info, context) }
}

/// Leaves the signal to an action.
unsafe fn pass_on(action: &libc::sigaction, signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    match action.sa_sigaction {
        // The access is made again when this returns, and then the system acts. A fault cannot be ignored.
        // SAFETY: any action may be restored.
        libc::SIG_DFL | libc::SIG_IGN => unsafe {
            libc::sigaction(signal, action, ptr::null_mut());
        },
        // SAFETY: the program installed a function of the form that its flags say.
        function if action.sa_flags & libc::SA_SIGINFO != 0 => unsafe {
            type Function = unsafe extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);
            core::mem::transmute::<usize, Function>(function)(signal, info, context);
        },
        // SAFETY: as above.
        function => unsafe {
            core::mem::transmute::<usize, unsafe extern "C" fn(c_int)>(function)(signal);
        },
    }
}

/// A line on its way to standard error.
struct Line {
    text: [u8; LINE],
    length: usize,
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let length = text.len().min(LINE - self.length);
        self.text[self.length..self.length + length].copy_from_slice(&text.as_bytes()[..length]);
        self.length += length;
        Ok(())
    }
}
