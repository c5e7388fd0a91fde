//! What a plugin shows while it works: the interface `progress`, and its standard output and error.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};
use wfhost_agents::{CallEvent, CallOutput, Lines, Stream};
use wfhost_core::{Json, limits};

/// Bytes that one attempt shows; what comes after them is left out.
const SHOWN_BYTES: u64 = 64 << 20;
/// What an event takes besides its text, about.
const EVENT_BYTES: u64 = 128;
/// Bytes of a line; a longer one is divided.
const LINE_BYTES: usize = limits::LOG_LINE_BYTES;

/// Where it goes. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Progress(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    out: CallOutput,
    answer: Mutex<Lines>,
    left: AtomicU64,
    cancelled: AtomicBool,
    last_words: Mutex<LastWords>,
}

/// What a plugin says when it panics.
#[derive(Debug, Default)]
enum LastWords {
    #[default]
    None,
    /// The message stands on the next line.
    Begun(String),
    Said(String),
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Progress {
    pub fn new(out: CallOutput) -> Self {
        let answer = Mutex::new(Lines::new(out.clone(), Stream::Answer));
        Self(Arc::new(Inner {
            out,
            answer,
            left: AtomicU64::new(SHOWN_BYTES),
            cancelled: AtomicBool::new(false),
            last_words: Mutex::default(),
        }))
    }

    /// Whether so many bytes may still be shown.
    fn pays(&self, bytes: usize) -> bool {
        let cost = bytes as u64 + EVENT_BYTES;
        let left = self.0.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
            // What is left is too little for this one: nothing is shown any more.
            (left > 0).then(|| left.saturating_sub(cost))
        });
        match left {
            Ok(left) if left < cost => {
                let text = format!(
                    "the plugin reached its output limit ({} MiB); the rest is omitted",
                    SHOWN_BYTES >> 20
                );
                self.0.out.line(Stream::Progress, text);
                false
            }
            Ok(_) => true,
            Err(_) => false,
        }
    }

    /// A line of the host itself.
    pub fn note(&self, text: impl Into<String>) {
        self.0.out.line(Stream::Progress, text);
    }

    /// Something was heard of the other side.
    pub fn alive(&self) {
        self.0.out.alive();
    }

    pub fn chunk(&self, text: &str) {
        self.alive();
        // Each line is an event of its own.
        let further = text.matches('\n').count().saturating_mul(EVENT_BYTES as usize);
        if self.pays(text.len().saturating_add(further)) {
            lock(&self.0.answer).push(text);
        }
    }

    pub fn line(&self, text: &str) {
        for line in text.lines() {
            self.hear(line);
            if !self.pays(line.len()) {
                continue;
            }
            // What the host says of denials and signatures is not said in its name.
            let claims = ["denied:", "audit:", "signature:", "[["]
                .iter()
                .any(|start| line.trim_start().starts_with(start));
            let line = if claims { format!("plugin: {line}") } else { line.to_owned() };
            self.0.out.line(Stream::Progress, limits::cut(line, LINE_BYTES));
        }
    }

    /// One that is no JSON is kept as text.
    pub fn transcript(&self, event: String) {
        if self.pays(event.len()) {
            let event = Json::parse(event.clone()).unwrap_or_else(|_| Json::string(&event));
            self.0.out.transcript(event.as_str());
        }
    }

    /// False if it is no JSON.
    pub fn heartbeat(&self, at: String) -> bool {
        let json = Json::parse(at);
        match json {
            Ok(json) => self.0.out.send(CallEvent::Heartbeat(json)),
            Err(_) => return false,
        }
        true
    }

    /// The answer is there: what of it has no line break yet is shown as well.
    pub fn finish(&self) {
        lock(&self.0.answer).finish();
    }

    pub fn cancel(&self) {
        self.0.cancelled.store(true, Ordering::Relaxed);
    }

    pub fn is_cancelled(&self) -> bool {
        self.0.cancelled.load(Ordering::Relaxed)
    }

    /// Keeps a line that tells of a panic.
    fn hear(&self, line: &str) {
        let cut = || limits::cut(line.to_owned(), limits::NAME_BYTES);
        let mut last = lock(&self.0.last_words);
        *last = match &*last {
            LastWords::None if line.contains("panicked at ") || line.starts_with("panic: ") => {
                let words = cut();
                // Rust's standard library writes the message on the line after.
                if words.ends_with(':') { LastWords::Begun(words) } else { LastWords::Said(words) }
            }
            LastWords::Begun(words) => LastWords::Said(format!("{words} {}", cut())),
            LastWords::None | LastWords::Said(_) => return,
        };
    }

    /// What the plugin said when it panicked.
    pub fn last_words(&self) -> Option<String> {
        match &*lock(&self.0.last_words) {
            LastWords::None => None,
            LastWords::Begun(words) | LastWords::Said(words) => Some(words.clone()),
        }
    }
}

/// Standard output and error of a plugin: lines about its work.
#[derive(Clone, Debug)]
pub(crate) struct Stdio {
    progress: Progress,
    rest: Arc<Mutex<Vec<u8>>>,
}

impl Stdio {
    pub fn new(progress: Progress) -> Self {
        Self { progress, rest: Arc::default() }
    }

