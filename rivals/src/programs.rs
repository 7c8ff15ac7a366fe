//! The real programs: what each is given to do, how a run starts and what is checked afterwards.
//!
//! Each runs offline, takes 0.3 to 3 seconds and gets its memory from `malloc`. Left out are programs that bring
//! an allocator along and link it in (node, rustc): a preloaded one does not reach them. `cargo-build` is
//! there all the same, for what it must print: cargo, the linker and the shell are served.

use crate::inputs;
use crate::workload::{Family, Job, Workload};

const PYTHON: (&str, &str) = ("python3", "python3");

/// A program with nothing special about it.
const PLAIN: Workload = Workload {
    name: "",
    about: "",
    family: Family::Program,
    needs: &[],
    prepare: |_| Ok(()),
    before: "",
    job: Job::Command { line: &[], input: None },
    variables: &[],
    after: "",
};

/// The programs but Redis, which has its own module.
pub(crate) const LIST: &[Workload] = &[
    Workload {
        name: "python-malloc",
        about: "python3: dictionaries, tuples, strings and a class, every object from malloc",
        needs: &[PYTHON],
        prepare: inputs::python,
        job: Job::Command { line: &["python3", "objects.py"], input: None },
        variables: &[("PYTHONMALLOC", "malloc"), ("PYTHONHASHSEED", "0")],
        ..PLAIN
    },
    Workload {
        name: "python",
        about: "the same with Python's own small-object allocator in front",
        needs: &[PYTHON],
        prepare: inputs::python,
        job: Job::Command { line: &["python3", "objects.py"], input: None },
        variables: &[("PYTHONHASHSEED", "0")],
        ..PLAIN
    },
    Workload {
        name: "python-tests",
        about: "python3: a part of its own test suite, every object from malloc",
        // The second is no command: it shows that the package with the tests is there.
        needs: &[PYTHON, ("../lib/python3.11/test/test_dict.py", "libpython3.11-testsuite")],
        job: Job::Command {
            line: &["python3", "-m", "test", "-q", "test_dict", "test_list", "test_collections"],
            input: None,
        },
        variables: &[("PYTHONMALLOC", "malloc"), ("PYTHONHASHSEED", "0")],
        // The other lines hold times and the machine's load.
        after: "sed -i -n '/^Tests result/p' output",
        ..PLAIN
    },
    Workload {
        name: "sqlite",
        about: "sqlite3: 210,000 rows, two indices, joins, updates and a vacuum in a file",
        needs: &[("sqlite3", "sqlite3")],
        prepare: inputs::sqlite,
        before: "rm -f base.db",
        job: Job::Command { line: &["sqlite3", "base.db"], input: Some("base.sql") },
        after: "sqlite3 base.db 'pragma integrity_check'",
        ..PLAIN
    },
    Workload {
        name: "git-log",
        about: "git: the whole history of a generated repository with patches and statistics",
        needs: &[("git", "git")],
        prepare: inputs::git,
        job: Job::Command {
            line: &["git", "-C", "repository", "log", "-p", "--stat", "--no-color"],
            input: None,
        },
        ..PLAIN
    },
    Workload {
        name: "git-gc",
        about: "git: repacks the same repository",
        needs: &[("git", "git")],
        prepare: inputs::git,
        before: "rm -rf copy && cp -r repository copy",
        job: Job::Command {
            line: &[
                "git",
                "-C",
                "copy",
                "-c",
                "pack.threads=2",
                "repack",
                "-q",
                "-a",
                "-d",
                "-f",
                "--window=20",
            ],
            input: None,
        },
        after: "git -C copy fsck --strict 2>&1; git -C copy rev-list --all --objects | sha1sum",
        ..PLAIN
    },
    Workload {
        name: "gcc",
        about: "gcc -O2 of 70 generated C functions",
        needs: &[("gcc", "gcc")],
        prepare: inputs::c,
        job: Job::Command { line: &["gcc", "-O2", "-c", "many.c", "-o", "many.o"], input: None },
        after: "sha1sum many.o",
        ..PLAIN
    },
    Workload {
        name: "g++",
        about: "g++ of a file heavy with templates",
        needs: &[("g++", "g++")],
        prepare: inputs::cpp,
        job: Job::Command {
            line: &["g++", "-std=c++17", "-O0", "-c", "templates.cpp", "-o", "templates.o"],
            input: None,
        },
        after: "sha1sum templates.o",
        ..PLAIN
    },
    Workload {
        name: "cargo-build",
        about: "cargo: a small crate with a binary (rustc itself brings jemalloc)",
        needs: &[("cargo", "cargo")],
        prepare: inputs::crate_source,
        before: "rm -rf small/target",
        job: Job::Command {
            line: &["cargo", "build", "--offline", "--quiet", "--manifest-path", "small/Cargo.toml"],
            input: None,
        },
        after: "small/target/debug/small",
        ..PLAIN
    },
    Workload {
        name: "cppcheck",
        about: "cppcheck: static analysis of 250 generated C functions",
        needs: &[("cppcheck", "cppcheck")],
        prepare: inputs::c,
        job: Job::Command { line: &["cppcheck", "-q", "--enable=style", "few.c"], input: None },
        after: "cat errors",
        ..PLAIN
    },
    Workload {
        name: "perl",
        about: "perl: hashes of words, sorting, substitution",
        needs: &[("perl", "perl")],
        prepare: inputs::perl,
        job: Job::Command { line: &["perl", "words.pl", "text.txt"], input: None },
        variables: &[("PERL_HASH_SEED", "0"), ("PERL_PERTURB_KEYS", "0")],
        ..PLAIN
    },
    Workload {
        name: "lua",
        about: "lua5.4: trees, tables and strings under its collector",
        needs: &[("lua5.4", "lua5.4")],
        prepare: inputs::lua,
        job: Job::Command { line: &["lua5.4", "trees.lua"], input: None },
        ..PLAIN
    },
    Workload {
        name: "ruby",
        about: "ruby: strings, hashes, arrays and objects",
        needs: &[("ruby", "ruby")],
        prepare: inputs::ruby,
        job: Job::Command { line: &["ruby", "--disable-gems", "objects.rb"], input: None },
        ..PLAIN
    },
    Workload {
        name: "jq",
        about: "jq: groups and sorts 60,000 JSON records",
        needs: &[("jq", "jq")],
        prepare: inputs::json,
        job: Job::Command {
            line: &[
                "jq",
                "-c",
                "group_by(.team) | map({team: .[0].team, n: length, sum: (map(.score) | add)})",
                "data.json",
            ],
            input: None,
        },
        ..PLAIN
    },
    Workload {
        name: "gawk",
        about: "gawk: counts the words and pairs of words of a text",
        needs: &[("gawk", "gawk")],
        prepare: inputs::awk,
        job: Job::Command { line: &["gawk", "-f", "pairs.awk", "text.txt"], input: None },
        ..PLAIN
    },
    Workload {
        name: "sort",
        about: "sort: 400,000 lines on two threads",
        needs: &[("sort", "coreutils")],
        prepare: inputs::lines,
        job: Job::Command {
            line: &["sort", "--parallel=2", "-S", "256M", "-k2,2", "lines.txt"],
            input: None,
        },
        ..PLAIN
    },
    Workload {
        name: "xz",
        about: "xz -T2: compresses a text on two threads",
        needs: &[("xz", "xz-utils")],
        prepare: inputs::text,
        job: Job::Command { line: &["xz", "-T2", "-2", "--block-size=1MiB", "-c", "text.txt"], input: None },
        ..PLAIN
    },
    Workload {
        name: "ghostscript",
        about: "gs: renders generated pages of paths and text",
        needs: &[("gs", "ghostscript")],
        prepare: inputs::postscript,
        job: Job::Command {
            line: &[
                "gs",
                "-q",
                "-dNOPAUSE",
                "-dBATCH",
                "-sDEVICE=ppmraw",
                "-r60",
                "-sOutputFile=-",
                "pages.ps",
            ],
            input: None,
        },
        ..PLAIN
    },
    Workload {
        name: "xmllint",
        about: "xmllint: parses and prints 360,000 elements as a tree",
        needs: &[("xmllint", "libxml2-utils")],
        prepare: inputs::xml,
        job: Job::Command { line: &["xmllint", "--format", "data.xml"], input: None },
        ..PLAIN
    },
    Workload {
        name: "z3",
        about: "z3: a pigeonhole problem and integer arithmetic",
        needs: &[("z3", "z3")],
        prepare: inputs::smt,
        job: Job::Command { line: &["z3", "problem.smt2"], input: None },
        ..PLAIN
    },
];
