//! Plugins that mean harm, and servers that help them: nothing gets out, nothing leaks. Each test says what stopped
//! it. All of it by `wasi:http`, and once more (`hostile_own`) by the interface of plugins.

use std::io::Write;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use wfhost_tests::Place;

use crate::server::{Request, Server};
use crate::{first, http, puppet, shown};

/// The grants of the puppet, which is told by which interface it sends its requests.
fn grant(place: &Place, more: &str) {
    let via = if module_path!().ends_with("own") { "own" } else { "wasi" };
    crate::grant(place, &format!("set = {{ VIA = {via:?} }}\n{more}"));
}

/// In no text of ours, and with characters that are written in other ways in JSON and URLs.
const SECRET: &str = "wf-SECRET\"+/0815 abc";

const INJECT: &str = "inject = { authorization = { file = \"key\", prefix = \"Bearer \" } }";

/// A place with a key, and the puppet with a grant that sends it to a server.
fn with_key(server: &Server) -> Place {
    let place = Place::new();
    place.file("key", format!("{SECRET}\n"));
    grant(&place, &http(&format!("{}/v1/", server.url), &["GET", "POST"], INJECT));
    place
}

/// The secret, or the greater part of it, in no file of the place (but its own) and in nothing that is shown.
#[track_caller]
fn is_kept(place: &Place, more: &[&str]) {
    let json = Value::from(SECRET).to_string();
    let encoded = SECRET.replace('"', "%22").replace('+', "%2B").replace('/', "%2F").replace(' ', "%20");
    let forms =
        [SECRET, json.trim_matches('"'), &encoded, &SECRET[3..], &SECRET[..14]].map(str::to_ascii_lowercase);
    let check = |what: &str, text: &str| {
        let text = text.to_ascii_lowercase();
        for form in &forms {
            assert!(!text.contains(form.as_str()), "{what} has the secret: {text}");
        }
    };
    let mut open = vec![place.path("")];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.file_name().unwrap() != "key" {
                let bytes = std::fs::read(&path).unwrap();
                check(&path.display().to_string(), &String::from_utf8_lossy(&bytes));
            }
        }
    }
    check("the transcript", &shown(place));
    check("the journal", &place.run(["journal", "r", "-o", "jsonl"]).stdout());
    for text in more {
        check("what was said", text);
    }
}

fn echo(request: &Request) -> String {
    let headers = json!(request.headers).to_string();
    format!("{} {headers}", request.line)
}

/// Masked in headers and in the body.
#[test]
fn a_server_that_echoes_what_it_was_sent_gives_no_secret_away() {
    let server = Server::start(|request, answer| {
        let key = request.headers["authorization"].clone();
        assert_eq!(key, format!("Bearer {SECRET}"));
        let more = format!("x-echo: {key}\r\nx-upper: {}\r\nset-cookie: k={key}\r\n", key.to_uppercase());
        answer.with("200 OK", &more, &echo(request));
    });
    let place = with_key(&server);
    let got = first(&place, json!({ "fetch": { "url": format!("{}/v1/echo", server.url) } }));
    let text = got.to_string();
    assert!(text.contains("Bearer [redacted]"), "{text}");
    // What would tell how long it is.
    assert!(!text.contains("content-length"), "{text}");
    is_kept(&place, &[&text]);
}

/// What may be the beginning of a secret is held back.
#[test]
fn a_secret_that_is_split_over_pieces_is_found() {
    let server = Server::start(|request, mut answer| {
        let key = request.headers["authorization"].clone();
        answer.raw("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n");
        let at: usize =
            request.line.rsplit("at=").next().unwrap().split(' ').next().unwrap().parse().unwrap();
        answer.raw(&format!("begin {}", &key[..at]));
        std::thread::sleep(Duration::from_millis(30));
        answer.raw(&format!("{} end", &key[at..]));
    });
    let place = with_key(&server);
    let fetches: Vec<_> = (0..27)
        .map(|at| json!({ "fetch": { "url": format!("{}/v1/?at={at}", server.url), "pieces": true } }))
        .collect();
    let answer = puppet(&place, json!(fetches));
    for got in answer["output"].as_array().unwrap() {
        let body: String =
            got["body"].as_array().unwrap().iter().map(|piece| piece.as_str().unwrap()).collect();
        assert_eq!(body, "begin Bearer [redacted] end", "{answer}");
    }
    is_kept(&place, &[&answer.to_string()]);
}

/// A body that is packed is not looked into: it is refused.
#[test]
fn a_packed_echo_is_refused() {
    let server = Server::start(|request, answer| {
        assert_eq!(request.headers["accept-encoding"], "identity");
        answer.with("200 OK", "content-encoding: gzip\r\n", "packed");
    });
    let place = with_key(&server);
    let fetch = json!({ "url": format!("{}/v1/", server.url), "headers": [["accept-encoding", "gzip"]] });
    let got = first(&place, json!({ "fetch": fetch }));
    assert!(got["error"].as_str().unwrap().contains("oding"), "{got}");
}

