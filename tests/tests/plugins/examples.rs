//! The plugins among the examples, against what they are for.

use serde_json::{Value, json};
use wfhost_tests::{Place, module};

use crate::gave;
use crate::server::Server;

/// Has an example answer one call.
fn answer(place: &Place, name: &str, granted: &str, request: Value) -> Value {
    let text = format!("[providers.it]\nkind = \"plugin\"\nplugin = {:?}\n{granted}\n", module(name));
    let config = place.file("wfhost.toml", text);
    let mut request = request;
    request["providers"] = json!(["it"]);
    let input = json!({ "do": [{ "agent_with": request }] }).to_string();
    gave(&place.run(["run", &module("probe"), "-i", &input, "--id", "r", "--config", &config]))
}

#[test]
fn the_fetcher_reads_pages_where_it_may_go() {
    let server = Server::start(|request, mut answer| match request.line.split(' ').nth(1) {
        Some("/docs/old") => answer.with("301 Moved", "location: new?x=1\r\n", ""),
        Some("/docs/new?x=1") => {
            let page = "<html><head><title>A &amp; B</title><style>p{}</style></head><body><script>no()</script>\
                        <h1>Hello</h1><p>one <b>two</b></p><!-- > --><p>three</p></body></html>";
            answer.raw("HTTP/1.1 200 OK\r\ncontent-type: text/html\r\nconnection: close\r\n\r\n");
            answer.raw(page);
        }
        Some("/docs/away") => answer.with("302 Found", "location: /admin\r\n", ""),
        _ => answer.with("200 OK", "", "secret"),
    });
    let granted = format!("http = [{{ url = \"{}/docs/\", methods = [\"GET\"] }}]", server.url);
    let place = Place::new();
    let page = answer(&place, "fetcher", &granted, json!({ "prompt": format!("{}/docs/old", server.url) }));
    let url = format!("{}/docs/new?x=1", server.url);
    assert_eq!(
        page["output"],
        json!({ "url": url, "title": "A & B", "text": "Hello\none two\nthree" }),
        "{page}"
    );
    let place = Place::new();
    let refused =
        answer(&place, "fetcher", &granted, json!({ "prompt": format!("{}/docs/away", server.url) }));
    assert_eq!(refused["failure"], "rejected", "{refused}");
    assert!(server.requests().iter().all(|request| !request.line.contains("admin")));
}

#[test]
fn the_client_of_a_model_streams_counts_and_never_has_the_key() {
    let server = Server::start(|request, mut answer| {
        assert_eq!(request.headers["x-api-key"], "sk-test-0123456789");
        if request.number == 0 {
            return answer.with(
                "529 Overloaded",
                "retry-after: 0\r\n",
                r#"{"error":{"message":"overloaded"}}"#,
            );
        }
        assert_eq!(request.body["messages"], json!([{ "role": "user", "content": "say hello" }]));
        answer.stream();
        answer.event(&json!({ "type": "message_start", "message": { "model": "m-1", "usage": { "input_tokens": 7 } } }));
        for text in ["Hel", "lo sk-test-0123456789"] {
            answer.event(&json!({ "type": "content_block_delta", "delta": { "text": text } }));
        }
        let stop = json!({ "stop_reason": "end_turn" });
        answer.event(&json!({ "type": "message_delta", "delta": stop, "usage": { "output_tokens": 3 } }));
        answer.event(&json!({ "type": "message_stop" }));
    });
    let place = Place::new();
    place.file("key", "sk-test-0123456789");
    let granted = format!(
        "model = \"m\"\nset = {{ MESSAGES_URL = \"{0}/v1/messages\" }}\n\
         http = [{{ url = \"{0}/v1/messages\", methods = [\"POST\"], inject = {{ x-api-key = {{ file = \"key\" }} }} }}]",
        server.url
    );
    let request =
        json!({ "prompt": "say hello", "retry": { "max_attempts": 2, "initial": 1, "jitter": 0.0 } });
    let answer = answer(&place, "messages", &granted, request);
    assert_eq!(answer["output"], "Hello [redacted]", "{answer}");
    assert_eq!((&answer["usage"]["input_tokens"], &answer["usage"]["output_tokens"]), (&json!(7), &json!(3)));
    assert_eq!(answer["model"], "m-1");
}

