//! The description of the API, OpenAPI 3.1, made of the handlers themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::extract::{MatchedPath, Query, Request, State};
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{
    ComponentsBuilder, InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder, ServerBuilder,
};
use utoipa_axum::router::OpenApiRouter;
use wfhost_view::{UserError, nearest};

use crate::api;
use crate::app::App;
use crate::auth::Scope;
use crate::problem::Problem;

/// The routes of the API, and their description as JSON. `base` is what addresses begin with.
pub(crate) fn parts(base: &str) -> (axum::Router<App>, String) {
    let scopes = Scope::ALL.iter().map(|scope| format!("* `{scope}`: {}", scope.meaning()));
    let about = format!(
        "Start, follow, answer and change runs of workflows. Every error is `application/problem+json` with a \
         `code` that `wfhost explain` knows, and `hints`.\n\nThe required scopes of an operation are listed in its `security`:\n\n{}",
        scopes.collect::<Vec<_>>().join("\n")
    );
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("`wfhost token new NAME --scope SCOPE` creates one."))
        .build();
    let openapi = OpenApiBuilder::new()
        .info(InfoBuilder::new().title("wfhost").version("1").description(Some(about)).license(Some(
            LicenseBuilder::new().name("Apache-2.0 OR MIT").identifier(Some("Apache-2.0 OR MIT")).build(),
        )))
        .servers(Some([ServerBuilder::new().url(format!("{base}/")).build()]))
        .components(Some(
            ComponentsBuilder::new().security_scheme("bearer", SecurityScheme::Http(bearer)).build(),
        ))
        .build();
    let (router, mut document): (_, OpenApi) =
        OpenApiRouter::with_openapi(openapi).nest("/api/v1", api::router()).split_for_parts();
    // The same text from the same program: parts come in the order of the routes, schemas by name.
    document.tags = None;
    let mut document = serde_json::to_value(&document).unwrap_or_default();
    share_refusals(&mut document);
    say_unsigned(&mut document);
    let queries = Arc::new(Queries::of(base, &document));
    let router = router.route_layer(axum::middleware::from_fn_with_state(queries, check_query));
    let text = serde_json::to_string_pretty(&document).unwrap_or_default();
    (router, text + "\n")
}

/// The query parameters of each operation.
#[derive(Debug)]
struct Queries {
    /// What addresses begin with.
    base: String,
    /// By path and by method in lower case.
    known: BTreeMap<String, BTreeMap<String, BTreeSet<String>>>,
}

impl Queries {
    fn of(base: &str, document: &Value) -> Self {
        let members = |value: &Value| value.as_object().cloned().into_iter().flatten();
        let names = |operation: &Value| {
            let parameters = operation["parameters"].as_array().into_iter().flatten();
            let queries = parameters.filter(|parameter| parameter["in"] == "query");
            queries.filter_map(|parameter| parameter["name"].as_str().map(str::to_owned)).collect()
        };
        let operations =
            |path: &Value| members(path).map(|(method, operation)| (method, names(&operation))).collect();
        let known = members(&document["paths"]).map(|(path, item)| (path, operations(&item))).collect();
        Self { base: base.to_owned(), known }
    }

    /// Refuses parameters that an operation does not have, as unknown members of a body are refused: one that is
    /// misspelt would have no effect.
    fn check(&self, path: &str, method: &Method, uri: &Uri) -> Result<(), Problem> {
        // Whoever asks for the head only asks for the same.
        let method = if method == Method::HEAD { Method::GET } else { method.clone() };
        let operation = path.strip_prefix(self.base.as_str()).and_then(|path| self.known.get(path));
        let Some(known) = operation.and_then(|path| path.get(&method.as_str().to_ascii_lowercase())) else {
            return Ok(());
        };
        let Query(given) = Query::<Vec<(String, String)>>::try_from_uri(uri)?;
        let Some((unknown, _)) = given.into_iter().find(|(name, _)| !known.contains(name)) else {
            return Ok(());
        };
        let mut trouble = UserError::usage("WF0812", format!("unknown query parameter `{unknown}`"));
        if let Some(nearest) = nearest(&unknown, known.iter().map(String::as_str)) {
            trouble = trouble.hint(format!("did you mean `{nearest}`?"));
        }
        let all = known.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        Err(Problem::new(
            StatusCode::BAD_REQUEST,
            match all.as_str() {
                "" => trouble.hint("this operation has no query parameters"),
                all => trouble.hint(format!("the query parameters of this operation are {all}")),
            },
        ))
    }
}

async fn check_query(State(queries): State<Arc<Queries>>, request: Request, next: Next) -> Response {
    if request.uri().query().is_some()
        && let Some(path) = request.extensions().get::<MatchedPath>()
        && let Err(problem) = queries.check(path.as_str(), request.method(), request.uri())
    {
        return problem.into_response();
    }
    next.run(request).await
}

/// Each operation names the same errors: they are written once.
fn share_refusals(document: &mut Value) {
    const KIND: &str = "application/problem+json";
    let mut shared = serde_json::Map::new();
    let mut problem_schema = Value::Null;
    let paths = document["paths"].as_object_mut().into_iter().flat_map(|paths| paths.values_mut());
    let operations =
        paths.flat_map(|path| path.as_object_mut().into_iter().flat_map(|path| path.values_mut()));
    for operation in operations {
        for (status, response) in operation["responses"].as_object_mut().into_iter().flatten() {
            if response["content"].get(KIND).is_some() {
                let name = format!("Error{status}");
                let reference = json!({ "$ref": format!("#/components/responses/{name}") });
                let mut whole = std::mem::replace(response, reference);
                let problem = json!({ "$ref": "#/components/schemas/ProblemView" });
                let schema = std::mem::replace(&mut whole["content"][KIND]["schema"], problem);
                shared.entry(name).or_insert(whole);
                if problem_schema.is_null() {
                    problem_schema = schema;
                }
            }
        }
    }
    document["components"]["responses"] = Value::Object(shared);
    document["components"]["schemas"]["ProblemView"] = problem_schema;
}

/// Numbers that are never negative are taken below 2^64: `int64` would end at half of that.
fn say_unsigned(value: &mut Value) {
    match value {
        Value::Object(members) => {
            if members.get("format").is_some_and(|format| format == "int64")
                && members.get("minimum").and_then(Value::as_u64) == Some(0)
                && !members.contains_key("maximum")
            {
                members.insert("format".to_owned(), "uint64".into());
                members.insert("maximum".to_owned(), u64::MAX.into());
            }
            members.values_mut().for_each(say_unsigned);
        }
        Value::Array(items) => items.iter_mut().for_each(say_unsigned),
        _ => {}
    }
}

/// The description as it is served.
pub fn document() -> String {
    parts("").1
}
