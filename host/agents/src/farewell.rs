//! What is left to be told to the other side of a call that is over.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use tokio::task::JoinHandle;

static FAREWELLS: Mutex<Vec<JoinHandle<()>>> = Mutex::new(Vec::new());

/// Has `told` go on by itself, for calls that were dropped. Without a runtime
/// there is nobody to do it.
pub fn farewell(told: impl Future<Output = ()> + Send + 'static) {
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
    let mut farewells = FAREWELLS.lock().unwrap_or_else(PoisonError::into_inner);
    farewells.retain(|told| !told.is_finished());
    farewells.push(runtime.spawn(told));
}

/// Waits until the other sides of all calls that were stopped know of it, for
/// so long at most. To be called before the runtime ends.
pub async fn settle(within: Duration) {
    let farewells = std::mem::take(&mut *FAREWELLS.lock().unwrap_or_else(PoisonError::into_inner));
    let all = async {
        for told in farewells {
            // One that panicked is over.
            let _ = told.await;
        }
    };
    let _ = tokio::time::timeout(within, all).await;
}
