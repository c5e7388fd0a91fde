//! One wake-up for all who wait for something new: what this process commits, and what others do.

use std::convert::Infallible;
use std::time::Duration;

use tokio::time::Instant;
use wfhost::store::Seen;

use crate::app::App;

/// How often is looked for commits of this process, while somebody waits for them.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// How long is looked on when nobody waits any more: most who have waited wait again.
const LINGER: Duration = Duration::from_secs(1);

/// Tells of commits until it is dropped. Costs nothing while nobody waits.
pub(crate) async fn watch(app: App) {
    loop {
        app.awaited().await;
        // What was committed before this looked is told by the first wake-up of the store, which always comes.
        tokio::select! {
            () = own(&app) => {}
            never = others(&app) => match never {},
        }
    }
}

fn tell(app: &App) {
    app.changed().send_modify(|count| *count += 1);
}

/// Tells of the commits of this process, until nobody waits any more.
async fn own(app: &App) {
    let (mut known, mut waited) = (app.store().commits(), Instant::now());
    while waited.elapsed() < LINGER {
        tokio::time::sleep(LOOK_EVERY).await;
        if app.changed().receiver_count() > 0 {
            waited = Instant::now();
        }
        let commits = app.store().commits();
        if commits != known {
            known = commits;
            tell(app);
        }
    }
}

/// Tells of the commits of others.
async fn others(app: &App) -> Infallible {
    let mut seen = Seen::default();
    loop {
        match app.store().wakes(&mut seen).await {
            Ok(_) => tell(app),
            Err(_) => {
                seen = Seen::default();
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}
