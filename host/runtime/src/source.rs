//! Places in the source of a program, by the debug information (DWARF) that its module carries.
//!
//! It is read when a place is wanted and not before: programs that are evicted, or that trap by
//! the thousand, pay nothing for it, and compiled modules are kept without it.

use std::fmt;
use std::ops::Range;

use addr2line::Context;
use addr2line::gimli::{Dwarf, EndianSlice, LittleEndian, SectionId};
use wasmparser::{Encoding, Parser, Payload};
use wasmtime::WasmBacktrace;

/// A place in the source of a program.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    /// The function as its author wrote it, if its name is known.
    pub function: Option<String>,
    /// As the compiler was given it.
    pub file: String,
    pub line: u32,
    pub column: u32,
}

impl fmt::Display for Frame {
    /// `file:line:column`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// An offset within the bytes of a program's module.
pub type Offset = usize;

/// Where a program is: the calls in flight, the innermost first.
pub(super) fn offsets(backtrace: &WasmBacktrace) -> Vec<Offset> {
    backtrace.frames().iter().filter_map(wasmtime::FrameInfo::module_offset).collect()
}

/// What the bytes of a component say about the source that it was made of.
pub struct Sources<'a> {
    modules: Vec<CoreModule<'a>>,
}

/// One of the core modules that a component is made of.
struct CoreModule<'a> {
    /// Its instructions. Addresses of DWARF count from their beginning.
    code: Range<usize>,
    lines: Context<EndianSlice<'a, LittleEndian>>,
}

impl<'a> Sources<'a> {
    /// Reads the debug information. What cannot be read is left out: it is an aid and no more.
    pub fn read(component: &'a [u8]) -> Self {
        let mut modules = Vec::new();
        let mut open = None::<Unread<'a>>;
        for payload in Parser::new(0).parse_all(component) {
            match payload {
                Ok(Payload::Version { encoding: Encoding::Module, .. }) => open = Some(Unread::default()),
                Ok(Payload::CodeSectionStart { range, .. }) => {
                    if let Some(module) = &mut open {
                        module.code = range;
                    }
                }
                Ok(Payload::CustomSection(section)) if section.name().starts_with(".debug_") => {
                    if let Some(module) = &mut open {
                        module.sections.push((section.name(), section.data()));
                    }
                }
                // When a component ends no core module is open.
                Ok(Payload::End(_)) => modules.extend(open.take().and_then(Unread::read)),
                Ok(_) => {}
                Err(_) => break,
            }
        }
        Self { modules }
    }

    /// The frames that have debug information, the innermost first. The standard
    /// library's own lines help nobody and are left out.
    pub fn frames(&self, offsets: &[Offset]) -> Vec<Frame> {
        offsets.iter().flat_map(|offset| self.frames_at(*offset)).collect()
    }

    /// One place has several frames if functions were inlined.
    fn frames_at(&self, offset: Offset) -> Vec<Frame> {
        let mut found = Vec::new();
        let Some(module) = self.modules.iter().find(|module| module.code.contains(&offset)) else {
            return found;
        };
        let address = (offset - module.code.start) as u64;
        let Ok(mut frames) = module.lines.find_frames(address).skip_all_loads() else { return found };
        while let Ok(Some(frame)) = frames.next() {
            let Some((file, line, column)) =
                frame.location.and_then(|at| Some((at.file?, at.line?, at.column.unwrap_or(1))))
            else {
                continue;
            };
            if is_standard_library(file) {
                continue;
            }
            let name = frame.function.as_ref().and_then(|function| function.raw_name().ok());
            let function = name.map(|name| rustc_free(&name).to_owned());
            found.push(Frame { function, file: file.to_owned(), line, column });
        }
        found
    }
}

/// The parts of a core module that matter here.
#[derive(Default)]
struct Unread<'a> {
    code: Range<usize>,
    sections: Vec<(&'a str, &'a [u8])>,
}

impl<'a> Unread<'a> {
    fn read(self) -> Option<CoreModule<'a>> {
        if self.sections.is_empty() {
            return None;
        }
        let section = |id: SectionId| {
            let known = self.sections.iter().find(|(name, _)| *name == id.name());
            EndianSlice::new(known.map_or(&[][..], |(_, data)| data), LittleEndian)
        };
        let dwarf = Dwarf::load(|id| Ok::<_, addr2line::gimli::Error>(section(id))).ok()?;
        Some(CoreModule { code: self.code, lines: Context::from_dwarf(dwarf).ok()? })
    }
}

/// Rust's, as the different distributions of the compiler spell its place.
fn is_standard_library(file: &str) -> bool {
    file.starts_with("library/")
        || ["/rustc/", "/rust/library/", "/rustc-"].iter().any(|place| file.contains(place))
}

/// A demangled name without the digest that rustc appends.
fn rustc_free(name: &str) -> &str {
    match name.rsplit_once("::h") {
        Some((path, digest)) if digest.len() == 16 && digest.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            path
        }
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_standard_library_is_left_out() {
        assert!(is_standard_library("/rustc/59807616e1/library/std/src/panicking.rs"));
        assert!(is_standard_library("/usr/lib/rustlib/src/rust/library/core/src/future.rs"));
        assert!(!is_standard_library("/home/ada/library/src/lib.rs"));
    }

    #[test]
    fn names_lose_the_digest_that_only_the_linker_needs() {
        assert_eq!(rustc_free("probe::perform::h0123456789abcdef"), "probe::perform");
        assert_eq!(rustc_free("probe::hello"), "probe::hello");
        assert_eq!(rustc_free("main"), "main");
    }

    #[test]
    fn what_cannot_be_read_has_no_places() {
        for bytes in [&b""[..], b"\0asm", b"garbage of some length", b"\0asm\x01\0\0\0\0\xff"] {
            assert!(Sources::read(bytes).frames(&[0, 5, usize::MAX]).is_empty());
        }
    }
}