/// The header `range` does not get through beside a secret.
#[test]
fn a_part_of_an_echo_cannot_be_asked_for() {
    let server = Server::start(|request, answer| answer.with("200 OK", "", &echo(request)));
    let place = with_key(&server);
    let fetch =
        json!({ "url": format!("{}/v1/", server.url), "headers": [["range", "bytes=0-20"], ["x-a", "b"]] });
    let got = first(&place, json!({ "fetch": fetch })).to_string();
    assert!(got.contains("x-a") && !got.contains("bytes=0-20"), "{got}");
}

/// The host follows none; what the plugin asks next is judged like everything.
#[test]
fn a_redirect_leads_nowhere() {
    let elsewhere = Server::start(|request, answer| answer.with("200 OK", "", &echo(request)));
    let to = elsewhere.url.clone();
    let server = Server::start(move |request, answer| {
        let location =
            if request.line.contains("/v1/out") { format!("{to}/v1/") } else { "/admin".to_owned() };
        answer.with("302 Found", &format!("location: {location}\r\n"), "");
    });
    let place = with_key(&server);
    let answer = puppet(
        &place,
        json!([{ "fetch": { "url": format!("{}/v1/out", server.url) } }, { "fetch": { "url": format!("{}/v1/in", server.url) } },
               { "fetch": { "url": format!("{}/v1/", elsewhere.url) } }, { "fetch": { "url": format!("{}/admin", server.url) } }]),
    );
    let output = &answer["output"];
    assert_eq!((&output[0]["status"], &output[1]["status"]), (&json!(302), &json!(302)), "{answer}");
    for denied in [2, 3] {
        assert!(output[denied]["error"].as_str().unwrap().contains("denies"), "{answer}");
    }
    assert_eq!((server.requests().len(), elsewhere.requests().len()), (2, 0));
}

/// The address is judged as it is sent, and what servers read in two ways is not sent.
#[test]
fn no_way_of_writing_an_address_leads_out_of_the_grant() {
    let server = Server::start(|request, answer| answer.with("200 OK", "", &echo(request)));
    let place = with_key(&server);
    let (host, port) = server.url.trim_start_matches("http://").split_once(':').unwrap();
    let urls = [
        format!("{}/v1/../admin", server.url),
        format!("{}/v1/%2e%2e/admin", server.url),
        format!("{}/v1/.%2E/admin", server.url),
        format!("{}/v1/..%2fadmin", server.url),
        format!("{}/v1/%2f..%2fadmin", server.url),
        format!("{}/v1/..%5cadmin", server.url),
        format!("{}/v1/..;/admin", server.url),
        format!("{}/v1/%252e%252e%252fadmin", server.url),
        format!("{}/admin", server.url),
        format!("{}/v1", server.url),
        format!("{}/V1/", server.url),
        format!("http://evil.example@{host}:{port}/v1/"),
        format!("http://{host}:{port}@evil.example/v1/"),
        format!("http://@{host}:{port}/v1/"),
        format!("http://{host}:{}/v1/", port.parse::<u16>().unwrap() ^ 1),
        format!("https://{host}:{port}/v1/"),
        format!("http://localhost:{port}/v1/"),
        format!("http://127.0.0.2:{port}/v1/"),
        format!("http://[::1]:{port}/v1/"),
        format!("http://[::ffff:127.0.0.1]:{port}/v1/"),
        format!("http://[::ffff:7f00:1]:{port}/v1/"),
        format!("http://0:{port}/v1/"),
        format!("ftp://{host}:{port}/v1/"),
        "http:///v1/".to_owned(),
    ];
    let fetches: Vec<_> = urls.iter().map(|url| json!({ "fetch": { "url": url } })).collect();
    let answer = puppet(&place, json!(fetches));
    for (url, got) in urls.iter().zip(answer["output"].as_array().unwrap()) {
        assert!(got["error"].is_string(), "{url} got through: {got}");
    }
    assert_eq!(server.requests().len(), 0);
    // The same address in other words is the same address.
    let place = with_key(&server);
    let alias = format!("http://2130706433:{port}/x/../v1/");
    assert_eq!(first(&place, json!({ "fetch": { "url": alias } }))["status"], 200);
    // Another method is not granted.
    let place = with_key(&server);
    let put = first(&place, json!({ "fetch": { "method": "PUT", "url": format!("{}/v1/", server.url) } }));
    assert!(put["error"].as_str().unwrap().contains("denies"), "{put}");
    assert!(shown(&place).contains("methods = [\"GET\", \"POST\", \"PUT\"]"), "{}", shown(&place));
}

