//! Objects under the collector: where they lie, which of them are reached, and how dead ones become free.
//!
//! An *object span* holds objects of one *span class*: a size class and a kind, which says where pointers are. What is
//! known of objects lies apart from them, in tables by page:
//!
//! ```text
//!   page               kinds: 1 byte        meta: 256 bytes                       maps: 128 bytes
//!   ┌──┬──┬──┬──┐      what is here?        head                                  where pointers are,
//!   │  │  │▓▓│  │  ◀── and how large   ──▶  marks   reached                  ──▶  where there are some
//!   └──┴──┴──┴──┘      are its slots?       scans   reached and done with         and not everywhere
//!    slots, and                             allocs  allocated
//!    nothing else
//! ```
//!
//! A mutator takes slots from its own [`ObjectCache`], 64 at a time; spans with free slots wait in sets, by purpose and
//! span class, that all mutators share ([`Objects`]).
//!
//! ```text
//!              take a group            all slots taken              marking ends
//!   fresh ─▶ in a cache ◀──┐ ────────────────────▶ full ──────────────────────────┐
//!              │ flush     │                                                      ▼
//!              └────▶ in its set ◀──────────────────────────────────── waits to be swept
//!                            swept, and has free slots                            │
//!   (gone) ◀──────────────────────────────────────────────────────────────────────┘
//!                                    swept, and nothing in it is alive
//! ```
//!
//! What an object looks like, its [`shape`] says: which of its words may be pointers. A shape is registered once and known
//! by its number from then on. Of large and repetitive types the pointers are what a [`program`] emits:
//!
//! ```text
//!   description ──register──▶ ShapeId ──map──▶ masks of the words to be looked at
//!   (mask, bitmap, array,                       ▲
//!    program)                  program ──unroll─┘ (a span of bits, while marking)
//! ```
//!
//! 1. A page's code is that of a first page exactly if an object span begins there; its metadata is there then, and says
//!    the span's number and length. The codes of the span's other pages are [`SpanClass::LATER`].
//! 2. Bits stand for slots that exist. A slot that is marked is allocated; one that is done with is marked.
//! 3. A span is swept in the heap's generation, or waits to be swept. Marks are in spans that wait, or while marking.
//! 4. A swept span with free slots is in one cache, or in the set of its purpose and class, and in no other place.
//! 5. A cache's spans are swept, of its purpose, and of their bin's class. The slots that a bin can give count as
//!    allocated and are not in the books yet; while marking they are marked and done with.
//! 6. Free slots of a group are zero unless the group counts as dirty.
//! 7. Objects in slots, by class, are those in the books and those that caches have not posted yet.
//!
//! [`check`] proves as much of them as a walk can.
//!
//! ## A life
//!
//! ```
//! use spanheap::base::{Address, Bytes, SizeClass, purpose::OBJECTS};
//! use spanheap::object::{NoAttachments, ObjectCache, ObjectWork, Objects, SpanClass, SpanKind, Take};
//! # use spanheap::{os::System, stats::{BookShard, Books}};
//! # use spanheap::span::{Ground, Meters, PageHeap, SpanCache};
//! # let (books, shard): (Box<Books>, &'static BookShard) = (Box::default(), Box::leak(Box::default()));
//! # let meters = Box::into_raw(Box::<Meters>::new_zeroed()).cast::<Meters>();
//! # // SAFETY: boxed and leaked, they stay where they are; the meters' memory is zeroed.
//! # let meters = unsafe { books.open(); books.link(shard); Meters::init(meters); Box::from_raw(meters) };
//! # let ledger = books.ledger(shard);
//! # let heap = PageHeap::reserve(System::Linux, Bytes::mib(64), Bytes::mib(64), ledger).unwrap();
//! # let mut spans = SpanCache::default();
//! let objects = Objects::reserve(&heap, ledger)?;
//! objects.add_purpose(OBJECTS, ledger)?;
//! let ground = Ground { heap: &heap, meters: &meters, ledger };
//! let mut work = ObjectWork { ground, spans: &mut spans };
//! // SAFETY: zeroed memory is an empty cache.
//! let mut cache = unsafe { Box::<ObjectCache>::new_zeroed().assume_init() };
//!
//! // Allocate: the first time the cache is empty.
//! let class = SpanClass::new(SpanKind::Words, SizeClass::of_small(40));
//! assert!(cache.allocate_fast(class).is_null());
//! assert_eq!(objects.refill(&mut cache, &mut work, class)?, Take::Ready);
//! let [kept, lost] = [(); 2].map(|()| cache.allocate_fast(class));
//!
//! // Mark: any pointer into an object finds it.
//! objects.set_marking(true);
//! objects.blacken(&mut cache);
//! let object = objects.find(Address(kept.addr() + 17)).expect("it is allocated");
//! assert!(objects.mark(&object));
//! objects.flush(&mut cache, &mut work);
//! objects.set_marking(false);
//!
//! // Sweep: what was not marked is gone.
//! objects.begin_sweep(object.size + objects.black());
//! while let Some(swept) = objects.sweep_chunk(&mut work, &mut NoAttachments) {
//!     assert!(swept.objects <= 1);
//! }
//! assert_eq!(objects.find(Address::of(kept)), Some(object));
//! assert_eq!(objects.find(Address::of(lost)), None);
//! # // SAFETY: nobody uses them any more.
//! # unsafe { objects.destroy(); heap.destroy() };
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The room does not know who marks, nor when it is time to. It takes no thread and knows no clock.
//! (Go: `mspan`, `mcentral`, `mcache`, `malloc`, `mgcsweep`.)

pub mod cache;
mod central;
#[cfg(not(loom))]
pub mod check;
pub mod class;
pub mod encode;
pub mod find;
mod free;
pub mod kind;
pub mod large;
pub mod map;
pub mod meta;
pub mod pointers;
pub mod program;
mod record;
pub mod shape;
pub mod sweep;
pub mod tiny;
mod unrolled;

pub use cache::{ObjectCache, Take};
pub use central::{ObjectWork, Objects};
pub use encode::Layout;
pub use find::Object;
pub use kind::{SpanClass, SpanKind};
pub use large::Large;
pub use map::PageMap;
pub use meta::PageMeta;
pub use pointers::{Masks, PointerMap};
pub use shape::{Shape, ShapeError, ShapeId, Shapes};
pub use sweep::{Attachments, Condemned, NoAttachments, Swept};

#[cfg(all(test, not(loom)))]
#[allow(unreachable_pub)]
mod model;
#[cfg(all(test, not(loom)))]
pub(crate) mod testing;
#[cfg(all(test, not(loom)))]
mod tests;
