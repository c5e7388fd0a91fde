//! Programs that are being ended.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::sync::watch;

use super::processes::marked;
use super::supervisor::GRACE;

/// How often is looked who is left.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Who is not gone by then never will be: not even SIGKILL ends a process that waits for a disk.
const GIVE_UP: Duration = Duration::from_secs(10);

/// By the directory that they work in. Each sender goes when nothing is left of its program.
static ENDING: Mutex<BTreeMap<PathBuf, Vec<Gone>>> = Mutex::new(BTreeMap::new());

type Gone = watch::Receiver<super::process::Progress>;

fn all() -> MutexGuard<'static, BTreeMap<PathBuf, Vec<Gone>>> {
    ENDING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes note of a program that is being ended.
pub(super) fn note(directory: PathBuf, gone: Gone) {
    let mut all = all();
    all.retain(|_, programs| {
        programs.retain(|gone| gone.has_changed().is_ok());
        !programs.is_empty()
    });
    all.entry(directory).or_default().push(gone);
}

/// Waits until nothing is left of the programs that worked in a directory and
/// are being ended, so that they change nothing in it any more.
pub(crate) async fn wait(directory: &Path) {
    let programs = all().get(directory).cloned().unwrap_or_default();
    let all_gone = async {
        for mut gone in programs {
            while gone.changed().await.is_ok() {}
        }
    };
    let _ = tokio::time::timeout(GIVE_UP, all_gone).await;
}

/// Ends all processes that inherited the marker of a call, by SIGTERM first and
/// by SIGKILL after the grace.
pub(super) async fn sweep(marker: String) {
    let sweep = move || {
        let begin = Instant::now();
        let mut asked = std::collections::HashSet::new();
        while begin.elapsed() < GIVE_UP {
            let left = marked(&marker);
            if left.is_empty() {
                return;
            }
            for process in left {
                if begin.elapsed() >= GRACE {
                    process.signal(Signal::KILL);
                } else if asked.insert(process) {
                    process.signal(Signal::TERM);
                    process.signal(Signal::CONT);
                }
            }
            std::thread::sleep(LOOK_EVERY);
        }
    };
    // A thread of its own: it goes on when the runtime ends.
    let (done, ended) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        sweep();
        let _ = done.send(());
    });
    let _ = ended.await;
}
