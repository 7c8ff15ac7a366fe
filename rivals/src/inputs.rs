//! What the programs work on: scripts of `programs/`, and data made here, the same on every machine.

use std::fmt::Write as _;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

/// A linear congruential sequence (Knuth's MMIX constants); its upper bits are random enough for test data.
struct Sequence(u64);

impl Sequence {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }

    /// A word; small numbers are likelier, so words repeat as they do in texts.
    fn word(&mut self) -> String {
        const SYLLABLES: [&str; 16] = [
            "ba", "ke", "li", "mo", "nu", "ra", "se", "ti", "vo", "wu", "shan", "tor", "pel", "gri", "on",
            "es",
        ];
        let mut number = self.below(60) * self.below(60) * self.below(8);
        let mut word = String::new();
        loop {
            word.push_str(SYLLABLES[number as usize % 16]);
            number /= 16;
            if number == 0 {
                return word;
            }
        }
    }

    fn words(&mut self, count: u64) -> String {
        (0..count).map(|_| self.word()).collect::<Vec<_>>().join(" ")
    }
}

/// Appends a formatted line. Writing to a string cannot fail.
macro_rules! line {
    ($text:expr, $($format:tt)*) => { writeln!($text, $($format)*).expect("a string takes any text") };
}

pub(crate) fn python(folder: &Path) -> io::Result<()> {
    std::fs::write(folder.join("objects.py"), include_str!("../programs/objects.py"))
}

pub(crate) fn sqlite(folder: &Path) -> io::Result<()> {
    std::fs::write(folder.join("base.sql"), include_str!("../programs/base.sql"))
}

pub(crate) fn lua(folder: &Path) -> io::Result<()> {
    std::fs::write(folder.join("trees.lua"), include_str!("../programs/trees.lua"))
}

pub(crate) fn ruby(folder: &Path) -> io::Result<()> {
    std::fs::write(folder.join("objects.rb"), include_str!("../programs/objects.rb"))
}

pub(crate) fn cpp(folder: &Path) -> io::Result<()> {
    std::fs::write(folder.join("templates.cpp"), include_str!("../programs/templates.cpp"))
}

pub(crate) fn perl(folder: &Path) -> io::Result<()> {
    std::fs::write(folder.join("words.pl"), include_str!("../programs/words.pl"))?;
    text(folder)
}

pub(crate) fn awk(folder: &Path) -> io::Result<()> {
    std::fs::write(folder.join("pairs.awk"), include_str!("../programs/pairs.awk"))?;
    text(folder)
}

/// `text.txt`: 36,000 lines of ten words.
pub(crate) fn text(folder: &Path) -> io::Result<()> {
    let mut random = Sequence(1);
    let mut text = String::new();
    (0..36_000).for_each(|_| line!(text, "{}", random.words(10)));
    std::fs::write(folder.join("text.txt"), text)
}

/// `page.html`: tables of ten rows, with links, so many rows in all.
pub(crate) fn page(folder: &Path, rows: u64) -> io::Result<()> {
    let mut random = Sequence(5);
    let mut text = String::from("<html><head><title>Tables</title></head><body>\n");
    for row in 0..rows {
        if row % 10 == 0 {
            line!(text, "<h2>{}</h2><p>{}</p><table border=1>", random.words(3), random.words(20));
        }
        let (link, words) = (random.word(), random.words(8));
        line!(
            text,
            "<tr><td>{row}</td><td><a href=\"#{link}\">{link}</a></td><td>{words}</td><td><b>{}</b></td></tr>",
            random.below(1 << 20)
        );
        if row % 10 == 9 {
            line!(text, "</table>");
        }
    }
    line!(text, "</body></html>");
    std::fs::write(folder.join("page.html"), text)
}

/// `lines.txt`: 400,000 lines of a number and three words.
pub(crate) fn lines(folder: &Path) -> io::Result<()> {
    let mut random = Sequence(2);
    let mut text = String::new();
    (0..400_000).for_each(|_| line!(text, "{} {}", random.below(1 << 30), random.words(3)));
    std::fs::write(folder.join("lines.txt"), text)
}

