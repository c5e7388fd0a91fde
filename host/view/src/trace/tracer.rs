//! The spans of a run, made of its entries one after the other.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};
use wfhost::store::{RunInfo, RunState};
use wfhost_core::policy::budget::Spent;
use wfhost_core::trace::{attempt_id, parse_traceparent, span_id, trace_id};
use wfhost_core::{
    Digest, Entry, Event, FailedCall, Failure, FailureKind, Op, Origin, Outcome, Position, Recorded, RunId,
    Started, Step, Timestamp, Usage, decode_op,
};

use super::past::{By, Mail, Note, Past};
use super::{Link, Span, link, root_id, step_id};

/// Attempts of which is waited for what they consumed, though their calls were dropped. The first of more are told
/// without that.
const LATE: usize = 100;

/// What follows depends on steps that ended long ago, of which this one keeps nothing: the spans are to be made anew,
/// by one [with its past](Tracer::with_past).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NeedsPast;

/// Makes spans of the entries of a run, in their order. What it keeps is what is open: so it is small, however long
/// the journal is, and nothing has to be read twice.
#[derive(Clone, Debug)]
pub struct Tracer {
    about: Arc<About>,
    /// The position of the entry that comes next.
    next: u64,
    module: Digest,
    begun: Timestamp,
    /// What is read are the entries of another run, which this one was made of.
    is_foreign: bool,
    has_ended: bool,
    retries: u64,
    /// By its own calls.
    spent: Spent,
    open: BTreeMap<Step, Open>,
    mail: Mail,
    late: VecDeque<Late>,
    past: Option<Past>,
}

/// What is known of the run beside its entries.
#[derive(Debug)]
struct About {
    run: RunId,
    workflow: String,
    parent: Option<Link>,
    content: bool,
}

/// A step that is open.
#[derive(Clone, Debug)]
pub(super) struct Open {
    /// The position of the entry that began it.
    pub begun: u64,
    pub from: Timestamp,
    /// How often it was taken up again by a retry.
    life: u64,
    pub what: Arc<What>,
    /// The number of the attempt that is under way, and since when.
    attempt: Option<(u32, Timestamp)>,
    /// The greatest number of an attempt that was told.
    tried: u32,
    wait: Option<(&'static str, Timestamp)>,
    /// How many waits were told of this life.
    waits: u64,
    /// The end of the last of what is below it and was told.
    told: Option<Timestamp>,
}

/// What a step is.
#[derive(Debug)]
pub(super) struct What {
    name: String,
    kind: &'static str,
    pub is: Is,
}

#[derive(Debug)]
pub(super) enum Is {
    Call(Call),
    Child(RunId),
    Signal(Arc<str>),
    Other,
}

#[derive(Debug)]
pub(super) struct Call {
    label: Option<String>,
    /// Which one is asked first.
    provider: Option<String>,
    model: Option<String>,
    /// Only if what runs work on is told.
    prompt: Option<String>,
}

/// An attempt at a call that was dropped: what it consumed may be told yet.
#[derive(Clone, Debug)]
struct Late {
    step: Step,
    open: Open,
    to: Timestamp,
}

/// How a step ends.
#[derive(Clone, Copy)]
enum How<'a> {
    Outcome(&'a Recorded),
    Signal,
    Cancelled,
    /// The run ended, and did not wait for it.
    Left,
}

impl How<'_> {
    fn by(self) -> By {
        match self {
            Self::Outcome(Recorded::Err(failure)) => {
                By::Outcome { unaffordable: failure.kind == FailureKind::BudgetExceeded }
            }
            Self::Outcome(Recorded::Ok(_)) => By::Outcome { unaffordable: false },
            Self::Signal => By::Signal,
            Self::Cancelled | Self::Left => By::Program,
        }
    }
}

/// What is known of an attempt when it ends.
#[derive(Default)]
struct Made<'a> {
    provider: Option<&'a str>,
    failure: Option<&'a Failure>,
    usage: Option<Usage>,
    reply: Option<Value>,
}

/// Where spans go, if they go anywhere.
struct Sheet<'a>(Option<&'a mut Vec<Span>>);

impl Sheet<'_> {
    fn write(&mut self, span: impl FnOnce() -> Span) {
        if let Some(spans) = &mut self.0 {
            spans.push(span());
        }
    }
}

