//! Answers that are kept for other runs.

use wfhost_core::policy::cache;
use wfhost_core::{Json, Reply};

use super::Attempt;

impl Attempt {
    pub(super) async fn cached(&self) -> Option<Reply> {
        let (key, caching) = self.cache.as_ref()?;
        let (at, json) = self.records.kept_answer(*key).await?;
        if !cache::is_fresh(caching, at, self.world.now()) {
            return None;
        }
        let reply: Reply = serde_json::from_str(json.as_str()).ok()?;
        // Nothing was changed for this run, and the conversation is another one's.
        Some(Reply { usage: None, session: None, changes: None, cached: true, ..reply })
    }

    pub(super) async fn keep(&self, reply: &Reply) {
        let Some((key, _)) = &self.cache else { return };
        let json = serde_json::to_string(reply).map(Json::parse);
        if let Ok(Ok(json)) = json {
            self.records.keep_answer(*key, self.world.now(), json).await;
        }
    }
}
