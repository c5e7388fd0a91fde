//! What the documents say can be typed.

use std::collections::BTreeMap;
use std::path::Path;

use wfhost_tests::{Place, target};

/// The command lines that a document shows: code that begins with `wfhost`.
fn commands(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut fenced = false;
    for line in text.lines() {
        fenced ^= line.trim_start().starts_with("```");
        let is_code = fenced || line.starts_with("    ");
        let line = line.trim();
        if is_code && line.starts_with("wfhost ") {
            // What stands behind several spaces says what it is for.
            found.push(line.split("   ").next().unwrap_or(line).to_owned());
        }
        if !fenced {
            let spans = line.split('`').skip(1).step_by(2);
            found.extend(spans.filter(|span| span.starts_with("wfhost ")).map(str::to_owned));
        }
    }
    found
}

/// Each verb and each long option of a command that a document shows is there.
#[test]
fn each_command_in_the_documents_has_verbs_and_options_that_exist() {
    let place = Place::new();
    let root = target().join("..");
    let mut files = vec![root.join("README.md"), root.join("SECURITY.md"), root.join("examples/README.md")];
    let docs = std::fs::read_dir(root.join("docs")).unwrap();
    files.extend(
        docs.map(|entry| entry.unwrap().path()).filter(|path| path.extension().is_some_and(|e| e == "md")),
    );
    // There `wfhost random 1` is what a digest is made of.
    files.retain(|path| !path.ends_with("journal-format.md"));
    let mut helps: BTreeMap<String, String> = BTreeMap::new();
    let mut help = |verbs: &str| {
        let known = helps.entry(verbs.to_owned());
        known
            .or_insert_with(|| {
                let ran = place.run(verbs.split(' ').filter(|verb| !verb.is_empty()).chain(["--help"]));
                if ran.code() == Some(0) { ran.stdout() } else { String::new() }
            })
            .clone()
    };
    let mut wrong = Vec::new();
    let mut count = 0;
    for file in files {
        let name = file.strip_prefix(&root).unwrap_or(Path::new("?")).display().to_string();
        for command in commands(&std::fs::read_to_string(&file).unwrap()) {
            count += 1;
            let mut verbs = String::new();
            for word in command.split_whitespace().skip(1) {
                let is_verb =
                    word.chars().all(|c| c.is_ascii_lowercase() || c == '-') && !word.starts_with('-');
                let deeper = if verbs.is_empty() { word.to_owned() } else { format!("{verbs} {word}") };
                if !is_verb || help(&deeper).is_empty() {
                    break;
                }
                verbs = deeper;
            }
            let takes = help(&verbs);
            if verbs.is_empty() && !command.starts_with("wfhost VERB") && !command.starts_with("wfhost -") {
                wrong.push(format!("{name}: `{command}`: no such verb"));
            }
            let options = command.split_whitespace().filter(|word| word.starts_with("--"));
            for option in options.map(|option| option.split(['=', ')', ',']).next().unwrap_or(option)) {
                if option.len() > 2 && !takes.contains(option) {
                    wrong.push(format!("{name}: `{command}`: no {option}"));
                }
            }
        }
    }
    assert!(count > 100, "{count} commands were found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Links between the documents lead somewhere.
#[test]
fn each_link_between_the_documents_leads_to_a_file() {
    let root = target().join("..");
    let mut files = vec![root.join("README.md"), root.join("ARCHITECTURE.md"), root.join("SECURITY.md")];
    let docs = std::fs::read_dir(root.join("docs")).unwrap();
    files.extend(
        docs.map(|entry| entry.unwrap().path()).filter(|path| path.extension().is_some_and(|e| e == "md")),
    );
    let mut dead = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = link.split('#').next().unwrap_or(link);
            if path.is_empty() || path.contains("://") || path.contains(' ') {
                continue;
            }
            if !file.parent().unwrap().join(path).exists() {
                dead.push(format!("{}: {link}", file.display()));
            }
        }
    }
    assert!(dead.is_empty(), "{}", dead.join("\n"));
}
