//! One client that is told as it happens.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use tokio::sync::watch;
use tokio::time::Instant;
use wfhost_core::Digest;
use wfhost_view::{document, raw};

use super::cursor::Cursor;
use super::hub::{Batch, Next, Seat};
use super::source::{EventView, Source};
use crate::app::{App, Stream, ended};
use crate::auth::Identity;
use crate::problem::Problem;

/// How often a stream says that it lives.
const PING: Duration = Duration::from_secs(10);
/// How often is looked whether the token of a stream is still good, at least: with what is told, and each ping.
const CHECK: Duration = Duration::from_secs(5);

/// What a stream knows. A client that does not read has two batches of events, at most: one here, and one
/// on its way.
struct Telling {
    app: App,
    who: Identity,
    /// When it was looked whether he is let in.
    checked: Instant,
    source: Source,
    cursor: Cursor,
    /// Where it goes on when all is told; without, it ends there.
    seat: Option<Seat>,
    draining: watch::Receiver<bool>,
    ready: VecDeque<Bytes>,
    /// How the run showed last.
    shown: Option<Digest>,
    over: bool,
    /// When something was said last.
    spoke: Instant,
    _place: Stream,
}

/// Tells from `cursor` on. `seat`: where it goes on when all is told.
pub(super) fn answer(
    app: &App,
    who: &Identity,
    source: Source,
    cursor: Cursor,
    seat: Option<Seat>,
    place: Stream,
) -> Response {
    let telling = Telling {
        app: app.clone(),
        who: who.clone(),
        checked: Instant::now(),
        source,
        cursor,
        seat,
        draining: app.draining(),
        ready: VecDeque::new(),
        shown: None,
        over: false,
        spoke: Instant::now(),
        _place: place,
    };
    let told = stream::unfold(telling, async |mut telling| {
        let text = telling.next().await?;
        Some((Ok::<_, std::convert::Infallible>(text), telling))
    });
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform")),
        // Proxies are not to gather them.
        (header::HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    (headers, Body::from_stream(told)).into_response()
}

impl Telling {
    /// The next text to send.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(text) = self.ready.pop_front() {
                self.spoke = Instant::now();
                return Some(text);
            }
            if self.over {
                return None;
            }
            self.check().await;
            if !self.ready.is_empty() || self.over {
                continue;
            }
            match self.seat.take() {
                Some(mut seat) => {
                    self.follow(&mut seat).await;
                    self.seat = Some(seat);
                }
                None => self.read_on().await,
            }
        }
    }

    /// Takes what is next of what others are told, too, or waits for it.
    async fn follow(&mut self, seat: &mut Seat) {
        // Before it is asked for, so that no look in between is missed.
        seat.looks.borrow_and_update();
        let shown = self.source.kinds.has("run").then_some(self.shown);
        match seat.next(self.cursor, shown) {
            Next::Batch(batch) => self.take(&batch),
            Next::Show(text, digest) => {
                self.ready.push_back(text);
                self.shown = Some(digest);
            }
            Next::End => self.end(),
            Next::Failed(problem) => self.fail(&problem),
            Next::Wait => self.wait(seat).await,
            Next::Behind(tip) => {
                let mut draining = self.draining.clone();
                let read = tokio::select! {
                    biased;
                    () = ended(&mut draining) => return self.bye(),
                    read = seat.catch_up(self.cursor, tip) => read,
                };
                match read {
                    // It is not what others have read: the next look tells.
                    Ok(batch) if batch.to == self.cursor => self.wait(seat).await,
                    Ok(batch) => self.take(&batch),
                    Err(problem) => self.fail(&problem),
                }
            }
        }
    }

    fn take(&mut self, batch: &Arc<Batch>) {
        self.cursor = batch.to;
        if !batch.text.is_empty() {
            self.ready.push_back(batch.text.clone());
        }
    }

    /// Waits until there may be something to tell.
    async fn wait(&mut self, seat: &mut Seat) {
        let mut draining = self.draining.clone();
        tokio::select! {
            biased;
            () = ended(&mut draining) => self.bye(),
            _ = seat.looks.changed() => {}
            () = tokio::time::sleep_until(self.spoke + PING) => self.ready.push_back(self.plain("ping")),
        }
    }

    /// Tells what there is, for a client that does not wait for more.
    async fn read_on(&mut self) {
        let mut draining = self.draining.clone();
        let read = tokio::select! {
            biased;
            () = ended(&mut draining) => return self.bye(),
            read = self.app.hub().read_behind(&self.app, self.source.clone(), self.cursor, None) => read,
        };
        let news = match read {
            Ok(news) => news,
            Err(problem) => return self.fail(&problem),
        };
        self.cursor = news.cursor;
        if !news.events.is_empty() {
            self.ready.push_back(news.text());
        }
        if news.more {
            return;
        }
        if let Some(view) = news.run.filter(|_| self.source.kinds.has("run")) {
            self.ready.push_back(EventView::new("run", &self.cursor, &raw(&view)).text().into());
        }
        self.end();
    }

    /// Ends the stream if its token is not good any more.
    async fn check(&mut self) {
        if self.over || self.checked.elapsed() < CHECK {
            return;
        }
        match self.app.hub().lets_in(&self.app, &self.who).await {
            Ok(true) => self.checked = Instant::now(),
            // A client that comes again is told why it is refused.
            Ok(false) => {
                self.ready = [self.plain("bye")].into();
                self.over = true;
            }
            Err(problem) => self.fail(&problem),
        }
    }

    fn end(&mut self) {
        self.ready.push_back(self.plain("end"));
        self.over = true;
    }

    /// Ends the stream as the server ends: another one goes on behind the cursor.
    fn bye(&mut self) {
        let bye = EventView::new("bye", &self.cursor, &document! {}).text();
        self.ready.push_back(("retry: 500\n".to_owned() + &bye).into());
        self.over = true;
    }

    /// Ends the stream: the client comes again, behind what it has.
    fn fail(&mut self, problem: &Problem) {
        let view = document! { "code": problem.error().code, "title": problem.error().message };
        let bye = EventView::new("bye", &self.cursor, &view).text();
        self.ready.push_back(("retry: 2000\n".to_owned() + &bye).into());
        self.over = true;
    }

    /// An event that only tells where one is.
    fn plain(&self, event: &'static str) -> Bytes {
        EventView::new(event, &self.cursor, &document! {}).text().into()
    }
}
