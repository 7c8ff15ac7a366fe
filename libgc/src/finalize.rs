//! Finalizers: what is called for an object when it is not reachable any more.
//!
//! When everything reachable is marked, and the world stands still:
//!
//! 1. short links of unmarked objects are cleared;
//! 2. for each unmarked object with a finalizer, what it leads to is marked, as its *order* says:
//!
//!    | order | marked |
//!    |---|---|
//!    | normal, unreachable | what its words lead to |
//!    | ignore-self | the same without words that lead to itself |
//!    | none | nothing |
//!
//! 3. those that are unmarked still are *due*: their finalizer is taken from the table and waits to be run. An object
//!    that leads to itself in normal order never comes so far; the program is warned.
//! 4. what is due is marked, with all that it leads to. Objects of the order "unreachable" are decided on last, so where
//!    the program wants Java's rules, what objects without order lead to keeps them from it;
//! 5. long links are cleared.
//!
//! The word that a finalizer is called with keeps what it leads to alive as long as it is registered.
//!
//! Finalizers run on a thread that allocates or has collected, without a lock; or when the program asks
//! (`GC_finalize_on_demand`), which is told once a collection.
//!
//! # Safety
//! Tables are changed under the allocation lock. Finalizers are the program's, called with what it registered.

use crate::alloc::GC_base;
use crate::map::Map;
use crate::mark::Driver;
use crate::{cycle, heap, links, settings, tls};
use core::cell::UnsafeCell;
use core::ffi::{c_int, c_void};
use core::ptr;
use core::sync::atomic::{AtomicUsize, Ordering};
use spanheap::base::Address;

/// Called with an object and the word that was registered with it.
pub type Finalizer = extern "C" fn(*mut c_void, *mut c_void);

/// What is marked before finalizers are decided on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    Normal,
    IgnoreSelf,
    None,
    Unreachable,
}

#[derive(Clone, Copy)]
struct Entry {
    run: Finalizer,
    data: usize,
    order: Order,
}

struct State {
    registered: Map<Entry>,
    /// Due, in the order in which they became it: the first waits longest.
    due: Map<(usize, Entry)>,
    first: usize,
    next: usize,
    /// The collection after which the program was told last.
    told: usize,
}

struct Guarded(UnsafeCell<State>);
// SAFETY: the head of this file.
unsafe impl Sync for Guarded {}

/// Keys of the queue begin here, since small ones stand for no entry.
const FIRST_KEY: usize = 1 << 8;

static STATE: Guarded = Guarded(UnsafeCell::new(State {
    registered: Map::new(),
    due: Map::new(),
    first: FIRST_KEY,
    next: FIRST_KEY,
    told: 0,
}));
/// How many wait to be run.
static DUE: AtomicUsize = AtomicUsize::new(0);
/// The deepest that finalizers run in finalizers.
const DEEPEST: u32 = 4;

/// The tables; the lock is held.
fn state() -> &'static mut State {
    // SAFETY: the head of this file.
    unsafe { &mut *STATE.0.get() }
}

/// Before the world is stopped: makes room for all finalizers that may become due, since nothing is allocated while the
/// collector marks.
pub(crate) fn prepare() {
    let State { registered, due, .. } = state();
    if !due.reserve(registered.len()) {
        settings::fatal(c"no memory for finalizers\n");
    }
}

/// Shades what finalizers are called with, and what waits for one.
pub(crate) fn push(driver: &mut Driver<'_, '_>) {
    let State { registered, due, .. } = state();
    registered.for_each(|_, entry| driver.shade(entry.data));
    due.for_each(|_, (object, entry)| {
        driver.shade(object);
        driver.shade(entry.data);
    });
}

/// Decides what is finalized. The world stands still, and everything reachable is marked.
pub(crate) fn decide(driver: &mut Driver<'_, '_>) {
    links::clear_short();
    let State { registered, due, next, .. } = state();
    if registered.len() == 0 {
        return;
    }
    registered.for_each(|object, entry| {
        if !links::is_marked(object) {
            shade_contents(driver, object, entry.order);
            cycle::settle(driver);
            if entry.order == Order::Normal && links::is_marked(object) {
                settings::warn(c"GC Warning: Finalization cycle involving %p\n", object);
            }
        }
    });
    let from = *next;
    queue(registered, due, next, |order| order != Order::Unreachable);
    if settings::is_java() {
        for key in from..*next {
            if let Some((object, Entry { order: Order::None, .. })) = due.get(key) {
                shade_contents(driver, object, Order::Normal);
            }
        }
        cycle::settle(driver);
    }
    queue(registered, due, next, |_| true);
    for key in from..*next {
        if let Some((object, _)) = due.get(key) {
            driver.shade(object);
        }
    }
    DUE.store(due.len(), Ordering::Release);
}

/// Moves unmarked objects of some orders behind those that are due. There is room: see [`prepare`].
fn queue(
    registered: &mut Map<Entry>,
    due: &mut Map<(usize, Entry)>,
    next: &mut usize,
    wanted: impl Fn(Order) -> bool,
) {
    registered.retain(|object, entry| {
        let stays = !wanted(entry.order) || links::is_marked(object) || !due.set(*next, (object, entry));
        *next += usize::from(!stays);
        stays
    });
}

