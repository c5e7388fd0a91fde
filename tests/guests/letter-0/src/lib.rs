use wfhost::{Result, agent, ensure, signal};

#[wfhost::workflow]
async fn letter(to: String) -> Result<String> {
    let draft = agent(format!("Write to {to}")).text().await?;
    // The mistake that `letter-1` does not have.
    ensure!(draft.len() > 1_000, "the letter is too short");
    signal("send").await?;
    agent(format!("Send it: {draft}")).text().await
}
