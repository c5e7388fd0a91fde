//! What services of others deliver: `POST /hooks/NAME` for each `[webhooks.NAME]` of the configuration.
//!
//! A delivery counts if it is signed with the secret of the webhook, and if its time is signed, too, only
//! near that time. What came once does nothing the second time: deliveries are told apart by what is
//! signed, never by a header that anybody could change.

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use ring::hmac;
use serde::Serialize;
use wfhost::store::{MessageBody, Posted};
use wfhost::{HostError, StartOptions};
use wfhost_config::{Delivers, Scheme, Target, Webhook};
use wfhost_core::{Digest, Json, RunConfig, RunId, limits};
use wfhost_view::UserError;

use crate::api::{View, read_body};
use crate::app::App;
use crate::auth::{Identity, Scope, Scopes};
use crate::problem::Problem;

pub(crate) fn router() -> Router<App> {
    Router::new().route("/hooks/{name}", post(take))
}

/// Where a webhook is, for the service that delivers to it.
pub(crate) fn address(app: &App, hook: &Webhook) -> String {
    format!("{}/hooks/{}", app.url(), hook.name)
}

/// What was delivered, once its signature is known to be good.
#[derive(Debug)]
struct Delivery {
    /// What tells it apart from others: signed, whatever the scheme.
    key: String,
    /// The kind of event, as the service calls it.
    event: Option<String>,
    body: Json,
}

/// What became of a delivery.
#[derive(Debug, Serialize)]
struct TakenView {
    /// `taken`, `taken before`, or `left out`.
    result: &'static str,
    /// The run that was started or signalled.
    #[serde(skip_serializing_if = "Option::is_none")]
    run: Option<String>,
    /// Why it was left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
    schema: &'static str,
}

impl TakenView {
    fn new(is_new: bool, run: &RunId) -> Self {
        let result = if is_new { "taken" } else { "taken before" };
        Self { result, run: Some(run.to_string()), why: None, schema: "wfhost/taken/1" }
    }

    /// Nothing is done, and the service need not deliver it again.
    fn left_out(why: String) -> Self {
        Self { result: "left out", run: None, why: Some(why), schema: "wfhost/taken/1" }
    }
}

async fn take(
    State(app): State<App>,
    crate::api::At(name): crate::api::At<String>,
    request: Request,
) -> Result<Response, Problem> {
    let hook = app.options().webhooks.iter().find(|hook| hook.name == name).cloned();
    let hook = hook.ok_or_else(|| Problem::missing(format!("there is no webhook `{name}`")))?;
    app.check_writable(Scope::RunsSignal)?;
    let headers = request.headers().clone();
    let bytes = read_body(request, "the delivery", limits::INPUT_BYTES).await?;
    let secret = hook.secret.read().map_err(|error| {
        let hint = "set it where the server runs; the service delivers again later";
        let trouble =
            UserError::host("WF0913", format!("the secret of the webhook `{name}` is not available"));
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, trouble.because(&error).hint(hint))
    })?;
    let now = app.store().now().0 / 1_000;
    let signed = verify(&hook, secret.expose(), &headers, &bytes, now).map_err(|why| {
        let trouble = UserError::usage("WF0912", format!("the delivery to `{name}` is not accepted: {why}"));
        Problem::new(StatusCode::UNAUTHORIZED, trouble)
    })?;
    let delivery = read(hook.scheme, &headers, signed, bytes)?;
    let known = |event: &String| hook.events.iter().any(|wanted| wanted == event);
    if !hook.events.is_empty() && !delivery.event.as_ref().is_some_and(known) {
        let event = delivery.event.as_deref().unwrap_or("without a kind");
        return Ok(View(TakenView::left_out(format!("the event is {event}"))).into_response());
    }
    act(&app, &hook, delivery).await.map(|taken| View(taken).into_response())
}

