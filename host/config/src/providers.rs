//! Makes providers of what the files say.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Map, Value};
use toml::Table;
use wfhost_agents::{
    Anthropic, AnthropicConfig, CallOptions, Command, CommandConfig, Format, Guarded, Http, HttpConfig,
    Human, Mcp, McpConfig, McpServer, OpenAi, OpenAiApi, OpenAiConfig, PRESETS, Policy, Preset, PromptBy,
    Provider, Providers, SecretSource, is_secret_name, looks_secret,
};

use wfhost_registry::Pull;

use super::ConfigError;
use super::file::{FileConfig, ProviderFile, beside};

/// The model of the provider `openai` that is there without configuration.
const OPENAI_MODEL: &str = "gpt-5-mini";
/// The same of `anthropic`.
const ANTHROPIC_MODEL: &str = "claude-sonnet-4-5";
/// The kinds that a file can name.
const KINDS: [&str; 7] = ["command", "openai", "anthropic", "http", "mcp", "plugin", "human"];

/// The providers that need no configuration, and the configured ones.
pub(super) fn make(file: &FileConfig, policy: Policy, pull: Pull) -> Result<Providers, ConfigError> {
    let mut made: BTreeMap<String, Made> = standard();
    for (name, (path, provider)) in &file.providers {
        let one = One { path, name, all: file, pull };
        made.insert(name.clone(), one.make(provider)?);
    }
    let mut providers = Providers::builtin();
    for made in made.into_values() {
        // What others were given is nothing that it could give away.
        providers.add(Arc::new(Guarded::new(made.provider, made.secrets)));
    }
    providers.set_policy(policy);
    Ok(providers)
}

/// The configured ones of kind `plugin`.
pub(super) fn plugins(file: &FileConfig, pull: Pull) -> Result<Vec<wfhost_plugins::Plugin>, ConfigError> {
    let plugins = file.providers.iter().filter(|(_, (_, provider))| provider.kind == "plugin");
    plugins
        .map(|(name, (path, provider))| {
            let one = One { path, name, all: file, pull };
            let config = one.plugin_config(one.read(provider.rest.clone())?)?;
            Ok(wfhost_plugins::Plugin::new(name, config))
        })
        .collect()
}

pub(super) struct Made {
    pub provider: Arc<dyn Provider>,
    pub secrets: Vec<SecretSource>,
}

fn standard() -> BTreeMap<String, Made> {
    let mut made = BTreeMap::new();
    let openai = OpenAiConfig { model: Some(OPENAI_MODEL.to_owned()), ..OpenAiConfig::default() };
    let anthropic = AnthropicConfig { model: Some(ANTHROPIC_MODEL.to_owned()), ..AnthropicConfig::default() };
    let keys = [openai.key.clone(), anthropic.key.clone()].map(|key| key.into_iter().collect::<Vec<_>>());
    let [openai_key, anthropic_key] = keys;
    made.insert(
        "openai".to_owned(),
        Made { provider: Arc::new(OpenAi::new("openai", openai)), secrets: openai_key },
    );
    made.insert(
        "anthropic".to_owned(),
        Made { provider: Arc::new(Anthropic::new("anthropic", anthropic)), secrets: anthropic_key },
    );
    for preset in &PRESETS {
        let config = CommandConfig { preset: Some(preset), ..CommandConfig::default() };
        let secrets = passed_secrets(&config);
        made.insert(
            preset.name.to_owned(),
            Made { provider: Arc::new(Command::new(preset.name, config)), secrets },
        );
    }
    made
}

/// The secrets that a program gets: by the names of variables, and by what some
/// hold, like the address of a database with a password in it.
fn passed_secrets(config: &CommandConfig) -> Vec<SecretSource> {
    let holds_one = |name: &str| std::env::var(name).is_ok_and(|value| looks_secret(&value));
    let passed = Command::passed(config).filter(|name| is_secret_name(name) || holds_one(name));
    let passed = passed.map(|name| SecretSource::Env(name.to_owned()));
    passed.chain(config.secrets.values().cloned()).collect()
}

/// Variables of a program with their values, and those that are secrets.
type Variables = (BTreeMap<String, String>, BTreeMap<String, SecretSource>);

/// Where a provider stands.
pub(super) struct One<'a> {
    pub path: &'a Path,
    pub name: &'a str,
    /// With what is said beside it.
    pub all: &'a FileConfig,
    /// Whether registries are asked.
    pub pull: Pull,
}