/// Shades what an object's words lead to.
fn shade_contents(driver: &mut Driver<'_, '_>, address: usize, order: Order) {
    let objects = heap::gc().parts.objects();
    let Some(object) = objects.find(Address(address)) else { return };
    match order {
        Order::None => {}
        Order::Normal | Order::Unreachable => driver.worker.scan_contents(&object, driver.marking),
        Order::IgnoreSelf => {
            if object.kind == spanheap::object::SpanKind::Plain {
                return;
            }
            let (start, end) = (object.start.0, object.start.0 + object.size.0);
            for at in (start..end).step_by(8) {
                // SAFETY: a word of the object.
                let word = unsafe { ptr::with_exposed_provenance::<usize>(at).read() };
                if !(start..end).contains(&word) {
                    driver.shade(word);
                }
            }
        }
    }
}

/// Whether finalizers wait that run by themselves.
#[inline]
pub(crate) fn are_due() -> bool {
    DUE.load(Ordering::Relaxed) != 0
}

/// After a collection: runs what is due, or tells the program.
#[cold]
pub(crate) fn after_collection() {
    if !are_due() {
        return;
    }
    if settings::GC_get_finalize_on_demand() == 0 {
        let record = tls::words().known();
        if record.finalizing.get() < DEEPEST {
            GC_invoke_finalizers();
        }
        return;
    }
    let Some(tell) = settings::GC_get_finalizer_notifier() else { return };
    let number = cycle::figures().number;
    let is_new = heap::locked(|| core::mem::replace(&mut state().told, number) != number);
    if is_new {
        tell();
    }
}

/// Runs the finalizers that wait. Returns how many.
#[unsafe(no_mangle)]
pub extern "C" fn GC_invoke_finalizers() -> c_int {
    heap::gc();
    let record = tls::words().known();
    let mut count = 0;
    while are_due() {
        let Some((object, entry)) = heap::locked(take) else { break };
        record.finalizing.set(record.finalizing.get() + 1);
        (entry.run)(ptr::with_exposed_provenance_mut(object), ptr::with_exposed_provenance_mut(entry.data));
        record.finalizing.set(record.finalizing.get() - 1);
        count += 1;
    }
    count
}

/// Takes the one that waits longest.
fn take() -> Option<(usize, Entry)> {
    let State { due, first, next, .. } = state();
    while *first < *next {
        *first += 1;
        if let Some(taken) = due.remove(*first - 1) {
            DUE.store(due.len(), Ordering::Release);
            return Some(taken);
        }
    }
    None
}

/// Whether finalizers wait.
#[unsafe(no_mangle)]
pub extern "C" fn GC_should_invoke_finalizers() -> c_int {
    are_due().into()
}

/// Registers a finalizer, or none; says what was registered before.
unsafe fn register(
    object: *mut c_void,
    run: Option<Finalizer>,
    data: *mut c_void,
    before: (*mut Option<Finalizer>, *mut *mut c_void),
    order: Order,
) {
    heap::gc();
    let is_object = !object.is_null() && GC_base(object) == object;
    let old = is_object
        .then(|| {
            heap::locked(|| {
                let registered = &mut state().registered;
                let old = registered.get(object.addr());
                match run {
                    Some(run) => {
                        let entry = Entry { run, data: data.addr(), order };
                        if !registered.set(object.addr(), entry) {
                            settings::fatal(c"no memory for a finalizer\n");
                        }
                    }
                    None => {
                        registered.remove(object.addr());
                    }
                }
                old
            })
        })
        .flatten();
    // SAFETY: the header's promise: null, or a place.
    unsafe {
        if let Some(place) = before.0.as_mut() {
            *place = old.map(|entry| entry.run);
        }
        if let Some(place) = before.1.as_mut() {
            *place = old.map_or(ptr::null_mut(), |entry| ptr::with_exposed_provenance_mut(entry.data));
        }
    }
}

/// The functions of the headers, one for each order.
macro_rules! registers {
    ($($(#[$doc:meta])* $name:ident: $order:ident;)*) => { $(
        $(#[$doc])*
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(
            object: *mut c_void,
            run: Option<Finalizer>,
            data: *mut c_void,
            old_run: *mut Option<Finalizer>,
            old_data: *mut *mut c_void,
        ) {
            // SAFETY: the header's promise.
            unsafe { register(object, run, data, (old_run, old_data), Order::$order) }
        }
    )* };
}

registers! {
    /// Registers a finalizer that runs before those of what the object leads to.
    GC_register_finalizer: Normal;
    /// The same; what the object holds of itself does not count.
    GC_register_finalizer_ignore_self: IgnoreSelf;
    /// Registers a finalizer without order.
    GC_register_finalizer_no_order: None;
    /// Registers one that waits until nothing leads to the object, not even objects with finalizers without order.
    GC_register_finalizer_unreachable: Unreachable;
}
