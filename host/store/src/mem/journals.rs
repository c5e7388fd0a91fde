//! Journals and inboxes.

use super::*;

impl Journals for MemStore {
    fn create(&self, run: NewRun) -> BoxFuture<'_, Result<Created>> {
        self.change(|data| {
            let known = data.runs.iter().find(|known| {
                run.key.is_some() && known.info.key == run.key && known.info.workflow == run.workflow
            });
            if let Some(known) = known {
                let id = known.info.id.clone();
                return match known.rows.first().and_then(|first| run.differs_from(first)) {
                    None => Ok(Created::Known(id)),
                    Some(differs) => {
                        let key = run.key.clone().unwrap_or_default();
                        Err(StoreError::KeyUsed { key, run: id, differs })
                    }
                };
            }
            data.check_new(&run.id, run.module)?;
            if let Some(session) = run.session {
                data.check_session(session)?;
            }
            data.insert(run, self.clock.now());
            Ok(Created::New)
        })
    }

    fn append(&self, append: Append) -> BoxFuture<'_, Result<Appended>> {
        self.change(|data| {
            let now = self.clock.now();
            let fenced = || StoreError::Fenced { run: append.run.clone() };
            let run = data.run_mut(&append.run).ok_or_else(fenced)?;
            if run.info.epoch != append.epoch || run.session != Some(append.session) {
                return Err(fenced());
            }
            let last = run.rows.last().map(|row| row.head);
            if let Some(row) = &append.row
                && (row.first != run.info.entries || last.is_some_and(|head| head != append.before))
            {
                return Err(fenced());
            }
            if let Next::Continue { run } = &append.next {
                data.check_new(&run.id, run.module)?;
            }
            if data.races(&append) {
                return Err(StoreError::Raced { run: append.run.clone() });
            }
            let run = data.run_mut(&append.run).ok_or_else(fenced)?;
            run.starts = 0;
            let mut committed = None;
            if let Some(row) = append.row {
                run.troubles = 0;
                run.info.entries.0 += u64::from(row.count);
                run.info.updated_at = append.at;
                committed = Some((append.run.clone(), run.rows.len()));
                run.rows.push(row);
            }
            run.info.module = append.module.unwrap_or(run.info.module);
            run.inbox.retain(|message| !append.consumed.contains(&message.id));
            run.change_questions(append.questions);
            run.emit(append.emissions);
            run.given = append.given.unwrap_or(run.given);
            let (root, before) = (run.info.links.root.clone(), run.info.spent);
            if let Some((spent, budget)) = append.ledger {
                let spent = storable(spent);
                (run.info.spent, run.info.budget) = (spent, budget);
                data.spend(&root, before, spent);
            }
            let place = match committed {
                Some(committed) => {
                    data.commits.push(committed);
                    Some(data.commits.len() as u64)
                }
                None => append.after,
            };
            let mut appended = Appended { place, ..Appended::default() };
            for child in append.children {
                match data.start_child(&append.run, child, now) {
                    true => appended.wake.push(Wake::Due),
                    false => appended.due = true,
                }
            }
            let dropped = data.cancel_children(&append.run, Some(&append.dropped), now);
            appended.wake.extend(dropped.into_iter().map(Wake::Run));
            let run = data.run_mut(&append.run).ok_or_else(fenced)?;
            appended.due |= run.settle(&append.next, append.before != Digest([0; 32]), now);
            match append.next {
                Next::End { outcome, spent } => {
                    let parent = data.tell_parent(&append.run, &outcome, spent, now);
                    let children = data.cancel_children(&append.run, None, now);
                    appended.wake.extend(parent.into_iter().chain(children).map(Wake::Run));
                }
                Next::Continue { run: next } => {
                    let children = data.cancel_children(&append.run, None, now);
                    appended.wake.extend(children.into_iter().map(Wake::Run).chain([Wake::Due]));
                    let left = data.run_mut(&append.run).map(|run| std::mem::take(&mut run.inbox));
                    let id = next.id.clone();
                    data.insert(*next, now);
                    let moved = left.into_iter().flatten().filter(|message| {
                        matches!(
                            message.body,
                            MessageBody::Signal { .. } | MessageBody::Cancel { .. } | MessageBody::Pause
                        )
                    });
                    if let Some(next) = data.run_mut(&id) {
                        moved.for_each(|message| next.take(message.id, message.at, message.body));
                    }
                }
                _ => {}
            }
            Ok(appended)
        })
    }

    fn journal<'a>(&'a self, run: &'a RunId, from: Position) -> BoxFuture<'a, Result<Vec<Row>>> {
        self.look(|data| {
            let rows = data.run(run).into_iter().flat_map(|run| &run.rows);
            rows.filter(|row| row.first >= from).cloned().collect()
        })
    }

    fn journal_part<'a>(
        &'a self,
        run: &'a RunId,
        from: Position,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Row>>> {
        self.look(|data| {
            let rows = data.run(run).into_iter().flat_map(|run| &run.rows);
            let mut bytes = 0;
            let fits = |row: &&Row| {
                let before = bytes;
                bytes += row.bytes.len();
                before < CHANGES_BYTES
            };
            rows.filter(|row| row.end() > from).take(limit).take_while(fits).cloned().collect()
        })
    }

    fn last_place(&self) -> BoxFuture<'_, Result<u64>> {
        self.look(|data| data.commits.len() as u64)
    }

    fn changes(&self, after: u64, limit: usize) -> BoxFuture<'_, Result<Vec<Change>>> {
        self.look(|data| {
            let places = data.commits.iter().zip(1..).filter(|(_, place)| *place > after);
            let changes = places.filter_map(|((run, index), place)| {
                let row = data.run(run)?.rows.get(*index)?.clone();
                Some(Change { place, run: run.clone(), row })
            });
            let mut bytes = 0;
            let fits = |change: &Change| {
                let before = bytes;
                bytes += change.row.bytes.len();
                before < CHANGES_BYTES
            };
            changes.take(limit).take_while(fits).collect()
        })
    }

    fn import(&self, run: ImportedRun) -> BoxFuture<'_, Result<()>> {
        self.change(|data| {
            data.check_new(&run.info.id, run.info.module)?;
            let key = run.info.key.clone();
            let workflow = &run.info.workflow;
            let taken = data
                .runs
                .iter()
                .any(|known| key.is_some() && known.info.key == key && known.info.workflow == *workflow);
            let (root, spent) = (run.info.links.root.clone(), storable(run.info.spent));
            let ended = run.info.state.is_final();
            let chain = run.info.links.chain.clone().unwrap_or_else(|| run.info.id.clone());
            data.seen.extend(run.signal_ids().into_iter().map(|id| (chain.clone(), id)));
            data.commits.extend((0..run.rows.len()).map(|index| (run.info.id.clone(), index)));
            data.created += 1;
            let mut imported = Run {
                info: RunInfo {
                    number: data.created,
                    key: key.filter(|_| !taken),
                    state: if ended { run.info.state } else { RunState::Paused },
                    outcome: run.info.outcome.clone().filter(|_| ended),
                    waiting: None,
                    lease: None,
                    due_at: None,
                    trouble: None,
                    emissions: run.emissions,
                    head: run.rows.last().map(|row| row.head),
                    epoch: Epoch(run.info.epoch.0.min(GREATEST)),
                    spent,
                    ..run.info
                },
                session: None,
                rows: run.rows,
                given: run.given,
                starts: 0,
                troubles: 0,
                parked_at: None,
                stopping: false,
                messages: run.messages,
                questions: BTreeMap::new(),
                logs: run.logs,
                published: run.state,
                transcript: Vec::new(),
                inbox: Vec::new(),
            };
            for (at, body) in run.inbox {
                data.inbox += 1;
                imported.take(MessageId(data.inbox), at, body);
            }
            imported.info.due_at = None;
            imported.change_questions(run.questions);
            data.runs.push(imported);
            data.spend(&root, Spent::default(), spent);
            Ok(())
        })
    }

    fn rebuild(&self, rebuilt: Rebuilt) -> BoxFuture<'_, Result<bool>> {
        self.change(|data| {
            let known = data.run_mut(&rebuilt.info.id).filter(|run| run.session.is_none());
            let Some(run) = known.filter(|run| run.info.entries == rebuilt.info.entries) else {
                return Ok(false);
            };
            let old = run.info.clone();
            let ends = old.state.is_final() || rebuilt.info.state.is_final();
            let state = if ends { rebuilt.info.state } else { old.state };
            let waiting = rebuilt.info.waiting.clone().filter(|_| state == RunState::Waiting);
            let asked_to_stop = run.is_to_stop();
            let due_at = match state {
                state if state.is_final() => None,
                RunState::Paused | RunState::Refused => asked_to_stop.then_some(Timestamp(0)),
                _ if old.trouble.is_some() => Some(old.due_at.unwrap_or_default()),
                RunState::Waiting if !run.wakes(&waiting.clone().unwrap_or_default()) => {
                    waiting.as_ref().and_then(|waiting| waiting.until)
                }
                _ => Some(Timestamp(0)),
            };
            let outcome = match state {
                RunState::Refused => old.outcome,
                state if state.is_final() => rebuilt.info.outcome.clone(),
                _ => None,
            };
            run.info = RunInfo {
                state,
                waiting,
                due_at,
                outcome,
                number: old.number,
                key: old.key,
                epoch: old.epoch,
                trouble: old.trouble,
                emissions: old.emissions,
                phase: old.phase,
                project: old.project,
                imported: old.imported,
                lease: None,
                spent: storable(rebuilt.info.spent),
                ..rebuilt.info
            };
            run.questions.clear();
            run.change_questions(rebuilt.questions);
            if let Some(emissions) = rebuilt.emissions {
                run.logs.clear();
                run.messages.clear();
                run.published.clear();
                run.info.emissions = 0;
                run.info.phase = None;
                run.emit(emissions);
            }
            let (root, spent) = (run.info.links.root.clone(), run.info.spent);
            data.spend(&root, old.spent, spent);
            Ok(true)
        })
    }

    fn delete_if<'a>(&'a self, run: &'a RunId, only: DeleteIf) -> BoxFuture<'a, Result<Deleted>> {
        self.change(|data| {
            let now = self.clock.now();
            let Some(found) = data.run(run) else { return Ok(Deleted::NoSuchRun) };
            if !only.allows(found.info.state, Some(found.info.updated_at)) {
                return Ok(Deleted::Changed);
            }
            if let Some(holder) = found.session {
                match data.session(holder, self.clock.as_ref()) {
                    Some(Session { id: session, owner, left_ms }) if left_ms > 0 => {
                        return Ok(Deleted::Held { session, owner, left_ms });
                    }
                    _ => drop(data.fence(holder)),
                }
            }
            let Some(index) = data.runs.iter().position(|known| known.info.id == *run) else {
                return Ok(Deleted::NoSuchRun);
            };
            let info = &data.runs[index].info;
            if info.state == RunState::Continued && info.links.chain.is_some() {
                let latest = data.runs.iter().rfind(|known| known.info.links.chain == info.links.chain);
                if latest.is_some_and(|latest| !latest.info.state.is_final()) {
                    return Ok(Deleted::Needed);
                }
            }
            let gone = data.runs.remove(index).info;
            if !gone.state.is_final() {
                if let (Some(parent), Some(step)) = (gone.parent, gone.links.step) {
                    let failure = Failure::new(FailureKind::Cancelled, format!("{run} was deleted"));
                    let (run, spent) = (run.clone(), gone.spent);
                    data.deliver(
                        &parent,
                        now,
                        MessageBody::Child { step, run, outcome: Err(failure), spent },
                    );
                }
                data.cancel_children(run, None, now);
            }
            data.release_turns(run);
            data.deleted.push(run.clone());
            data.deliveries.retain(|delivery| delivery.what.run != *run);
            let chain = gone.links.chain.clone().unwrap_or_else(|| run.clone());
            if !data.runs.iter().any(|known| known.info.links.chain.as_ref() == Some(&chain)) {
                data.seen.retain(|(of, _)| *of != chain);
            }
            if !data.runs.iter().any(|known| known.info.links.root == gone.links.root) {
                data.ledgers.remove(&gone.links.root);
            }
            Ok(Deleted::Yes)
        })
    }
}

