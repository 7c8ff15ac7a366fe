//! Threads like those of `std`, on stacks of a heap.
//!
//! A stack may be used again when its thread is really gone: when the kernel has done with it, and the C library too, which
//! keeps its record of a thread at the top of the thread's stack. `pthread_join` returns then, and nothing else says so
//! as surely. So every thread here is joined, sooner or later:
//!
//! ```text
//!   spawn ──▶ running ──▶ ended ──▶ joined, the stack is free
//!                │                   ▲   ▲
//!                │ its handle is     │   │ join
//!                ▼ dropped           │
//!             graveyard ─────────────┘ reap: by the next that is spawned or dropped, or when asked for
//! ```
//!
//! # Safety
//! The C library is given memory that is nobody else's until the thread is joined. What the thread returns is written
//! before it ends and read after it was joined.

use core::ffi::c_void;
use core::ops::Deref;
use core::ptr;
use spanheap::base::PurposeId;
use spanheap::{Bytes, Guard, Heap, Stack, StackError, Stacks};
use std::any::Any;
use std::ffi::CString;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// The size of a stack, unless somebody wants another: as in `std`.
const DEFAULT_SIZE: Bytes = Bytes::mib(2);
/// Bytes of the stack on which a thread handles signals.
const SIGNAL_SIZE: Bytes = Bytes::kib(32);

/// What a thread is made with. Its handle to the heap, `&'static Heap` or `Arc<Heap>`, is kept as long as the stack is
/// in use.
#[derive(Clone, Debug)]
pub struct Builder<H> {
    heap: H,
    purpose: PurposeId,
    size: Bytes,
    name: Option<CString>,
}

/// The right to join a thread. Dropped, it lets the thread run on.
pub struct JoinHandle<T: Send + 'static, H: Deref<Target = Heap> + Send + 'static> {
    packet: Arc<Packet<T>>,
    /// There until the thread is joined or left alone.
    thread: Option<Running<H>>,
}

/// A thread that was not joined yet, and its stack.
struct Running<H: Deref<Target = Heap>> {
    id: libc::pthread_t,
    stack: Stack<H>,
    _signals: Stack<H>,
}

/// What a thread leaves behind.
struct Packet<T> {
    result: Mutex<Option<Result<T, Box<dyn Any + Send>>>>,
    ended: AtomicBool,
}

/// What the thread begins with.
struct Start {
    main: Box<dyn FnOnce() + Send>,
    name: Option<CString>,
    signals: (usize, usize),
}

/// A thread that nobody waits for.
trait Grave: Send {
    /// Joins the thread if it is gone. Returns whether it was.
    fn try_join(&self) -> bool;
}

struct Left<T, H: Deref<Target = Heap>> {
    packet: Arc<Packet<T>>,
    thread: Running<H>,
}

static GRAVEYARD: Mutex<Vec<Box<dyn Grave>>> = Mutex::new(Vec::new());

impl<H> Builder<H>
where
    H: Deref<Target = Heap> + Clone + Send + 'static,
{
    /// Threads on guarded stacks of a purpose of this heap's.
    pub fn new(heap: &H, stacks: Stacks<'_>) -> Builder<H> {
        Builder { heap: heap.clone(), purpose: stacks.id(), size: DEFAULT_SIZE, name: None }
    }

    /// Sets the name, as far as the system has room for it: 15 bytes.
    ///
    /// # Panics
    /// When the name has a zero in it.
    #[must_use]
    pub fn name(mut self, name: &str) -> Builder<H> {
        let short = name.floor_char_boundary(15);
        self.name = Some(CString::new(&name[..short]).expect("a thread's name has no zeros"));
        self
    }

    /// Sets the least size of the stack. The C library keeps its record of the thread and thread-local values there.
    #[must_use]
    pub fn stack_size(mut self, size: Bytes) -> Builder<H> {
        self.size = size;
        self
    }

    /// Starts a thread.
    ///
    /// # Errors
    /// When there is no memory for a stack ([`StackError`] inside), or the system refuses a thread.
    pub fn spawn<F, T>(self, main: F) -> io::Result<JoinHandle<T, H>>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        reap();
        let allocate =
            |size, guard| Stack::allocate(self.heap.clone(), self.purpose, size, guard).map_err(refused);
        let (stack, signals) =
            (allocate(self.size.max(least()), Guard::Yes)?, allocate(SIGNAL_SIZE, Guard::No)?);
        let packet = Arc::new(Packet { result: Mutex::new(None), ended: AtomicBool::new(false) });
        let theirs = packet.clone();
        let main = move || {
            let result = catch_unwind(AssertUnwindSafe(main));
            *theirs.result.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
            theirs.ended.store(true, Ordering::Release);
        };
        let start = Start {
            main: Box::new(main),
            name: self.name,
            signals: (signals.limit().addr().get(), signals.size().0),
        };
        let id = create(&stack, Box::new(start))?;
        Ok(JoinHandle { packet, thread: Some(Running { id, stack, _signals: signals }) })
    }
}