/// A key by name; never by value.
#[derive(Deserialize, Default)]
struct KeyFile {
    api_key_env: Option<String>,
    api_key_file: Option<PathBuf>,
    /// Only `false`: the service wants none.
    api_key: Option<toml::Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SecretFile {
    env: Option<String>,
    file: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OpenAiFile {
    #[serde(default)]
    api: OpenAiApi,
    base_url: Option<String>,
    model: Option<String>,
    system: Option<String>,
    max_tokens: Option<u64>,
    stream: Option<bool>,
    #[serde(default)]
    native_schema: bool,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    options: Map<String, Value>,
    call_options: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AnthropicFile {
    base_url: Option<String>,
    model: Option<String>,
    system: Option<String>,
    max_tokens: Option<u64>,
    stream: Option<bool>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    options: Map<String, Value>,
    call_options: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HttpFile {
    url: String,
    body: Option<Value>,
    output: Option<String>,
    session: Option<String>,
    model: Option<String>,
    input_tokens: Option<String>,
    output_tokens: Option<String>,
    cost_micros: Option<String>,
    api_key_header: Option<String>,
    api_key_prefix: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CommandFile {
    #[serde(default)]
    argv: Vec<String>,
    #[serde(default)]
    args: Vec<String>,
    preset: Option<String>,
    prompt: Option<PromptBy>,
    format: Option<Format>,
    model: Option<String>,
    #[serde(default)]
    env: Vec<String>,
    #[serde(default)]
    set: BTreeMap<String, String>,
    #[serde(default)]
    secrets: BTreeMap<String, SecretFile>,
    directory: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct McpFile {
    #[serde(default)]
    argv: Vec<String>,
    url: Option<String>,
    tool: Option<String>,
    tools: Option<Vec<String>>,
    arguments: Option<Value>,
    output: Option<String>,
    #[serde(default)]
    env: Vec<String>,
    #[serde(default)]
    set: BTreeMap<String, String>,
    #[serde(default)]
    secrets: BTreeMap<String, SecretFile>,
    directory: Option<PathBuf>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HumanFile {}

/// Whether a variable is a secret by its name or by its value.
pub(super) fn is_secret_variable((name, value): &(&String, &String)) -> bool {
    is_secret_name(name) || looks_secret(value)
}

impl One<'_> {
    fn make(&self, file: &ProviderFile) -> Result<Made, ConfigError> {
        let mut rest = file.rest.clone();
        let takes_key = matches!(file.kind.as_str(), "openai" | "anthropic" | "http" | "mcp");
        let key = if takes_key { self.key(&mut rest)? } else { KeyFile::default() };
        match file.kind.as_str() {
            "openai" => {
                let default = OpenAiConfig::default();
                let OpenAiFile {
                    api,
                    base_url,
                    model,
                    system,
                    max_tokens,
                    stream,
                    native_schema,
                    headers,
                    options,
                    call_options,
                } = self.read(rest)?;
                let key = self.source(key, default.key)?;
                let config = OpenAiConfig {
                    api,
                    base_url: self.url("base_url", base_url.unwrap_or(default.base_url))?,
                    key: key.clone(),
                    model,
                    system,
                    max_tokens,
                    stream: stream.unwrap_or(default.stream),
                    native_schema,
                    headers: self.headers(headers)?,
                    options,
                    call_options: call_options.map_or(default.call_options, CallOptions::from),
                };
                Ok(self.made(OpenAi::new(self.name, config), key))
            }
            "anthropic" => {
                let default = AnthropicConfig::default();
                let AnthropicFile {
                    base_url,
                    model,
                    system,
                    max_tokens,
                    stream,
                    headers,
                    options,
                    call_options,
                } = self.read(rest)?;
                let key = self.source(key, default.key)?;
                let config = AnthropicConfig {
                    base_url: self.url("base_url", base_url.unwrap_or(default.base_url))?,
                    key: key.clone(),
                    model,
                    system,
                    max_tokens: max_tokens.unwrap_or(default.max_tokens),
                    stream: stream.unwrap_or(default.stream),
                    headers: self.headers(headers)?,
                    options,
                    call_options: call_options.map_or(default.call_options, CallOptions::from),
                };
                Ok(self.made(Anthropic::new(self.name, config), key))
            }
            "http" => {
                let file: HttpFile = self.read(rest)?;
                let key = self.source(key, None)?;
                let default = HttpConfig::new(self.url("url", file.url)?);
                let config = HttpConfig {
                    body: file.body,
                    output: file.output,
                    session: file.session,
                    model: file.model,
                    input_tokens: file.input_tokens,
                    output_tokens: file.output_tokens,
                    cost_micros: file.cost_micros,
                    key: key.clone(),
                    key_header: file.api_key_header.unwrap_or(default.key_header),
                    key_prefix: file.api_key_prefix.unwrap_or(default.key_prefix),
                    headers: self.headers(file.headers)?,
                    url: default.url,
                };
                Ok(self.made(Http::new(self.name, config), key))
            }
            "command" => {
                let config = self.command(self.read(rest)?)?;
                let secrets = passed_secrets(&config);
                Ok(Made { provider: Arc::new(Command::new(self.name, config)), secrets })
            }
            "mcp" => self.mcp(self.read(rest)?, key),
            "plugin" => self.plugin(self.read(rest)?),
            "human" => {
                let HumanFile {} = self.read(rest)?;
                Ok(self.made(Human::new(self.name), None))
            }
            other => {
                let reason = match other {
                    "echo" | "scripted" => format!("`{other}` is built in and needs no configuration"),
                    _ => format!("known kinds: {}", KINDS.join(", ")),
                };
                Err(self.wrong("kind", &reason))
            }
        }
    }

    fn made(&self, provider: impl Provider + 'static, key: Option<SecretSource>) -> Made {
        Made { provider: Arc::new(provider), secrets: key.into_iter().collect() }
    }

    fn place(&self) -> String {
        format!("providers.{}", self.name)
    }

    pub(super) fn wrong(&self, key: &str, reason: &str) -> ConfigError {
        ConfigError::Value {
            path: self.path.to_owned(),
            key: format!("{}.{key}", self.place()),
            reason: reason.to_owned(),
        }
    }

    pub(super) fn secret(&self, key: &str, instead: &str) -> ConfigError {
        ConfigError::Secret {
            path: self.path.to_owned(),
            key: format!("{}.{key}", self.place()),
            instead: instead.to_owned(),
        }
    }

    fn read<T: serde::de::DeserializeOwned>(&self, table: Table) -> Result<T, ConfigError> {
        toml::Value::Table(table)
            .try_into()
            .map_err(|error: toml::de::Error| ConfigError::of(self.path, &self.place(), error.message()))
    }

    /// Takes the key out of a table.
    fn key(&self, rest: &mut Table) -> Result<KeyFile, ConfigError> {
        let names = ["api_key_env", "api_key_file", "api_key"];
        let taken = names.iter().filter_map(|name| Some(((*name).to_owned(), rest.remove(*name)?)));
        self.read(taken.collect())
    }

    fn source(
        &self,
        key: KeyFile,
        default: Option<SecretSource>,
    ) -> Result<Option<SecretSource>, ConfigError> {
        const INSTEAD: &str = "name the variable or the file that contains it: api_key_env = \"NAME\" or api_key_file = \"PATH\"";
        match key {
            KeyFile { api_key: Some(toml::Value::Boolean(false)), .. } => Ok(None),
            KeyFile { api_key: Some(_), .. } => Err(self.secret("api_key", INSTEAD)),
            KeyFile { api_key_env: Some(name), .. } => {
                let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
                // A key in the place of the name of one.
                if !is_name {
                    Err(self.secret("api_key_env", INSTEAD))
                } else {
                    Ok(Some(SecretSource::Env(name)))
                }
            }
            KeyFile { api_key_file: Some(file), .. } => {
                Ok(Some(SecretSource::File(beside(self.path, &file))))
            }
            KeyFile { .. } => Ok(default),
        }
    }

    fn headers(&self, headers: BTreeMap<String, String>) -> Result<BTreeMap<String, String>, ConfigError> {
        let is_secret = |name: &str| {
            let name = name.to_ascii_lowercase();
            matches!(name.as_str(), "authorization" | "proxy-authorization" | "cookie")
                || is_secret_name(&name.replace('-', "_"))
        };
        match headers.keys().find(|name| is_secret(name)) {
            Some(name) => {
                let instead = "keys are sent with api_key_env or api_key_file; `http` has api_key_header for their header";
                Err(self.secret(&format!("headers.{name}"), instead))
            }
            None => Ok(headers),
        }
    }

    fn url(&self, key: &str, url: String) -> Result<String, ConfigError> {
        let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
        let Some(rest) = rest else {
            return Err(self.wrong(key, "it has to start with https:// or http://"));
        };
        if rest.split('/').next().is_some_and(|host| host.contains('@')) {
            return Err(self.secret(key, "remove the user and the password from the URL; use api_key_env"));
        }
        Ok(url)
    }

    fn variables(
        &self,
        set: BTreeMap<String, String>,
        secrets: BTreeMap<String, SecretFile>,
    ) -> Result<Variables, ConfigError> {
        let is_secret = is_secret_variable;
        if let Some((name, _)) = set.iter().find(is_secret) {
            let instead = format!("name its source: secrets = {{ {name} = {{ env = \"NAME\" }} }}");
            return Err(self.secret(&format!("set.{name}"), &instead));
        }
        let mut sources = BTreeMap::new();
        for (name, secret) in secrets {
            let source = match secret {
                SecretFile { env: Some(env), file: None } => SecretSource::Env(env),
                SecretFile { env: None, file: Some(file) } => SecretSource::File(beside(self.path, &file)),
                _ => {
                    return Err(
                        self.wrong(&format!("secrets.{name}"), "it needs exactly one of `env` and `file`")
                    );
                }
            };
            sources.insert(name, source);
        }
        Ok((set, sources))
    }

    /// A program that is a path is relative to the file.
    fn argv(&self, mut argv: Vec<String>) -> Vec<String> {
        if let Some(program) = argv.first_mut()
            && program.contains('/')
            && let Ok(path) = std::path::absolute(beside(self.path, Path::new(program.as_str())))
        {
            *program = path.to_string_lossy().into_owned();
        }
        argv
    }

    fn command(&self, file: CommandFile) -> Result<CommandConfig, ConfigError> {
        let CommandFile { argv, args, preset, prompt, format, model, env, set, secrets, directory } = file;
        let preset = match preset {
            None => None,
            Some(name) => Some(Preset::find(&name).ok_or_else(|| {
                let known: Vec<_> = PRESETS.iter().map(|preset| preset.name).collect();
                self.wrong("preset", &format!("known presets: {}", known.join(", ")))
            })?),
        };
        if preset.is_none() && argv.is_empty() {
            return Err(self.wrong("argv", "it needs `argv` or `preset`"));
        }
        if preset.is_some() && (prompt.is_some() || format.is_some()) {
            return Err(self.wrong("preset", "it sets `prompt` and `format` itself"));
        }
        let (set, secrets) = self.variables(set, secrets)?;
        Ok(CommandConfig {
            argv: self.argv(argv),
            args,
            preset,
            prompt: prompt.unwrap_or_default(),
            format: format.unwrap_or_default(),
            model,
            env,
            set,
            secrets,
            directory: directory.map(|directory| beside(self.path, &directory)),
        })
    }

    fn mcp(&self, file: McpFile, key: KeyFile) -> Result<Made, ConfigError> {
        let McpFile { argv, url, tool, tools, arguments, output, env, set, secrets, directory, headers } =
            file;
        // A tool that is named here is the only one, unless others are named as well.
        let tools = match (&tool, tools) {
            (Some(tool), None) => CallOptions::of(&[tool]),
            (None, None) => CallOptions::of(&["*"]),
            (_, Some(tools)) => CallOptions::from(tools),
        };
        if output.as_ref().is_some_and(|output| !output.is_empty() && !output.starts_with('/')) {
            return Err(self.wrong("output", "it has to be a JSON pointer, which starts with a slash"));
        }
        let (server, secrets) = match (argv.is_empty(), url) {
            (false, None) => {
                let (set, secrets) = self.variables(set, secrets)?;
                let config = CommandConfig {
                    argv: self.argv(argv),
                    env,
                    set,
                    secrets,
                    directory: directory.map(|directory| beside(self.path, &directory)),
                    ..CommandConfig::default()
                };
                let secrets = passed_secrets(&config);
                (McpServer::Stdio(config), secrets)
            }
            (true, Some(url)) => {
                let key = self.source(key, None)?;
                let server = McpServer::Http {
                    url: self.url("url", url)?,
                    key: key.clone(),
                    headers: self.headers(headers)?,
                };
                (server, key.into_iter().collect())
            }
            _ => return Err(self.wrong("argv", "it needs exactly one of `argv` and `url`")),
        };
        let config = McpConfig { server, tool, tools, arguments, output };
        Ok(Made { provider: Arc::new(Mcp::new(self.name, config)), secrets })
    }
}
