//! What the kernel says about a heap's memory, account by account.
//!
//! The kernel knows system pages with memory behind them; the heap knows whose each one is. The difference to what
//! the books expect is memory that was allocated and never touched. For spans of small blocks the heap knows that part
//! (blocks that were never carved); for large blocks only the kernel does.
//!
//! # Safety
//! Bodies of spans are read without their owners' leave. Nothing but an estimate follows from what is read.

use crate::base::{Address, Bytes, PAGE_SIZE, Pages};
use crate::block::body::{BlockSpan, Phase};
use crate::front::heap::Heap;
use crate::os::{System, proc};
use crate::stats::{Account, snapshot::Resident};

impl Heap {
    /// Bytes that have memory behind them, by account, as the kernel says. Takes time: every page of the heap
    /// is looked at, and nothing goes back in the background meanwhile.
    pub fn resident(&self) -> Resident {
        let core = self.core();
        // What goes back while the kernel is asked would count as resident and as given back.
        let _still = core.scavenging.looks.lock();
        let mut resident = Resident::zero();
        let system_page = System::Linux.page_size();
        let region = core.pages.region();
        // Where the kernel does not tell, the figures stay at zero.
        let _ = proc::resident(region.base(), region.committed(), |address| {
            resident.add(core.pages.account_at(address), system_page);
        });
        core.for_each_table(|kind, at, size| {
            if let Ok(bytes) = proc::resident(at, size, |_| ()) {
                resident.add(Account::Metadata(kind), bytes);
            }
        });
        resident.untouched = self.untouched(system_page);
        resident.process = proc::process_resident().unwrap_or_default();
        resident
    }

    /// Bytes of spans in use that were never touched, as far as the heap knows.
    fn untouched(&self, system_page: Bytes) -> Bytes {
        let spans = self.core().pages.spans();
        spans
            .map(|(_, span)| {
                let body = span.body::<BlockSpan>();
                // SAFETY: read for an estimate; the span may be in other hands meanwhile.
                let (phase, carved, size) = unsafe { ((*body).phase, (*body).carved, (*body).size()) };
                if matches!(phase, Phase::None | Phase::Large) {
                    return Bytes::ZERO;
                }
                let touched = Bytes(carved as usize * size).round_up(system_page);
                let touched = touched.unwrap_or_default().0;
                let pages = (touched / PAGE_SIZE..span.pages().0).filter(|&page| span.was_clean(Pages(page)));
                // The first of them may have been touched in part.
                pages.map(|page| Bytes(((page + 1) * PAGE_SIZE - touched).min(PAGE_SIZE))).sum()
            })
            .chain([self.core().pages.holes()])
            .sum()
    }

    /// Where an address stands in the books.
    pub fn account_at(&self, address: Address) -> Account {
        self.core().pages.account_at(address)
    }
}