impl What {
    fn of(op: Op, run: &RunId, step: Step, content: bool) -> Self {
        let kind = op.kind();
        let (name, is) = match op {
            Op::Agent(request) => {
                let request = *request;
                let call = Call {
                    label: request.label,
                    provider: request.providers.into_iter().next(),
                    model: request.model,
                    prompt: content.then_some(request.prompt),
                };
                ("agent".to_owned(), Is::Call(call))
            }
            Op::Sleep { .. } | Op::SleepUntil { .. } => ("sleep".to_owned(), Is::Other),
            Op::Signal { name, .. } => (format!("wait_for_signal {name}"), Is::Signal(name.into())),
            Op::Ask { .. } => ("wait_for_person".to_owned(), Is::Other),
            Op::Child { module, options, .. } => {
                let named = options.and_then(|options| options.id?.parse().ok());
                (format!("child {module}"), Is::Child(named.unwrap_or_else(|| run.child(step))))
            }
            Op::Send { name, .. } => (format!("send_signal {name}"), Is::Other),
            Op::ContinueAsNew { .. } => ("continue_as_new".to_owned(), Is::Other),
        };
        Self { name, kind, is }
    }

    fn bytes(&self) -> usize {
        let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let own = match &self.is {
            Is::Call(call) => [&call.label, &call.provider, &call.model, &call.prompt].map(text).iter().sum(),
            Is::Child(run) => run.as_str().len(),
            Is::Signal(name) => name.len(),
            Is::Other => 0,
        };
        size_of::<Self>() + self.name.len() + own
    }
}

impl Open {
    fn new(what: What, begun: u64, from: Timestamp) -> Self {
        let attempt = matches!(what.is, Is::Call(_)).then_some((1, from));
        let what = Arc::new(what);
        Self { begun, from, life: 0, what, attempt, tried: 0, wait: None, waits: 0, told: None }
    }

    /// The same, when a retry takes it up again.
    pub fn again(self, at: Timestamp) -> Self {
        let Self { begun, life, what, tried, .. } = self;
        Self { begun, from: at, life: life + 1, what, attempt: None, tried, wait: None, waits: 0, told: None }
    }

    fn is_call(&self) -> bool {
        matches!(self.what.is, Is::Call(_))
    }

    pub fn signal(&self) -> Option<&Arc<str>> {
        match &self.what.is {
            Is::Signal(name) => Some(name),
            _ => None,
        }
    }

    /// The id of its span. Each life has one of its own: what was told of the one before stands.
    fn id(&self, run: &RunId, step: Step) -> String {
        match self.life {
            0 => step_id(run, step),
            life => span_id(run, "step", &[step.0, life]),
        }
    }

    fn heard(&mut self, at: Timestamp) {
        self.told = self.told.max(Some(at));
    }

