//! A server whose own clock is not that of its store.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use http_body_util::BodyExt;
use ring::hmac;
use serde_json::{Value, json};
use tokio::sync::watch;
use tower::ServiceExt;
use wfhost::agents::SecretSource;
use wfhost::schedule::{CatchUp, Overlap, Schedule, When};
use wfhost::store::{Clock, MemStore, NewRun, SharedStore};
use wfhost::{Host, HostOptions, clock};
use wfhost_config::{Delivers, Scheme, Webhook};
use wfhost_core::{Json, Machine, RunConfig, Started, Timestamp};

use crate::app::At;
use crate::{Address, App, Defaults, Options, router};

const HOUR_MS: u64 = 3_600_000;
/// Its value is the secret of the webhook: cargo sets it.
const SECRET: &str = "CARGO_MANIFEST_DIR";

/// Shows what it was set to.
#[derive(Debug)]
struct Still(AtomicU64);

impl Clock for Still {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }

    fn ticks_ms(&self) -> u64 {
        0
    }

    fn source(&self) -> &'static str {
        "still"
    }
}

fn webhook() -> Webhook {
    Webhook {
        name: "shop".to_owned(),
        namespace: None,
        scheme: Scheme::Stripe,
        secret: SecretSource::Env(SECRET.to_owned()),
        events: vec!["paid".to_owned()],
        tolerance_ms: 300_000,
        delivers: Delivers::Start { workflow: "w".to_owned() },
    }
}

/// What the user of this process is answered.
async fn serve(store: &SharedStore) -> Router {
    let options = Options {
        listen: Address::Unix(PathBuf::new()),
        tls: None,
        public_url: None,
        hosts: Vec::new(),
        read_only: false,
        defaults: Defaults::default(),
        mcp_workflows: false,
        settings: Vec::new(),
        webhooks: vec![webhook()],
        sinks: Vec::new(),
        metrics: Arc::default(),
    };
    let host = Host::new(HostOptions::new(Arc::clone(store))).unwrap();
    let identity = store.identity().await.unwrap();
    let (_, draining) = watch::channel(false);
    let app = App::new(host, options, At::User, None, String::new(), identity, draining).await.unwrap();
    router(&app, &[])
}

async fn ask(router: &Router, request: Request<Body>) -> (StatusCode, String) {
    let response = router.clone().oneshot(request).await.unwrap();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

async fn get(router: &Router, path: &str) -> (StatusCode, String) {
    ask(router, Request::get(path).body(Body::empty()).unwrap()).await
}

async fn post(router: &Router, path: &str, body: Value) -> Value {
    let request = Request::post(path).header(header::CONTENT_TYPE, "application/json");
    let (status, text) = ask(router, request.body(Body::from(body.to_string())).unwrap()).await;
    assert!(status.is_success(), "{path}: {status} {text}");
    serde_json::from_str(&text).unwrap()
}

/// A delivery that was signed at that time.
async fn deliver(router: &Router, at: Timestamp) -> (StatusCode, String) {
    let (body, at) = (r#"{"id":"evt_1","type":"refunded"}"#, at.0 / 1_000);
    let key = hmac::Key::new(hmac::HMAC_SHA256, std::env::var(SECRET).unwrap().as_bytes());
    let tag = hmac::sign(&key, format!("{at}.{body}").as_bytes());
    let tag: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let request = Request::post("/hooks/shop").header("stripe-signature", format!("t={at},v1={tag}"));
    ask(router, request.body(Body::from(body)).unwrap()).await
}

/// All hosts of a store judge by its clock, and what they show goes with that.
#[tokio::test]
async fn times_are_those_of_the_store_whatever_the_clock_of_the_server_shows() {
    let here = clock::now();
    for began in [here.0 - 48 * HOUR_MS, here.0 + 48 * HOUR_MS].map(Timestamp) {
        let still = Arc::new(Still(AtomicU64::new(began.0)));
        let store: SharedStore = Arc::new(MemStore::with_clock(Arc::clone(&still) as _));
        let module = store.put_module("w", b"w").await.unwrap();
        let hourly = Schedule {
            name: "hourly".to_owned(),
            when: When::every(HOUR_MS, began).unwrap(),
            overlap: Overlap::default(),
            catch_up: CatchUp::default(),
            workflow: "w".to_owned(),
            module,
            input: Json::null(),
            labels: Vec::new(),
            config: RunConfig::default(),
            created_at: began,
            next_at: None,
            fired: 0,
            last: None,
        };
        assert!(store.put_schedule(hourly, false).await.unwrap());
        let started = Started {
            run: "r".parse().unwrap(),
            workflow: "w".to_owned(),
            module,
            input: Json::null(),
            seed: [7; 32],
            config: RunConfig::default(),
            labels: Vec::new(),
            parent: None,
            child: None,
            origin: None,
        };
        let mut machine = Machine::start(started, began);
        let rows = vec![machine.take_unsaved().unwrap().into()];
        store.create(NewRun::new(&machine, rows)).await.unwrap();
        let router = serve(&store).await;
        let in_an_hour = clock::rfc3339(began.after(HOUR_MS));

        let resumed = post(&router, "/api/v1/schedules/hourly/resume", json!({})).await;
        assert_eq!(resumed["next"][0], in_an_hour);

        let asked = json!({ "run": "r", "signal": "s", "expires": "1h" });
        let callback = post(&router, "/api/v1/callbacks", asked).await;
        assert_eq!(callback["expires_at"], in_an_hour);
        let url = callback["url"].as_str().unwrap();
        assert_eq!(get(&router, url).await.0, StatusCode::OK);

        let asked = json!({ "name": "short", "scopes": ["runs:read"], "expires": "1h" });
        let made = post(&router, "/api/v1/tokens", asked).await;
        assert_eq!(made["token"]["expires_at"], in_an_hour);
        let (_, tokens) = get(&router, "/ui/tokens").await;
        assert!(tokens.contains(">in 1h<") && tokens.contains(">just now<"), "{tokens}");
        let (_, modules) = get(&router, "/ui/modules").await;
        assert!(modules.contains(">just now<"), "{modules}");

        assert_eq!(deliver(&router, here).await.0, StatusCode::UNAUTHORIZED);
        let (status, taken) = deliver(&router, began).await;
        assert!(status == StatusCode::OK && taken.contains("left out"), "{status} {taken}");

        still.0.fetch_add(HOUR_MS, Ordering::SeqCst);
        assert_eq!(get(&router, url).await.0, StatusCode::GONE);
    }
}
