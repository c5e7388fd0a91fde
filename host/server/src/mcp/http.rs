//! The protocol over HTTP: one request, one answer, no sessions. Who asks is told by his token, and pages of
//! other sites are refused like everywhere.

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use wfhost_core::limits;
use wfhost_view::Document;

use super::rpc::{self, RpcError};
use super::{Mcp, McpOptions, outline};
use crate::api;
use crate::app::App;
use crate::auth::{Caller, Scope};
use crate::problem::Problem;

/// Bytes of a message: an input, and what stands around it.
const MESSAGE_BYTES: usize = limits::INPUT_BYTES + (64 << 10);

pub(crate) async fn answer(
    State(app): State<App>,
    Caller(who): Caller,
    request: Request,
) -> Result<Response, Problem> {
    let headers = request.headers().clone();
    let bytes = api::read_body(request, "the message", MESSAGE_BYTES).await?;
    let message = String::from_utf8(bytes).map_err(|_| Problem::bad("the message is not UTF-8"))?;
    if let Err((error, id)) = check(&headers, &message) {
        return Ok(answered(StatusCode::BAD_REQUEST, error.answer(&id).get().to_owned()));
    }
    // Who may do everything was not granted that agents answer for people.
    let is_own = app.own().is_some_and(|own| own.id == who.id);
    let answers = who.scopes.names(Scope::PeopleAnswer) && !who.scopes.names(Scope::Admin) && !is_own;
    let options = McpOptions { answers, workflows: app.options().mcp_workflows };
    Ok(match Mcp::new(&app, who, options).take(&message).await {
        Some(answer) => answered(StatusCode::OK, answer),
        None => StatusCode::ACCEPTED.into_response(),
    })
}

fn answered(status: StatusCode, body: String) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// Headers say the same as the message: others may route by them.
fn check(headers: &HeaderMap, message: &str) -> Result<(), (RpcError, Box<RawValue>)> {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let parts = |text: &str| serde_json::from_str::<Document>(text).unwrap_or_default();
    let mut members = parts(message);
    let id = members.remove("id").unwrap_or_default();
    let mut params = members.get("params").map_or_else(Document::new, |params| parts(params.get()));
    // What is handed on may be deeper than what is looked at.
    params.remove("arguments");
    let params: Value = params.iter().map(|(name, part)| (name.clone(), outline(part))).collect();
    let method = members.get("method").map_or(Value::Null, |method| outline(method));
    let message = json!({ "method": method, "params": params });
    let refuse = |error| Err((error, id));
    let Some(version) = header("mcp-protocol-version") else { return Ok(()) };
    if !rpc::versions().contains(&version) {
        return refuse(RpcError::version(version));
    }
    if !rpc::is_modern(version) || message["method"] == "initialize" {
        return Ok(());
    }
    let said = &message["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"];
    if said.as_str().is_some_and(|said| said != version) {
        return refuse(RpcError::header(format!(
            "the header `MCP-Protocol-Version` is {version}, the message says {said}"
        )));
    }
    if let Some(method) = header("mcp-method")
        && message["method"].as_str().is_some_and(|said| said != method)
    {
        return refuse(RpcError::header(format!(
            "the header `Mcp-Method` is {method}, the message is another one"
        )));
    }
    let named = [&message["params"]["name"], &message["params"]["uri"], &message["params"]["taskId"]];
    if let (Some(name), Some(said)) = (header("mcp-name"), named.into_iter().find_map(Value::as_str))
        && name != said
        && !name.starts_with("=?base64?")
    {
        return refuse(RpcError::header(format!(
            "the header `Mcp-Name` is {name}, the message names {said}"
        )));
    }
    Ok(())
}