    /// The attempt that is under way ends. `made`: what is known of it, if that is asked for.
    fn end_attempt(
        &mut self,
        about: &About,
        step: Step,
        to: Timestamp,
        made: impl FnOnce(&mut dyn FnMut(Made<'_>)),
        sheet: &mut Sheet<'_>,
    ) {
        let Some((number, from)) = self.attempt.take() else { return };
        if sheet.0.is_some() {
            made(&mut |made| sheet.write(|| attempt_span(about, step, self, (number, from, to), made)));
        }
        self.tried = self.tried.max(number);
        self.heard(to);
    }

    fn begin_wait(
        &mut self,
        about: &About,
        step: Step,
        what: &'static str,
        at: Timestamp,
        sheet: &mut Sheet<'_>,
    ) {
        self.end_wait(about, step, at, sheet);
        self.wait = Some((what, at));
    }

    fn end_wait(&mut self, about: &About, step: Step, to: Timestamp, sheet: &mut Sheet<'_>) {
        let Some((what, from)) = self.wait.take() else { return };
        let place = self.waits;
        self.waits += 1;
        self.heard(to);
        sheet.write(|| {
            let numbers = [step.0, self.life, place];
            let numbers = if self.life == 0 { &[step.0, place][..] } else { &numbers };
            Span {
                id: span_id(&about.run, "wait", numbers),
                parent: Some(self.id(&about.run, step)),
                name: what.to_owned(),
                is_call: false,
                is_open: false,
                from,
                to: to.max(from),
                attributes: vec![("wfhost.run.id", json!(about.run)), ("wfhost.step", json!(step.0))],
                links: Vec::new(),
                failed: None,
            }
        });
    }

    /// Its own span.
    fn span(&self, about: &About, step: Step, to: Timestamp, state: &str, failure: Option<&Failure>) -> Span {
        let run = &about.run;
        let mut attributes = vec![
            ("wfhost.run.id", json!(run)),
            ("wfhost.step", json!(step.0)),
            ("wfhost.step.kind", json!(self.what.kind)),
            ("wfhost.step.state", json!(state)),
        ];
        let mut links = Vec::new();
        match &self.what.is {
            Is::Call(call) => {
                attributes.extend(call.label.as_ref().map(|label| ("wfhost.label", json!(label))))
            }
            Is::Child(child) => {
                attributes.push(("wfhost.child.run.id", json!(child)));
                links.push(link(child, root_id(child), "child"));
            }
            Is::Signal(_) | Is::Other => {}
        }
        if let Some(before) = self.life.checked_sub(1) {
            attributes.push(("wfhost.retry", json!(self.life)));
            let before = Self { life: before, ..self.clone() };
            links.push(link(run, before.id(run, step), "retry-of"));
        }
        Span {
            id: self.id(run, step),
            parent: Some(root_id(run)),
            name: self.what.name.clone(),
            is_call: false,
            is_open: false,
            from: self.from,
            to: to.max(self.from),
            attributes,
            links,
            failed: failure.map(|failure| said(failure, about.content)),
        }
    }

    fn bytes(&self) -> usize {
        size_of::<(Step, Self)>() + self.what.bytes()
    }
}

/// What is told of a failure.
fn said(failure: &Failure, content: bool) -> (String, String) {
    let message = if content { failure.message.clone() } else { String::new() };
    (failure.kind.word().to_owned(), message)
}

fn attempt_span(
    about: &About,
    step: Step,
    open: &Open,
    (number, from, to): (u32, Timestamp, Timestamp),
    made: Made<'_>,
) -> Span {
    let run = &about.run;
    let Is::Call(call) = &open.what.is else { unreachable!("only calls are tried") };
    // Programs that are asked know their attempt by its number. One that was told already has another id.
    let id = match number > open.tried {
        true => attempt_id(run, step, number),
        false => span_id(run, "attempt", &[step.0, u64::from(number), open.life]),
    };
    let reply = made.reply.as_ref();
    let text = |name: &str| reply.and_then(|reply| reply[name].as_str());
    let provider = made.provider.or(text("provider")).or(call.provider.as_deref()).unwrap_or("unknown");
    let model = text("model").or(call.model.as_deref());
    let usage = made.usage.or_else(|| serde_json::from_value(reply?["usage"].clone()).ok());
    let (operation, name) = match (provider, model) {
        ("openai" | "anthropic", Some(model)) => ("chat", format!("chat {model}")),
        _ => ("invoke_agent", format!("invoke_agent {provider}")),
    };
    let mut attributes = vec![
        ("gen_ai.operation.name", json!(operation)),
        ("gen_ai.provider.name", json!(provider)),
        ("wfhost.run.id", json!(run)),
        ("wfhost.step", json!(step.0)),
        ("wfhost.attempt", json!(number)),
    ];
    attributes.extend(call.model.as_ref().map(|model| ("gen_ai.request.model", json!(model))));
    attributes.extend(text("model").map(|model| ("gen_ai.response.model", json!(model))));
    attributes.extend(text("session").map(|session| ("gen_ai.conversation.id", json!(session))));
    if reply.is_some_and(|reply| reply["cached"] == true) {
        attributes.push(("wfhost.cached", json!(true)));
    }
    if let Some(usage) = usage {
        attributes.extend([
            ("gen_ai.usage.input_tokens", json!(usage.input_tokens)),
            ("gen_ai.usage.output_tokens", json!(usage.output_tokens)),
            ("gen_ai.usage.cache_read.input_tokens", json!(usage.cached_tokens)),
            ("wfhost.cost_usd", json!(usage.cost_micros as f64 / 1e6)),
        ]);
    }
    if let Some(prompt) = &call.prompt {
        let parts = json!([{ "role": "user", "parts": [{ "type": "text", "content": prompt }] }]);
        attributes.push(("gen_ai.input.messages", json!(parts.to_string())));
        if let Some(reply) = reply {
            let parts =
                json!([{ "role": "assistant", "parts": [{ "type": "text", "content": reply["output"] }] }]);
            attributes.push(("gen_ai.output.messages", json!(parts.to_string())));
        }
    }
    Span {
        id,
        parent: Some(open.id(run, step)),
        name,
        is_call: true,
        is_open: false,
        from,
        to: to.max(from),
        attributes,
        links: Vec::new(),
        failed: made.failure.map(|failure| said(failure, about.content)),
    }
}

/// What a reply says that it consumed, without the rest of it.
fn usage_of(reply: &str) -> Option<Usage> {
    #[derive(Deserialize)]
    struct OnlyUsage {
        #[serde(default)]
        usage: Option<Usage>,
    }
    // Most of the time there is none, which can be told without reading it as JSON.
    if !reply.contains("\"usage\"") {
        return None;
    }
    serde_json::from_str::<OnlyUsage>(reply).ok()?.usage
}

impl Tracer {
    /// One that has read nothing. With `content` it also tells what the run works on.
    pub fn new(info: &RunInfo, content: bool) -> Self {
        let parent = match (&info.parent, info.links.step) {
            (Some(parent), Some(step)) => Some(link(parent, step_id(parent, step), "parent")),
            _ => None,
        };
        let about = About { run: info.id.clone(), workflow: info.workflow.clone(), parent, content };
        Self {
            about: Arc::new(about),
            next: 0,
            module: info.module,
            begun: info.created_at,
            is_foreign: false,
            has_ended: false,
            retries: 0,
            spent: Spent::default(),
            open: BTreeMap::new(),
            mail: Mail::default(),
            late: VecDeque::new(),
            past: None,
        }
    }

    /// The same, which also keeps of each step that ended what a retry may need: it lacks nothing, whatever comes.
    pub fn with_past(info: &RunInfo, content: bool) -> Self {
        Self { past: Some(Past::default()), ..Self::new(info, content) }
    }

    /// Lets go of what only a retry needs.
    pub fn forget(&mut self) {
        self.past = None;
    }

    /// The position of the entry that comes next.
    pub fn next(&self) -> Position {
        Position(self.next)
    }

    /// The id of the trace that the spans belong to.
    pub fn trace(&self) -> String {
        trace_id(&self.about.run)
    }

    /// Whether the run has ended, for now: one that failed may be retried.
    pub fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// About how many bytes of memory it takes.
    pub fn bytes(&self) -> usize {
        let open = self.open.values().map(Open::bytes).sum::<usize>();
        let late = self.late.iter().map(|late| size_of::<Late>() + late.open.bytes()).sum::<usize>();
        size_of::<Self>() + self.about.workflow.len() + open + late + self.mail.bytes()
    }

    /// Takes in the next entry, and adds the spans that end by it to `told`. `head`: that of the chain behind it, if it is
    /// known. On an error nothing was taken in.
    pub fn take(
        &mut self,
        entry: &Entry,
        head: Option<Digest>,
        told: Option<&mut Vec<Span>>,
    ) -> Result<(), NeedsPast> {
        let returned = match entry.event {
            Event::Retried { .. } if self.past.is_none() => return Err(NeedsPast),
            Event::Returned { step } => {
                let name = self.mail.take_back(step);
                let name = name.or_else(|| self.past.as_ref()?.signal_of(step));
                if name.is_none() && self.past.is_none() {
                    return Err(NeedsPast);
                }
                name
            }
            _ => None,
        };
        let position = self.next;
        self.next += 1;
        let at = entry.at;
        let is_own = match &entry.event {
            Event::Started(started) => {
                self.is_foreign = started.run != self.about.run;
                !self.is_foreign
            }
            Event::Forked { run, .. } if *run == self.about.run => true,
            _ => !self.is_foreign,
        };
        let sheet = &mut Sheet(told.filter(|_| is_own));
        match &entry.event {
            Event::Started(started) => self.begin(at, origin(started), sheet),
            Event::Forked { run, from, .. } if *run == self.about.run => self.become_own(at, from, sheet),
            Event::Moved { module } => self.module = *module,
            Event::Scheduled { step, op } => self.schedule(*step, op, position, at, sheet),
            Event::Attempted { step, attempt, .. } => {
                if let Some(open) = self.open.get_mut(step).filter(|open| open.is_call()) {
                    open.end_wait(&self.about, *step, at, sheet);
                    // The one before was cut off by the death of its host.
                    let died = Failure::new(FailureKind::Unavailable, "its host died");
                    let made = |tell: &mut dyn FnMut(Made<'_>)| {
                        tell(Made { failure: Some(&died), ..Made::default() })
                    };
                    open.end_attempt(&self.about, *step, at, made, sheet);
                    open.attempt = Some((*attempt, at));
                }
            }
            Event::AttemptFailed(failed) => self.attempt_failed(failed, at, sheet),
            Event::Postponed { step, .. } => {
                if let Some(open) = self.open.get_mut(step) {
                    // It was not made.
                    open.attempt = None;
                    open.begin_wait(&self.about, *step, "wait_for_turn", at, sheet);
                }
            }
            Event::Delegated { step, provider, .. } => {
                if let Some(open) = self.open.get_mut(step) {
                    let made = |tell: &mut dyn FnMut(Made<'_>)| {
                        tell(Made { provider: Some(provider), ..Made::default() })
                    };
                    open.end_attempt(&self.about, *step, at, made, sheet);
                    open.begin_wait(&self.about, *step, "wait_for_person", at, sheet);
                }
            }
            Event::Cancelled { step } => self.end(*step, at, How::Cancelled, position, sheet),
            Event::Received { name, .. } => {
                let name: Arc<str> = name.as_str().into();
                self.note(position, || Note::Came(Arc::clone(&name)));
                self.give(name, position, at, sheet);
            }
            Event::Returned { step } => {
                self.note(position, || Note::Back(*step));
                if let Some(name) = returned {
                    self.give(name, position, at, sheet);
                }
            }
            Event::CancelRequested { .. } => self.end_all(at, How::Cancelled, position, sheet),
            Event::Finished { outcome, .. } => {
                let failure = match outcome {
                    Recorded::Err(failure) => Some(failure),
                    Recorded::Ok(_) => None,
                };
                let state = match failure {
                    None => RunState::Completed,
                    Some(failure) => RunState::of(Some(&Outcome::Err(failure.clone()))),
                };
                self.finish(at, state, failure, head, position, sheet);
            }
            Event::ContinuedAsNew { .. } => {
                self.finish(at, RunState::Continued, None, head, position, sheet);
            }
            Event::Retried { from, step, .. } => self.retry(from.0, *step, position, at, sheet),
            event if let Some((step, outcome)) = event.ended_step() => {
                if let (Event::Completed { .. }, Recorded::Ok(reply)) = (event, outcome)
                    && self.open.get(&step).is_some_and(Open::is_call)
                {
                    self.spend(usage_of(reply.as_str()));
                }
                self.end(step, at, How::Outcome(outcome), position, sheet);
            }
            Event::Forked { .. }
            | Event::Patched { .. }
            | Event::BudgetChanged { .. }
            | Event::ClockSet
            | Event::Completed { .. }
            | Event::Answered { .. }
            | Event::ChildEnded(_) => {}
        }
        Ok(())
    }

    /// What is open and of which something was told, as far as it is known.
    pub fn open(&self) -> Vec<Span> {
        let spans = self.open.iter().filter_map(|(step, open)| {
            let span = open.span(&self.about, *step, open.told?, "open", None);
            Some(Span { is_open: true, ..span })
        });
        spans.collect()
    }

    #[cfg(test)]
    pub(super) fn open_steps(&self) -> Vec<Step> {
        self.open.keys().copied().collect()
    }

    fn note(&mut self, position: u64, note: impl FnOnce() -> Note) {
        if let Some(past) = &mut self.past {
            past.note(position, note());
        }
    }

    fn spend(&mut self, usage: Option<Usage>) {
        if let Some(usage) = usage {
            self.spent = self.spent.plus(Spent::of(&usage));
        }
    }

    /// The run begins.
    fn begin(&mut self, at: Timestamp, links: Vec<Link>, sheet: &mut Sheet<'_>) {
        self.begun = at;
        let about = &self.about;
        sheet.write(|| Span {
            id: root_id(&about.run),
            parent: None,
            name: format!("start {}", about.workflow),
            is_call: false,
            is_open: false,
            from: at,
            to: at,
            attributes: self.attributes(),
            links: about.parent.iter().cloned().chain(links).collect(),
            failed: None,
        });
    }

    /// What is told of the run where it is told as a whole.
    fn attributes(&self) -> Vec<(&'static str, Value)> {
        vec![
            ("wfhost.run.id", json!(self.about.run)),
            ("wfhost.workflow", json!(self.about.workflow)),
            ("wfhost.module", json!(self.module.to_string())),
        ]
    }

    /// What was read are the entries of the run that this one was made of; what is open goes on here. What was paid for
    /// is not paid again.
    fn become_own(&mut self, at: Timestamp, from: &RunId, sheet: &mut Sheet<'_>) {
        self.spent = Spent::default();
        if !std::mem::take(&mut self.is_foreign) {
            return;
        }
        self.retries = 0;
        self.late.clear();
        for open in self.open.values_mut() {
            (open.attempt, open.wait, open.waits, open.told) = (None, None, 0, None);
        }
        self.begin(at, vec![link(from, root_id(from), "forked-from")], sheet);
    }

    fn schedule(&mut self, step: Step, op: &[u8], position: u64, at: Timestamp, sheet: &mut Sheet<'_>) {
        let Ok(op) = decode_op(op, Position(position)) else { return };
        let what = What::of(op, &self.about.run, step, self.about.content);
        let open = Open::new(what, position, at);
        let signal = open.signal().cloned();
        self.open.insert(step, open);
        if let Some(name) = signal {
            self.note(position, || Note::Wait(step, Arc::clone(&name)));
            if self.mail.wait(name, step) {
                self.end(step, at, How::Signal, position, sheet);
            }
        }
    }

    /// A signal came in, or came back: whoever waits for it first gets it.
    fn give(&mut self, name: Arc<str>, position: u64, at: Timestamp, sheet: &mut Sheet<'_>) {
        if let Some(step) = self.mail.give(name) {
            self.end(step, at, How::Signal, position, sheet);
        }
    }

    fn attempt_failed(&mut self, failed: &FailedCall, at: Timestamp, sheet: &mut Sheet<'_>) {
        let step = failed.step;
        self.spend(failed.usage);
        let mut made =
            Made { provider: Some(&failed.provider), usage: failed.usage, failure: None, reply: None };
        let open = self.open.get_mut(&step).filter(|open| {
            let number = open.attempt.map(|(number, _)| number);
            !failed.is_dropped() || number == Some(failed.attempt)
        });
        if let Some(open) = open {
            made.failure = Some(&failed.failure);
            open.end_attempt(&self.about, step, at, |tell| tell(made), sheet);
            if failed.again_at.is_some() {
                open.begin_wait(&self.about, step, "retry_delay", at, sheet);
            }
        } else if let Some(place) = self.late.iter().position(|late| {
            late.step == step && late.open.attempt.is_some_and(|(number, _)| number == failed.attempt)
        }) && let Some(mut late) = self.late.remove(place)
        {
            late.open.end_attempt(&self.about, step, late.to, |tell| tell(made), sheet);
        }
    }

    /// An attempt is told whose call was dropped, with nothing of what it consumed.
    fn tell_late(&mut self, sheet: &mut Sheet<'_>) {
        if let Some(mut late) = self.late.pop_front() {
            late.open.end_attempt(&self.about, late.step, late.to, |tell| tell(Made::default()), sheet);
        }
    }

    fn end(&mut self, step: Step, at: Timestamp, how: How<'_>, position: u64, sheet: &mut Sheet<'_>) {
        let Some(mut open) = self.open.remove(&step) else { return };
        if let Some(name) = open.signal().filter(|_| !matches!(how, How::Signal)) {
            let name = Arc::clone(name);
            self.mail.leave(&name, step);
            self.note(position, || Note::Gone(step, how.by()));
        }
        let (state, failure) = match how {
            How::Outcome(Recorded::Ok(_)) | How::Signal => ("completed", None),
            How::Outcome(Recorded::Err(failure)) => ("failed", Some(failure)),
            How::Cancelled => ("cancelled", None),
            // That is how it ends.
            How::Left if open.what.kind == "continue-as-new" => ("completed", None),
            How::Left => ("open", None),
        };
        if matches!(how, How::Cancelled) && open.attempt.is_some() {
            // What it consumed is said later, if it is.
            self.late.push_back(Late { step, open: open.clone(), to: at });
            open.tried = open.tried.max(open.attempt.take().map_or(0, |(number, _)| number));
            if self.late.len() > LATE {
                self.tell_late(sheet);
            }
        }
        let made = |tell: &mut dyn FnMut(Made<'_>)| {
            let reply = match how {
                How::Outcome(Recorded::Ok(reply)) => Some(reply.value()),
                _ => None,
            };
            tell(Made { failure, reply, ..Made::default() });
        };
        open.end_attempt(&self.about, step, at, made, sheet);
        open.end_wait(&self.about, step, at, sheet);
        sheet.write(|| open.span(&self.about, step, at, state, failure));
        if let Some(past) = &mut self.past {
            past.end(step, open, position, how.by());
        }
    }

    fn end_all(&mut self, at: Timestamp, how: How<'_>, position: u64, sheet: &mut Sheet<'_>) {
        let open: Vec<_> = self.open.keys().copied().collect();
        for step in open {
            self.end(step, at, how, position, sheet);
        }
    }

    /// The run has ended, and so does all that was open.
    fn finish(
        &mut self,
        at: Timestamp,
        state: RunState,
        failure: Option<&Failure>,
        head: Option<Digest>,
        position: u64,
        sheet: &mut Sheet<'_>,
    ) {
        while !self.late.is_empty() {
            self.tell_late(sheet);
        }
        self.end_all(at, How::Left, position, sheet);
        self.has_ended = true;
        let about = &self.about;
        sheet.write(|| {
            let mut attributes = self.attributes();
            attributes.extend([
                ("gen_ai.operation.name", json!("invoke_workflow")),
                ("gen_ai.workflow.name", json!(about.workflow)),
                ("wfhost.state", json!(state.as_str())),
                ("wfhost.cost_usd", json!(self.spent.micros as f64 / 1e6)),
            ]);
            attributes.extend(head.map(|head| ("wfhost.head", json!(head.to_string()))));
            // Each time that it went on is a span of its own.
            let numbers: &[u64] = if self.retries == 0 { &[] } else { &[self.retries] };
            Span {
                id: span_id(&about.run, "whole", numbers),
                parent: Some(root_id(&about.run)),
                name: format!("invoke_workflow {}", about.workflow),
                is_call: false,
                is_open: false,
                from: self.begun,
                to: at.max(self.begun),
                attributes,
                links: Vec::new(),
                failed: failure.map(|failure| said(failure, about.content)),
            }
        });
    }

    /// The run goes on from some position: what it did from there on is void.
    fn retry(
        &mut self,
        from: u64,
        retried: Option<Step>,
        position: u64,
        at: Timestamp,
        sheet: &mut Sheet<'_>,
    ) {
        self.retries += 1;
        self.has_ended = false;
        let void: Vec<_> =
            self.open.iter().filter(|(_, open)| open.begun >= from).map(|(step, _)| *step).collect();
        for step in void {
            self.end(step, at, How::Cancelled, position, sheet);
        }
        let Some(past) = &mut self.past else { return };
        let (mail, again) = past.retry(from, retried);
        self.open.extend(again.into_iter().map(|(step, open)| (step, open.again(at))));
        self.mail = mail;
        // What came in since goes to those that wait again.
        let got = self
            .open
            .iter()
            .filter(|(step, open)| open.signal().is_some_and(|name| !self.mail.waits_for(name, **step)));
        let got: Vec<_> = got.map(|(step, _)| *step).collect();
        for step in got {
            self.end(step, at, How::Signal, position, sheet);
        }
    }
}

/// What a run that was begun by itself or by another one comes from.
fn origin(started: &Started) -> Vec<Link> {
    let mut links = Vec::new();
    match &started.origin {
        Some(Origin::Continued { from, .. }) => links.push(link(from, root_id(from), "previous")),
        Some(Origin::Reused { from }) => links.push(link(from, root_id(from), "reused")),
        None => {}
    }
    let caller = started.config.caller.as_deref().and_then(parse_traceparent);
    links.extend(caller.map(|(trace, span)| Link {
        trace: trace.to_owned(),
        span: span.to_owned(),
        what: "caller",
    }));
    links
}
