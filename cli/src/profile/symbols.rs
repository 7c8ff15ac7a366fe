//! Names for addresses: from debugging information where there is some, else from symbol tables.

use super::proto::{Function, Line, Mapping, Profile};
use addr2line::Loader;
use object::{Object, ObjectSegment};
use std::collections::HashMap;

/// A file that was mapped, opened.
struct File {
    loader: Loader,
    /// Where in the file the code's segments begin, how long they are, and where the file wants them in memory.
    segments: Vec<(u64, u64, u64)>,
}

/// One name at an address: an inlined function, or the one that it was inlined into.
struct Named {
    function: String,
    file: String,
    line: i64,
}

/// Gives every address of a profile a name, as far as the mapped files can be read. Returns what went wrong.
pub(crate) fn name_all(profile: &mut Profile) -> Vec<String> {
    let (mut warnings, mut files) = (Vec::new(), HashMap::new());
    for mapping in &profile.mapping {
        let used = profile.location.iter().any(|location| location.mapping_id == mapping.id);
        let path = profile.string(mapping.filename);
        if !used || !path.starts_with('/') {
            continue;
        }
        match File::open(path, profile.string(mapping.build_id)) {
            Ok(file) => {
                files.insert(mapping.id, (mapping.clone(), file));
            }
            Err(error) => warnings.push(format!("{path}: {error}; its addresses stay without names")),
        }
    }
    let mut names = Names::of(profile);
    let mut locations = std::mem::take(&mut profile.location);
    for location in locations.iter_mut().filter(|location| location.line.is_empty()) {
        let Some((mapping, file)) = files.get(&location.mapping_id) else { continue };
        let Some(address) = file.address(mapping, location.address) else { continue };
        location.line = file.names(address).iter().map(|name| names.line(profile, name)).collect();
    }
    profile.location = locations;
    for mapping in profile.mapping.iter_mut().filter(|mapping| files.contains_key(&mapping.id)) {
        (mapping.has_functions, mapping.has_filenames) = (true, true);
        (mapping.has_line_numbers, mapping.has_inline_frames) = (true, true);
    }
    warnings
}

impl File {
    fn open(path: &str, build_id: &str) -> Result<File, String> {
        let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
        let object = object::File::parse(&*bytes).map_err(|error| error.to_string())?;
        let found = object.build_id().ok().flatten().unwrap_or(&[]);
        let found: String = found.iter().map(|byte| format!("{byte:02x}")).collect();
        if !build_id.is_empty() && found != build_id {
            return Err(format!("not the file that ran: its build id is {found}, and that was {build_id}"));
        }
        let segments = object.segments().map(|segment| {
            let (offset, size) = segment.file_range();
            (offset, size, segment.address())
        });
        let segments = segments.collect();
        let loader = Loader::new(path).map_err(|error| error.to_string())?;
        Ok(File { loader, segments })
    }

    /// Where the file wants what was mapped at an address.
    fn address(&self, mapping: &Mapping, address: u64) -> Option<u64> {
        let offset = address.checked_sub(mapping.memory_start)?.checked_add(mapping.file_offset)?;
        let inside = |&&(from, size, _): &&(u64, u64, u64)| (from..from + size).contains(&offset);
        let (from, _, at) = self.segments.iter().find(inside)?;
        Some(offset - from + at)
    }

    /// The names at an address, the innermost first.
    fn names(&self, address: u64) -> Vec<Named> {
        let mut names = Vec::new();
        let probe = address - self.loader.relative_address_base();
        if let Ok(mut frames) = self.loader.find_frames(probe) {
            while let Ok(Some(frame)) = frames.next() {
                let Some(function) = frame.function else { break };
                let Ok(raw) = function.raw_name() else { break };
                let location = frame.location;
                names.push(Named {
                    function: addr2line::demangle_auto(raw, function.language).into_owned(),
                    file: location.as_ref().and_then(|at| at.file).unwrap_or("").to_owned(),
                    line: location.as_ref().and_then(|at| at.line).unwrap_or(0).into(),
                });
            }
        }
        // What the symbol table says of the function as a whole is the fuller name, where there is little debugging
        // information.
        if let Some(symbol) = self.loader.find_symbol(probe) {
            let function = addr2line::demangle_auto(symbol.into(), None).into_owned();
            match names.last_mut() {
                Some(last) if function.len() > last.function.len() => last.function = function,
                Some(_) => {}
                None => names.push(Named { function, file: String::new(), line: 0 }),
            }
        }
        names
    }
}

/// Numbers of strings and functions.
struct Names {
    strings: HashMap<String, i64>,
    functions: HashMap<(i64, i64), u64>,
}

impl Names {
    fn of(profile: &Profile) -> Names {
        let strings = profile.string_table.iter().zip(0..).map(|(text, number)| (text.clone(), number));
        let functions = profile.function.iter().map(|of| ((of.name, of.filename), of.id));
        Names { strings: strings.collect(), functions: functions.collect() }
    }

    fn string(&mut self, profile: &mut Profile, text: &str) -> i64 {
        if let Some(&number) = self.strings.get(text) {
            return number;
        }
        let number = profile.string_table.len() as i64;
        profile.string_table.push(text.to_owned());
        self.strings.insert(text.to_owned(), number);
        number
    }

    fn line(&mut self, profile: &mut Profile, named: &Named) -> Line {
        let name = self.string(profile, &named.function);
        let filename = self.string(profile, &named.file);
        let next = profile.function.iter().map(|function| function.id).max().unwrap_or(0) + 1;
        let function_id = *self.functions.entry((name, filename)).or_insert_with(|| {
            let function = Function { id: next, name, system_name: name, filename, start_line: 0 };
            profile.function.push(function);
            next
        });
        Line { function_id, line: named.line, column: 0 }
    }
}
