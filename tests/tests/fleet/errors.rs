//! What is said when a server cannot be used, and that no password is.

use private_postgres::Postgres;
use wfhost_tests::{Place, Ran, module};

/// Is in every URL that has one.
const PASSWORD: &str = "open-sesame";

/// What a command says with this URL, which has to fail.
#[track_caller]
fn error(place: &Place, url: &str, args: &[&str]) -> String {
    let ran = Ran(place.wfhost(args).env("WFHOST_DB", url).output().expect("the binary starts"));
    let said = format!("{}{}", ran.stdout(), ran.stderr());
    assert_ne!(ran.code(), Some(0), "{url}: {said}");
    assert!(!said.contains(PASSWORD), "{said}");
    said
}

/// Each thing that can be wrong with a server has a code, and a hint that mends it.
#[test]
fn what_is_wrong_with_a_server_is_told_with_what_mends_it() {
    let server = Postgres::start(&[]);
    let place = Place::in_file();
    let port = server.port();
    server.sql(&format!(
        "CREATE ROLE ann LOGIN PASSWORD '{PASSWORD}'; CREATE ROLE careful LOGIN; CREATE ROLE reader LOGIN;
         CREATE ROLE many LOGIN CONNECTION LIMIT 0; CREATE ROLE small LOGIN;
         ALTER ROLE reader SET default_transaction_read_only = on;
         CREATE SCHEMA theirs; CREATE TABLE theirs.t (x int)"
    ));
    server.sql("CREATE DATABASE ascii ENCODING 'SQL_ASCII' TEMPLATE template0");
    let rules = "local all all trust
        host all ann 127.0.0.1/32 scram-sha-256
        hostssl all careful 127.0.0.1/32 trust
        host all reader,many,small 127.0.0.1/32 trust\n";
    std::fs::write(server.dir().join("data/pg_hba.conf"), rules).expect("the server's rules");
    server.sql("SELECT pg_reload_conf()");
    std::thread::sleep(std::time::Duration::from_millis(200));

    let at = |user: &str, rest: &str| format!("postgres://{user}@127.0.0.1:{port}/{rest}");
    let nobody = private_postgres::free_port();
    let cases = [
        (
            at("ann:not-open-sesame", "postgres"),
            "WF0331",
            "password authentication failed",
            "user and password",
        ),
        (at("ann", "postgres"), "WF0331", "it requires a password", "user and password"),
        (at("careful", "postgres?sslmode=disable"), "WF0332", "no encryption", "remove sslmode=disable"),
        (at("small", "postgres?sslmode=require"), "WF0332", "does not support TLS", "turn on `ssl`"),
        (at("reader", "postgres"), "WF0311", "cannot be written to", "default_transaction_read_only"),
        (at("many", "postgres"), "WF0334", "accepts no more connections", "max_connections"),
        (at("small", "missing"), "WF0310", "database \"missing\" does not exist", "createdb"),
        (at("small", "postgres"), "WF0337", "does not contain wfhost's tables", "wfhost db init"),
        (at("small", "postgres?schema=theirs"), "WF0316", "is not a wfhost database", "?schema="),
        (at("small", "ascii"), "WF0335", "SQL_ASCII, not UTF8", "explain WF0335"),
        (format!("postgres://small@127.0.0.1:{nobody}/x"), "WF0318", "refused", "host and port"),
        ("postgres://small@nowhere.invalid/x".to_owned(), "WF0318", "nowhere.invalid", "host and port"),
        (
            format!("mysql://ann:{PASSWORD}@127.0.0.1/x"),
            "WF0336",
            "start with postgres://",
            "for example postgres://",
        ),
        (
            at(&format!("ann:{PASSWORD}"), "postgres?ssl=on"),
            "WF0336",
            "parameter `ssl`",
            "for example postgres://",
        ),
    ];
    for (url, code, what, hint) in &cases {
        let said = error(&place, url, &["ps"]);
        for part in [*code, *what, "hint: ", *hint] {
            assert!(said.contains(part), "{url}: no {part:?} in {said}");
        }
    }
    // The right one is let in, by the URL or by the variable, and may not make a schema.
    let said = error(&place, &at(&format!("ann:{PASSWORD}"), "postgres"), &["db", "init"]);
    assert!(said.contains("WF0331") && said.contains("permission denied"), "{said}");
    let by_variable = place
        .wfhost(["db", "init"])
        .env("WFHOST_DB", at("ann", "postgres"))
        .env("PGPASSWORD", PASSWORD)
        .output()
        .expect("the binary starts");
    let said = String::from_utf8_lossy(&by_variable.stderr).into_owned();
    assert!(said.contains("permission denied") && !said.contains(PASSWORD), "{said}");
    // Whoever may, does; twice is once.
    server.sql("GRANT CREATE ON DATABASE postgres TO ann");
    let url = at(&format!("ann:{PASSWORD}"), "postgres");
    for word in ["Created", "Exists"] {
        let ran = Ran(place.wfhost(["db", "init"]).env("WFHOST_DB", &url).output().expect("it starts"));
        assert_eq!(ran.code(), Some(0), "{}", ran.stderr());
        assert!(ran.stderr().contains(word) && !ran.stderr().contains(PASSWORD), "{}", ran.stderr());
    }
    // A user who was given nothing is told what of it is missing.
    let said = error(&place, &at("small", "postgres"), &["doctor"]);
    assert!(
        said.contains("the user lacks the privilege to") && said.contains("use the schema wfhost"),
        "{said}"
    );

    // Tables of a format that is to come, and of one that was.
    server.sql("UPDATE wfhost.meta SET oldest_host = 99");
    assert!(error(&place, &url, &["ps"]).contains("WF0314"));
    let format = server.sql("SELECT format FROM wfhost.meta");
    server.sql("UPDATE wfhost.meta SET oldest_host = 1, format = 0");
    let said = error(&place, &url, &["ps"]);
    assert!(said.contains("WF0338") && said.contains("wfhost db migrate"), "{said}");
    server.sql(&format!("UPDATE wfhost.meta SET format = {format}"));
    assert!(
        error(&place, &url, &["db", "backup", &place.path("b").display().to_string()]).contains("WF0339")
    );

    // A standby.
    server.kill();
    std::fs::write(server.dir().join("data/standby.signal"), "").expect("a file of the server");
    server.begin();
    let said = error(&place, &url, &["ps"]);
    assert!(said.contains("WF0333") && said.contains("hint: name the primary"), "{said}");
}

