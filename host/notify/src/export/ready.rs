//! Spans that are to be sent, as requests.

use std::collections::VecDeque;

use wfhost_view::{Span, Trace};

/// Spans of one request.
pub(super) const SPANS: usize = 500;
/// Bytes of text in them: collectors take so much, and hardly more.
pub(super) const BYTES: usize = 4 << 20;

/// A span, and the trace that it belongs to.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub trace: String,
    pub span: Span,
}

/// Spans in their order.
#[derive(Debug, Default)]
pub(super) struct Ready {
    pieces: VecDeque<Piece>,
    bytes: usize,
}

impl Ready {
    pub fn push(&mut self, trace: &str, span: Span) {
        self.bytes += span.text_bytes();
        self.pieces.push_back(Piece { trace: trace.to_owned(), span });
    }

    /// Puts them before the others.
    pub fn put_back(&mut self, pieces: impl DoubleEndedIterator<Item = Piece>) {
        for piece in pieces.rev() {
            self.bytes += piece.span.text_bytes();
            self.pieces.push_front(piece);
        }
    }

    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Takes those of the next request. None if there are none, or, unless `all` are to be sent, not enough for one. One that
    /// is larger than a request should be is alone.
    pub fn next(&mut self, all: bool) -> Option<Vec<Piece>> {
        if self.pieces.is_empty() || !all && self.pieces.len() < SPANS && self.bytes < BYTES {
            return None;
        }
        let mut bytes = 0;
        let fits = self.pieces.iter().take(SPANS).take_while(|piece| {
            bytes += piece.span.text_bytes();
            bytes <= BYTES
        });
        let count = fits.count().max(1);
        let next: Vec<_> = self.pieces.drain(..count).collect();
        self.bytes -= next.iter().map(|piece| piece.span.text_bytes()).sum::<usize>();
        Some(next)
    }
}

/// The same as traces: those of one trace that follow each other together.
pub(super) fn by_trace(pieces: &[Piece]) -> Vec<Trace> {
    let parts = pieces.chunk_by(|one, next| one.trace == next.trace);
    let spans = |part: &[Piece]| part.iter().map(|piece| piece.span.clone()).collect();
    parts.map(|part| Trace { id: part[0].trace.clone(), spans: spans(part) }).collect()
}

#[cfg(test)]
mod tests {
    use wfhost_core::Timestamp;

    use super::*;

    fn piece(trace: &str, id: usize, text: usize) -> Piece {
        let span = Span {
            id: id.to_string(),
            parent: None,
            name: "a".to_owned(),
            is_call: false,
            is_open: false,
            from: Timestamp(0),
            to: Timestamp(0),
            attributes: vec![("text", "x".repeat(text).into())],
            links: Vec::new(),
            failed: None,
        };
        Piece { trace: trace.to_owned(), span }
    }

    #[test]
    fn a_request_has_so_many_spans_and_so_much_text_and_all_are_in_one() {
        let requests = |pieces: Vec<Piece>, all: bool| {
            let mut ready = Ready::default();
            ready.put_back(pieces.into_iter());
            let sizes: Vec<_> = std::iter::from_fn(|| ready.next(all)).map(|next| next.len()).collect();
            (sizes, ready.pieces.len())
        };
        let sizes = |pieces: Vec<Piece>| requests(pieces, true).0;
        assert_eq!(sizes(Vec::new()), [0; 0]);
        assert_eq!(sizes((0..1_001).map(|n| piece("t", n, 1)).collect()), [500, 500, 1]);
        let large = |n| piece("t", n, BYTES / 3);
        assert_eq!(sizes((0..5).map(large).collect()), [2, 2, 1]);
        let huge = piece("t", 1, 2 * BYTES);
        assert_eq!(sizes(vec![piece("t", 0, 1), huge, piece("t", 2, 1)]), [1, 1, 1]);
        // Whoever has more to come waits until a request is full.
        assert_eq!(requests((0..1_001).map(|n| piece("t", n, 1)).collect(), false), (vec![500, 500], 1));
    }

    #[test]
    fn spans_of_one_trace_stay_together() {
        let pieces: Vec<_> =
            ["a", "a", "b"].iter().enumerate().map(|(n, trace)| piece(trace, n, 1)).collect();
        let traces = by_trace(&pieces);
        let told: Vec<_> = traces.iter().map(|trace| (trace.id.as_str(), trace.spans.len())).collect();
        assert_eq!(told, [("a", 2), ("b", 1)]);
    }
}
