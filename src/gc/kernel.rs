//! The scan kernels: from words to candidates.
//!
//! A *candidate* is a word that, read as an address, lies in the heap's window; what it is then decided by looking
//! it up. One subtraction and one unsigned comparison drop nulls, numbers and foreign addresses at once:
//!
//! ```text
//!   words   │ w0 │ w1 │ w2 │ w3 │ w4 │ w5 │ w6 │ w7 │      which ones: one bit a word
//!           └────┴────┴────┴────┴────┴────┴────┴────┘
//!   subtract the window's base, keep what is below its size, pack the rest to the left
//!           │ o1 │ o4 │ o6 │ …                             offsets from the base
//! ```
//!
//! There are three kernels with one meaning: AVX-512 (eight words a step, packed by `vpcompressq`), AVX2 (four words,
//! packed by a permutation from a table) and plain. [`Kernel::best`] asks the processor once. Tests hold all that
//! the machine has against the plain one.
//!
//! ## Words that change while they are read
//!
//! Mutators store into the objects that a kernel reads. The barrier makes any of the values right (the room's essay),
//! as long as every word is read whole. In the language's memory model such a read beside a plain store is no value at
//! all, so no kernel makes one: the plain one reads with relaxed atomic loads, which never tear; the others load with
//! vector instructions in `asm!`, which the compiler neither splits, repeats nor looks through. What the machine
//! promises is enough: aligned words inside a vector load arrive whole.
//!
//! The file does not know objects, spans or marks.
//!
//! # Safety
//! A kernel reads exactly the words whose bits are set: masked loads do not fault on the others. It writes up to
//! [`SLACK`] entries behind the last candidate, for which callers leave room.

use crate::base::sync::Ordering;
use core::arch::asm;
use core::arch::x86_64::*;
use core::sync::atomic::AtomicU64;

/// Words that one bit mask speaks about.
pub const BLOCK: usize = 64;
/// Blocks of words that a kernel is given at most at once: those of a page.
pub const MOST_BLOCKS: usize = 16;
/// Words that a kernel is given at most at once.
pub const MOST_WORDS: usize = MOST_BLOCKS * BLOCK;
/// Entries behind the last candidate that a kernel may write.
pub const SLACK: usize = 8;

/// The addresses that are worth looking up.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// The first address.
    pub base: usize,
    /// Bytes.
    pub size: usize,
}

/// Room for the candidates among the words that a kernel is given at once, as offsets from the window's base.
#[repr(align(64))]
pub struct Candidates(pub [u64; MOST_WORDS + SLACK]);

impl Candidates {
    /// No candidates.
    pub const fn new() -> Candidates {
        Candidates([0; MOST_WORDS + SLACK])
    }
}

impl Default for Candidates {
    fn default() -> Candidates {
        Candidates::new()
    }
}

/// A kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kernel {
    /// One word at a time, on any processor.
    Plain,
    /// Four words at a time.
    Avx2,
    /// Eight words at a time.
    Avx512,
}

impl Kernel {
    /// The fastest kernel that the processor can run.
    pub fn best() -> Kernel {
        [Kernel::Avx512, Kernel::Avx2].into_iter().find(|kernel| kernel.runs_here()).unwrap_or(Kernel::Plain)
    }

    /// Whether the processor can run it.
    pub fn runs_here(self) -> bool {
        match self {
            Kernel::Plain => true,
            Kernel::Avx2 => {
                std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("popcnt")
            }
            Kernel::Avx512 => {
                std::arch::is_x86_feature_detected!("avx512f")
                    && std::arch::is_x86_feature_detected!("avx512vl")
                    && std::arch::is_x86_feature_detected!("bmi2")
                    && std::arch::is_x86_feature_detected!("popcnt")
            }
        }
    }

    /// Finds the candidates among the words from `words` on whose bits are set in `masks`, in order; word `i` has bit
    /// `i % 64` of mask `i / 64`. Returns how many there are.
    ///
    /// # Safety
    /// The processor runs this kernel; the words whose bits are set are readable, and `words` is a multiple of eight.
    /// There are [`MOST_BLOCKS`] masks at most.
    #[inline]
    pub unsafe fn pick(
        self,
        words: *const u64,
        masks: &[u64],
        window: Window,
        out: &mut Candidates,
    ) -> usize {
        debug_assert!(masks.len() <= MOST_BLOCKS && words.addr().is_multiple_of(8));
        let out = out.0.as_mut_ptr();
        // SAFETY: the caller's promise; there is room for as many candidates as there are words, and the slack.
        unsafe {
            match self {
                Kernel::Plain => plain(words, masks, window, out),
                Kernel::Avx2 => avx2(words, masks, window, out),
                Kernel::Avx512 => avx512(words, masks, window, out),
            }
        }
    }

