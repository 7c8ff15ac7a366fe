//! The benchmarks of the program `classic`, as workloads.

use std::path::PathBuf;

use crate::workload::{Family, Job, Workload};

/// Names and lines of the benchmarks; a test compares the names with what the program offers.
const LIST: [(&str, &str); 17] = [
    ("churn-1", "random replacement among 10,000 blocks of 8 to 512 B"),
    ("churn-2", "the same on two threads"),
    ("random-sizes", "random replacement among 4,000 blocks of 8 B to 64 KiB"),
    ("trees", "binary trees, a long-lived one and many short-lived"),
    ("batch-lifo", "batches of 2,000 blocks freed youngest first, one in 64 survives a while"),
    ("batch-fifo", "the same, oldest first"),
    ("fragment", "phases of different sizes, nine blocks in ten freed at random"),
    ("calloc", "calloc of 16 B to 256 KiB, dirtied and replaced"),
    ("aligned", "posix_memalign at 16 B to 64 KiB"),
    ("handoff", "one thread allocates, another frees"),
    ("exchange", "four threads free each other's batches"),
    ("server", "workers end and leave their blocks to their successors (after Larson)"),
    ("scratch", "small blocks of four threads written over and over (false sharing)"),
    ("short-threads", "4,000 threads whose blocks outlive them"),
    ("realloc", "a thousand growing vectors and one of 256 MiB"),
    ("large-sparse", "64 KiB to 16 MiB, one byte in 64 KiB written"),
    ("large-full", "64 KiB to 16 MiB, all written"),
];

/// The workloads.
pub(crate) fn list() -> impl Iterator<Item = Workload> {
    LIST.into_iter().map(|(name, about)| Workload {
        name,
        about,
        family: Family::Classic,
        needs: &[],
        prepare: |_| Ok(()),
        before: "",
        job: Job::Classic,
        variables: &[],
        after: "",
    })
}

/// The program `classic`, which cargo builds beside this one.
pub(crate) fn program() -> PathBuf {
    let mut path = std::env::current_exe().expect("a running program has a path");
    path.set_file_name("classic");
    path
}
