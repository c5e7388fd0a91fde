//! Encrypted connections: whose certificate it is matters.

use std::path::Path;
use std::process::Command;

use private_postgres::Postgres;
use wfhost_tests::{Place, Ran};

fn openssl(dir: &Path, args: &str) {
    let ran =
        Command::new("openssl").args(args.split(' ')).current_dir(dir).output().expect("openssl is there");
    assert!(ran.status.success(), "{args}: {}", String::from_utf8_lossy(&ran.stderr));
}

/// An authority, and a certificate of it for `localhost`.
fn certificates(dir: &Path) {
    openssl(
        dir,
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.pem -days 2 \
         -subj /CN=authority"
            .replace("         ", "")
            .as_str(),
    );
    openssl(
        dir,
        "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout server.key -out server.csr -subj /CN=localhost",
    );
    std::fs::write(dir.join("names"), "subjectAltName=DNS:localhost").expect("a file");
    openssl(
        dir,
        "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out server.pem -days 2 -extfile names",
    );
}

#[test]
fn a_server_has_to_show_the_certificate_of_the_host_that_is_meant() {
    let server = Postgres::start(&[]);
    let place = Place::in_file();
    let dir = place.path("");
    certificates(&dir);
    let data = server.dir().join("data");
    for name in ["server.pem", "server.key"] {
        // The server takes a key only if it is nobody else's.
        let own = std::fs::metadata(&data).expect("its data");
        std::fs::copy(dir.join(name), data.join(name)).expect("a file of the server");
        let (user, group) =
            (std::os::unix::fs::MetadataExt::uid(&own), std::os::unix::fs::MetadataExt::gid(&own));
        std::os::unix::fs::chown(data.join(name), Some(user), Some(group)).expect("it is the server's");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(data.join(name), mode).expect("it is the server's");
    }
    server.sql("ALTER SYSTEM SET ssl_cert_file = 'server.pem'");
    server.sql("ALTER SYSTEM SET ssl_key_file = 'server.key'");
    server.sql("ALTER SYSTEM SET ssl = on");
    server.sql("SELECT pg_reload_conf()");
    std::thread::sleep(std::time::Duration::from_millis(300));

    let ca = dir.join("ca.pem").display().to_string().replace('/', "%2F");
    let run = |host: &str, parameters: &str, args: &[&str]| {
        let url = format!("postgres://wf@{host}:{}/postgres?{parameters}", server.port());
        Ran(place.wfhost(args).env("WFHOST_DB", url).output().expect("the binary starts"))
    };
    let own = format!("sslmode=verify-full&sslrootcert={ca}");
    let made = run("localhost", &own, &["db", "init"]);
    assert_eq!(made.code(), Some(0), "{}", made.stderr());
    let doctor = run("localhost", &own, &["doctor"]).stdout();
    assert!(doctor.contains("; encrypted") && !doctor.contains("not encrypted"), "{doctor}");
    // Nobody looks who it is, but it is encrypted all the same.
    let doctor = run("127.0.0.1", "sslmode=prefer", &["doctor"]).stdout();
    assert!(doctor.contains("; encrypted"), "{doctor}");
    let doctor = run("127.0.0.1", "sslmode=disable", &["doctor"]).stdout();
    assert!(doctor.contains("not encrypted"), "{doctor}");
    for (host, parameters, what) in [
        // The name of another host, and an authority that is not known.
        ("127.0.0.1", own.as_str(), "certificate"),
        ("localhost", "sslmode=verify-full", "certificate"),
        ("localhost", "sslmode=require", "certificate"),
        ("localhost", "sslmode=verify-full&sslrootcert=%2Fnowhere.pem", "nowhere.pem"),
    ] {
        let error = run(host, parameters, &["ps"]);
        assert_eq!(error.code(), Some(4), "{host} {parameters}: {}", error.stdout());
        let said = error.stderr();
        assert!(said.starts_with("error[WF0332]") && said.contains(what), "{host} {parameters}: {said}");
        assert!(said.contains("hint: ") && said.contains("sslrootcert"), "{said}");
    }
}
