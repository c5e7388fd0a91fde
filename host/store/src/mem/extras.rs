//! Modules, transcripts, kept answers and schedules.

use super::*;

impl Data {
    fn keep_answer(&mut self, key: Digest, at: Timestamp, reply: Json) {
        self.answers_bytes += reply.as_str().len() as u64;
        if let Some((_, old)) = self.answers.insert(key, (at, reply)) {
            self.answers_bytes -= old.as_str().len() as u64;
        }
    }

    /// Removes the oldest answers beyond `bytes`.
    pub(super) fn bound_answers(&mut self, bytes: u64) {
        if self.answers_bytes <= bytes {
            return;
        }
        let mut oldest: Vec<_> = self.answers.iter().map(|(key, (at, _))| (*at, *key)).collect();
        oldest.sort_unstable();
        for (_, key) in oldest {
            if self.answers_bytes <= bytes {
                break;
            }
            if let Some((_, old)) = self.answers.remove(&key) {
                self.answers_bytes -= old.as_str().len() as u64;
            }
        }
    }
}

impl Extras for MemStore {
    fn put_module<'a>(&'a self, name: &'a str, bytes: &'a [u8]) -> BoxFuture<'a, Result<Digest>> {
        self.change(|data| {
            let (digest, now) = (Digest::of(bytes), self.clock.now());
            let (name, size) = (name.to_owned(), bytes.len() as u64);
            let info = ModuleInfo { digest, name, bytes: size, added_at: now };
            let (_, put_at, _) = data.modules.entry(digest).or_insert_with(|| (info, now, bytes.into()));
            *put_at = now.max(*put_at);
            Ok(digest)
        })
    }

    fn module(&self, digest: Digest) -> BoxFuture<'_, Result<Option<Vec<u8>>>> {
        self.look(|data| data.modules.get(&digest).map(|(.., bytes)| bytes.to_vec()))
    }

    fn module_info(&self, digest: Digest) -> BoxFuture<'_, Result<Option<ModuleInfo>>> {
        self.look(|data| data.modules.get(&digest).map(|(info, ..)| info.clone()))
    }

    fn module_named<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<ModuleInfo>>> {
        self.look(|data| {
            let named = data.modules.values().map(|(info, ..)| info).filter(|info| info.name == name);
            named.max_by_key(|info| (info.added_at, std::cmp::Reverse(info.digest))).cloned()
        })
    }

    fn modules(&self) -> BoxFuture<'_, Result<Vec<ModuleInfo>>> {
        self.look(|data| {
            let mut modules: Vec<_> = data.modules.values().map(|(info, ..)| info.clone()).collect();
            modules.sort_by(|a, b| (&a.name, b.added_at, a.digest).cmp(&(&b.name, a.added_at, b.digest)));
            modules
        })
    }

    fn delete_unused_modules(&self, before: Timestamp) -> BoxFuture<'_, Result<usize>> {
        self.change(|data| {
            let scheduled = data.schedules.values().map(|schedule| schedule.module);
            let used: Vec<_> = data.runs.iter().map(|run| run.info.module).chain(scheduled).collect();
            let all = data.modules.len();
            data.modules.retain(|digest, (_, put_at, _)| *put_at >= before || used.contains(digest));
            Ok(all - data.modules.len())
        })
    }

    fn put_blob<'a>(&'a self, bytes: &'a [u8]) -> BoxFuture<'a, Result<Digest>> {
        self.change(|data| {
            let (digest, now) = (Digest::of(bytes), self.clock.now());
            let (added_at, _) = data.blobs.entry(digest).or_insert_with(|| (now, bytes.into()));
            if added_at.after(BLOB_RENEWED_MS) < now {
                *added_at = now;
            }
            Ok(digest)
        })
    }

    fn blob(&self, digest: Digest) -> BoxFuture<'_, Result<Option<Vec<u8>>>> {
        self.look(|data| data.blobs.get(&digest).map(|(_, bytes)| bytes.to_vec()))
    }

    fn has_blobs(&self, before: Timestamp) -> BoxFuture<'_, Result<bool>> {
        self.look(|data| data.blobs.values().any(|(added_at, _)| *added_at < before))
    }

    fn delete_blobs(&self, before: Timestamp, except: Vec<Digest>) -> BoxFuture<'_, Result<usize>> {
        self.change(|data| {
            let all = data.blobs.len();
            data.blobs.retain(|digest, (added_at, _)| *added_at >= before || except.contains(digest));
            Ok(all - data.blobs.len())
        })
    }

    fn transcribe<'a>(&'a self, run: &'a RunId, lines: Vec<NewTranscript>) -> BoxFuture<'a, Result<()>> {
        self.change(|data| {
            let first = data.transcribed + 1;
            data.transcribed += lines.len() as u64;
            if let Some(run) = data.run_mut(run) {
                for (number, line) in (first..).zip(lines) {
                    if line.kind == TranscriptKind::Heartbeat {
                        let same = |kept: &TranscriptLine| {
                            kept.line.step == line.step && kept.line.kind == TranscriptKind::Heartbeat
                        };
                        run.transcript.retain(|kept| !same(kept));
                    }
                    run.transcript.push(TranscriptLine { number, line });
                }
            }
            Ok(())
        })
    }

    fn keep_answer(&self, key: Digest, at: Timestamp, reply: Json) -> BoxFuture<'_, Result<()>> {
        self.change(|data| {
            data.keep_answer(key, at, reply);
            data.bound_answers(KEPT_ANSWERS_BYTES);
            Ok(())
        })
    }

    fn kept_answer(&self, key: Digest) -> BoxFuture<'_, Result<Option<(Timestamp, Json)>>> {
        self.look(|data| data.answers.get(&key).cloned())
    }

    fn delete_old_answers(&self, before: Timestamp) -> BoxFuture<'_, Result<usize>> {
        self.change(|data| {
            let all = data.answers.len();
            data.answers.retain(|_, (at, _)| *at >= before);
            data.answers_bytes = data.answers.values().map(|(_, reply)| reply.as_str().len() as u64).sum();
            Ok(all - data.answers.len())
        })
    }

    fn put_schedule(&self, schedule: Schedule, replace: bool) -> BoxFuture<'_, Result<bool>> {
        self.change(|data| {
            if !data.modules.contains_key(&schedule.module) {
                return Err(StoreError::NoSuchModule(schedule.module));
            }
            let known = data.schedules.get(&schedule.name);
            if known.is_some() && !replace {
                return Ok(false);
            }
            let begun = known.map(|known| (known.fired, known.last.clone()));
            let (fired, last) = begun.unwrap_or((schedule.fired, schedule.last));
            data.schedules.insert(schedule.name.clone(), Schedule { fired, last, ..schedule });
            Ok(true)
        })
    }

    fn schedules(&self) -> BoxFuture<'_, Result<Schedules>> {
        self.look(|data| Schedules {
            known: data.schedules.values().cloned().collect(),
            ..Schedules::default()
        })
    }

    fn set_schedule<'a>(&'a self, name: &'a str, next: Option<Timestamp>) -> BoxFuture<'a, Result<bool>> {
        self.change(|data| {
            let schedule = data.schedules.get_mut(name);
            Ok(schedule.map(|schedule| schedule.next_at = next).is_some())
        })
    }

    fn delete_schedule<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<bool>> {
        self.change(|data| Ok(data.schedules.remove(name).is_some()))
    }

    fn due_schedules(
        &self,
        behind: Option<(Timestamp, String)>,
        limit: usize,
    ) -> BoxFuture<'_, Result<DueSchedules>> {
        let now = self.clock.now();
        self.look(|data| {
            let place = |schedule: &Schedule| Some((schedule.next_at?, schedule.name.clone()));
            let due = data.schedules.values().filter_map(|schedule| Some((place(schedule)?, schedule)));
            let due = due
                .filter(|(place, _)| place.0 <= now && behind.as_ref().is_none_or(|behind| place > behind));
            let due: BTreeMap<_, _> = due.collect();
            let more = due.keys().nth(limit.saturating_sub(1)).cloned();
            let due = due.into_values().take(limit).cloned().collect();
            let later = data.schedules.values().filter_map(|schedule| schedule.next_at);
            let next = later.filter(|at| *at > now).min();
            let next_in_ms = next.map(|next| next.since(now));
            DueSchedules { due, unreadable: Vec::new(), more, next_in_ms }
        })
    }

    fn fire(&self, fire: Fire) -> BoxFuture<'_, Result<bool>> {
        self.change(|data| {
            let due = data.schedules.get(&fire.schedule).is_some_and(|known| known.next_at == Some(fire.due));
            if !due {
                return Ok(false);
            }
            if let Some(run) = &fire.run {
                data.check_new(&run.id, run.module)?;
            }
            if let Some(run) = fire.cancel {
                // It may have continued since it was looked at.
                let chain = data.run(&run).and_then(|run| run.info.links.chain.clone());
                let latest = data.runs.iter().rfind(|run| chain.is_some() && run.info.links.chain == chain);
                let latest = latest.map_or(run, |latest| latest.info.id.clone());
                data.deliver(
                    &latest,
                    self.clock.now(),
                    MessageBody::Cancel { reason: Some(OVERTAKEN.to_owned()) },
                );
            }
            if let Some(known) = data.schedules.get_mut(&fire.schedule) {
                known.next_at = fire.next;
                known.fired += u64::from(fire.run.is_some());
                known.last = fire.run.as_ref().map(|run| run.id.clone()).or_else(|| known.last.take());
            }
            if let Some(run) = fire.run {
                data.insert(run, self.clock.now());
            }
            Ok(true)
        })
    }

    /// It is gone with its process, so the name of that will do.
    fn identity(&self) -> BoxFuture<'_, Result<String>> {
        let identity = format!("memory{}", std::process::id());
        async move { Ok(identity) }.boxed()
    }

    fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    fn check_place(&self) -> Result<()> {
        Ok(())
    }
}