#[test]
fn the_tool_over_a_directory_finds_what_is_there() {
    let place = Place::new();
    std::fs::create_dir_all(place.path("notes/old")).unwrap();
    place.file("notes/todo.md", "eggs\nbuy Milk\n");
    place.file("notes/old/list.md", "milk\n");
    let granted = "directories = { \"/\" = { path = \"notes\" } }";
    let ask = |input: Value| {
        let place = &place;
        let id = format!("r{}", input.to_string().len());
        let text = format!("[providers.it]\nkind = \"plugin\"\nplugin = {:?}\n{granted}\n", module("files"));
        let config = place.file("wfhost.toml", text);
        let request = json!({ "agent_with": { "prompt": "", "input": input, "providers": ["it"] } });
        let input = json!({ "do": [request] }).to_string();
        gave(&place.run(["run", &module("probe"), "-i", &input, "--id", &id, "--config", &config]))
    };
    assert_eq!(ask(json!({ "list": "." }))["output"], json!(["old/", "todo.md"]));
    let found = json!([{ "file": "old/list.md", "line": 1, "text": "milk" }, { "file": "todo.md", "line": 2, "text": "buy Milk" }]);
    assert_eq!(ask(json!({ "search": "milk" }))["output"], found);
    assert_eq!(ask(json!({ "read": "todo.md" }))["output"], "eggs\nbuy Milk\n");
    assert_eq!(ask(json!({ "read": "../../wfhost.toml" }))["failure"], "rejected");
}

/// The same policy, whatever the language: an attempt that fails, one whose answer does not fit, one that does.
#[test]
fn a_plugin_in_typescript_is_a_plugin_like_others() {
    let server = Server::start(|request, answer| {
        let of = |celsius: &str| json!({ "current_condition": [{ "temp_C": celsius, "weatherDesc": [{ "value": "Sunny \u{2600}" }] }] });
        assert_eq!(request.headers["x-key"], "sk-test-0123456789");
        match request.number {
            0 => answer.with("503 Busy", "", ""),
            1 => answer.json(of("none")),
            _ => answer.json(of("21")),
        }
    });
    let place = Place::new();
    place.file("key", "sk-test-0123456789");
    let granted = format!(
        "http = [{{ url = \"{}/\", methods = [\"GET\"], inject = {{ x-key = {{ file = \"key\" }} }} }}]",
        server.url
    );
    let schema = json!({ "type": "object", "properties": { "celsius": { "type": "number" } } });
    let request = json!({
        "prompt": "São Paulo", "options": { "url": server.url }, "schema": schema,
        "retry": { "max_attempts": 2, "initial": 1, "jitter": 0.0 },
    });
    let weather = answer(&place, "weather-js", &granted, request);
    assert_eq!(weather["output"]["text"], "21 °C, Sunny \u{2600}", "{weather}");
    assert_eq!((&weather["output"]["celsius"], weather["model"].as_str()), (&json!(21), Some("wttr")));
    assert!(server.requests()[0].line.contains("/S%C3%A3o%20Paulo?format=j1"), "{:?}", server.requests()[0]);
    let shown = place.run(["transcript", "r", "1"]).stdout();
    assert!(shown.contains("asks for São Paulo") && shown.contains("21 °C"), "{shown}");
    let place = Place::new();
    let refused =
        answer(&place, "weather-js", "", json!({ "prompt": "Rome", "options": { "url": server.url } }));
    assert_eq!(refused["failure"], "rejected", "{refused}");
    assert!(refused["message"].as_str().unwrap().contains("denies"), "{refused}");
}

