//! `wfhost plugin add`, `wfhost plugin rm`: plugins as providers of a project, with what they ask for.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde_json::json;
use toml::{Table, Value};
use wfhost_config::{Agreed, Config, Consent, PROJECT_FILE};
use wfhost_core::{Digest, Wants};
use wfhost_plugins::{Method, UrlPattern, beyond, imports};
use wfhost_registry::{Locked, Reference, metadata, whole};

use super::delete::ask;
use super::diagnostic::{Exit, UserError};
use super::module_arg::read_component;
use super::plugin::unusable;
use super::registry::{self, Fetch};
use super::{Common, Format, printer};

/// Add a plugin to the project as a provider
///
/// Shows the permissions that it requests and the lines of wfhost.toml that grant them,
/// and writes them after confirmation. A plugin from a registry is locked in wfhost.lock.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  wfhost plugin add ghcr.io/acme/reviewer:1.4.2
  wfhost plugin add ghcr.io/acme/reviewer:1.4.2 --inject authorization=ACME_KEY --yes
  wfhost plugin add tools/notes.wasm --name notes --directory /data=notes")]
pub(super) struct AddArgs {
    /// A plugin in a registry, REGISTRY/NAME:TAG, or the file of a component
    plugin: String,
    /// The name of the provider [default: the plugin's name]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// The environment variable with the secret for a requested header
    #[arg(long, value_name = "HEADER=VARIABLE", value_parser = pair)]
    inject: Vec<(String, String)>,
    /// The path of a requested directory
    #[arg(long, value_name = "GUEST=PATH", value_parser = pair)]
    directory: Vec<(String, String)>,
    /// Grant none of the requested permissions
    #[arg(long)]
    grant_nothing: bool,
    /// Do not ask for confirmation
    #[arg(short, long)]
    yes: bool,
    /// Accept a signer that differs from the previous one
    #[arg(long)]
    accept: bool,
    #[command(flatten)]
    fetch: Fetch,
}

/// Remove a plugin from the project
#[derive(clap::Args)]
#[command(after_help = "Examples:
  wfhost plugin rm reviewer")]
pub(super) struct RmArgs {
    /// The provider
    name: String,
    /// Do not ask for confirmation
    #[arg(short, long)]
    yes: bool,
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !value.is_empty() => {
            Ok((name.to_owned(), value.to_owned()))
        }
        _ => Err("it is like NAME=VALUE".to_owned()),
    }
}

/// Whether a component is an agent and no workflow.
pub(super) fn is_plugin(bytes: &[u8]) -> bool {
    imports(bytes).is_ok()
}

/// Fails for a plugin, where a workflow is meant. `arg`: what named it.
pub(super) fn is_workflow(name: &str, bytes: &[u8], arg: &str) -> Result<(), UserError> {
    if !is_plugin(bytes) {
        return Ok(());
    }
    Err(UserError::usage("WF1203", format!("`{name}` is a plugin, not a workflow"))
        .hint(format!("add it as a provider: `wfhost plugin add {arg}`")))
}

/// What a plugin asks for, as much as a person can look at. What is no plugin is an error.
pub(super) fn wants_of(bytes: &[u8]) -> Result<Wants, UserError> {
    imports(bytes).map_err(|error| unusable(&error))?;
    let wants = wfhost_plugins::wants(bytes).map_err(|error| unusable(&error))?;
    let size = serde_json::to_string(&wants).map_or(0, |text| text.len());
    if size > metadata::WANTS_BYTES {
        let most = metadata::WANTS_BYTES;
        let reason = format!("it has {size} bytes, the limit is {most}");
        return Err(unusable(&wfhost_plugins::PluginError::Wants(reason)));
    }
    Ok(wants)
}

