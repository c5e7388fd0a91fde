//! The journals of all runs: one table in the order of the commits.
//!
//! A commit of a run alone writes to one page, the end of the table. An index by run would be a
//! second page for each commit, so it holds only some: the first commit of the run in each block of
//! 32 places. The others of the run follow it within the block.

use rusqlite::{Connection, Row as SqlRow, params};
use wfhost_core::{Digest, Position, Row, RunId, Timestamp};

use super::read;
use super::write::millis;
use crate::{CHANGES_BYTES, Change, stored};

type Result<T> = rusqlite::Result<T>;

/// The places of a block have the number of it in common, all bits but the last five (`| 31` below).
const BLOCK_BITS: u32 = 5;

/// The place of the last commit of a run, as SQL. `$run` is its number.
macro_rules! last_place {
    ($run:literal) => {
        concat!(
            "(SELECT max(j.id) FROM
               (SELECT id FROM commits INDEXED BY journal_firsts WHERE first NOT NULL AND run = ",
            $run,
            " ORDER BY seq DESC LIMIT 1) f
              CROSS JOIN commits j WHERE j.id BETWEEN f.id AND f.id | 31 AND j.run = ",
            $run,
            ")"
        )
    };
}
pub(super) use last_place;

/// All commits of a run in their order, as SQL, to be followed by more conditions.
macro_rules! commits {
    ($run:literal) => {
        concat!(
            "commits f INDEXED BY journal_firsts CROSS JOIN commits j
             WHERE f.run = ",
            $run,
            " AND f.first NOT NULL AND j.id BETWEEN f.id AND f.id | 31 AND j.run = f.run"
        )
    };
}

/// Where the journal of a run ends.
pub(super) struct End {
    /// The position of its last commit; none if there are no commits.
    place: Option<i64>,
    /// Of the next entry.
    position: i64,
    /// The last one of all.
    last: i64,
    /// Of the chain after its last commit.
    head: Option<[u8; 32]>,
}

impl End {
    /// From the place and the end of the last commit of the run, the last place of all, and the head.
    pub(super) fn read(row: &SqlRow<'_>, first: usize) -> Result<Self> {
        Ok(Self {
            place: row.get(first)?,
            position: row.get(first + 1)?,
            last: row.get(first + 2)?,
            head: row.get(first + 3)?,
        })
    }

    /// Looks up where the journal of a run ends.
    pub(super) fn find(c: &Connection, run: i64) -> Result<Self> {
        c.prepare_cached(concat!(
            "SELECT l.id, ifnull(l.seq + l.count, 0), ifnull((SELECT max(id) FROM commits), 0), l.head
             FROM (SELECT 1) LEFT JOIN commits l ON l.id = ",
            last_place!("?1")
        ))?
        .query_row([run], |row| Self::read(row, 0))
    }

    /// The place of the run's last commit.
    pub(super) fn place(&self) -> Option<u64> {
        self.place.map(|place| place as u64)
    }

    /// Appends what was committed of the run. False if its journal does not end where that begins,
    /// with the head `before`.
    pub(super) fn append(
        &mut self,
        c: &Connection,
        run: i64,
        row: &Row,
        before: Digest,
        at: Timestamp,
    ) -> Result<bool> {
        if self.position as u64 != row.first.0 || self.head.is_some_and(|head| head != before.0) {
            return Ok(false);
        }
        let place = self.last + 1;
        let first = self.place.is_none_or(|before| before >> BLOCK_BITS != place >> BLOCK_BITS);
        c.prepare_cached(
            "INSERT INTO commits(id,run,seq,count,at,first,head,body)VALUES(?1,?2,?3,?4,?5,?6,?7,?8)",
        )?
        .execute(params![
            place,
            run,
            self.position,
            row.count,
            millis(at),
            first.then_some(1),
            row.head.0,
            row.bytes
        ])?;
        *self = Self {
            place: Some(place),
            position: self.position + i64::from(row.count),
            last: place,
            head: Some(row.head.0),
        };
        Ok(true)
    }
}

/// The whole journal of a run, and the place of its last commit.
pub(super) fn whole(c: &Connection, run: i64) -> Result<(Vec<Row>, Option<u64>)> {
    let mut place = None;
    let rows = c
        .prepare_cached(concat!(
            "SELECT j.seq, j.count, j.body, j.head, j.id FROM ",
            commits!("?1"),
            " ORDER BY f.seq, j.id"
        ))?
        .query_map([run], |sql| {
            place = Some(sql.get::<_, i64>(4)? as u64);
            row(sql, 0)
        })?
        .collect::<Result<Vec<_>>>()?;
    Ok((rows, place))
}

/// The first commit of a run.
pub(super) fn first(c: &Connection, run: i64) -> Result<Option<Row>> {
    use rusqlite::OptionalExtension;
    c.prepare_cached(
        "SELECT seq, count, body, head FROM commits INDEXED BY journal_firsts
         WHERE first NOT NULL AND run = ?1 ORDER BY seq LIMIT 1",
    )?
    .query_row([run], |sql| row(sql, 0))
    .optional()
}

/// What was committed of a run, from the one that begins at or behind `from`.
pub(super) fn read(c: &Connection, run: &RunId, from: Position) -> Result<Vec<Row>> {
    let Some((number, from)) = read::number(c, run)?.map(|number| (number, stored(from.0))) else {
        return Ok(Vec::new());
    };
    // The block that it is in begins before it.
    c.prepare_cached(concat!(
        "SELECT j.seq, j.count, j.body, j.head FROM ",
        commits!("?1"),
        " AND f.seq >= ifnull((SELECT max(seq) FROM commits INDEXED BY journal_firsts
                               WHERE first NOT NULL AND run = ?1 AND seq <= ?2), 0)
          AND j.seq >= ?2 ORDER BY f.seq, j.id"
    ))?
    .query_map(params![number, from], |sql| row(sql, 0))?
    .collect()
}