#[test]
fn a_plugin_in_python_is_a_plugin_like_others() {
    let server = Server::start(|request, answer| {
        assert_eq!(request.headers["x-key"], "sk-test-0123456789");
        match request.number {
            0 => answer.with("503 Busy", "", ""),
            1 => answer.with("200 OK", "", "no feed sk-test-0123456789"),
            _ => {
                let feed = "<rss><channel><title>F</title><item><title>One \u{2600}</title><link>https://x.org/1</link>\
                            <pubDate>today</pubDate></item><item><title>Two</title></item></channel></rss>";
                answer.with("200 OK", "", feed);
            }
        }
    });
    let place = Place::new();
    place.file("key", "sk-test-0123456789");
    let granted = format!(
        "http = [{{ url = \"{}/\", methods = [\"GET\"], inject = {{ x-key = {{ file = \"key\" }} }} }}]",
        server.url
    );
    let schema = json!({ "type": "array", "items": { "type": "object", "required": ["title"] } });
    let request = json!({
        "prompt": format!("{}/feed.xml", server.url), "options": { "most": 1 }, "schema": schema,
        "retry": { "max_attempts": 3, "initial": 1, "jitter": 0.0 },
    });
    let feed = answer(&place, "feeds-python", &granted, request);
    let entry = json!([{ "title": "One \u{2600}", "link": "https://x.org/1", "date": "today" }]);
    assert_eq!(feed["output"], entry, "{feed}");
    let journal = place.run(["journal", "r", "-o", "jsonl"]).stdout();
    assert!(journal.contains("the feed answered 503") && journal.contains("this is no feed"), "{journal}");
    let place = Place::new();
    let refused = answer(&place, "feeds-python", "", json!({ "prompt": format!("{}/", server.url) }));
    assert!(
        refused["failure"] == "rejected" && refused["message"].as_str().unwrap().contains("denies"),
        "{refused}"
    );
}

#[test]
fn a_plugin_in_go_is_a_plugin_like_others() {
    let server = Server::start(|request, answer| {
        assert_eq!(request.headers["authorization"], "Bearer sk-test-0123456789");
        let release = |tag: &str, body: &str| json!({ "tag_name": tag, "published_at": "2026-01-02T03:04:05Z", "body": body });
        match request.number {
            0 => answer.with("503 Busy", "retry-after: 0\r\n", "sk-test-0123456789"),
            1 => answer.with("200 OK", "", "no list"),
            2 => answer.json(json!([])),
            _ => answer.json(json!([release("v2", "  Sunny \u{2600}\nand more"), release("v1", "")])),
        }
    });
    let place = Place::new();
    place.file("key", "sk-test-0123456789");
    let granted = format!(
        "[[providers.it.http]]\nurl = \"{}/repos/\"\nmethods = [\"GET\"]\n\
         inject = {{ authorization = {{ file = \"key\", prefix = \"Bearer \" }} }}",
        server.url
    );
    let request = json!({
        "prompt": " acme/app ", "options": { "url": server.url, "most": 2 },
        "schema": { "type": "array", "minItems": 1 },
        "retry": { "max_attempts": 4, "initial": 1, "jitter": 0.0 },
    });
    let listed = answer(&place, "releases-go", &granted, request);
    let releases = json!([
        { "tag": "v2", "date": "2026-01-02", "notes": "Sunny \u{2600}" },
        { "tag": "v1", "date": "2026-01-02", "notes": "" },
    ]);
    assert_eq!((&listed["output"], listed["model"].as_str()), (&releases, Some("github")), "{listed}");
    assert!(server.requests()[3].line.contains("/repos/acme/app/releases?per_page=2"));
    let journal = place.run(["journal", "r", "-o", "jsonl"]).stdout();
    // What echoes the token is shown without it.
    assert!(journal.contains("the service answered 503: [redacted]"), "{journal}");
    assert!(journal.contains("the service answered something unexpected"), "{journal}");
    let shown = place.run(["transcript", "r", "1"]).stdout();
    assert!(shown.contains("asks for the releases of acme/app") && shown.contains("v2"), "{shown}");
    let refused = |prompt: &str| {
        let request = json!({ "prompt": prompt, "options": { "url": server.url } });
        let refused = answer(&Place::new(), "releases-go", "", request);
        assert_eq!(refused["failure"], "rejected", "{refused}");
        refused["message"].as_str().unwrap().to_owned()
    };
    assert!(refused("acme/app").contains("the host denies the request"));
    assert!(refused("../app/x").contains("is no repository"));
    // What it asks for is read without running it.
    let wants = place.run(["inspect", &module("releases-go"), "-o", "json"]).ok_json()["wants"].clone();
    assert_eq!(wants["http"][0]["inject"], json!(["authorization"]), "{wants}");
}