/// What is asked for, a line each.
pub(super) fn wants_lines(wants: &Wants) -> Vec<String> {
    let with = |inject: &[String]| match inject {
        [] => String::new(),
        names => format!(" with {}", names.join(", ")),
    };
    let http = wants.http.iter().map(|wanted| {
        let (methods, with) = (wanted.methods.join(","), with(&wanted.inject));
        format!("{methods} {}{with}  {}", wanted.url, wanted.reason)
    });
    let directories = wants.directories.iter().map(|wanted| {
        let how = if wanted.write { "write" } else { "read" };
        format!("{how} {}  {}", wanted.path, wanted.reason)
    });
    let env = wants.env.iter().map(|wanted| format!("${}  {}", wanted.name, wanted.reason));
    http.chain(directories).chain(env).collect()
}

/// Shows what a new version of a plugin asks for and what it does no more. More than was accepted has to be
/// accepted; it is granted by nothing but the configuration.
pub(super) fn accept_wider(
    common: &Common,
    old: &Locked,
    new: &Locked,
    accept: bool,
) -> Result<(), UserError> {
    let before = old.wants.clone().unwrap_or_default();
    let now = new.wants.clone().unwrap_or_default();
    let (was, is) = (wants_lines(&before), wants_lines(&now));
    let gone = was.iter().filter(|line| !is.contains(line)).map(|line| format!("- wants {line}"));
    let come = is.iter().filter(|line| !was.contains(line)).map(|line| format!("+ wants {line}"));
    let lines: Vec<String> = gone.chain(come).collect();
    if common.output == Format::Text {
        lines.iter().for_each(|line| printer::note(&format!("  {line}")));
    }
    let wider = beyond(&now, &before);
    if wider.is_empty() {
        return Ok(());
    }
    let details: Vec<String> = wants_lines(&wider).iter().map(|line| format!("+ wants {line}")).collect();
    let hint = format!("review them; to accept them: `wfhost update {} --accept`", new.name);
    let question = format!("{} requests more permissions than were accepted. Accept them?", new.name);
    ask(accept, &question, &hint).map_err(|refused| UserError {
        details,
        hints: vec![hint.clone()],
        exit: Exit::Mismatch,
        ..UserError::usage(
            "WF1214",
            format!("{} requests more permissions than were accepted; {}", new.name, refused.message),
        )
    })?;
    printer::say(
        common,
        "Accepted",
        &format!("{} requests more permissions; accepting them grants nothing. To grant them:", new.name),
    );
    for line in grants(&new.name, &wider, &Given::default())?.lines() {
        printer::note(&format!("    {line}"));
    }
    Ok(())
}

/// What the person says of what a plugin asks for.
#[derive(Default)]
struct Given {
    /// Variables with secrets, by header.
    inject: BTreeMap<String, String>,
    /// Directories of the host, by their names for the plugin.
    directories: BTreeMap<String, String>,
}

/// The lines of a provider's section that grant what is asked for.
fn grants(name: &str, wants: &Wants, given: &Given) -> Result<String, UserError> {
    let unfit = |what: String| {
        UserError::usage("WF1207", format!("a requested permission cannot be granted: {what}"))
            .hint("ask the publisher; `--grant-nothing` adds the plugin without permissions")
    };
    let mut text = String::new();
    let env: Vec<_> = wants.env.iter().map(|wanted| quote(&wanted.name)).collect();
    if !env.is_empty() {
        let _ = writeln!(text, "env = [{}]", env.join(", "));
    }
    let directories: Vec<_> = (wants.directories.iter())
        .filter_map(|wanted| {
            let path = given.directories.get(&wanted.path)?;
            let write = if wanted.write { ", write = true" } else { "" };
            Some(format!("{} = {{ path = {}{write} }}", quote(&wanted.path), quote(path)))
        })
        .collect();
    if !directories.is_empty() {
        let _ = writeln!(text, "directories = {{ {} }}", directories.join(", "));
    }
    for wanted in &wants.http {
        let url: UrlPattern =
            wanted.url.parse().map_err(|error| unfit(format!("{:?}: {error}", wanted.url)))?;
        let mut methods = Vec::new();
        for method in &wanted.methods {
            let known = Method::from_bytes(method.as_bytes()).map_err(|_| unfit(format!("{method:?}")))?;
            methods.push(quote(known.as_str()));
        }
        let _ = writeln!(text, "[[providers.{}.http]]", key(name));
        let _ = writeln!(text, "url = {}", quote(&url.to_string()));
        let _ = writeln!(text, "methods = [{}]", methods.join(", "));
        let inject: Vec<_> = (wanted.inject.iter())
            .map(|header| {
                let lower = header.to_ascii_lowercase();
                let variable = given.inject.get(&lower).cloned().unwrap_or_else(|| variable(name, &lower));
                let prefix = if lower == "authorization" { ", prefix = \"Bearer \"" } else { "" };
                format!("{} = {{ env = {}{prefix} }}", key(&lower), quote(&variable))
            })
            .collect();
        if !inject.is_empty() {
            let _ = writeln!(text, "inject = {{ {} }}", inject.join(", "));
        }
    }
    Ok(text)
}

