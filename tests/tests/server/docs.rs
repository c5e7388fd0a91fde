//! What docs/server.md says can be typed.

use std::path::Path;
use std::process::Command;

use wfhost_tests::{Place, module};

use crate::client::Server;

fn page() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/server.md");
    std::fs::read_to_string(path).expect("the page is there")
}

/// The commands of a block in a language, without comments.
fn commands<'a>(page: &'a str, language: &str) -> Vec<&'a str> {
    let (_, rest) = page.split_once(&format!("```{language}\n")).expect("there is such a block");
    let (block, _) = rest.split_once("```").expect("it has an end");
    block.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect()
}

#[test]
fn every_request_of_the_page_is_answered() {
    let place = Place::new();
    std::fs::copy(module("probe"), place.path("probe.wasm")).expect("the probe");
    let server = Server::start(&place, &[]);
    let page = page();
    let commands = commands(&page, "sh");
    assert!(commands.len() > 10, "{commands:?}");
    for command in commands {
        // A request that is refused is an error of curl.
        let command = command.replacen("curl ", "curl -sS --fail-with-body --max-time 40 ", 1);
        let ran = Command::new("bash")
            .args(["-c", &command])
            .current_dir(place.path(""))
            .env("URL", format!("http://{}", server.address))
            .env("AUTH", format!("Authorization: Bearer {}", server.token))
            .output()
            .expect("bash starts");
        let said = String::from_utf8_lossy(&ran.stdout);
        assert!(ran.status.success(), "{command}\n{said}{}", String::from_utf8_lossy(&ran.stderr));
        assert!(said.contains("wfhost/") || said.contains("event: "), "{command}\n{said}");
    }
}

#[test]
fn every_command_of_the_page_is_understood() {
    let place = Place::new();
    let page = page();
    let lines = page.lines().filter_map(|line| line.strip_prefix("    wfhost token "));
    let mut count = 0;
    for line in lines {
        let args: Vec<_> = std::iter::once("token").chain(line.split_whitespace()).collect();
        let ran = place.run(&args);
        assert_eq!(ran.code(), Some(0), "{line}: {}", ran.stderr());
        count += 1;
    }
    assert!(count >= 5, "{count}");
    for scope in crate::access::SCOPES {
        assert!(page.contains(&format!("| `{scope}` |")), "{scope}");
    }
    let help = place.run(["serve", "--help"]).stdout();
    for flag in
        ["--listen", "--tls-cert", "--tls-key", "--allow-host", "--public-url", "--read-only", "--grace"]
    {
        assert!(help.contains(flag) && page.contains(flag), "{flag}");
    }
}
