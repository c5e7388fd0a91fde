//! What befalls the server of the database.

use std::time::{Duration, Instant};

use private_postgres::Postgres;

use super::Dice;
use super::fleet::Lives;

/// Kills the server and begins it anew, and ends connections of its own.
pub fn disturb(server: &Postgres, lives: &Lives<'_>, length: Duration, mut dice: Dice) {
    let begin = Instant::now();
    while begin.elapsed() < length {
        std::thread::sleep(Duration::from_millis(100 + dice.roll(900)));
        let since = Instant::now();
        if dice.roll(6) == 0 {
            server.kill();
            server.begin();
            lives.stopped(since);
        } else {
            let count = 1 + dice.roll(5);
            server.sql(&format!(
                "SELECT count(pg_terminate_backend(pid)) FROM (SELECT pid FROM pg_stat_activity
                 WHERE application_name LIKE 'wfhost/%' ORDER BY random() LIMIT {count}) x"
            ));
        }
    }
}