    /// From a bit an object to a bit a word: every set bit of `objects` becomes a run of `words` bits, for objects of
    /// so many words (2 to 64) that stand one behind the other from the page's first word on. Objects that would
    /// reach beyond the page are not there.
    ///
    /// # Safety
    /// The processor runs this kernel.
    #[inline]
    pub unsafe fn expand(self, objects: &[u64; 8], words: usize, masks: &mut [u64; MOST_BLOCKS]) {
        debug_assert!((2..=BLOCK).contains(&words), "objects of {words} words");
        match self {
            // SAFETY: the caller's promise.
            Kernel::Avx512 => unsafe { starts_deposited(objects, words, masks) },
            _ => starts_one_by_one(objects, words, masks),
        }
        fill_runs(words, masks);
    }
}

/// # Safety
/// As [`Kernel::pick`]; `out` has room for a candidate a word and the slack.
unsafe fn plain(words: *const u64, masks: &[u64], window: Window, out: *mut u64) -> usize {
    let mut count = 0;
    for (block, &mask) in masks.iter().enumerate() {
        let mut rest = mask;
        while rest != 0 {
            let at = block * BLOCK + rest.trailing_zeros() as usize;
            rest &= rest - 1;
            // SAFETY: the word is readable and aligned; `count` is below the number of words seen.
            unsafe {
                let word = (*words.add(at).cast::<AtomicU64>()).load(Ordering::Relaxed);
                let offset = word.wrapping_sub(window.base as u64);
                out.add(count).write(offset);
                count += usize::from(offset < window.size as u64);
            }
        }
    }
    count
}

/// For each set of four lanes: the permutation of 32-bit halves that packs them to the left.
const PACK: [[u32; 8]; 16] = {
    let (mut table, mut set) = ([[0; 8]; 16], 0);
    while set < 16 {
        let (mut lane, mut to) = (0, 0);
        while lane < 4 {
            if set >> lane & 1 == 1 {
                table[set][2 * to] = 2 * lane;
                table[set][2 * to + 1] = 2 * lane + 1;
                to += 1;
            }
            lane += 1;
        }
        set += 1;
    }
    table
};

/// For each set of four lanes: all ones in those.
const LANES: [[u64; 4]; 16] = {
    let (mut table, mut set) = ([[0; 4]; 16], 0);
    while set < 16 {
        let mut lane = 0;
        while lane < 4 {
            table[set][lane] = if set >> lane & 1 == 1 { u64::MAX } else { 0 };
            lane += 1;
        }
        set += 1;
    }
    table
};

/// # Safety
/// As [`plain`], on a processor with AVX2.
#[target_feature(enable = "avx2,popcnt,bmi1")]
unsafe fn avx2(words: *const u64, masks: &[u64], window: Window, out: *mut u64) -> usize {
    // There is no unsigned comparison: with the highest bits turned over, the signed one does it.
    let turned = _mm256_set1_epi64x(i64::MIN);
    let base = _mm256_set1_epi64x(window.base as i64);
    let size = _mm256_xor_si256(_mm256_set1_epi64x(window.size as i64), turned);
    let mut count = 0;
    for (block, &mask) in masks.iter().enumerate() {
        let mut rest = mask;
        while rest != 0 {
            let step = rest.trailing_zeros() as usize / 4;
            let lanes = (rest >> (4 * step)) as usize & 15;
            rest &= !(15 << (4 * step));
            // SAFETY: the lanes whose words may be read are those that are loaded; the tables have rows for all sets of
            // four lanes; and four entries behind `count` lie in the slack at worst.
            unsafe {
                let from = words.add(block * BLOCK + 4 * step);
                let set = _mm256_loadu_si256(LANES[lanes].as_ptr().cast());
                let loaded: __m256i;
                asm!("vpmaskmovq {to}, {set}, ymmword ptr [{from}]",
                    to = lateout(ymm_reg) loaded, set = in(ymm_reg) set, from = in(reg) from,
                    options(nostack, readonly, preserves_flags));
                let offset = _mm256_sub_epi64(loaded, base);
                let below = _mm256_cmpgt_epi64(size, _mm256_xor_si256(offset, turned));
                let hits = _mm256_movemask_pd(_mm256_castsi256_pd(below)) as usize & lanes;
                let order = _mm256_loadu_si256(PACK[hits].as_ptr().cast());
                let packed = _mm256_permutevar8x32_epi32(offset, order);
                _mm256_storeu_si256(out.add(count).cast(), packed);
                count += hits.count_ones() as usize;
            }
        }
    }
    count
}