/// Addresses that are written are judged, and so are those that a name leads to.
#[test]
fn a_grant_for_everywhere_does_not_lead_into_the_network_of_the_host() {
    let server = Server::start(|request, answer| answer.with("200 OK", "", &echo(request)));
    let port = server.url.rsplit(':').next().unwrap();
    let place = Place::new();
    grant(&place, &http(&format!("http://*:{port}/"), &["GET"], ""));
    let hosts = [
        "127.0.0.1",
        "127.1",
        "0x7f000001",
        "2130706433",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "0.0.0.0",
        "localhost",
        "LOCALHOST.",
    ];
    let fetches: Vec<_> =
        hosts.iter().map(|host| json!({ "fetch": { "url": format!("http://{host}:{port}/") } })).collect();
    let answer = puppet(&place, json!(fetches));
    for (host, got) in hosts.iter().zip(answer["output"].as_array().unwrap()) {
        let error = got["error"].as_str().unwrap_or_else(|| panic!("{host} got through: {got}"));
        // One that the machine's resolver does not know is no address at all.
        assert!(error.contains("rohibited") || *host == "LOCALHOST.", "{host}: {error}");
    }
    assert_eq!(server.requests().len(), 0);
    assert!(shown(&place).contains("private = true"), "{}", shown(&place));
    // That line allows it.
    let place = Place::new();
    grant(&place, &http(&format!("http://*:{port}/"), &["GET"], "private = true"));
    assert_eq!(
        first(&place, json!({ "fetch": { "url": format!("http://localhost:{port}/") } }))["status"],
        200
    );
    // And so does its name.
    let place = Place::new();
    grant(&place, &http(&format!("http://localhost:{port}/"), &["GET"], ""));
    assert_eq!(
        first(&place, json!({ "fetch": { "url": format!("http://localhost:{port}/") } }))["status"],
        200
    );
}

/// Headers of the connection, and those that the host sets, are forbidden.
#[test]
fn headers_are_not_smuggled() {
    let server = Server::start(|request, answer| answer.with("200 OK", "", &echo(request)));
    let place = with_key(&server);
    let url = format!("{}/v1/", server.url);
    let headers = [
        ("host", "evil.example"),
        ("Host", "evil.example"),
        ("authorization", "Bearer mine"),
        ("AUTHORIZATION", "Bearer mine"),
        ("connection", "x-hop"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "h2c"),
        ("proxy-authorization", "x"),
        ("te", "trailers"),
        ("x-forwarded-for", "1.1.1.1"),
        ("x-http-method-override", "DELETE"),
        ("X-HTTP-Method", "DELETE"),
        ("x-method-override", "DELETE"),
        ("x-original-method", "DELETE"),
        ("x-original-uri", "/admin"),
        ("x-original-url", "/admin"),
        ("x-rewrite-url", "/admin"),
        ("x-a", "b\r\nauthorization: mine"),
        ("x-a\r\nauthorization", "mine"),
    ];
    let fetches: Vec<_> = headers
        .iter()
        .map(|(name, value)| json!({ "fetch": { "url": url, "headers": [[name, value]] } }))
        .collect();
    let answer = puppet(&place, json!(fetches));
    for ((name, _), got) in headers.iter().zip(answer["output"].as_array().unwrap()) {
        assert!(got["error"].is_string(), "{name} got through: {got}");
    }
    assert_eq!(server.requests().len(), 0);
    // A length that is not that of the body.
    let place = with_key(&server);
    let lie = json!({ "method": "POST", "url": url, "headers": [["content-length", "3"]], "body": "abcdef" });
    let got = first(&place, json!({ "fetch": lie }));
    assert!(got["error"].is_string(), "{got}");
    assert_eq!(server.requests().len(), 0);
}

/// A parameter that the host sets is not set by the plugin, and is masked like a header.
#[test]
fn a_secret_in_the_query_is_kept() {
    let server = Server::start(|request, answer| answer.with("200 OK", "", &echo(request)));
    let place = Place::new();
    place.file("key", SECRET);
    let inject = "inject_query = { key = { file = \"key\" } }";
    grant(&place, &http(&format!("{}/", server.url), &["GET"], inject));
    let answer = puppet(
        &place,
        json!([{ "fetch": { "url": format!("{}/?a=b", server.url) } }, { "fetch": { "url": format!("{}/?k%65y=mine", server.url) } },
               { "fetch": { "url": "http://127.0.0.1:1/x" } }]),
    );
    let output = &answer["output"];
    assert!(output[0]["body"].as_str().unwrap().contains("a=b&key=[redacted]"), "{answer}");
    assert!(output[1]["error"].is_string() && output[2]["error"].is_string(), "{answer}");
    let line = &server.requests()[0].line;
    assert!(line.contains("key=wf-SECRET%22%2B%2F0815+abc"), "{line}");
    is_kept(&place, &[&answer.to_string()]);
    // Nor is it in what is said of a service that does not answer.
    let place = Place::new();
    place.file("key", SECRET);
    grant(&place, &http("http://127.0.0.1:1/", &["GET"], inject));
    let got = first(&place, json!({ "fetch": { "url": "http://127.0.0.1:1/" } }));
    assert!(got["error"].as_str().unwrap().contains("no answer"), "{got}");
    is_kept(&place, &[&got.to_string()]);
}

