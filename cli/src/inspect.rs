//! What a program is, as far as it decides whether the preload takes.
//!
//! The dynamic loader puts the preloaded library right behind the executable in the order of search. Hence:
//!
//! | the program                              | what happens                                                            |
//! |------------------------------------------|-------------------------------------------------------------------------|
//! | is static (no interpreter)               | there is no loader, so nothing is preloaded                             |
//! | has another word size or machine         | its loader refuses the library                                          |
//! | gets rights from its file (setuid, …)    | the loader ignores the preload                                          |
//! | exports its own `malloc`                 | its own comes first: Spanheap is loaded and unused                      |
//! | links an allocator's shared library      | ours comes before it: Spanheap serves, except calls by private names    |
//! | holds an allocator under private names   | Spanheap serves `malloc`, but never sees the private calls              |
//! | is a script                              | all this is asked of its interpreter                                    |
//!
//! What this does not know: what the program executes later, and an allocator that is compiled in under hidden names and
//! reached without `malloc` (a Rust program with its own `#[global_allocator]`, for example).

use object::read::elf::{Dyn, FileHeader, ProgramHeader, SectionTable, Sym, SymbolTable};
use object::{Endianness, ReadCache, ReadRef, elf};
use std::env;
use std::ffi::{CString, OsStr, OsString};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Something about a program that its user should know before trusting the books.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    /// No dynamic loader: nothing can be preloaded.
    Static,
    /// Made for another machine or word size than the library.
    Foreign,
    /// Its file gives it rights the caller lacks, so the loader ignores the preload. Says which kind.
    Privileged(&'static str),
    /// It exports `malloc` itself, which comes before any preloaded one.
    OwnMalloc,
    /// It links this allocator's shared library.
    Links(String),
    /// It defines this function of an allocator under a private name.
    PrivateNames(String),
}

impl Finding {
    /// Whether the preload cannot work at all.
    pub(crate) fn defeats_the_preload(&self) -> bool {
        !matches!(self, Finding::Links(_) | Finding::PrivateNames(_))
    }

    /// The finding as the rest of a sentence that begins with the program's name.
    pub(crate) fn sentence(&self) -> String {
        match self {
            Finding::Static => "is statically linked, so no library can be preloaded into it: \
                                it runs on its own allocator and there will be no books"
                .into(),
            Finding::Foreign => {
                "is made for another machine or word size, so its loader refuses the library: \
                                 it runs on its own allocator and there will be no books"
                    .into()
            }
            Finding::Privileged(kind) => format!(
                "is {kind}, so the dynamic loader ignores the preload: \
                 it runs on its own allocator and there will be no books"
            ),
            Finding::OwnMalloc => "exports its own `malloc`, which comes before a preloaded one: \
                                   it runs on its own allocator and the books will be all but empty"
                .into(),
            Finding::Links(library) => format!(
                "links {library}; Spanheap comes before it and serves malloc and free, \
                 but calls by that allocator's own names are not in the books"
            ),
            Finding::PrivateNames(symbol) => format!(
                "brings an allocator under its own names (`{symbol}`); \
                 what it allocates by those names is not in the books"
            ),
        }
    }
}

/// A program and what was found out about it.
#[derive(Debug)]
pub(crate) struct Report {
    /// The file the system will run: the program, or the interpreter of a script.
    pub(crate) runs: PathBuf,
    /// Whether `runs` is the interpreter of a script.
    pub(crate) is_script: bool,
    /// What there is to say, the most important first.
    pub(crate) findings: Vec<Finding>,
}

impl Report {
    /// Whether what runs links a shared library of this name, itself or by another one: the dynamic loader is asked, which
    /// lists what it would load and runs nothing.
    pub(crate) fn links(&self, library: &str) -> bool {
        let asks_the_loader = !self
            .findings
            .iter()
            .any(|finding| matches!(finding, Finding::Static | Finding::Foreign | Finding::Privileged(_)));
        // What is no executable of the loader's would be run.
        let mut start = [0; 4];
        let is_elf = File::open(&self.runs).and_then(|mut file| file.read_exact(&mut start)).is_ok()
            && start == elf::ELFMAG;
        if !asks_the_loader || !is_elf {
            return false;
        }
        let listed = Command::new(&self.runs)
            .env("LD_TRACE_LOADED_OBJECTS", "1")
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output();
        listed.is_ok_and(|output| {
            let text = String::from_utf8_lossy(&output.stdout);
            text.lines().any(|line| line.split_whitespace().next() == Some(library))
        })
    }
}

/// Why a program cannot be run, with the exit status that shells and `env` give for it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct CannotRun {
    /// 127: not found; 126: found but not executable.
    pub(crate) status: i32,
    /// The message without the program's name.
    pub(crate) why: String,
}