/// # Safety
/// As [`plain`], on a processor with AVX-512.
#[target_feature(enable = "avx512f,avx512vl,popcnt,bmi1,bmi2")]
unsafe fn avx512(words: *const u64, masks: &[u64], window: Window, out: *mut u64) -> usize {
    let base = _mm512_set1_epi64(window.base as i64);
    let size = _mm512_set1_epi64(window.size as i64);
    let mut count = 0;
    for (block, &mask) in masks.iter().enumerate() {
        let mut rest = mask;
        while rest != 0 {
            let step = rest.trailing_zeros() as usize / 8;
            let lanes = (rest >> (8 * step)) as __mmask8;
            rest &= !(0xff << (8 * step));
            // SAFETY: masked-off lanes are not read; eight entries behind `count` lie in the slack at worst.
            unsafe {
                let from = words.add(block * BLOCK + 8 * step);
                let loaded: __m512i;
                asm!("vmovdqu64 {to}{{{set}}}{{z}}, zmmword ptr [{from}]",
                    to = lateout(zmm_reg) loaded, set = in(kreg) lanes, from = in(reg) from,
                    options(nostack, readonly, preserves_flags));
                let offset = _mm512_sub_epi64(loaded, base);
                let hits = _mm512_mask_cmplt_epu64_mask(lanes, offset, size);
                // Packed in a register first: some processors are slow at packing into memory.
                let packed = _mm512_maskz_compress_epi64(hits, offset);
                _mm512_storeu_si512(out.add(count).cast(), packed);
                count += hits.count_ones() as usize;
            }
        }
    }
    count
}

/// Bit `i` of `objects` to bit `i * words`, one after the other.
fn starts_one_by_one(objects: &[u64; 8], words: usize, masks: &mut [u64; MOST_BLOCKS]) {
    *masks = [0; MOST_BLOCKS];
    for (group, &bits) in objects.iter().enumerate() {
        let mut rest = bits;
        while rest != 0 {
            let at = (group * 64 + rest.trailing_zeros() as usize) * words;
            rest &= rest - 1;
            if let Some(mask) = masks.get_mut(at / BLOCK) {
                *mask |= 1 << (at % BLOCK);
            }
        }
    }
}

/// For objects of so many words: the bits of each block at which one begins, and the first that begins there.
struct Starts {
    bits: [u64; MOST_BLOCKS],
    first: [u16; MOST_BLOCKS],
}

static STARTS: [Starts; BLOCK + 1] = {
    let mut table = [const { Starts { bits: [0; MOST_BLOCKS], first: [0; MOST_BLOCKS] } }; BLOCK + 1];
    let mut words = 2;
    while words <= BLOCK {
        let mut object = 0;
        while (object + 1) * words <= MOST_WORDS {
            let (block, bit) = (object * words / BLOCK, object * words % BLOCK);
            if table[words].bits[block] == 0 {
                table[words].first[block] = object as u16;
            }
            table[words].bits[block] |= 1 << bit;
            object += 1;
        }
        words += 1;
    }
    table
};

/// The same by depositing, a block at a time.
///
/// # Safety
/// The processor has BMI2.
#[target_feature(enable = "bmi2")]
unsafe fn starts_deposited(objects: &[u64; 8], words: usize, masks: &mut [u64; MOST_BLOCKS]) {
    let starts = &STARTS[words];
    for (block, mask) in masks.iter_mut().enumerate() {
        let first = starts.first[block] as usize;
        let (group, bit) = (first / 64, first % 64);
        let low = objects[group & 7] >> bit;
        // No more than 32 objects begin in a block, so two groups hold them; shifted twice, since 64 is too far.
        let high = objects.get(group + 1).map_or(0, |next| next << 1 << (63 - bit));
        *mask = _pdep_u64(low | high, starts.bits[block]);
    }
}

