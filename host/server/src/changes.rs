//! One wake-up for all who wait for something new: what this process commits, and what others do.

use std::time::Duration;

use wfhost::store::Seen;

use crate::app::App;

/// How often is looked for commits of this process, while somebody waits for them.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// How often is looked whether somebody waits.
const IDLE: Duration = Duration::from_millis(50);

/// Tells of commits until it is dropped. Costs nothing while nobody waits.
pub(crate) async fn watch(app: App) {
    let tell = || app.changed().send_modify(|count| *count += 1);
    let own = async {
        let mut known = app.store().commits();
        loop {
            tokio::time::sleep(if app.changed().receiver_count() > 0 { LOOK_EVERY } else { IDLE }).await;
            let commits = app.store().commits();
            if commits != known {
                known = commits;
                tell();
            }
        }
    };
    let others = async {
        let mut seen = Seen::default();
        loop {
            match app.store().wakes(&mut seen).await {
                Ok(_) => tell(),
                Err(_) => {
                    seen = Seen::default();
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    };
    tokio::join!(own, others);
}