impl Mail for MemStore {
    fn post(&self, message: NewMessage) -> BoxFuture<'_, Result<Posted>> {
        self.change(|data| {
            let now = self.clock.now();
            let Some(info) = data.run(&message.run).map(|run| run.info.clone()) else {
                return Ok(Posted::NoSuchRun);
            };
            if info.state == RunState::Continued && !matches!(message.body, MessageBody::Answer { .. }) {
                let latest = data.runs.iter().rev().find(|run| run.info.links.chain == info.links.chain);
                // Those behind it may have been removed.
                let latest = latest.map(|run| run.info.id.clone()).filter(|latest| *latest != message.run);
                return Ok(latest.map_or(Posted::Ended, Posted::Continued));
            }
            let chain = info.links.chain.unwrap_or(info.id);
            let dedupe = match &message.body {
                MessageBody::Signal { id: Some(id), .. } => Some((chain, id.clone())),
                _ => None,
            };
            if dedupe.as_ref().is_some_and(|dedupe| data.seen.contains(dedupe)) {
                return Ok(Posted::Duplicate);
            }
            let id = MessageId(data.inbox + 1);
            let Some(run) = data.run_mut(&message.run) else { return Ok(Posted::NoSuchRun) };
            if run.info.state.is_final() {
                return Ok(Posted::Ended);
            }
            match &message.body {
                MessageBody::Pause if run.stopping => return Ok(Posted::Stopping),
                MessageBody::Pause if run.session.is_none() => {
                    run.info.state = RunState::Paused;
                    run.info.due_at = None;
                    return Ok(Posted::Added);
                }
                // However often it was asked.
                MessageBody::Pause => _ = run.drop_pauses(),
                MessageBody::Answer { step, .. } => match run.questions.get_mut(step) {
                    Some((question, answered))
                        if !*answered && question.deadline.is_none_or(|deadline| deadline > now) =>
                    {
                        *answered = true;
                    }
                    _ => return Ok(Posted::NoQuestion),
                },
                _ => {}
            }
            run.take(id, now, message.body);
            data.inbox = id.0;
            data.seen.extend(dedupe);
            Ok(Posted::Added)
        })
    }

    fn inbox<'a>(&'a self, run: &'a RunId, part: Part) -> BoxFuture<'a, Result<Inbox>> {
        self.look(|data| data.run(run).map(|run| run.inbox(part)).unwrap_or_default())
    }
}