/// At most so many commits of a run, from the one that holds `from` on, until they have [`CHANGES_BYTES`].
pub(super) fn part(c: &Connection, run: &RunId, from: Position, limit: usize) -> Result<Vec<Row>> {
    let Some((number, from)) = read::number(c, run)?.map(|number| (number, stored(from.0))) else {
        return Ok(Vec::new());
    };
    let mut statement = c.prepare_cached(concat!(
        "SELECT j.seq, j.count, j.body, j.head FROM ",
        commits!("?1"),
        " AND f.seq >= ifnull((SELECT max(seq) FROM commits INDEXED BY journal_firsts
                               WHERE first NOT NULL AND run = ?1 AND seq <= ?2), 0)
          AND j.seq + j.count > ?2 ORDER BY f.seq, j.id"
    ))?;
    // No more is read than is given.
    let mut found = statement.query(params![number, from])?;
    let (mut rows, mut bytes) = (Vec::new(), 0);
    while rows.len() < limit && bytes < CHANGES_BYTES {
        let Some(sql) = found.next()? else { break };
        let row = row(sql, 0)?;
        bytes += row.bytes.len();
        rows.push(row);
    }
    Ok(rows)
}

/// The place of the last commit of all.
pub(super) fn last(c: &Connection) -> Result<u64> {
    c.prepare_cached("SELECT ifnull(max(id), 0) FROM commits")?
        .query_row([], |row| row.get::<_, i64>(0))
        .map(|place| place as u64)
}