/// A key that could be any word cannot be kept.
#[test]
fn a_key_that_is_too_short_or_missing_stops_the_call() {
    let server = Server::start(|_, answer| answer.json(json!({})));
    for (key, expected) in
        [(Some("abc"), "less than 8 bytes"), (None, "cannot be read"), (Some("abc\ndef-0123"), "header")]
    {
        let place = Place::new();
        if let Some(key) = key {
            place.file("key", key);
        }
        grant(&place, &http(&format!("{}/", server.url), &["GET"], INJECT));
        let answer = puppet(&place, json!([{ "fetch": { "url": format!("{}/", server.url) } }]));
        assert_eq!(answer["failure"], "rejected", "{answer}");
        assert!(answer["message"].as_str().unwrap().contains(expected), "{answer}");
    }
    assert_eq!(server.requests().len(), 0);
}

/// Counted for each attempt, and measured as it comes.
#[test]
fn too_many_requests_and_too_long_answers_are_stopped() {
    let server = Server::start(|_, answer| answer.with("200 OK", "", &"x".repeat(100_000)));
    let place = Place::new();
    let limits = "max_requests = 3\nmax_response = \"50KiB\"";
    grant(&place, &http(&format!("{}/", server.url), &["GET"], limits));
    let got = first(&place, json!({ "many": [6, { "url": format!("{}/", server.url) }] }));
    let errors: Vec<_> =
        got.as_array().unwrap().iter().map(|got| got["error"].as_str().unwrap_or("none")).collect();
    assert!(errors[..3].iter().all(|error| error.contains("size exceeds limit")), "{errors:?}");
    assert!(errors[3..].iter().all(|error| error.contains("denies")), "{errors:?}");
    assert_eq!(server.requests().len(), 3);
    assert!(shown(&place).contains("max_requests = 6"), "{}", shown(&place));
}

/// A body without an end stops at its limit, a server that says nothing at the plugin's.
#[test]
fn endless_and_silent_answers_come_to_an_end() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut stream = stream;
                let _ = std::io::Read::read(&mut stream, &mut [0; 4096]);
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
                while stream.write_all(&[b'x'; 65_536]).is_ok() {}
            });
        }
    });
    let place = Place::new();
    grant(&place, &http(&url, &["GET"], ""));
    let got = first(&place, json!({ "fetch": { "url": url } }));
    assert!(got["error"].as_str().unwrap().contains("size exceeds limit"), "{got}");

    let silent = Server::start(|_, _| std::thread::sleep(Duration::from_secs(30)));
    let place = Place::new();
    grant(&place, &http(&format!("{}/", silent.url), &["GET"], ""));
    let begin = Instant::now();
    let got = first(&place, json!({ "fetch": { "url": format!("{}/", silent.url), "timeout": 300 } }));
    assert!(got["error"].is_string() && begin.elapsed() < Duration::from_secs(15), "{got}");
}

/// `audit` lets requests out that nothing grants, lists them, and gives them no secret.
#[test]
fn an_audit_lists_what_a_plugin_asks_for() {
    let server = Server::start(|request, answer| answer.with("200 OK", "", &echo(request)));
    let place = Place::new();
    place.file("key", SECRET);
    let granted = http(&format!("{}/v1/", server.url), &["GET"], INJECT);
    grant(&place, &format!("audit = true\n{granted}"));
    // The address of the server is not public: also an audit sends nothing there that is not granted.
    let answer = puppet(
        &place,
        json!([{ "fetch": { "url": format!("{}/v2/", server.url) } }, { "fetch": { "url": format!("{}/v1/", server.url) } },
               { "fetch": { "url": "http://nowhere.invalid/x" } }]),
    );
    let output = &answer["output"];
    assert!(output[0]["error"].as_str().unwrap().contains("rohibited"), "{answer}");
    assert_eq!(output[1]["status"], 200);
    let shown = shown(&place);
    assert!(shown.contains("audit: GET http://nowhere.invalid/x was sent without a grant"), "{shown}");
    assert!(shown.contains("url = \"http://nowhere.invalid/x\""), "{shown}");
    is_kept(&place, &[&answer.to_string()]);
}
