use wfhost::{Result, agent, patched, signal};

#[wfhost::workflow]
async fn letter(to: String) -> Result<String> {
    let mut draft = agent(format!("Write to {to}")).text().await?;
    if patched("proof-reading") {
        draft = agent(format!("Read the proofs of: {draft}")).text().await?;
    }
    signal("send").await?;
    agent(format!("Send it: {draft}")).text().await
}