/// Starts a thread on a stack.
fn create<H: Deref<Target = Heap>>(stack: &Stack<H>, start: Box<Start>) -> io::Result<libc::pthread_t> {
    let start = Box::into_raw(start);
    // SAFETY: the attributes are made, used and destroyed here. The stack is nobody else's until the thread is joined, and
    // `begin` takes over `start` if there is a thread.
    unsafe {
        let mut attributes = core::mem::zeroed();
        let mut error = libc::pthread_attr_init(&mut attributes);
        let mut id = 0;
        if error == 0 {
            error =
                libc::pthread_attr_setstack(&mut attributes, stack.limit().as_ptr().cast(), stack.size().0);
            if error == 0 {
                error = libc::pthread_create(&mut id, &attributes, begin, start.cast());
            }
            libc::pthread_attr_destroy(&mut attributes);
        }
        if error != 0 {
            drop(Box::from_raw(start));
            return Err(io::Error::from_raw_os_error(error));
        }
        Ok(id)
    }
}

extern "C" fn begin(start: *mut c_void) -> *mut c_void {
    // SAFETY: `create` handed over what it had boxed. The stack for signals is kept until this thread is joined.
    unsafe {
        let start = Box::from_raw(start.cast::<Start>());
        crate::overflow::use_stack(ptr::with_exposed_provenance_mut(start.signals.0), start.signals.1);
        if let Some(name) = &start.name {
            libc::pthread_setname_np(libc::pthread_self(), name.as_ptr());
        }
        (start.main)();
    }
    ptr::null_mut()
}

/// The least size of a stack that the C library accepts.
fn least() -> Bytes {
    static LEAST: OnceLock<usize> = OnceLock::new();
    // SAFETY: it asks for a constant.
    let ask = || unsafe { libc::sysconf(libc::_SC_THREAD_STACK_MIN) };
    Bytes(*LEAST.get_or_init(|| usize::try_from(ask()).unwrap_or(0).max(libc::PTHREAD_STACK_MIN)))
}

fn refused(error: StackError) -> io::Error {
    io::Error::new(io::ErrorKind::OutOfMemory, error)
}

/// Takes back the stacks of threads that ended and whose handles were dropped before. It happens by itself when the next
/// thread is spawned.
pub fn reap() {
    let gone: Vec<_> = {
        let mut graves = GRAVEYARD.lock().unwrap_or_else(PoisonError::into_inner);
        graves.extract_if(.., |grave| grave.try_join()).collect()
    };
    // The heap's locks are taken without ours.
    drop(gone);
}

impl<T: Send, H: Deref<Target = Heap> + Send> Grave for Left<T, H> {
    fn try_join(&self) -> bool {
        if !self.packet.ended.load(Ordering::Acquire) {
            return false;
        }
        // SAFETY: the thread was not joined yet, and this list is the only one to do so.
        unsafe { libc::pthread_tryjoin_np(self.thread.id, ptr::null_mut()) == 0 }
    }
}

impl<T: Send + 'static, H: Deref<Target = Heap> + Send + 'static> JoinHandle<T, H> {
    /// Waits for the thread to end, and returns what it returned.
    ///
    /// # Errors
    /// What the thread panicked with.
    ///
    /// # Panics
    /// When a thread waits for itself.
    pub fn join(mut self) -> std::thread::Result<T> {
        let running = self.thread.take().expect("a thread is joined once");
        // SAFETY: the thread was not joined yet, and its handle is given up.
        let error = unsafe { libc::pthread_join(running.id, ptr::null_mut()) };
        assert_eq!(error, 0, "joining a thread: {}", io::Error::from_raw_os_error(error));
        // The thread is gone, and its stack free.
        drop(running);
        let result = self.packet.result.lock().unwrap_or_else(PoisonError::into_inner).take();
        result.expect("a thread that ended left a result")
    }

    /// Whether the thread's function has returned.
    pub fn is_finished(&self) -> bool {
        self.packet.ended.load(Ordering::Acquire)
    }

    /// How deep the stack was used so far: see [`Stack::watermark`].
    pub fn watermark(&self) -> Bytes {
        self.thread.as_ref().map_or(Bytes::ZERO, |running| running.stack.watermark())
    }
}

impl<T: Send + 'static, H: Deref<Target = Heap> + Send + 'static> Drop for JoinHandle<T, H> {
    fn drop(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        let left = Left { packet: self.packet.clone(), thread };
        GRAVEYARD.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(left));
        reap();
    }
}