#[test]
fn a_server_that_may_lose_what_it_keeps_is_taken_only_on_demand() {
    let server = Postgres::start(&["fsync=off"]);
    let place = Place::in_file();
    let said = error(&place, &server.url(), &["db", "init"]);
    assert!(said.contains("WF0335") && said.contains("`fsync` is off"), "{said}");
    let ran = place.run(["--synchronous", "normal", "--db", &server.url(), "db", "init"]);
    assert_eq!(ran.code(), Some(0), "{}", ran.stderr());
}

#[test]
fn a_password_is_shown_by_no_verb() {
    let server = Postgres::start(&[]);
    let place = Place::in_file();
    server.sql(&format!("CREATE ROLE ann LOGIN SUPERUSER PASSWORD '{PASSWORD}'"));
    let url = format!("postgres://ann:{PASSWORD}@127.0.0.1:{}/postgres", server.port());
    let config = place.file("wfhost.toml", format!("[store]\nurl = \"{url}\"\n"));
    let shown = |args: &[&str], named: bool| {
        let mut command = place.wfhost(args);
        if named {
            command.env("WFHOST_DB", &url);
        } else {
            command.env_remove("WFHOST_DB").env("WFHOST_CONFIG", &config);
        }
        let ran = Ran(command.output().expect("the binary starts"));
        let said = format!("{}{}", ran.stdout(), ran.stderr());
        assert!(!said.contains(PASSWORD), "{args:?}: {said}");
        said
    };
    for named in [true, false] {
        for args in [
            &["db", "init", "-v"][..],
            &["doctor", "-v"],
            &["config", "show"],
            &["config", "show", "-o", "json"],
            &["ps", "-v"],
            &["serve", "--idle", "100ms", "-v"],
            &["db", "check"],
            &["db", "backup", "x"],
            &["show", "nobody", "-o", "json", "-v"],
            &["--help"],
            &["serve", "--help"],
        ] {
            shown(args, named);
        }
        assert!(shown(&["config", "show"], named).contains("store.url = \"postgres://ann@127.0.0.1"));
        assert!(shown(&["serve", "--idle", "100ms"], named).contains("Serving  postgres://ann@127.0.0.1"));
    }
    // A line that is no TOML is shown without it, too.
    place.file("wfhost.toml", format!("[store]\nurl = \"{url}\n"));
    assert!(shown(&["ps"], false).contains("WF0701"));
    // What a project's file names as the place of its runs is asked about.
    place.file("wfhost.toml", format!("[store]\nurl = \"{url}\"\n"));
    let strange = place
        .wfhost(["ps"])
        .env_remove("WFHOST_DB")
        .current_dir(place.path(""))
        .output()
        .expect("the binary starts");
    let said = String::from_utf8_lossy(&strange.stderr).into_owned();
    assert!(said.contains("WF0707") && said.contains("store.url") && !said.contains(PASSWORD), "{said}");
}