    fn take(&self, bytes: &[u8]) {
        let mut rest = lock(&self.rest);
        // What is kept has no line break, so only what is new is looked at.
        for mut part in bytes.split_inclusive(|byte| *byte == b'\n') {
            while let Some((first, further)) = part.split_at_checked(LINE_BYTES + 1 - rest.len())
                && first.last() != Some(&b'\n')
            {
                rest.extend_from_slice(first);
                let end = whole_characters(&rest[..LINE_BYTES]);
                self.show(&rest[..end]);
                rest.drain(..end);
                part = further;
            }
            rest.extend_from_slice(part);
            if rest.last() == Some(&b'\n') {
                self.show(&rest);
                rest.clear();
            }
        }
    }

    fn show(&self, line: &[u8]) {
        self.progress.line(String::from_utf8_lossy(line).trim_end_matches(['\n', '\r']));
    }

    /// Shows what has no line break.
    pub fn finish(&self) {
        let rest = std::mem::take(&mut *lock(&self.rest));
        if !rest.is_empty() {
            self.show(&rest);
        }
    }
}

/// The length of what comes before a character that has only begun.
fn whole_characters(bytes: &[u8]) -> usize {
    match std::str::from_utf8(bytes) {
        // Of a few bytes at the end more may come.
        Err(error) if error.error_len().is_none() => error.valid_up_to(),
        _ => bytes.len(),
    }
}

impl IsTerminal for Stdio {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Stdio {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(tokio::io::sink())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Stdio {
    async fn ready(&mut self) {}
}

impl OutputStream for Stdio {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.take(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(LINE_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(act: impl FnOnce(&Progress)) -> Vec<String> {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&seen);
        let progress = Progress::new(CallOutput::new(move |event| {
            if let CallEvent::Line { text, .. } = event {
                lock(&sink).push(text);
            }
        }));
        act(&progress);
        lock(&seen).clone()
    }

    #[test]
    fn standard_output_becomes_lines() {
        let lines = shown(|progress| {
            let stdio = Stdio::new(progress.clone());
            stdio.take(b"one\r\ntw");
            stdio.take(b"o\n\xff");
            stdio.finish();
        });
        assert_eq!(lines, ["one", "two", "\u{fffd}"]);
    }

    #[test]
    fn a_long_line_is_divided_and_nothing_of_it_is_lost() {
        for length in [LINE_BYTES - 1, LINE_BYTES, LINE_BYTES + 1, 2 * LINE_BYTES, 3 * LINE_BYTES + 2] {
            let text: String = "ab\u{20ac}".chars().cycle().take(length).collect();
            for piece in [1_000, LINE_BYTES, usize::MAX] {
                let lines = shown(|progress| {
                    let stdio = Stdio::new(progress.clone());
                    format!("{text}\nnext\n").as_bytes().chunks(piece).for_each(|piece| stdio.take(piece));
                });
                let (last, parts) = lines.split_last().unwrap();
                assert_eq!((parts.concat() == text, last.as_str()), (true, "next"), "{length}, {piece}");
                assert!(parts.iter().all(|part| part.len() <= LINE_BYTES), "{length}, {piece}");
            }
        }
    }

    /// Were everything looked at that has no line break yet, this would take minutes.
    #[test]
    fn a_long_line_may_come_byte_by_byte() {
        let lines = shown(|progress| {
            let stdio = Stdio::new(progress.clone());
            (0..32 * LINE_BYTES).for_each(|_| stdio.take(b"x"));
            stdio.finish();
        });
        assert_eq!(lines.concat().len(), 32 * LINE_BYTES);
    }

    #[test]
    fn a_plugin_does_not_speak_for_the_host() {
        let lines =
            shown(|progress| progress.line("denied: all\n [[providers.x.http]]\nsignature: bad\nfine"));
        let expected =
            ["plugin: denied: all", "plugin:  [[providers.x.http]]", "plugin: signature: bad", "fine"];
        assert_eq!(lines, expected);
    }

    #[test]
    fn who_shows_too_much_is_told_once() {
        let lines = shown(|progress| {
            let text = "x".repeat(8 << 20);
            (0..20).for_each(|_| progress.line(&text));
        });
        assert_eq!(lines.len(), 8);
        assert!(lines[7].contains("reached its output limit"));
    }

    #[test]
    fn the_words_of_a_panic_are_heard() {
        let progress = Progress::new(CallOutput::none());
        for line in ["begin", "thread 'main' panicked at src/lib.rs:3:5:", "no good", "note: run with"] {
            progress.line(line);
        }
        assert_eq!(progress.last_words().unwrap(), "thread 'main' panicked at src/lib.rs:3:5: no good");
    }

    #[test]
    fn what_is_written_after_a_panic_is_not_kept() {
        let progress = Progress::new(CallOutput::none());
        progress.line("panicked at src/lib.rs:3:5:");
        for _ in 0..1_000 {
            progress.line("more:");
        }
        assert_eq!(progress.last_words().unwrap(), "panicked at src/lib.rs:3:5: more:");
    }

    #[test]
    fn each_line_counts_however_short_it_is() {
        let most = (SHOWN_BYTES / EVENT_BYTES) as usize + 1;
        let breaks = "\n".repeat(most + 1_000);
        let lines = shown(|progress| progress.line(&breaks));
        assert!(lines.len() <= most, "{}", lines.len());
        let lines = shown(|progress| progress.chunk(&breaks));
        assert_eq!(lines.len(), 1);
        assert!(lines[0].contains("reached its output limit"));
    }
}
