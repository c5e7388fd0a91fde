use wfhost::{Result, agent, signal};

#[wfhost::workflow]
async fn letter(to: String) -> Result<String> {
    let outline = agent(format!("Outline a letter to {to}")).text().await?;
    let draft = agent(format!("Write to {to}")).text().await?;
    signal("send").await?;
    agent(format!("Send it: {outline}, {draft}")).text().await
}