/// The variable that a secret is looked for in, if nothing else is said.
fn variable(name: &str, header: &str) -> String {
    let upper = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    format!("{name}_{header}").chars().map(upper).collect()
}

/// Text as TOML writes it.
fn quote(text: &str) -> String {
    Value::from(text).to_string()
}

fn key(name: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if !name.is_empty() && name.chars().all(bare) { name.to_owned() } else { quote(name) }
}

/// The file that providers of the project stand in. It does not have to be there.
struct ConfigFile {
    path: PathBuf,
    text: String,
    /// What is written into it needs no other consent than that of the person who accepts it.
    agreed: bool,
}

impl ConfigFile {
    fn open(common: &Common, config: &Config) -> Result<Self, UserError> {
        let Some(project) = config.project() else {
            let dir = std::env::current_dir().and_then(|dir| dir.canonicalize());
            let dir = dir.map_err(|error| {
                UserError::host("WF1213", format!("the current directory cannot be used: {error}"))
                    .hint("name a configuration: --config FILE")
            })?;
            return Ok(Self { path: dir.join(PROJECT_FILE), text: String::new(), agreed: true });
        };
        // Of the file itself; not because this process was told to obey all of them.
        let kept = Consent { all: false, below: Vec::new(), ..common.consent() };
        let agreed = project.keys.is_empty() || kept.agreed(&project.path, &project.text) == Agreed::Yes;
        Ok(Self { path: project.path.clone(), text: project.text.clone(), agreed })
    }

    /// Writes other text into it, if it still is what it was.
    fn write(&self, common: &Common, text: &str) -> Result<(), UserError> {
        let shown = self.path.display();
        let failed = |error: std::io::Error| {
            UserError::host("WF1213", format!("{shown} cannot be written: {error}"))
                .hint("make it writable, or name another file with --config")
        };
        Config::check_text(&self.path, text)?;
        let dir = self.path.parent().unwrap_or(Path::new("/"));
        let _lock = std::fs::File::open(dir).and_then(|dir| dir.lock().map(|()| dir)).map_err(failed)?;
        let now = match std::fs::read_to_string(&self.path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            read => read.map_err(failed)?,
        };
        if now != self.text {
            return Err(UserError::host("WF1213", format!("{shown} was changed by another process"))
                .hint("try again"));
        }
        let untrusted = |error: std::io::Error| {
            UserError::host("WF0708", format!("the trust in {shown} cannot be recorded: {error}"))
                .hint("trust it with `wfhost trust`")
        };
        if self.agreed {
            common.consent().agree_to_change(&self.path, &self.text, text).map_err(untrusted)?;
        }
        whole::write(&self.path, text.as_bytes()).map_err(failed)?;
        if self.agreed {
            common.consent().agree(&self.path, text).map_err(untrusted)?;
        } else if common.config.is_none() {
            printer::note(&format!(
                "{shown} is not trusted yet; review the whole file, then run `wfhost trust`"
            ));
        }
        Ok(())
    }
}