/// Finds the file that running `program` would run, by the rules of a shell: a name with a slash is a path, any other is
/// looked for along `PATH`.
pub(crate) fn resolve(program: &OsStr) -> Result<PathBuf, CannotRun> {
    if program.as_bytes().contains(&b'/') {
        let path = PathBuf::from(program);
        return executable(&path).map(|()| path);
    }
    let search = env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
    let mut refusal = CannotRun { status: 127, why: "not found along PATH".into() };
    for directory in env::split_paths(&search).filter(|_| !program.is_empty()) {
        let path = directory.join(program);
        match executable(&path) {
            // An empty element of PATH means the working directory.
            Ok(()) if directory.as_os_str().is_empty() => return Ok(Path::new(".").join(program)),
            Ok(()) => return Ok(path),
            // A file that is there but not executable is remembered, and the search goes on.
            Err(found) if found.status == 126 => refusal = found,
            Err(_) => {}
        }
    }
    Err(refusal)
}

/// Whether `path` is a file this user may execute.
fn executable(path: &Path) -> Result<(), CannotRun> {
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
            return Err(CannotRun { status: 126, why: "permission denied".into() });
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(CannotRun { status: 127, why: "no such file".into() });
        }
        Err(e) => return Err(CannotRun { status: 127, why: e.to_string() }),
    };
    if metadata.is_dir() {
        return Err(CannotRun { status: 126, why: "is a directory".into() });
    }
    let allowed = rustix::fs::access(c_path(path).as_c_str(), rustix::fs::Access::EXEC_OK).is_ok();
    // Root passes `access` where any execute bit is set, and fails where there is none, as execve does.
    if !allowed || metadata.permissions().mode() & 0o111 == 0 {
        return Err(CannotRun { status: 126, why: "is not executable (permission denied)".into() });
    }
    Ok(())
}

/// A path as the system takes it. A path from the command line or `PATH` holds no NUL; an empty one names nothing.
fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap_or_default()
}

/// Looks at the file `path`, and at its interpreter if it is a script. A file that cannot be read has no findings: the
/// system may still be able to run it, and has the last word.
pub(crate) fn inspect(path: &Path) -> Report {
    let mut runs = path.to_path_buf();
    let mut is_script = false;
    // The kernel follows a few scripts that are interpreters of scripts, too, and then refuses.
    for _ in 0..4 {
        let Some(interpreter) = interpreter(&runs) else { break };
        (runs, is_script) = (interpreter, true);
    }
    let mut findings = Vec::new();
    findings.extend(privileges(&runs).map(Finding::Privileged));
    if let Ok(file) = File::open(&runs) {
        findings.extend(inspect_elf(&ReadCache::new(file)));
    }
    Report { runs, is_script, findings }
}

/// The interpreter that the first line of a script names; looks through `env`, which most scripts go by.
fn interpreter(path: &Path) -> Option<PathBuf> {
    let mut start = Vec::new();
    // The kernel reads 256 bytes of the line.
    File::open(path).ok()?.take(256).read_to_end(&mut start).ok()?;
    let line = start.strip_prefix(b"#!")?.split(|&b| b == b'\n').next()?;
    let mut words = line.split(|b| b" \t\r".contains(b)).filter(|word| !word.is_empty());
    let named = PathBuf::from(OsString::from_vec(words.next()?.to_vec()));
    if named.file_name() != Some(OsStr::new("env")) {
        return Some(named);
    }
    // Options and assignments of `env` come before the name of the program.
    let program = words.find(|word| !word.starts_with(b"-") && !word.contains(&b'='));
    program.and_then(|program| resolve(OsStr::from_bytes(program)).ok()).or(Some(named))
}

/// Whether executing `path` raises the caller's rights, and how.
fn privileges(path: &Path) -> Option<&'static str> {
    let metadata = fs::metadata(path).ok()?;
    let mode = metadata.permissions().mode();
    if mode & 0o4000 != 0 && metadata.uid() != rustix::process::getuid().as_raw() {
        return Some("setuid");
    }
    if mode & 0o2010 == 0o2010 && metadata.gid() != rustix::process::getgid().as_raw() {
        return Some("setgid");
    }
    let mut value = [0u8; 64];
    let granted =
        rustix::fs::getxattr(c_path(path).as_c_str(), c"security.capability", &mut value[..]).is_ok();
    (granted && !rustix::process::geteuid().is_root()).then_some("given capabilities by its file")
}

/// The file format this looks into: the only one the library is built for.
type Header = elf::FileHeader64<Endianness>;

/// What an executable's own tables say. Nothing for a file that is no executable: the system will say so itself.
fn inspect_elf<'data, R: ReadRef<'data>>(data: R) -> Vec<Finding> {
    if data.read_bytes_at(0, 4) != Ok(&elf::ELFMAG) {
        return Vec::new();
    }
    let native =
        Header::parse(data).ok().filter(|header| header.e_machine(Endianness::Little) == elf::EM_X86_64);
    match native {
        Some(header) => inspect_native(header, data).unwrap_or_default(),
        None => vec![Finding::Foreign],
    }
}

