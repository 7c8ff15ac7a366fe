# A small crate without dependencies, built and run. (rustc brings its own
# allocator; cargo, the linker and the crate itself do not.)
set -e
mkdir -p crate/src
cat >crate/Cargo.toml <<'TOML'
[package]
name = "small"
version = "0.1.0"
edition = "2021"
[workspace]
TOML
cat >crate/src/main.rs <<'RUST'
use std::collections::{BTreeMap, HashMap};
use std::thread;

fn count(part: u64) -> BTreeMap<u64, Vec<String>> {
    let mut map = BTreeMap::new();
    for i in 0..20_000u64 {
        map.entry((i * 7919 + part) % 997).or_insert_with(Vec::new).push(format!("{i} of {part}"));
    }
    map
}

fn main() {
    let threads: Vec<_> = (0..4).map(|part| thread::spawn(move || count(part))).collect();
    let mut lengths = HashMap::new();
    for thread in threads {
        for (key, texts) in thread.join().unwrap() {
            *lengths.entry(key % 10).or_insert(0) += texts.iter().map(String::len).sum::<usize>();
        }
    }
    let mut lengths: Vec<_> = lengths.into_iter().collect();
    lengths.sort();
    println!("{lengths:?}");
    let text = std::panic::catch_unwind(|| panic!("caught")).unwrap_err();
    println!("{:?}", text.downcast_ref::<&str>());
}
RUST
cd crate
unset CARGO_BUILD_TARGET RUSTFLAGS CARGO_ENCODED_RUSTFLAGS RUSTC_WRAPPER
export CARGO_TARGET_DIR=target
"$CARGO" build --offline --quiet
./target/debug/small 2>/dev/null
"$CARGO" metadata --offline --no-deps --format-version 1 | wc -l
echo 'fn main() { wrong }' >src/main.rs
"$CARGO" build --offline --quiet 2>&1 | grep -c '^error'