impl AddArgs {
    pub(super) async fn execute(&self, common: &Common) -> Result<Exit, UserError> {
        let config = common.config()?;
        let path = Path::new(&self.plugin);
        let is_file =
            path.exists() || self.plugin.starts_with(['.', '/']) || !Reference::is_meant(&self.plugin);
        let file = ConfigFile::open(common, &config)?;
        let dir = file.path.parent().unwrap_or(Path::new("/")).to_owned();
        let (own, bytes, fetched) = if is_file {
            let bytes = read_component(path).map_err(|source| {
                unusable(&wfhost_plugins::PluginError::Read { path: path.to_owned(), source })
            })?;
            (path.file_stem().unwrap_or_default().to_string_lossy().into_owned(), bytes, None)
        } else {
            let reference: Reference = self.plugin.parse()?;
            let mut session = registry::open(common)?;
            session.lock = wfhost_registry::LockFile::read(&dir)?;
            let fetched = registry::fetch_with(common, &session, &reference, self.fetch, self.accept).await?;
            (fetched.name, fetched.bytes, Some((session, fetched.origin)))
        };
        let wants = wants_of(&bytes)?;
        let name = self.name.clone().unwrap_or(own);
        check_name(&config, &name)?;
        let source = match &fetched {
            Some((_, origin)) => format!("plugin = {}\n", quote(&origin.reference.to_string())),
            None => {
                let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
                let path = path.strip_prefix(&dir).unwrap_or(&path).to_string_lossy().into_owned();
                format!("plugin = {}\ndigest = {}\n", quote(&path), quote(&Digest::of(&bytes).to_string()))
            }
        };
        let given = self.given(&wants)?;
        let wanted = if self.grant_nothing { &Wants::default() } else { &wants };
        let section = format!(
            "[providers.{}]\nkind = \"plugin\"\n{source}{}",
            key(&name),
            grants(&name, wanted, &given)?
        );
        let head = if file.text.is_empty() || file.text.ends_with('\n') { "" } else { "\n" };
        let space = if file.text.is_empty() { "" } else { "\n" };
        let text = format!("{}{head}{space}{section}", file.text);
        // What would not work is not asked about.
        Config::check_text(&file.path, &text)?;
        self.show(common, &file, &name, &wants, &given, &section);
        let question = format!("add {name} to {} with these grants?", file.path.display());
        ask(self.yes, &question, "review the lines above, then confirm them with --yes")?;
        // A provider without its lock entry says so; an entry without a provider harms nobody.
        if let Some((mut session, origin)) = fetched
            && origin.reference.digest().is_none()
        {
            session.lock.set(origin.locked_plugin(&name, &bytes, wants.clone()))?;
            printer::say(common, "Locked", &format!("{} in {}", origin.exact(), session.lock.path.display()));
        }
        file.write(common, &text)?;
        printer::say(common, "Added", &format!("{name} to {}", file.path.display()));
        if common.output != Format::Text {
            printer::json(&json!({
                "schema": "wfhost/plugin/1", "name": name, "plugin": self.plugin, "digest": Digest::of(&bytes),
                "file": file.path, "wants": wants, "section": section,
            }));
        }
        Ok(Exit::Done)
    }

    /// What is said with flags. What nobody asks for is a mistake.
    fn given(&self, wants: &Wants) -> Result<Given, UserError> {
        let headers: Vec<String> = wants
            .http
            .iter()
            .flat_map(|wanted| &wanted.inject)
            .map(|name| name.to_ascii_lowercase())
            .collect();
        let mut given = Given::default();
        for (header, variable) in &self.inject {
            let header = header.to_ascii_lowercase();
            if !headers.contains(&header) {
                return Err(UserError::usage(
                    "WF1215",
                    format!("the plugin requests no secret for the header `{header}`"),
                )
                .hint(format!("it requests: {}", or_nothing(&headers))));
            }
            given.inject.insert(header, variable.clone());
        }
        for (guest, path) in &self.directory {
            if !wants.directories.iter().any(|wanted| wanted.path == *guest) {
                let asked: Vec<_> = wants.directories.iter().map(|wanted| wanted.path.clone()).collect();
                return Err(UserError::usage(
                    "WF1215",
                    format!("the plugin does not request the directory `{guest}`"),
                )
                .hint(format!("it requests: {}", or_nothing(&asked))));
            }
            given.directories.insert(guest.clone(), path.clone());
        }
        Ok(given)
    }