/// Every bit becomes a run of `words` bits. A start `2^p` stands for the run `2^(p + words) - 2^p`; since runs do not
/// meet, that holds for the sum as well: one subtraction of long numbers.
fn fill_runs(words: usize, masks: &mut [u64; MOST_BLOCKS]) {
    let (mut below, mut borrow) = (0_u64, false);
    for mask in masks {
        // The number shifted by `words`, which is 1 to 64.
        let shifted = if words == BLOCK { below } else { *mask << words | below >> 1 >> (63 - words) };
        below = *mask;
        let (one, under) = shifted.overflowing_sub(*mask);
        let (two, again) = one.overflowing_sub(u64::from(borrow));
        borrow = under | again;
        *mask = two;
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KERNELS: [Kernel; 3] = [Kernel::Plain, Kernel::Avx2, Kernel::Avx512];

    fn here() -> impl Iterator<Item = Kernel> {
        KERNELS.into_iter().filter(|kernel| kernel.runs_here())
    }

    fn picked(kernel: Kernel, words: *const u64, masks: &[u64], window: Window) -> Vec<u64> {
        let mut out = Box::new(Candidates([0xdead; MOST_WORDS + SLACK]));
        // SAFETY: the kernel runs here, and the tests hand words that are there.
        let count = unsafe { kernel.pick(words, masks, window, &mut out) };
        out.0[..count].to_vec()
    }

    /// The words that count, written down as the definition says it.
    fn twin(words: &[u64], masks: &[u64], window: Window) -> Vec<u64> {
        let is_in =
            |word: u64| word >= window.base as u64 && word - (window.base as u64) < window.size as u64;
        (0..words.len())
            .filter(|&at| masks[at / 64] >> (at % 64) & 1 == 1 && is_in(words[at]))
            .map(|at| words[at] - window.base as u64)
            .collect()
    }

    fn word() -> impl Strategy<Value = u64> {
        const BASE: u64 = 0x7f00_0040_0000;
        prop_oneof![
            Just(0),
            Just(BASE),
            Just(BASE - 1),
            Just(BASE + 0xffff),
            Just(BASE + 0x1_0000),
            Just(u64::MAX),
            BASE..BASE + 0x1_0000,
            any::<u64>()
        ]
    }

    fn mask() -> impl Strategy<Value = u64> {
        prop_oneof![Just(0), Just(u64::MAX), any::<u64>(), (0..64_u32).prop_map(|bit| 1 << bit)]
    }

    proptest! {
        #[test]
        fn all_kernels_pick_the_same(
            words in prop::collection::vec(word(), 1024),
            masks in prop::collection::vec(mask(), 0..=16),
            shift in 0..8_usize,
        ) {
            let window = Window { base: 0x7f00_0040_0000, size: 0x1_0000 };
            let masks = &masks[..masks.len().min((1024 - shift) / 64)];
            let words = &words[shift..shift + masks.len() * 64];
            let expected = twin(words, masks, window);
            for kernel in here() {
                prop_assert_eq!(&picked(kernel, words.as_ptr(), masks, window), &expected, "{:?}", kernel);
            }
        }

        #[test]
        fn objects_become_runs_of_words(bits in prop::array::uniform8(mask()), words in 2..=64_usize) {
            let mut expected = [0_u64; MOST_BLOCKS];
            let count = MOST_WORDS / words;
            let mut bits = bits;
            for object in count..512 {
                bits[object / 64] &= !(1 << (object % 64));
            }
            for object in (0..count).filter(|object| bits[object / 64] >> (object % 64) & 1 == 1) {
                (object * words..(object + 1) * words).for_each(|at| expected[at / 64] |= 1 << (at % 64));
            }
            for kernel in here() {
                let mut masks = [u64::MAX; MOST_BLOCKS];
                // SAFETY: the kernel runs here.
                unsafe { kernel.expand(&bits, words, &mut masks) };
                prop_assert_eq!(masks, expected, "{:?}", kernel);
            }
        }
    }

    /// Words at the very end of what is mapped: a kernel that read one word more would not come back.
    #[test]
    fn nothing_is_read_but_what_is_asked_for() {
        let system = crate::os::System::Linux;
        let page = system.page_size();
        let span = crate::base::Bytes(page.0 * 3);
        let base = system.reserve(span, page).unwrap();
        // SAFETY: the test's own reservation; its middle page is used, those beside it fault.
        unsafe {
            let middle = base.add(page.0);
            system.commit(middle, page).unwrap();
            system.ready(middle, page).unwrap();
            let words = middle.cast::<u64>();
            let count = page.0 / 8;
            (0..count).for_each(|at| words.add(at).write(at as u64 + 1));
            let window = Window { base: 1, size: count };
            for kernel in here() {
                for length in 1..64 {
                    // The last words of the page, and the first, among words that cannot be read.
                    let last = picked(kernel, words.add(count - length), &[(1 << length) - 1], window);
                    assert!(
                        last.into_iter().eq((count - length) as u64..count as u64),
                        "{kernel:?} {length}"
                    );
                    let mask = u64::MAX << (64 - length);
                    let first = picked(kernel, words.wrapping_sub(64 - length), &[mask], window);
                    assert!(first.into_iter().eq(0..length as u64), "{kernel:?} {length}");
                }
            }
            system.unmap(base, span);
        }
    }
}