/// Takes a delivery apart. `signed` is an id that the service signed.
fn read(
    scheme: Scheme,
    headers: &HeaderMap,
    signed: Option<String>,
    bytes: Vec<u8>,
) -> Result<Delivery, Problem> {
    let digest = Digest::of(&bytes).hex();
    let text = String::from_utf8(bytes).map_err(|_| Problem::bad("the body is not UTF-8"))?;
    let body = Json::parse(text.clone()).map_err(|error| {
        let trouble = UserError::bad_json("the delivery", &text, &error);
        Problem::from(trouble.hint("have the service send JSON: GitHub calls it application/json"))
    })?;
    let value = body.value();
    let member = |name: &str| value.get(name).and_then(|value| value.as_str()).map(str::to_owned);
    // GitHub signs no id: what has the same body is the same.
    let key = match scheme {
        Scheme::Github => digest,
        Scheme::Stripe => member("id").unwrap_or(digest),
        Scheme::Standard => signed.unwrap_or(digest),
    };
    let event = match scheme {
        Scheme::Github => header(headers, "x-github-event").map(str::to_owned),
        Scheme::Stripe | Scheme::Standard => member("type"),
    };
    Ok(Delivery { key, event, body })
}

/// What the program gets: the body byte for byte, and what stands beside it.
fn input(hook: &Webhook, delivery: &Delivery) -> Result<Json, Problem> {
    let event = delivery.event.as_deref().map_or_else(Json::null, Json::string);
    let text = format!(
        r#"{{"webhook":{},"event":{event},"id":{},"body":{}}}"#,
        Json::string(&hook.name),
        Json::string(&delivery.key),
        delivery.body.as_str(),
    );
    // It has a level more than the body, and some values.
    Json::parse(text).map_err(|error| {
        UserError::usage("WF0003", format!("the delivery is too deep or has too many values: {error}"))
            .hint("have the service send less, or send it to a program that takes it apart first")
            .into()
    })
}

async fn act(app: &App, hook: &Webhook, delivery: Delivery) -> Result<TakenView, Problem> {
    let caller = Identity {
        id: "webhook".to_owned(),
        name: format!("the webhook {}", hook.name),
        scopes: Scopes::default(),
        by_cookie: false,
    };
    let input = input(hook, &delivery)?;
    // Keys have a greatest length, and ids of others may have any.
    let key = Digest::of(format!("{}:{}", hook.name, delivery.key).as_bytes()).hex();
    let key = format!("webhook:{key}");
    match &hook.delivers {
        Delivers::Start { workflow } => {
            let module = crate::api::module_named(app, workflow).await?;
            let defaults = &app.options().defaults;
            let event = delivery.event.clone().map(|event| ("event".to_owned(), event));
            let labels: Vec<_> =
                [("webhook".to_owned(), hook.name.clone())].into_iter().chain(event).collect();
            // A kind that no label can have is left out.
            let labels = match limits::check_labels(&labels) {
                Ok(()) => labels,
                Err(_) => vec![("webhook".to_owned(), hook.name.clone())],
            };
            let options = StartOptions {
                input,
                key: Some(key),
                labels,
                config: RunConfig {
                    agent: defaults.agent.clone(),
                    budget: defaults.budget,
                    project: defaults.project.clone(),
                    ..RunConfig::default()
                },
                ..StartOptions::default()
            };
            let submitted = app.host().submit(&module, options).await?;
            let word = if submitted.is_new { "started" } else { "known" };
            app.record(&caller, "webhook.start", submitted.run.as_str(), word).await?;
            Ok(TakenView::new(submitted.is_new, &submitted.run))
        }
        Delivers::Signal { run, name } => {
            let run = match run {
                Target::Run(run) => run.clone(),
                Target::At(pointer) => {
                    let value = delivery.body.value();
                    let named = value.pointer(pointer).and_then(|value| value.as_str());
                    let Some(named) = named.and_then(|text| text.parse().ok()) else {
                        return Ok(TakenView::left_out(format!("the body has no run at {pointer}")));
                    };
                    named
                }
            };
            // What is refused leaves no trace: the same delivery may come again when the module takes it. A run that
            // has ended takes nothing, and that is said instead.
            match crate::api::acts::check_signal(app, &run, name, Some(&input)).await {
                Err(problem) if problem.error().code == "WF0522" && !has_ended(app, &run).await? => {
                    app.record(&caller, "webhook.signal", &format!("{run} {name}"), "unfit").await?;
                    return Err(problem);
                }
                Err(problem) if problem.error().code != "WF0522" => return Err(problem),
                _ => {}
            }
            let signal = MessageBody::Signal { name: name.clone(), payload: input, id: Some(key) };
            match app.host().post(&run, signal).await {
                Ok((posted, run)) => {
                    let is_new = posted != Posted::Duplicate;
                    let word = if is_new { "taken" } else { "again" };
                    app.record(&caller, "webhook.signal", &format!("{run} {name}"), word).await?;
                    Ok(TakenView::new(is_new, &run))
                }
                // To say that it is gone would have some services stop all deliveries.
                Err(HostError::Ended { .. }) => {
                    app.record(&caller, "webhook.signal", &format!("{run} {name}"), "ended").await?;
                    Ok(TakenView::left_out(format!("{run} has ended")))
                }
                // It may yet begin: the service delivers again.
                Err(error) => Err(error.into()),
            }
        }
    }
}