#[test]
fn the_doctor_says_what_a_server_is_like() {
    let server = Postgres::start(&[]);
    let place = Place::in_file();
    let doctor = || place.run(["--db", &server.url(), "doctor"]);
    let ran = doctor();
    assert_eq!(ran.code(), Some(4), "{}", ran.stdout());
    assert!(ran.stdout().contains("`wfhost db init` creates them"), "{}", ran.stdout());
    assert_eq!(place.run(["--db", &server.url(), "db", "init"]).code(), Some(0));
    let ran = doctor();
    assert_eq!(ran.code(), Some(0), "{}", ran.stdout());
    let line = ran.stdout().lines().find(|line| line.contains("database postgres://")).unwrap().to_owned();
    for part in ["✓", "PostgreSQL ", "format 5", "ms round trip", "of 400 connections"] {
        assert!(line.contains(part), "no {part:?} in {line}");
    }
    let ran = place.run(["--db", &format!("{}?listen=off", server.url()), "doctor"]);
    assert!(ran.stdout().contains("hosts poll every 100 ms"), "{}", ran.stdout());
}

#[test]
fn the_check_of_a_server_finds_what_does_not_fit_together() {
    let place = Place::on_server(private_postgres::fresh_url());
    for (id, program) in
        [("a", r#"{"do":[{"wait":{"name":"go"}}]}"#), ("b", r#"{"do":[{"wait":{"name":"go"}}]}"#)]
    {
        let ran = place.run(["run", &module("probe"), "-i", program, "--no-wait", "-q", "--id", id]);
        assert_eq!(ran.code(), Some(3), "{}", ran.stderr());
    }
    assert_eq!(place.run(["db", "check", "--deep"]).code(), Some(0));
    let of = |run: &str| format!("run = (SELECT run FROM runs WHERE name = '{run}')");
    for (damage, mended, fault) in [
        (
            format!("UPDATE hot SET state = 1, due_at = NULL WHERE {}", of("a")),
            format!("UPDATE hot SET state = 2 WHERE {}", of("a")),
            "a: no host owns the run or will claim it",
        ),
        (
            format!("UPDATE hot SET session = 77 WHERE {}", of("b")),
            format!("UPDATE hot SET session = NULL WHERE {}", of("b")),
            "b: the run belongs to a session that does not exist",
        ),
        (
            "INSERT INTO inbox (run, at, calm, kind, name, text)
             SELECT run, 1, true, 'signal', 'go', '1' FROM runs WHERE name = 'a'"
                .to_owned(),
            "DELETE FROM inbox".to_owned(),
            "a: the run waits for something that is in its inbox",
        ),
        (
            "INSERT INTO sessions (id, host, realm, pid, started, lease_ms, until, version) VALUES (7, 'h', 'r', 1, 1, 1, 1, '0')".to_owned(),
            "DELETE FROM sessions".to_owned(),
            "7: the session has no lanes",
        ),
    ] {
        place.change(&damage, &damage);
        let error = place.run(["db", "check"]).error(4, &place);
        assert!(error.starts_with("error[WF0511]") && error.contains(fault), "{damage}: {error}");
        place.change(&mended, &mended);
        assert_eq!(place.run(["db", "check"]).code(), Some(0), "{mended}");
    }
}
