use wfhost::{Result, agent, signal};

#[wfhost::workflow]
async fn letter(to: String) -> Result<String> {
    let draft = agent(format!("Write to {to}")).text().await?;
    signal("send").await?;
    agent(format!("Send it: {draft}")).text().await
}
