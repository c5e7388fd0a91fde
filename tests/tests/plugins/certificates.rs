//! Authorities that only tests know, made by OpenSSL.

use std::process::Command;

use wfhost_tests::Place;

/// Runs openssl in the place.
fn openssl(place: &Place, args: &[&str]) {
    let ran = Command::new("openssl").args(args).current_dir(place.path("")).output().unwrap();
    assert!(ran.status.success(), "openssl {args:?}: {}", String::from_utf8_lossy(&ran.stderr));
}

/// Makes an authority, `NAME.pem`, and a certificate for `localhost` by it, `NAME-server.pem` and `.key`.
pub fn certify(place: &Place, name: &str) {
    let (ca, ca_key) = (format!("{name}.pem"), format!("{name}.key"));
    let (server, server_key) = (format!("{name}-server.pem"), format!("{name}-server.key"));
    let new = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    let subject = format!("/CN={name}");
    openssl(
        place,
        &[&new[..], &["-x509", "-days", "2", "-subj", &subject, "-keyout", &ca_key, "-out", &ca]].concat(),
    );
    openssl(
        place,
        &[&new[..], &["-subj", "/CN=localhost", "-keyout", &server_key, "-out", "request.pem"]].concat(),
    );
    place.file("san", "subjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=CA:FALSE\n");
    let sign = [
        "x509",
        "-req",
        "-in",
        "request.pem",
        "-CA",
        &ca,
        "-CAkey",
        &ca_key,
        "-CAcreateserial",
        "-days",
        "2",
    ];
    openssl(place, &[&sign[..], &["-extfile", "san", "-out", &server]].concat());
}