    fn show(
        &self,
        common: &Common,
        file: &ConfigFile,
        name: &str,
        wants: &Wants,
        given: &Given,
        section: &str,
    ) {
        if common.output != Format::Text {
            return;
        }
        printer::note(&format!("{name} requests:"));
        for line in wants_lines(wants) {
            printer::note(&format!("    {line}"));
        }
        if wants.is_empty() {
            printer::note("    nothing");
        }
        for wanted in &wants.directories {
            if !self.grant_nothing && !given.directories.contains_key(&wanted.path) {
                let path = &wanted.path;
                printer::note(&format!("{path} is not granted: name its path with --directory {path}=PATH"));
            }
        }
        printer::note(&format!("lines for {}:", file.path.display()));
        for line in section.lines() {
            printer::note(&format!("    {line}"));
        }
    }
}

fn or_nothing(names: &[String]) -> String {
    if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
}

/// A name that a provider can have and that none has.
fn check_name(config: &Config, name: &str) -> Result<(), UserError> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || !name.chars().all(is_part) {
        return Err(UserError::usage("WF1213", format!("`{name}` cannot be the name of a provider"))
            .hint("a name consists of letters, digits, and - _ .; choose one with --name"));
    }
    if config.configured_providers().any(|there| there == name) {
        return Err(UserError::usage("WF1213", format!("the provider `{name}` exists already")).hint(
            format!("choose another name with --name, or remove that provider: `wfhost plugin rm {name}`"),
        ));
    }
    Ok(())
}

impl RmArgs {
    pub(super) fn execute(&self, common: &Common) -> Result<Exit, UserError> {
        let config = common.config()?;
        let file = ConfigFile::open(common, &config)?;
        let none = || {
            UserError::usage("WF1211", format!("{} has no plugin `{}`", file.path.display(), self.name))
                .hint("`wfhost plugin ls` lists those that are configured")
        };
        let before: Table = file.text.parse().map_err(|_| none())?;
        let section = before.get("providers").and_then(|providers| providers.get(&self.name));
        let section = section.filter(|section| section.get("kind").and_then(Value::as_str) == Some("plugin"));
        let plugin = section.and_then(|section| section.get("plugin")?.as_str()).ok_or_else(none)?.to_owned();
        let text = without(&file.text, &before, &self.name).ok_or_else(|| {
            UserError::usage("WF1213", format!("{} cannot be edited automatically", file.path.display()))
                .hint(format!("remove [providers.{}] by hand", self.name))
        })?;
        ask(
            self.yes,
            &format!("remove {} from {}?", self.name, file.path.display()),
            "confirm it with --yes",
        )?;
        file.write(common, &text)?;
        printer::say(common, "Removed", &format!("{} from {}", self.name, file.path.display()));
        let uses = |(name, path, reference): (&str, &Path, Reference)| {
            name != self.name && path == file.path && reference.to_string() == plugin
        };
        if let Ok(reference) = plugin.parse::<Reference>()
            && !config.plugin_references().any(uses)
        {
            let mut lock = wfhost_registry::LockFile::read(file.path.parent().unwrap_or(Path::new("/")))?;
            // One that is a workflow of the project as well stays.
            let is_plugin = lock.find(&reference).is_some_and(|locked| locked.kind.is_some());
            if is_plugin && lock.remove(&reference.to_string())? {
                printer::say(common, "Unlocked", &format!("{reference} in {}", lock.path.display()));
            }
        }
        if common.output != Format::Text {
            printer::json(
                &json!({ "schema": "wfhost/plugin-removed/1", "name": self.name, "file": file.path }),
            );
        }
        Ok(Exit::Done)
    }
}

