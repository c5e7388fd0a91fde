//! What a replay found.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;
use wfhost::StepInfo;
use wfhost::engine::{Asked, Frame, Replayed};
use wfhost::store::{Emission, LogLevel, LogLine};
use wfhost_core::{Failure, Json, RunId};

use crate::run::parts;
use crate::{Anything, LogView};

/// A run that was repeated without effects.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ReplayView {
    /// Whether the program came to its end.
    pub ended: bool,
    pub entries: u64,
    #[schema(value_type = Anything)]
    pub failure: Option<Failure>,
    pub log: Vec<LogView>,
    #[schema(value_type = Anything)]
    pub output: Option<Json>,
    #[schema(value_type = BTreeMap<String, Anything>)]
    pub published: BTreeMap<String, Json>,
    pub run: String,
    #[schema(example = "wfhost/replay/1")]
    pub schema: &'static str,
    /// Where the program asked for each step, if that was looked for.
    pub steps: Vec<AskedView>,
}

/// Where the program asked for a step.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct AskedView {
    pub frames: Vec<FrameView>,
    pub kind: Option<&'static str>,
    pub label: Option<String>,
    pub step: u64,
}

/// A place in the source.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct FrameView {
    pub column: u32,
    pub file: String,
    pub function: Option<String>,
    pub line: u32,
}

impl ReplayView {
    pub fn new(
        run: &RunId,
        entries: u64,
        replayed: &Replayed,
        lines: &[LogLine],
        known: &[StepInfo],
    ) -> Self {
        let frame = |frame: &Frame| FrameView {
            column: frame.column,
            file: frame.file.clone(),
            function: frame.function.clone(),
            line: frame.line,
        };
        let step = |asked: &Asked| {
            let what = known.iter().find(|info| info.step == asked.step);
            AskedView {
                frames: asked.frames.iter().map(frame).collect(),
                kind: what.map(|info| info.op.kind()),
                label: what.map(|info| info.op.label()),
                step: asked.step.0,
            }
        };
        let (output, failure) = parts(replayed.outcome.as_ref());
        Self {
            ended: replayed.outcome.is_some(),
            entries,
            failure: failure.cloned(),
            log: lines.iter().map(LogView::of).collect(),
            output: output.cloned(),
            published: published(replayed),
            run: run.to_string(),
            schema: "wfhost/replay/1",
            steps: replayed.trace.iter().map(step).collect(),
        }
    }
}

/// What the program wrote, numbered as it was when it was stored.
pub fn log_lines(replayed: &Replayed, level: LogLevel) -> Vec<LogLine> {
    let lines = replayed.emissions.iter().zip(0..).filter_map(|(emission, number)| match emission {
        Emission::Log(line) => Some(LogLine { number, ..line.clone() }),
        Emission::Phase { title, at } => Some(LogLine::phase(number, *at, title)),
        Emission::State { .. } | Emission::Message { .. } => None,
    });
    lines.filter(|line| line.level >= level).collect()
}

/// The latest value of each key.
fn published(replayed: &Replayed) -> BTreeMap<String, Json> {
    let mut values = BTreeMap::new();
    for emission in &replayed.emissions {
        if let Emission::State { key, value, .. } = emission {
            values.insert(key.clone(), value.clone());
        }
    }
    values
}
