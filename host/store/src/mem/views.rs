//! Looking at runs.

use super::*;

/// Whether a text is somewhere in what a run is found by.
fn says(info: &RunInfo, text: &str) -> bool {
    let labels = info.labels.iter().flat_map(|(key, value)| [key.as_str(), value.as_str()]);
    let words = [info.id.as_str(), info.workflow.as_str()].into_iter().chain(labels);
    let words = words.chain(info.key.as_deref()).chain(info.phase.as_deref());
    let text = text.to_ascii_lowercase();
    words.into_iter().any(|word| word.to_ascii_lowercase().contains(&text))
}

impl Views for MemStore {
    fn run<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<Option<RunInfo>>> {
        self.look(|data| data.run(run).map(|run| data.info(run, self.clock.as_ref())))
    }

    fn list_runs(&self, filter: RunFilter) -> BoxFuture<'_, Result<Listed>> {
        self.look(|data| {
            let end = match &filter.before {
                Some(before) => data.runs.partition_point(|run| run.info.number < *before),
                None => data.runs.len(),
            };
            let wanted = |run: &&Run| {
                let info = &run.info;
                (filter.states.is_empty() || filter.states.contains(&info.state))
                    && filter.ids.as_ref().is_none_or(|ids| ids.contains(&info.id))
                    && filter.workflow.as_ref().is_none_or(|workflow| info.workflow == *workflow)
                    && filter.project.as_ref().is_none_or(|project| info.project.as_ref() == Some(project))
                    && filter.labels.iter().all(|label| info.labels.contains(label))
                    && filter.since.is_none_or(|since| info.created_at >= since)
                    && filter.until.is_none_or(|until| info.created_at < until)
                    && filter.key.as_ref().is_none_or(|key| info.key.as_ref() == Some(key))
                    && filter.module.is_none_or(|module| info.module == module)
                    && filter.text.as_ref().is_none_or(|text| says(info, text))
                    && filter.waits.as_ref().is_none_or(|waits| {
                        (!filter.states.is_empty() || info.state == RunState::Waiting)
                            && info.waiting.as_ref().is_some_and(|waiting| waits.is_in(waiting))
                    })
                    && filter.idle_since.is_none_or(|since| info.updated_at < since)
                    && (!filter.top || info.parent.is_none())
                    && filter.parent.as_ref().is_none_or(|parent| info.parent.as_ref() == Some(parent))
                    && filter.root.as_ref().is_none_or(|root| info.links.root == *root)
                    && filter.chain.as_ref().is_none_or(|chain| info.links.chain.as_ref() == Some(chain))
                    && filter.prefix.as_ref().is_none_or(|prefix| info.id.as_str().starts_with(prefix))
            };
            let newest_first = data.runs[..end].iter().rev().filter(wanted).take(filter.limit);
            let known = newest_first.map(|run| data.info(run, self.clock.as_ref())).collect();
            Listed { known, unreadable: Vec::new() }
        })
    }

    fn count_runs(&self, filter: RunFilter) -> BoxFuture<'_, Result<u64>> {
        async move { Ok(self.runs(filter).await?.len() as u64) }.boxed()
    }

    fn counts(&self) -> BoxFuture<'_, Result<Vec<(RunState, u64)>>> {
        self.look(|data| {
            let count = |state| data.runs.iter().filter(|run| run.info.state == state).count() as u64;
            RunState::ALL.into_iter().map(|state| (state, count(state))).collect()
        })
    }

    fn load(&self) -> BoxFuture<'_, Result<Load>> {
        let now = self.clock.now();
        self.look(|data| {
            let due = data.runs.iter().filter_map(|run| run.info.due_at).filter(|due| *due <= now);
            let asked = data.runs.iter().flat_map(|run| run.questions.values());
            let asked: Vec<_> =
                asked.filter(|(_, answered)| !answered).map(|(question, _)| question.asked_at).collect();
            Load {
                due: due.clone().count() as u64,
                lag_ms: due.filter(|due| due.0 > 0).min().map(|due| now.since(due)),
                questions: asked.len() as u64,
                question_ms: asked.iter().min().map(|at| now.since(*at)),
                ..Load::default()
            }
        })
    }

    fn busy_relatives<'a>(&'a self, root: &'a RunId) -> BoxFuture<'a, Result<bool>> {
        let now = self.clock.now();
        self.look(|data| {
            let family = data.runs.iter().filter(|run| run.info.links.root == *root);
            family
                .into_iter()
                .any(|run| run.session.is_some() || run.info.due_at.is_some_and(|due| due <= now))
        })
    }

    fn ended_children<'a>(
        &'a self,
        parent: &'a RunId,
        steps: &'a [Step],
    ) -> BoxFuture<'a, Result<Vec<RunInfo>>> {
        self.look(|data| {
            let children = data.runs.iter().map(|run| &run.info).filter(|info| {
                info.parent.as_ref() == Some(parent)
                    && info.links.step.is_some_and(|step| steps.contains(&step))
                    && info.outcome.is_some()
                    && info.state.is_final()
            });
            children.cloned().collect()
        })
    }

    fn family<'a>(&'a self, root: &'a RunId) -> BoxFuture<'a, Result<Family>> {
        self.look(|data| {
            let chained = |info: &RunInfo| info.links.chain.as_ref() == Some(root);
            let infos = data.runs.iter().map(|run| &run.info);
            let head = infos.rev().find(|info| chained(info)).or(data.run(root).map(|run| &run.info));
            let spent = data.ledgers.get(root).copied().unwrap_or_default();
            Family { budget: head.map(|info| info.budget).unwrap_or_default(), spent }
        })
    }

    fn logs<'a>(&'a self, run: &'a RunId, from: u64, limit: usize) -> BoxFuture<'a, Result<Vec<LogLine>>> {
        self.look(|data| {
            let lines = data.run(run).into_iter().flat_map(|run| &run.logs);
            lines.filter(|line| line.number >= from).take(limit).cloned().collect()
        })
    }

    fn messages<'a>(
        &'a self,
        run: &'a RunId,
        after: Option<u64>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<OutMessage>>> {
        self.look(|data| {
            let messages = data.run(run).into_iter().flat_map(|run| &run.messages);
            let wanted = messages.filter(|message| after.is_none_or(|after| message.number > after));
            wanted.take(limit).cloned().collect()
        })
    }

    fn questions<'a>(
        &'a self,
        run: Option<&'a RunId>,
        open_at: Option<Timestamp>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<OpenQuestion>>> {
        self.look(|data| {
            let runs = data.runs.iter().filter(|known| run.is_none_or(|run| known.info.id == *run));
            let open = runs.flat_map(|run| run.questions.values()).filter(|(_, answered)| !answered);
            let is_open = |question: &OpenQuestion| match (question.deadline, open_at) {
                (Some(deadline), Some(at)) => deadline > at,
                _ => true,
            };
            let open = open.map(|(question, _)| question).filter(|question| is_open(question));
            let mut open: Vec<_> = open.cloned().collect();
            open.sort_by_key(|question| question.asked_at);
            open.truncate(limit);
            open
        })
    }

    fn question<'a>(&'a self, run: &'a RunId, step: Step) -> BoxFuture<'a, Result<Option<OpenQuestion>>> {
        self.look(|data| {
            let (question, answered) = data.run(run)?.questions.get(&step)?;
            (!answered).then(|| question.clone())
        })
    }

    fn state<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<Vec<(String, Json)>>> {
        self.look(|data| {
            let published = data.run(run).into_iter().flat_map(|run| &run.published);
            let latest: BTreeMap<_, _> =
                published.map(|published| (published.key.clone(), published.value.clone())).collect();
            latest.into_iter().collect()
        })
    }

    fn snapshot<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<Option<Snapshot>>> {
        self.look(|data| {
            let run = data.run(run)?;
            Some(Snapshot {
                info: data.info(run, self.clock.as_ref()),
                rows: run.rows.clone(),
                logs: run.logs.clone(),
                messages: run.messages.clone(),
                published: run.published.clone(),
                inbox: run.inbox.clone(),
            })
        })
    }

    fn latest<'a>(
        &'a self,
        run: &'a RunId,
        key: Option<&'a str>,
        after: Option<u64>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Published>>> {
        self.look(|data| {
            let published = data.run(run).into_iter().flat_map(|run| &run.published);
            let wanted = published.filter(|published| key.is_none_or(|key| published.key == key));
            let latest: BTreeMap<_, _> = wanted.map(|published| (&published.key, published)).collect();
            let new = latest.into_values().filter(|last| after.is_none_or(|after| last.number > after));
            new.take(limit).cloned().collect()
        })
    }

    fn published<'a>(
        &'a self,
        run: &'a RunId,
        key: Option<&'a str>,
        after: Option<u64>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Published>>> {
        self.look(|data| {
            let published = data.run(run).into_iter().flat_map(|run| &run.published);
            let wanted = published.filter(|published| {
                key.is_none_or(|key| published.key == key)
                    && after.is_none_or(|after| published.number > after)
            });
            wanted.take(limit).cloned().collect()
        })
    }

    fn transcript<'a>(
        &'a self,
        run: &'a RunId,
        filter: TranscriptFilter,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<TranscriptLine>>> {
        self.look(|data| {
            let lines = data.run(run).into_iter().flat_map(|run| &run.transcript);
            let wanted = lines.filter(|line| {
                line.number > filter.after
                    && filter.step.is_none_or(|step| line.line.step == step)
                    && (filter.kinds.is_empty() || filter.kinds.contains(&line.line.kind))
            });
            wanted.take(limit).cloned().collect()
        })
    }

    fn transcript_end<'a>(&'a self, run: &'a RunId) -> BoxFuture<'a, Result<u64>> {
        self.look(|data| data.run(run).and_then(|run| run.transcript.last()).map_or(0, |line| line.number))
    }

    fn last_heartbeat<'a>(&'a self, run: &'a RunId, step: Step) -> BoxFuture<'a, Result<Option<String>>> {
        self.look(|data| {
            let lines = data.run(run)?.transcript.iter().rev();
            let mut beats =
                lines.filter(|line| line.line.step == step && line.line.kind == TranscriptKind::Heartbeat);
            beats.next().map(|line| line.line.text.clone())
        })
    }
}