pub(super) fn changes(c: &Connection, after: u64, limit: usize) -> Result<Vec<Change>> {
    let mut statement = c.prepare_cached(
        "SELECT j.id, r.name, j.seq, j.count, j.body, j.head FROM commits j CROSS JOIN runs r ON r.id = j.run
         WHERE j.id > ?1 ORDER BY j.id",
    )?;
    // No more is read than is given.
    let mut rows = statement.query([stored(after)])?;
    let (mut changes, mut bytes) = (Vec::new(), 0);
    while changes.len() < limit && bytes < CHANGES_BYTES {
        let Some(sql) = rows.next()? else { break };
        let change =
            || Ok(Change { place: sql.get::<_, i64>(0)? as u64, run: read::id(sql, 1)?, row: row(sql, 2)? });
        let change = match change() {
            Err(error) if read::is_strange(&error) => continue,
            change => change?,
        };
        bytes += change.row.bytes.len();
        changes.push(change);
    }
    Ok(changes)
}

/// Removes the journal of a run.
pub(super) fn delete(c: &Connection, run: i64) -> Result<()> {
    // Places are not given out again: the last one of all stays, empty.
    c.prepare_cached(
        "UPDATE commits SET run = 0, seq = id, count = 0, first = 1, body = x'' WHERE run = ?1
         AND id = (SELECT max(id) FROM commits)",
    )?
    .execute([run])?;
    c.prepare_cached(concat!("DELETE FROM commits WHERE id IN (SELECT j.id FROM ", commits!("?1"), ")"))?
        .execute([run])?;
    Ok(())
}

/// Four columns of the journal, from `first` on.
fn row(row: &SqlRow<'_>, first: usize) -> Result<Row> {
    Ok(Row {
        first: Position(row.get::<_, i64>(first)? as u64),
        count: row.get(first + 1)?,
        bytes: row.get(first + 2)?,
        head: Digest(row.get(first + 3)?),
    })
}

#[cfg(test)]
mod tests {
    use super::super::format::MIGRATIONS;
    use super::*;

    fn database(formats: usize) -> Connection {
        let c = Connection::open_in_memory().unwrap();
        for migration in &MIGRATIONS[..formats] {
            c.execute_batch(migration).unwrap();
        }
        for run in ["a", "b", "c"] {
            let root = if formats < 7 { ("", "") } else { (", root", ", 'r'") };
            let sql = format!(
                "INSERT INTO runs (name, workflow, module, labels, created_at, state, epoch{})
                 VALUES (?1, 'w', x'', '[]', 0, 'running', 1{})",
                root.0, root.1
            );
            c.execute(&sql, [run]).unwrap();
        }
        c
    }

    fn name(run: i64) -> RunId {
        ["a", "b", "c"][run as usize - 1].parse().unwrap()
    }

    /// Rows of two entries each; the bytes tell the run and the number.
    fn commit(run: i64, number: u64) -> Row {
        let bytes = vec![run as u8, number as u8, (number >> 8) as u8];
        Row { first: Position(2 * number), count: 2, head: Digest([number as u8; 32]), bytes }
    }

    /// So many commits of each run, in an order in which runs are now alone and now side by side.
    fn order() -> Vec<i64> {
        let together = (0..120).map(|turn| 1 + turn % 3);
        let alone = (0..100).map(|_| 2).chain((0..33).map(|_| 1));
        let sometimes = (0..200).map(|turn| if turn % 40 == 0 { 3 } else { 1 });
        together.chain(alone).chain(sometimes).collect()
    }

    fn assert_whole(c: &Connection, counts: [u64; 3]) {
        for (run, count) in (1..).zip(counts) {
            let all: Vec<_> = (0..count).map(|number| commit(run, number)).collect();
            for from in [0, 1, 2, 63, 64, 65, count, 2 * count - 2, 2 * count - 1, 2 * count + 7] {
                let behind = all.iter().filter(|row| row.first.0 >= from).cloned().collect::<Vec<_>>();
                assert_eq!(read(c, &name(run), Position(from)).unwrap(), behind, "run {run} from {from}");
            }
            let end = End::find(c, run).unwrap();
            assert_eq!(end.position as u64, 2 * count);
            let place = "SELECT max(id) FROM commits WHERE run = ?1";
            assert_eq!(end.place, c.query_row(place, [run], |row| row.get(0)).unwrap());
        }
    }