/// `data.json`: 60,000 records.
pub(crate) fn json(folder: &Path) -> io::Result<()> {
    let mut random = Sequence(3);
    let record = |id: u64, random: &mut Sequence| {
        serde_json::json!({
            "id": id, "team": random.word(), "score": random.below(10_000),
            "tags": [random.word(), random.word()], "note": random.words(6),
        })
    };
    let records: Vec<_> = (0..60_000).map(|id| record(id, &mut random)).collect();
    std::fs::write(folder.join("data.json"), serde_json::Value::Array(records).to_string())
}

/// `data.xml`: 360,000 elements with attributes and text.
pub(crate) fn xml(folder: &Path) -> io::Result<()> {
    let mut random = Sequence(4);
    let mut text = String::from("<?xml version=\"1.0\"?>\n<all>");
    for id in 0..90_000 {
        line!(
            text,
            "<item id=\"{id}\" team=\"{}\"><name>{}</name><note lang=\"none\">{}</note><empty/></item>",
            random.word(),
            random.word(),
            random.words(5)
        );
    }
    text.push_str("</all>\n");
    std::fs::write(folder.join("data.xml"), text)
}

/// `many.c` and `few.c`: functions with loops, switches and calls of each other.
pub(crate) fn c(folder: &Path) -> io::Result<()> {
    std::fs::write(folder.join("many.c"), functions(70))?;
    std::fs::write(folder.join("few.c"), functions(250))
}

fn functions(count: u64) -> String {
    let mut random = Sequence(5);
    let mut text = String::from("struct pair { long left, right; };\n");
    for index in 0..count {
        let (a, b, c) = (random.below(100) + 1, random.below(100) + 1, random.below(7) + 2);
        let callee = random.below(index.max(1));
        let call = if index > 0 { format!("f{callee}(p, n / 2)") } else { "n".into() };
        line!(text, "long f{index}(struct pair *p, long n) {{");
        line!(text, "  long sum = {a}, table[{c}] = {{0}};");
        line!(text, "  for (long i = 0; i < n; i++) {{");
        line!(text, "    switch ((i * {a} + p->left) % {c}) {{");
        for case in 0..c {
            line!(
                text,
                "    case {case}: sum += p->right * {} - i; table[{case}] ^= sum << {}; break;",
                b + case,
                case
            );
        }
        line!(text, "    default: p->left ^= sum; if (sum > {b}) sum -= {call};\n    }}\n  }}");
        line!(text, "  for (int k = 0; k < {c}; k++) sum += table[k] * p[k & 1].right;\n  return sum;\n}}");
    }
    text
}

/// `repository`: 1,000 commits of a project of 120 files, through `git fast-import`.
pub(crate) fn git(folder: &Path) -> io::Result<()> {
    let repository = folder.join("repository");
    let git = || {
        let mut git = Command::new("git");
        git.env("GIT_CONFIG_GLOBAL", "/dev/null").stdout(Stdio::null()).stderr(Stdio::null());
        git
    };
    let worked = |status: std::process::ExitStatus, what: &str| match status.success() {
        true => Ok(()),
        false => Err(io::Error::other(format!("git {what}: {status}"))),
    };
    worked(git().args(["init", "-q", "-b", "main"]).arg(&repository).status()?, "init")?;
    let mut import = git().arg("-C").arg(&repository).arg("fast-import").stdin(Stdio::piped()).spawn()?;
    let mut stream = import.stdin.take().expect("the stream was asked for");
    io::Write::write_all(&mut stream, history().as_bytes())?;
    drop(stream);
    worked(import.wait()?, "fast-import")
}