/// [`inspect_elf`] for a file of the library's own machine.
fn inspect_native<'data, R: ReadRef<'data>>(header: &'data Header, data: R) -> object::Result<Vec<Finding>> {
    let endian = header.endian()?;
    let segments = header.program_headers(endian, data)?;
    if !segments.iter().any(|segment| segment.p_type(endian) == elf::PT_INTERP) {
        return Ok(vec![Finding::Static]);
    }
    let sections = header.sections(endian, data)?;
    let exported = sections.symbols(endian, data, elf::SHT_DYNSYM)?;
    let all = sections.symbols(endian, data, elf::SHT_SYMTAB)?;
    let mut findings = Vec::new();
    if functions(endian, &exported).any(|name| name == b"malloc") {
        findings.push(Finding::OwnMalloc);
    }
    let allocators = needed(&sections, endian, data)?.into_iter().filter(|library| is_allocator(library));
    findings.extend(allocators.map(Finding::Links));
    let mut names = functions(endian, &exported).chain(functions(endian, &all));
    let private = names.find(|name| PRIVATE_NAMES.contains(name));
    findings.extend(private.map(|name| Finding::PrivateNames(String::from_utf8_lossy(name).into_owned())));
    Ok(findings)
}

/// The names of the functions that a table of symbols defines.
fn functions<'data, R: ReadRef<'data>>(
    endian: Endianness,
    table: &SymbolTable<'data, Header, R>,
) -> impl Iterator<Item = &'data [u8]> {
    let defined = table
        .iter()
        .filter(move |symbol| symbol.st_type() == elf::STT_FUNC && symbol.st_shndx(endian) != elf::SHN_UNDEF);
    defined.filter_map(move |symbol| symbol.name(endian, table.strings()).ok())
}

/// The shared libraries a program asks for by name.
fn needed<'data, R: ReadRef<'data>>(
    sections: &SectionTable<'data, Header, R>,
    endian: Endianness,
    data: R,
) -> object::Result<Vec<String>> {
    let Some((entries, strings)) = sections.dynamic(endian, data)? else { return Ok(Vec::new()) };
    let strings = sections.strings(endian, data, strings)?;
    let wanted = entries.iter().filter(|entry| entry.tag32(endian) == Some(elf::DT_NEEDED));
    let names = wanted.filter_map(|entry| strings.get(entry.val32(endian)?).ok());
    Ok(names.map(|name| String::from_utf8_lossy(name).into_owned()).collect())
}

/// The functions by whose names one knows an allocator that does not answer to `malloc`.
const PRIVATE_NAMES: [&[u8]; 7] =
    [b"je_malloc", b"_rjem_malloc", b"mallocx", b"mi_malloc", b"tc_malloc", b"rpmalloc", b"sn_malloc"];

/// Whether a shared library of this name is a known allocator.
fn is_allocator(library: &str) -> bool {
    ["libjemalloc", "libtcmalloc", "libmimalloc", "libsnmalloc", "librpmalloc", "libhoard"]
        .iter()
        .any(|known| library.starts_with(known))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_says_126_and_127() {
        assert_eq!(resolve(OsStr::new("no-such-program-anywhere")).unwrap_err().status, 127);
        assert_eq!(resolve(OsStr::new("/no/such/file")).unwrap_err().status, 127);
        assert_eq!(resolve(OsStr::new("")).unwrap_err().status, 127);
        assert_eq!(resolve(OsStr::new("/etc/passwd")).unwrap_err().status, 126);
        assert_eq!(resolve(OsStr::new("/tmp/")).unwrap_err().status, 126);
        assert!(resolve(OsStr::new("sh")).unwrap().is_absolute());
    }

    #[test]
    fn an_ordinary_program_has_no_findings() {
        let report = inspect(Path::new("/bin/sh"));
        assert_eq!(report.findings, []);
        assert!(!report.is_script);
    }

    #[test]
    fn the_loader_says_what_a_program_links() {
        let report = inspect(Path::new("/bin/sh"));
        assert!(report.links("libc.so.6") && !report.links("libgc.so.1"));
    }

    #[test]
    fn other_machines_are_told() {
        let mut data = [0u8; 64];
        data[..7].copy_from_slice(b"\x7fELF\x01\x01\x01");
        assert_eq!(inspect_elf(&data[..]), [Finding::Foreign]);
        assert_eq!(inspect_elf(&b"no executable"[..]), []);
        assert_eq!(inspect_elf(&b""[..]), []);
    }

    #[test]
    fn allocators_are_known_by_name() {
        assert!(is_allocator("libjemalloc.so.2"));
        assert!(is_allocator("libtcmalloc_minimal.so.4"));
        assert!(!is_allocator("libc.so.6"));
    }
}