/// Whether a run takes nothing any more.
async fn has_ended(app: &App, run: &RunId) -> Result<bool, Problem> {
    Ok(wfhost::latest(app.store(), run).await?.state.is_final())
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// Whether one of these is the MAC of the parts. Takes as long whichever it is.
fn is_signed(key: &[u8], parts: &[&[u8]], given: &[Vec<u8>]) -> bool {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    let text = parts.concat();
    given.iter().any(|tag| hmac::verify(&key, &text, tag).is_ok())
}

/// Bytes of hexadecimal digits.
fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |c: u8| char::from(c).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| Some(digit(*pair.first()?)? << 4 | digit(*pair.get(1)?)?)).collect()
}

/// Refuses what is not signed with the secret, or at a time that is not near. `now` is in seconds since
/// 1970. Gives the id that was signed, if the scheme has one.
fn verify(
    hook: &Webhook,
    secret: &str,
    headers: &HeaderMap,
    body: &[u8],
    now: u64,
) -> Result<Option<String>, &'static str> {
    const MISSING: &str = "it has no signature of that kind";
    const WRONG: &str = "its signature is not of this secret and this body";
    let near = |time: &str| match time.parse::<u64>() {
        Ok(time) if now.abs_diff(time) <= hook.tolerance_ms.div_ceil(1_000) => Ok(()),
        Ok(_) => Err("it was signed too long ago, or the clocks differ"),
        Err(_) => Err(MISSING),
    };
    match hook.scheme {
        Scheme::Github => {
            let given = header(headers, "x-hub-signature-256").ok_or(MISSING)?;
            let tag = given.strip_prefix("sha256=").and_then(unhex).ok_or(MISSING)?;
            is_signed(secret.as_bytes(), &[body], &[tag]).then_some(None).ok_or(WRONG)
        }
        Scheme::Stripe => {
            let given = header(headers, "stripe-signature").ok_or(MISSING)?;
            let pairs: Vec<_> = given.split(',').filter_map(|pair| pair.trim().split_once('=')).collect();
            let (_, time) = pairs.iter().find(|(name, _)| *name == "t").ok_or(MISSING)?;
            // Only this version: others are weaker.
            let tags: Vec<_> =
                pairs.iter().filter(|(name, _)| *name == "v1").filter_map(|(_, tag)| unhex(tag)).collect();
            if !is_signed(secret.as_bytes(), &[time.as_bytes(), b".", body], &tags) {
                return Err(WRONG);
            }
            near(time).map(|()| None)
        }
        Scheme::Standard => {
            // Svix, who began it, sends its own names.
            let named = |name: &str, old: &str| header(headers, name).or_else(|| header(headers, old));
            let id = named("webhook-id", "svix-id").ok_or(MISSING)?;
            let time = named("webhook-timestamp", "svix-timestamp").ok_or(MISSING)?;
            let given = named("webhook-signature", "svix-signature").ok_or(MISSING)?;
            let decode = |text: &str| STANDARD.decode(text).or_else(|_| STANDARD_NO_PAD.decode(text)).ok();
            let key = match secret.strip_prefix("whsec_") {
                Some(key) => decode(key).ok_or("its secret is none: after whsec_ stands Base64")?,
                None => secret.as_bytes().to_vec(),
            };
            let tags = given.split(' ').filter_map(|one| decode(one.strip_prefix("v1,")?));
            let parts = [id.as_bytes(), b".", time.as_bytes(), b".", body];
            if !is_signed(&key, &parts, &tags.collect::<Vec<_>>()) {
                return Err(WRONG);
            }
            near(time).map(|()| Some(id.to_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use wfhost::agents::SecretSource;

    use super::*;

    fn hook(scheme: Scheme) -> Webhook {
        Webhook {
            name: "h".to_owned(),
            namespace: None,
            scheme,
            secret: SecretSource::Env("S".to_owned()),
            events: Vec::new(),
            tolerance_ms: 300_000,
            delivers: Delivers::Start { workflow: "w".to_owned() },
        }
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn githubs_own_example_is_good_and_nothing_near_it() {
        // From GitHub's documentation, "Validating webhook deliveries".
        let (secret, body) = ("It's a Secret to Everybody", b"Hello, World!");
        let tag = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
        let check = |secret: &str, tag: &str, body: &[u8]| {
            verify(&hook(Scheme::Github), secret, &headers(&[("x-hub-signature-256", tag)]), body, 0)
        };
        assert_eq!(check(secret, tag, body), Ok(None));
        for (secret, tag, body) in [
            ("other", tag, &body[..]),
            (secret, tag, b"Hello, World"),
            (secret, &tag[..tag.len() - 2], body),
            (secret, &tag["sha256=".len()..], body),
            (secret, "sha256=", body),
            (secret, "sha256=zz", body),
            (secret, "sha1=757107ea", body),
        ] {
            assert!(check(secret, tag, body).is_err(), "{tag}");
        }
        assert!(verify(&hook(Scheme::Github), secret, &HeaderMap::new(), body, 0).is_err());
    }

    #[test]
    fn the_example_of_standard_webhooks_is_good_near_its_time() {
        // The example of the specification's reference libraries.
        let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        let (id, time, body) = ("msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", br#"{"test": 2432232314}"#);
        let tag = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        let both = format!("v2,AAAA {tag}");
        let check = |secret: &str, id: &str, time: &str, tag: &str, now: u64| {
            let given =
                headers(&[("webhook-id", id), ("webhook-timestamp", time), ("webhook-signature", tag)]);
            verify(&hook(Scheme::Standard), secret, &given, body, now)
        };
        let at = 1_614_265_330;
        assert_eq!(check(secret, id, time, tag, at), Ok(Some(id.to_owned())));
        assert!(check(secret, id, time, &both, at + 300).is_ok(), "of several one is enough");
        assert!(check(secret, id, time, tag, at + 301).is_err(), "it was sent again later");
        assert!(check(secret, id, time, tag, at - 301).is_err());
        assert!(check(secret, "msg_other", time, tag, at).is_err(), "the id is signed");
        assert!(check(secret, id, "1614265331", tag, at).is_err(), "the time is signed");
        assert!(check("whsec_AAAA", id, time, tag, at).is_err());
        assert!(check("whsec_?", id, time, tag, at).is_err());
    }

    #[test]
    fn of_stripe_only_the_version_counts_that_is_known_and_its_time_is_signed() {
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"whsec_test");
        let tag: String =
            hmac::sign(&key, b"100.{}").as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        let check = |value: &str, now: u64| {
            verify(&hook(Scheme::Stripe), "whsec_test", &headers(&[("stripe-signature", value)]), b"{}", now)
        };
        assert!(check(&format!("t=100,v1={tag}"), 100).is_ok());
        assert!(check(&format!("t=100,v1=00,v1={tag},v0=1"), 399).is_ok());
        for bad in [
            format!("t=101,v1={tag}"),
            format!("t=100,v0={tag}"),
            format!("v1={tag}"),
            "t=100".to_owned(),
            String::new(),
        ] {
            assert!(check(&bad, 100).is_err(), "{bad}");
        }
        assert!(check(&format!("t=100,v1={tag}"), 401).is_err());
    }

    #[test]
    fn digits_are_read_or_not() {
        assert_eq!(unhex("00fF"), Some(vec![0, 255]));
        for bad in ["0", "0g", "é", "000"] {
            assert_eq!(unhex(bad), None, "{bad}");
        }
    }
}
