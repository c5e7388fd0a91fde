//! What is told to others.

use wfhost_world::lock;

use super::*;

impl Data {
    fn put_deliveries(&mut self, deliveries: Vec<NewDelivery>, now: Timestamp) -> u64 {
        let mut new = 0;
        for what in deliveries {
            let is_known =
                |known: &Delivery| known.what.sink == what.sink && known.what.message == what.message;
            if self.deliveries.iter().any(is_known) {
                continue;
            }
            new += 1;
            self.delivered += 1;
            self.deliveries.push(Delivery {
                number: self.delivered,
                what,
                created_at: now,
                state: DeliveryState::Pending,
                tries: 0,
                next_at: Some(now),
                ended_at: None,
                said: None,
            });
        }
        new
    }
}

impl Outbox for MemStore {
    fn hold_cursor<'a>(
        &'a self,
        name: &'a str,
        holder: &'a str,
        hold_ms: u64,
    ) -> BoxFuture<'a, Result<Option<u64>>> {
        self.change(|data| {
            let (now, last) = (self.clock.now(), data.commits.len() as u64);
            let new = || Reading { place: last, at: now, holder: None, until: now };
            let reading = data.cursors.entry(name.to_owned()).or_insert_with(new);
            let is_free = reading.holder.as_ref().is_none_or(|known| known == holder) || reading.until <= now;
            Ok(is_free.then(|| {
                reading.holder = Some(holder.to_owned());
                reading.until = now.after(hold_ms.min(LONGEST_HOLD_MS));
                reading.place
            }))
        })
    }

    fn advance_cursor(&self, advance: Advance) -> BoxFuture<'_, Result<bool>> {
        self.change(|data| {
            let now = self.clock.now();
            let Some(reading) = data.cursors.get_mut(&advance.name) else { return Ok(false) };
            if reading.holder.as_ref() != Some(&advance.holder) {
                return Ok(false);
            }
            reading.place = reading.place.max(advance.place.min(GREATEST));
            reading.at = now;
            reading.until = now.after(advance.hold_ms.min(LONGEST_HOLD_MS));
            if advance.hold_ms == 0 {
                reading.holder = None;
            }
            data.put_deliveries(advance.deliveries, now);
            Ok(true)
        })
    }

    fn cursors(&self) -> BoxFuture<'_, Result<Vec<Cursor>>> {
        self.look(|data| {
            let now = self.clock.now();
            let cursors = data.cursors.iter().map(|(name, reading)| Cursor {
                name: name.clone(),
                place: reading.place,
                at: reading.at,
                is_held: reading.holder.is_some() && reading.until > now,
                holder: reading.holder.clone(),
            });
            cursors.collect()
        })
    }

    fn drop_cursor<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<bool>> {
        self.change(|data| {
            let all = data.deliveries.len();
            data.deliveries.retain(|delivery| delivery.what.sink != name);
            Ok(data.cursors.remove(name).is_some() || data.deliveries.len() < all)
        })
    }

    fn put_deliveries(&self, deliveries: Vec<NewDelivery>) -> BoxFuture<'_, Result<u64>> {
        self.change(|data| Ok(data.put_deliveries(deliveries, self.clock.now())))
    }

    fn claim_deliveries<'a>(
        &'a self,
        sink: &'a str,
        hold_ms: u64,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<Delivery>>> {
        let now = self.clock.now();
        let is_due = |one: &Delivery| one.what.sink == sink && one.next_at.is_some_and(|at| at <= now);
        // A look is no commit.
        if !lock(&self.data).deliveries.iter().any(is_due) {
            return std::future::ready(Ok(Vec::new())).boxed();
        }
        self.change(|data| {
            let mut due: Vec<_> = data.deliveries.iter_mut().filter(|one| is_due(one)).collect();
            due.sort_by_key(|one| (one.next_at, one.number));
            due.truncate(limit);
            let mut claimed: Vec<_> = due
                .into_iter()
                .map(|one| {
                    one.tries += 1;
                    one.next_at = Some(now.after(hold_ms.min(LONGEST_REST_MS)));
                    one.clone()
                })
                .collect();
            claimed.sort_by_key(|one| one.number);
            Ok(claimed)
        })
    }

    fn settle_delivery(&self, number: u64, tries: u32, settled: Settled) -> BoxFuture<'_, Result<bool>> {
        self.change(|data| {
            let now = self.clock.now();
            let Some(one) = data.deliveries.iter_mut().find(|one| one.number == number) else {
                return Ok(false);
            };
            let is_mine = one.state == DeliveryState::Pending && one.tries == tries;
            let end = |one: &mut Delivery, state, said| {
                (one.state, one.next_at, one.ended_at, one.said) = (state, None, Some(now), said);
            };
            match settled {
                Settled::Delivered if one.state == DeliveryState::Delivered => return Ok(false),
                Settled::Delivered => end(one, DeliveryState::Delivered, None),
                _ if !is_mine => return Ok(false),
                Settled::Again { in_ms, said } => {
                    let in_ms = in_ms.min(LONGEST_REST_MS);
                    (one.next_at, one.said) = (Some(now.after(in_ms)), Some(said));
                }
                Settled::GivenUp { said } => end(one, DeliveryState::GivenUp, Some(said)),
            }
            Ok(true)
        })
    }

    fn deliveries(&self, filter: DeliveryFilter, limit: usize) -> BoxFuture<'_, Result<Vec<Delivery>>> {
        self.look(move |data| {
            let DeliveryFilter { sink, state, run, message, before } = filter;
            let wanted = |one: &&Delivery| {
                sink.as_ref().is_none_or(|sink| one.what.sink == *sink)
                    && state.is_none_or(|state| one.state == state)
                    && run.as_ref().is_none_or(|run| one.what.run == *run)
                    && message.as_ref().is_none_or(|message| one.what.message == *message)
                    && before.is_none_or(|before| one.number < before)
            };
            data.deliveries.iter().rev().filter(wanted).take(limit).cloned().collect()
        })
    }

    fn redeliver(&self, numbers: Vec<u64>) -> BoxFuture<'_, Result<u64>> {
        self.change(|data| {
            let now = self.clock.now();
            let mut count = 0;
            for one in data.deliveries.iter_mut().filter(|one| numbers.contains(&one.number)) {
                (one.state, one.tries, one.created_at) = (DeliveryState::Pending, 0, now);
                (one.next_at, one.ended_at, one.said) = (Some(now), None, None);
                count += 1;
            }
            Ok(count)
        })
    }

    fn sink_loads(&self) -> BoxFuture<'_, Result<Vec<SinkLoad>>> {
        self.look(|data| {
            let now = self.clock.now();
            let mut loads: BTreeMap<&str, SinkLoad> = BTreeMap::new();
            for one in &data.deliveries {
                let sink = one.what.sink.as_str();
                let new = || SinkLoad {
                    sink: sink.to_owned(),
                    pending: 0,
                    delivered: 0,
                    given_up: 0,
                    oldest_ms: None,
                };
                let load = loads.entry(sink).or_insert_with(new);
                match one.state {
                    DeliveryState::Pending => {
                        load.pending += 1;
                        load.oldest_ms = load.oldest_ms.max(Some(now.since(one.created_at)));
                    }
                    DeliveryState::Delivered => load.delivered += 1,
                    DeliveryState::GivenUp => load.given_up += 1,
                }
            }
            loads.into_values().collect()
        })
    }

    fn delete_old_deliveries(&self, before: Timestamp) -> BoxFuture<'_, Result<u64>> {
        self.change(|data| {
            let all = data.deliveries.len();
            let refused: BTreeSet<_> = data
                .runs
                .iter()
                .filter(|run| run.info.state == RunState::Refused)
                .map(|run| run.info.id.clone())
                .collect();
            let says_so = |one: &Delivery| one.what.event == REFUSED_EVENT && refused.contains(&one.what.run);
            data.deliveries.retain(|one| one.ended_at.is_none_or(|at| at >= before) || says_so(one));
            Ok((all - data.deliveries.len()) as u64)
        })
    }
}
