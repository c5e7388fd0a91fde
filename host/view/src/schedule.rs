//! Schedules.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;
use wfhost::clock::rfc3339;
use wfhost::schedule::{Schedule, When};
use wfhost_core::{Json, spell_millis};

use crate::Anything;

/// Times that are shown of what is to come.
const SHOWN: usize = 5;

/// When runs begin, and of what.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ScheduleView {
    pub catch_up: &'static str,
    pub created_at: String,
    /// How many runs it has begun.
    pub fired: u64,
    #[schema(value_type = Anything)]
    pub input: Json,
    pub labels: BTreeMap<String, String>,
    /// The run that it began last.
    pub last: Option<String>,
    pub module: String,
    pub name: String,
    /// Its next times.
    pub next: Vec<String>,
    pub overlap: &'static str,
    pub paused: bool,
    #[schema(example = "wfhost/schedule/1")]
    pub schema: &'static str,
    /// Like `every 15m`, or five fields of cron and a time zone.
    pub when: String,
    pub workflow: String,
}

/// All schedules.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct SchedulesView {
    pub schedules: Vec<ScheduleView>,
    #[schema(example = "wfhost/schedules/1")]
    pub schema: &'static str,
}

impl SchedulesView {
    pub fn of(schedules: &[Schedule]) -> Self {
        Self { schema: "wfhost/schedules/1", schedules: schedules.iter().map(ScheduleView::of).collect() }
    }
}

impl ScheduleView {
    pub fn of(schedule: &Schedule) -> Self {
        Self {
            catch_up: schedule.catch_up.as_str(),
            created_at: rfc3339(schedule.created_at),
            fired: schedule.fired,
            input: schedule.input.clone(),
            labels: schedule.labels.iter().cloned().collect(),
            last: schedule.last.as_ref().map(ToString::to_string),
            module: schedule.module.to_string(),
            name: schedule.name.clone(),
            next: schedule.next_times(SHOWN).into_iter().map(rfc3339).collect(),
            overlap: schedule.overlap.as_str(),
            paused: schedule.next_at.is_none(),
            schema: "wfhost/schedule/1",
            when: times(&schedule.when),
            workflow: schedule.workflow.clone(),
        }
    }
}

/// The times of a schedule in words.
pub fn times(when: &When) -> String {
    match when {
        When::Cron(text) => text.clone(),
        When::Every { millis, .. } => format!("every {}", spell_millis(*millis)),
    }
}