/// A file without a provider, all else as it stands. None if that cannot be done by leaving out lines.
fn without(text: &str, before: &Table, name: &str) -> Option<String> {
    let (mut kept, mut inside) = (String::new(), false);
    for line in text.split_inclusive('\n') {
        let trimmed = line.trim_start();
        if trimmed.starts_with('[') {
            // A header stands for the table that it makes; what only looks like one is found out below.
            let header = trimmed.split_once('#').map_or(trimmed, |(header, _)| header);
            let of: Option<Table> = header.parse().ok();
            let providers = of.as_ref().and_then(|of| of.get("providers")?.as_table());
            inside = providers.is_some_and(|providers| providers.contains_key(name));
        }
        if !inside {
            kept.push_str(line);
        }
    }
    let kept = match kept.trim() {
        "" => String::new(),
        _ => format!("{}\n", kept.trim_end()).trim_start_matches('\n').to_owned(),
    };
    let mut wanted = before.clone();
    let providers = wanted.get_mut("providers")?.as_table_mut()?;
    providers.remove(name);
    if providers.is_empty() {
        wanted.remove("providers");
    }
    let mut found: Table = kept.parse().ok()?;
    if found.get("providers").and_then(Value::as_table).is_some_and(Table::is_empty) {
        found.remove("providers");
    }
    (found == wanted).then_some(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_provider_is_taken_out_and_nothing_else_is_touched() {
        let without = |text: &str| without(text, &text.parse().unwrap(), "p");
        let p = "[providers.p]\nkind = \"plugin\"\nplugin = \"a.io/p:1\"\n[[providers.p.http]]\nurl = \"x\"\n[providers.p.set]\nA = \"[providers.q]\"\n";
        assert_eq!(without(p).as_deref(), Some(""));
        let around =
            format!("# mine\n[agents]\ndefault = \"x\" # why\n\n{p}\n[providers.pq]\nkind = \"human\"\n");
        assert_eq!(
            without(&around).as_deref(),
            Some("# mine\n[agents]\ndefault = \"x\" # why\n\n[providers.pq]\nkind = \"human\"\n")
        );
        assert_eq!(without("[providers.\"p\"] # p\nkind = \"plugin\"\n").as_deref(), Some(""));
        // What is said in other ways is left to people.
        assert_eq!(without("providers = { p = { kind = \"plugin\" } }\n"), None);
        assert_eq!(without("[providers]\np.kind = \"plugin\"\n"), None);
        let hidden = "[agents]\ndefault = '''\n[providers.p]\n'''\n[providers.p]\nkind = \"plugin\"\n";
        assert_eq!(without(hidden), None);
    }

    #[test]
    fn what_is_asked_for_becomes_lines_that_say_it() {
        let wants: Wants = serde_json::from_value(json!({
            "http": [{ "url": "https://a.org/v1/", "methods": ["POST"], "inject": ["Authorization"], "reason": "x\n[store]" }],
            "directories": [{ "path": "/data", "write": true, "reason": "r" }, { "path": "/o\"", "reason": "r" }],
            "env": [{ "name": "LANG", "reason": "r" }],
        }))
        .unwrap();
        let mut given = Given::default();
        given.directories.insert("/data".into(), "../d".into());
        let text = grants("my.p", &wants, &given).unwrap();
        let table: Table = format!("[providers.\"my.p\"]\n{text}").parse().unwrap();
        let expected: Table = "env = [\"LANG\"]\ndirectories = { \"/data\" = { path = \"../d\", write = true } }\n\
            http = [{ url = \"https://a.org/v1/\", methods = [\"POST\"], inject = { authorization = { env = \"MY_P_AUTHORIZATION\", prefix = \"Bearer \" } } }]"
            .parse()
            .unwrap();
        assert_eq!(table["providers"]["my.p"].as_table(), Some(&expected));
        assert_eq!(table.len(), 1);
    }
}