    /// Whether it could be appended.
    fn append(c: &Connection, run: i64, number: u64) -> bool {
        let before = number.checked_sub(1).map_or(Digest([0; 32]), |before| commit(run, before).head);
        End::find(c, run).unwrap().append(c, run, &commit(run, number), before, Timestamp(1)).unwrap()
    }

    #[test]
    fn what_was_appended_is_read_back() {
        let c = database(MIGRATIONS.len());
        let mut counts = [0; 3];
        for run in order() {
            let count = &mut counts[run as usize - 1];
            assert!(append(&c, run, *count));
            *count += 1;
            // Neither again nor with a gap.
            assert!(!append(&c, run, *count - 1));
            assert!(!append(&c, run, *count + 1));
        }
        assert_whole(&c, counts);
        let firsts = "SELECT count(*), (SELECT count(*) FROM (SELECT DISTINCT run, id / 32 FROM commits))
                      FROM commits WHERE first NOT NULL";
        let (marked, blocks): (i64, i64) =
            c.query_row(firsts, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        assert_eq!(marked, blocks);
        assert!(marked < order().len() as i64 / 4, "{marked} of {}", order().len());
    }

    #[test]
    fn the_journal_of_a_run_is_removed_and_no_place_is_given_out_again() {
        let c = database(MIGRATIONS.len());
        let mut counts = [0; 3];
        for run in order() {
            assert!(append(&c, run, counts[run as usize - 1]));
            counts[run as usize - 1] += 1;
        }
        let last = |c: &Connection| c.query_row("SELECT max(id) FROM commits", [], |row| row.get(0)).unwrap();
        let before: i64 = last(&c);
        delete(&c, 1).unwrap();
        counts[0] = 0;
        assert!(read(&c, &name(1), Position(0)).unwrap().is_empty());
        let left: i64 = c.query_row("SELECT count(*) FROM commits", [], |row| row.get(0)).unwrap();
        // With the empty one that keeps the place.
        assert_eq!(left as u64, counts.iter().sum::<u64>() + 1);
        assert_eq!(last(&c), before);
        assert!(append(&c, 1, 0));
        assert_eq!(last(&c), before + 1);
        assert_whole(&c, [1, counts[1], counts[2]]);
    }

    #[test]
    fn the_journals_of_format_5_are_taken_over() {
        let c = database(5);
        let mut counts = [0; 3];
        for run in order() {
            let row = commit(run, counts[run as usize - 1]);
            let sql = "INSERT INTO journal (run, seq, count, at, head, body) VALUES (?1, ?2, ?3, 7, ?4, ?5)";
            c.execute(sql, params![run, row.first.0 as i64, row.count, row.head.0, row.bytes]).unwrap();
            counts[run as usize - 1] += 1;
        }
        for migration in &MIGRATIONS[5..] {
            c.execute_batch(migration).unwrap();
        }
        assert_whole(&c, counts);
        for run in 1..=3 {
            assert!(append(&c, run, counts[run as usize - 1]));
        }
        assert_whole(&c, counts.map(|count| count + 1));
    }

    #[test]
    fn no_question_about_a_run_reads_the_journals_of_others() {
        let c = database(MIGRATIONS.len());
        for (sql, of) in [
            (concat!("SELECT ", last_place!("?1")), "last"),
            (concat!("SELECT j.id FROM ", commits!("?1"), " AND f.seq >= 5 ORDER BY f.seq, j.id"), "all"),
        ] {
            let mut plan = c.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
            let steps = plan.query_map([1], |row| row.get::<_, String>(3)).unwrap();
            let steps: Vec<_> = steps.map(Result::unwrap).collect();
            assert!(
                !steps.iter().any(|step| step.starts_with("SCAN j") || step.contains("TEMP B-TREE")),
                "{of}: {steps:?}"
            );
            assert!(
                steps.iter().any(|step| step.contains("INTEGER PRIMARY KEY (rowid>? AND rowid<?)")),
                "{of}: {steps:?}"
            );
        }
    }
}