fn history() -> String {
    let mut random = Sequence(6);
    let mut files: Vec<Vec<String>> = (0..120).map(|_| (0..150).map(|_| random.words(6)).collect()).collect();
    let mut stream = String::new();
    for commit in 0..1_000u64 {
        let message = random.words(8);
        line!(stream, "commit refs/heads/main\ncommitter A <a@b.c> {} +0000", 1_600_000_000 + commit * 60);
        line!(stream, "data {}\n{message}", message.len());
        let changed: Vec<usize> = match commit {
            0 => (0..files.len()).collect(),
            _ => (0..3).map(|_| random.below(files.len() as u64) as usize).collect(),
        };
        for index in changed {
            for _ in 0..4 {
                let row = random.below(files[index].len() as u64) as usize;
                files[index][row] = random.words(6);
            }
            let text = files[index].join("\n");
            line!(stream, "M 644 inline src/part{}/file{index}.txt\ndata {}\n{text}", index % 10, text.len());
        }
    }
    stream
}

/// `small`: a crate without dependencies.
pub(crate) fn crate_source(folder: &Path) -> io::Result<()> {
    let source = folder.join("small/src");
    std::fs::create_dir_all(&source)?;
    let manifest = "[package]\nname = \"small\"\nversion = \"0.1.0\"\nedition = \"2021\"\n[workspace]\n";
    std::fs::write(folder.join("small/Cargo.toml"), manifest)?;
    let mut text = String::from("use std::collections::BTreeMap;\n");
    for index in 0..120 {
        line!(text, "#[derive(Debug, Clone, PartialEq, PartialOrd, Default)]");
        line!(
            text,
            "struct S{index} {{ name: String, list: Vec<u64>, map: BTreeMap<String, u{}> }}",
            8 << (index % 4)
        );
    }
    line!(text, "fn main() {{");
    (0..120).for_each(|index| line!(text, "    println!(\"{{:?}}\", S{index}::default());"));
    line!(text, "}}");
    std::fs::write(source.join("main.rs"), text)
}

/// `pages.ps`: pages of curves and words.
pub(crate) fn postscript(folder: &Path) -> io::Result<()> {
    let mut random = Sequence(7);
    let mut text = String::from("%!PS\n/Times-Roman findfont 9 scalefont setfont\n");
    for _ in 0..12 {
        for _ in 0..2_500 {
            let [x, y, a, b, c, d] = std::array::from_fn(|_| random.below(600));
            let grey = random.below(100);
            line!(text, "0.{grey:02} setgray {x} {y} moveto {a} {b} {c} {d} {y} {x} curveto closepath");
            line!(text, "{}", if grey.is_multiple_of(3) { "fill" } else { "stroke" });
            line!(text, "{a} {y} moveto ({}) show", random.words(2));
        }
        line!(text, "showpage");
    }
    std::fs::write(folder.join("pages.ps"), text)
}

/// `problem.smt2`: ten pigeons in nine holes, and sums of integers.
pub(crate) fn smt(folder: &Path) -> io::Result<()> {
    const HOLES: u64 = 9;
    let mut text = String::from("(set-option :smt.random_seed 1)\n");
    for pigeon in 0..=HOLES {
        (0..HOLES).for_each(|hole| line!(text, "(declare-const p{pigeon}_{hole} Bool)"));
        let holes: Vec<_> = (0..HOLES).map(|hole| format!("p{pigeon}_{hole}")).collect();
        line!(text, "(assert (or {}))", holes.join(" "));
        for (other, hole) in (0..pigeon).flat_map(|other| (0..HOLES).map(move |hole| (other, hole))) {
            line!(text, "(assert (not (and p{pigeon}_{hole} p{other}_{hole})))");
        }
    }
    line!(text, "(check-sat)\n(reset)");
    let mut random = Sequence(8);
    (0..60).for_each(|index| {
        line!(text, "(declare-const x{index} Int)\n(assert (and (< 0 x{index}) (< x{index} 90)))")
    });
    for _ in 0..70 {
        let [a, b, c] = std::array::from_fn(|_| random.below(60));
        line!(
            text,
            "(assert (or (< (+ x{a} x{b}) x{c}) (> (- x{c} x{a}) {}) (= x{b} x{a})))",
            random.below(50)
        );
    }
    line!(text, "(check-sat)");
    std::fs::write(folder.join("problem.smt2"), text)
}
