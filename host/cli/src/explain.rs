//! `wfhost explain`

use super::diagnostic::{Exit, UserError};
use super::printer;

/// Explain an error code
#[derive(clap::Args)]
#[command(after_help = "Examples:
  wfhost explain WF0201
  wfhost explain      all codes")]
pub(crate) struct Explain {
    /// The code, like WF0201
    code: Option<String>,
}

impl Explain {
    pub fn execute(&self) -> Result<Exit, UserError> {
        let Some(code) = &self.code else {
            for (code, text) in CODES {
                printer::line(format!("{code}  {}", text.lines().next().unwrap_or_default()));
            }
            return Ok(Exit::Done);
        };
        let wanted = code.to_uppercase();
        match CODES.iter().find(|(code, _)| *code == wanted) {
            Some((code, text)) => {
                printer::data(&format!("{code}: {text}"));
                Ok(Exit::Done)
            }
            None => Err(UserError::usage("WF0005", format!("unknown code `{code}`"))
                .hint("`wfhost explain` lists all codes")),
        }
    }
}

/// Every error code.
pub(super) const CODES: &[(&str, &str)] = &[
    (
        "WF0001",
        "a system resource that wfhost needs is not available\n\nThreads, signals or random numbers are not available. Check the limits of the process.",
    ),
    ("WF0002", "invalid JSON\n\nThe position is underlined. Text has to be a JSON string: -i '\"hello\"'."),
    (
        "WF0003",
        "a size limit was exceeded\n\nThe message names the limit. Store large data elsewhere and pass a reference to it.",
    ),
    ("WF0004", "an input or output file cannot be used"),
    ("WF0005", "unknown error code"),
    (
        "WF0006",
        "stdout cannot be written\n\nThe disk is full, or the reading end of the pipe was closed. Runs are not affected: print the data again, for example with `wfhost show RUN`.",
    ),
    ("WF0007", "invalid command line\n\n`wfhost VERB -h` shows the arguments of a verb."),
    (
        "WF0008",
        "an environment variable has an invalid value\n\nAll variables: https://github.com/wfhost/wfhost/blob/main/docs/environment.md",
    ),
    ("WF0101", "the module file is empty"),
    (
        "WF0102",
        "the module is not WebAssembly\n\nA workflow is a WebAssembly component. The message says what the file contains instead.",
    ),
    (
        "WF0103",
        "the module is a core module, not a component\n\nCompilers emit core modules; a component wraps one and describes its interface.",
    ),
    (
        "WF0104",
        "the module imports an interface that workflows must not use\n\nEverything that a workflow learns about the world has to be journaled, or a replay would diverge. Sockets and HTTP are therefore not available; call an agent, or a provider of kind `http`, instead. Files are available: a private scratch directory, and directories granted with --dir. https://github.com/wfhost/wfhost/blob/main/docs/sandbox.md",
    ),
    ("WF0105", "the component does not export `run`"),
    ("WF0106", "the component imports an unknown interface"),
    (
        "WF0107",
        "the component does not match the workflow world\n\n`wfhost inspect --wit` prints the world to build against.",
    ),
    ("WF0108", "the component is damaged or invalid"),
    ("WF0109", "the WebAssembly engine cannot be initialised"),
    ("WF0110", "the module does not exist"),
    (
        "WF0112",
        "the description of a module cannot be read\n\nThe section `wfhost:describe` of the component is damaged, duplicated, too large, or written by a newer wfhost. The module can still be run; its input is not checked.",
    ),
    (
        "WF0111",
        "the component is too expensive to compile\n\nSize, nesting, functions, types and jump tables are limited, and so are the memory and time of the compiling process. The output of ordinary compilers, interpreters included, stays far below these limits.",
    ),
    (
        "WF0113",
        "a component could not be compiled on this machine\n\nThe process that compiles was ended by the system, usually because the machine or its container has too little memory. The component itself may be fine.",
    ),
    (
        "WF0201",
        "the program is non-deterministic: it diverges from its journal\n\nOn replay, a program has to request the same operations in the same order. It does as long as its code is unchanged. Nothing was executed, and the journal is unchanged.",
    ),
    (
        "WF0202",
        "a journal is damaged, or was written by a newer wfhost\n\nEvery entry is part of a chain of digests, so a single changed byte is detected.",
    ),
    (
        "WF0203",
        "two executions of one journal differ\n\nThey requested the same steps, but returned, logged or published different values. The sandbox is meant to make this impossible: please report it with the module.",
    ),
    ("WF0204", "a module could not be run for a check\n\nThe run's own error is shown above."),
    (
        "WF0205",
        "invalid fork\n\nA fork copies the entries before --at: at least the first one, and not the end of the run. --edit names one of these entries that holds an answer: a completed step, or a signal.",
    ),
    ("WF0301", "another process has taken over the run"),
    ("WF0302", "a run with this id already exists"),
    ("WF0303", "a module is not in the database"),
    (
        "WF0304",
        "the key belongs to a run with a different module or input\n\nStarting a workflow again with the same key returns the existing run. With a different module or input, its result would answer a different request.",
    ),
    ("WF0305", "a message arrived while the run was ending"),
    ("WF0310", "the database cannot be opened"),
    ("WF0311", "the database cannot be written to"),
    ("WF0312", "the disk is full\n\nNothing that was committed is lost. Free disk space and resume."),
    ("WF0313", "the database has been locked by another program for more than 30 seconds"),
    ("WF0314", "the database was written by a newer wfhost"),
    ("WF0315", "the database is damaged"),
    ("WF0316", "the file is not a wfhost database"),
    ("WF0317", "an operation of the database failed"),
    ("WF0318", "the database cannot be reached"),
    (
        "WF0319",
        "it is unknown whether a database operation succeeded\n\nThe connection was lost before the server answered. The run is read again before it continues.",
    ),
    (
        "WF0320",
        "the database was removed or replaced while it was in use\n\nWhat this process wrote since then is in a file that no longer has a name. Nothing is reported as done.",
    ),
    (
        "WF0321",
        "the database does not exist\n\n`wfhost run` creates one. `wfhost config show` prints its location.",
    ),
    (
        "WF0322",
        "a database that was found can be written by other users\n\nIts runs determine what agents are asked. A database that is not named explicitly is therefore used only if you or root own it and its directory, and no other user can write them. A database named by --db or WFHOST_DB is always used.",
    ),
    (
        "WF0323",
        "a search took too long\n\nStates, workflows and labels are indexed; text and times are searched within the remaining runs. Narrow the search.",
    ),
    (
        "WF0331",
        "the database server denied access\n\nThe password is wrong or missing, or the user is unknown or lacks privileges: wfhost creates tables in its schema, and reads and writes them.",
    ),
    (
        "WF0332",
        "no secure connection to the database server\n\nWith sslmode=require or verify-full, the server's certificate has to be issued for the host in the URL by an authority that the system or ?sslrootcert=FILE trusts.",
    ),
    (
        "WF0333",
        "the database server is a standby\n\nA standby is read-only. After a failover, the old primary is one.",
    ),
    ("WF0334", "the database server accepts no more connections"),
    (
        "WF0335",
        "the database server or its tables cannot be used\n\nPostgreSQL has to be version 14 or later, with the encoding UTF8 and `read committed` transactions. `fsync` and `full_page_writes` have to be on, unless the last commits may be lost in a crash (--synchronous normal).",
    ),
    (
        "WF0336",
        "invalid database URL\n\nExample: postgres://USER:PASSWORD@HOST:5432/NAME?sslmode=verify-full",
    ),
    (
        "WF0337",
        "the database does not contain wfhost's tables\n\n`wfhost db init` creates them in the schema `wfhost`, or in the one named by ?schema=NAME. The user needs the privilege to create that schema (`GRANT CREATE ON DATABASE NAME TO USER`); hosts do not need it afterwards. No other command creates tables on a server, so a mistaken URL changes nothing.",
    ),
    (
        "WF0338",
        "the database's tables were created by an earlier wfhost\n\n`wfhost db migrate` migrates them to the current format. It only adds to them: hosts of the earlier version keep working during and after the migration.",
    ),
    (
        "WF0339",
        "only supported for a database file\n\nUse the server's own tools (pg_dump, pg_basebackup, snapshots): their copies are consistent at any moment.",
    ),
    (
        "WF0340",
        "the target of a copy has to be empty\n\nTwo databases cannot be merged, because run ids, event positions and keys would collide. Move single runs with `wfhost db export` and `wfhost db import`.",
    ),
    (
        "WF0341",
        "the database to be copied is in use\n\nThe copy would miss what hosts write meanwhile. Stop them first: `wfhost serve` shuts down gracefully on Ctrl-C or SIGTERM.",
    ),
    (
        "WF0342",
        "the copy of a database differs from the original\n\nRuns or journal heads differ. The original is unchanged. Find out what wrote to either database meanwhile, and copy again into an empty one.",
    ),
    (
        "WF0401",
        "unknown provider\n\nA run that calls it stays as it is until a process with that provider continues it.",
    ),
    (
        "WF0402",
        "invalid script of answers\n\n{ \"rules\": [ { \"match\": \"regex on the prompt\", \"reply\": any JSON, or \"replies\": [...] in turn,\n               \"delay_ms\": 20, \"fail\": { \"times\": 1, \"kind\": \"unavailable\", \"message\": \"...\" },\n               \"usage\": { \"input_tokens\": 10, \"output_tokens\": 5 } } ],\n  \"default\": { \"reply\": \"...\" },\n  \"calls\": \"calls.jsonl\" }\n\nTexts can use $1 and ${prompt}. A call without a matching rule or default fails.",
    ),
    ("WF0403", "a run calls an agent, but there is no default provider"),
    ("WF0404", "the program cannot be started"),
    (
        "WF0405",
        "a directory that was granted to a run has changed\n\nWhat a program reads is part of its run: a replay that reads something else would diverge. The digest of the directory was recorded when the run started. Restore the directory, or start a new run.",
    ),
    (
        "WF0406",
        "a directory cannot be granted\n\n`--dir HOST::GUEST` grants the program read access to the directory HOST at the path GUEST. The whole directory is read before the run starts, and its digest becomes part of the run.",
    ),
    ("WF0407", "invalid stack size\n\nThe size is 1, 2, 4, 8 or 16 MiB. It is fixed when a run starts."),
    (
        "WF0408",
        "a budget in dollars cannot be enforced\n\nEither the provider reports tokens but no costs: add a price, [prices.\"MODEL\"] in wfhost.toml, with input and output in dollars per million tokens (0 for a free model). Or its first answer reported no usage at all: then a price does not help, and the provider has to report usage. The call was not made. `wfhost retry RUN` continues when this is fixed.",
    ),
    (
        "WF0409",
        "a budget does not count the calls of a provider\n\nPrograms that print text, tools, and services without pointers to their usage do not report usage. Their calls are made as if they were free; calls of other providers are counted. A program can report usage with `format = \"jsonl\"`, a service with `input_tokens` and `output_tokens`. A provider that could report usage but does not is detected by its first answer; a budget in dollars then allows no further call (WF0408).",
    ),
    (
        "WF0410",
        "the machine is out of a resource that a run needs\n\nThe system refused memory to a program that is within its own limit. Nothing was recorded: the run is unchanged, and continues on another machine, or when memory is available again.",
    ),
    (
        "WF0415",
        "the module of a child is on another machine\n\nA child's module is searched for in the directory of its parent's module, and then in the database. The directory where the run was started does not exist on this machine, and the database has no module of that name. The run is unchanged: it continues on a machine that has the directory, or once `wfhost add FILE.wasm` has stored the module in the database. In a fleet, add the modules of children before the runs that need them.",
    ),
    (
        "WF0418",
        "the script that a run was started with cannot be used on this host\n\n`run --agents FILE` stores the script in the database, by its digest, so every host that shares the database answers by it. If the database does not have it any more, the file is used as long as its text is the same. The record of calls that a script may name (`calls`) is a file beside the script, and its directory has to exist on the host that makes the calls. Runs that were started by an earlier version of wfhost only name their script by its path. The run is unchanged: it continues on a host that has the file, or with other rules, `wfhost resume RUN --agents FILE`.",
    ),
    ("WF0501", "the run does not exist"),
    ("WF0502", "the run has ended"),
    (
        "WF0503",
        "another live process holds the lease of the run\n\nOnly one process at a time advances a run. When that process dies, the run is taken over immediately. A run takes a new budget when it is resumed: one that is being advanced has to be paused before.",
    ),
    ("WF0504", "the beginning of an id matches several runs"),
    ("WF0505", "a signal needs a name"),
    (
        "WF0506",
        "a run cannot be retried\n\nOnly failed and cancelled runs can be retried, at a step that failed. A program that failed by itself would fail again: fix it, and continue with `wfhost resume RUN --module FILE`.",
    ),
    ("WF0507", "the question is not open\n\nIt was answered, it timed out, or the run has ended."),
    (
        "WF0508",
        "an answer does not match its question\n\nThe message says what is wrong and where. The question stays open.",
    ),
    ("WF0509", "an irreversible action needs confirmation with `--yes`"),
    (
        "WF0510",
        "an exported run cannot be read\n\nThe file was truncated or changed: its digest differs. Export the run again.",
    ),
    ("WF0511", "a database check found faults"),
    ("WF0512", "a run has published nothing under that key"),
    ("WF0513", "the schedule does not exist"),
    ("WF0514", "a schedule of that name already exists\n\n`--replace` replaces it; its runs stay."),
    (
        "WF0515",
        "invalid times of a schedule\n\nUse the five fields of cron (minute, hour, day of the month, month, day of the week), in the time zone of --tz; or a duration of at least a second.",
    ),
    ("WF0516", "an earlier round of a run that has not ended cannot be deleted"),
    (
        "WF0521",
        "the input does not match the schema of the module\n\nNo run was created. `wfhost inspect MODULE` shows the schema and examples; `--no-check` starts the run anyway, and leaves validation to the program.",
    ),
    (
        "WF0522",
        "the payload of a signal does not match the schema of the module\n\nNothing was sent. `wfhost inspect MODULE` shows the schema; `--no-check` sends it anyway.",
    ),
    (
        "WF0601",
        "the directory does not contain a project\n\nA Rust crate has a Cargo.toml, a workflow in TypeScript, JavaScript or Python a workflow.ts, .js or .py, one in C its C files.",
    ),
    ("WF0602", "cargo cannot be run"),
    ("WF0603", "cargo failed to build the crate"),
    ("WF0604", "the crate does not build a workflow\n\nA workflow is a library of type `cdylib`."),
    (
        "WF0605",
        "no Rust toolchain for WebAssembly is installed\n\n`rustup target add wasm32-unknown-unknown` installs one.",
    ),
    ("WF0606", "the standard library for WebAssembly cannot be built"),
    ("WF0607", "a core module cannot be wrapped into a component"),
    ("WF0608", "a file cannot be read or written"),
    ("WF0609", "the directory contains several workflows"),
    ("WF0610", "invalid project name"),
    ("WF0611", "the workspace has no such package"),
    (
        "WF0612",
        "the crate exports neither a workflow nor an agent\n\n`#[wfhost::workflow]` on an `async fn` makes it the workflow of its crate; `#[wfhost::agent]` on a `fn` makes it the agent of a plugin.",
    ),
    ("WF0613", "no linker for WebAssembly was found"),
    (
        "WF0614",
        "no C compiler for WebAssembly was found\n\nA C workflow needs clang with its runtime library for wasm32, wasm-ld, and a C library for WASI. The WASI SDK contains all of them.",
    ),
    ("WF0615", "a compiler failed to build the program"),
    (
        "WF0616",
        "the build tools of a JavaScript project are missing\n\nesbuild bundles the program and componentize-qjs turns it into a component. Both are dependencies of the project.",
    ),
    (
        "WF0617",
        "the build tool of a Python project is missing\n\ncomponentize-py turns a Python program into a component. It is looked for in the project's `.venv` and on PATH.",
    ),
    ("WF0618", "the Go compiler is missing\n\nGo 1.25 or newer has to be on PATH as `go`."),
    (
        "WF0619",
        "a tool of the project can be written by other users\n\nPrograms in node_modules and .venv are executed, so you or root have to own them and their directory, and no other user may be able to write them.",
    ),
    (
        "WF0620",
        "the permissions that a plugin requests are invalid\n\n[package.metadata.wfhost.plugin] in its Cargo.toml, or plugin.toml beside a plugin in another language, has `http` (url, methods, inject, reason), `directories` (path, write, reason) and `env` (name, reason), and nothing else.",
    ),
    (
        "WF0621",
        "the description of a workflow cannot be used\n\nA file describe.toml or describe.json beside the source has `description`, JSON Schemas as `input` and `output`, [signals.NAME] and [state.KEY] with `description` and `schema`, [[questions]] with `prompt`, `choices` and `schema`, [[examples]] with `input`, and the lists `providers` and `workspaces`. Schemas are bounded and refer to themselves only; each example has to fit the schema of the input.",
    ),
    (
        "WF0622",
        "the description of a workflow in Rust cannot be generated from its types\n\nFor `#[wfhost::workflow(describe)]`, `wfhost build` compiles the crate a second time, with `--cfg wfhost_describe`, and asks it for the schemas of its types. The types implement `schemars::JsonSchema`; examples are JSON.",
    ),
    (
        "WF0623",
        "a directory that a build writes into leads elsewhere\n\nA build writes the SDK and what it makes on the way below `wfhost` of the target directory. A symbolic link there that leads out of the target directory is not followed, since whoever sent the project could have chosen the files that are replaced. The target directory itself may be a link.",
    ),
    (
        "WF0701",
        "a configuration file cannot be read\n\nwfhost.toml is TOML. Its sections are [store], [agents], [providers.NAME], [prices.\"MODEL\"], [workspaces.NAME], [modules], [registries.\"HOST\"] and [signatures]; https://github.com/wfhost/wfhost/blob/main/docs/agents.md, https://github.com/wfhost/wfhost/blob/main/docs/providers.md and https://github.com/wfhost/wfhost/blob/main/docs/distribution.md have all their keys.",
    ),
    (
        "WF0702",
        "a configuration file has an unknown key\n\nUnknown keys are refused, because a misspelt limit would have no effect.",
    ),
    (
        "WF0703",
        "a configuration file contains a secret\n\nConfiguration files name secrets but never contain them: api_key_env = \"NAME\" or api_key_file = \"PATH\" for providers over HTTP, secrets = { NAME = { env = \"NAME\" } } for programs.",
    ),
    (
        "WF0704",
        "a configuration file has an invalid value\n\nDurations are strings like \"90s\", \"15m\", \"2h\"; prices are US dollars per million tokens; a rate is { per_minute = 60, burst = 5 }; a scope is \"host\" or \"fleet\"; the limit of a group is a number, or { limit = 1, scope = \"fleet\" }.",
    ),
    ("WF0518", "a run refused a call\n\nThe program rejected the request; the message is the program's."),
    (
        "WF0519",
        "the id of a call belongs to another call\n\nCalls of a run with the same id are the same call, so that a repetition gets the first reply. A call of another name needs another id.",
    ),
    ("WF0705", "the run has no such step, or no transcript of it"),
    (
        "WF0706",
        "a configuration file can be written by other users\n\nA wfhost.toml names programs to run. A file found in the working directory or its parents is therefore used only if you or root own it and its directory, and no other user can write them. A file named by --config, or below a directory named by WFHOST_TRUST, is always used.",
    ),
    (
        "WF0707",
        "the project is not trusted yet\n\nIts wfhost.toml names programs, addresses, secrets or paths outside the project. Review it, then run `wfhost trust`, which trusts its current content. In CI: --trust, or WFHOST_TRUST=1 or WFHOST_TRUST=DIRECTORY. https://github.com/wfhost/wfhost/blob/main/docs/security.md",
    ),
    ("WF0708", "the trust in a project cannot be recorded"),
    (
        "WF0709",
        "the directory does not belong to a project\n\nA project is a directory with a wfhost.toml, and everything below it. It is looked for up to the root of the repository.",
    ),
    (
        "WF0710",
        "the project of a run was not found\n\nA run uses the configuration of the project that it was started in. If that was moved or deleted, name another file with --config.",
    ),
    (
        "WF0711",
        "the project of a run is not used, because other users can write the database that names it\n\nAnother user who can write the database could use your agents with the configuration of any project that you trust. Name the configuration with --config.",
    ),
    (
        "WF0801",
        "the program used up its fuel between two steps\n\nFuel limits the computation between two steps, so that an endless loop is stopped at the same instruction on every machine. `wfhost run --fuel N` raises the limit.",
    ),
    (
        "WF0802",
        "the program used up the fuel of the whole run\n\nA replay computes everything again, so the total computation of a run is limited. Raise the limit with `--total-fuel N`, or continue as new from time to time.",
    ),
    ("WF0803", "the program exceeded its memory limit\n\n`wfhost run --memory MIB` raises the limit."),
    (
        "WF0804",
        "the program ran out of stack\n\nThe usual cause is unbounded recursion. `wfhost run --stack MIB` raises the limit: 1, 2, 4, 8 or 16.",
    ),
    (
        "WF0805",
        "the program panicked\n\nThe message says where. A fixed program continues where the old one failed: `wfhost resume RUN --module FIXED.wasm`.",
    ),
    (
        "WF0810",
        "the server cannot listen on its address\n\nAnother program is listening there, or the system does not allow it (ports below 1024 need root), or at the path of a Unix socket there is something else, which is not replaced. Choose another address with `wfhost serve --listen ADDRESS`, or none with `--listen off`.",
    ),
    (
        "WF0811",
        "invalid server configuration\n\nAn address that is reachable by others requires a token first (`wfhost token new`). TLS requires a certificate and its key as PEM files. https://github.com/wfhost/wfhost/blob/main/docs/server.md",
    ),
    (
        "WF0812",
        "invalid request to the server\n\nThe message says which part is invalid. /openapi.json describes all requests.",
    ),
    ("WF0813", "the server has nothing at this path"),
    (
        "WF0814",
        "a request was sent too slowly\n\nEach part of a request has to arrive within 15 seconds, so that idle clients do not occupy the server.",
    ),
    (
        "WF0815",
        "the server is overloaded\n\nConnections, streams and waiting requests are limited, per token and in total. Try again in a few seconds. A single stream of all runs can replace many streams of one run.",
    ),
    (
        "WF0816",
        "the server is shutting down\n\nRequests in progress are answered. Send new ones to another server, or to this one when it is running again.",
    ),
    ("WF0817", "the server is read-only\n\nIt was started with --read-only."),
    ("WF0818", "internal server error\n\nThe request is not known to be at fault. Please report it."),
    (
        "WF0819",
        "an action on many runs no longer matches its preview\n\nFirst request the preview (`dry_run`), then send the number of runs that it found as `expected`, and its `fingerprint`. If the runs have changed since then, nothing is done. A run that was chosen by its state, and is not in it any more when its turn comes, is not deleted.",
    ),
    (
        "WF0850",
        "unknown sink\n\nSinks are configured under [sinks.NAME]. `wfhost sinks ls` lists all of them.",
    ),
    (
        "WF0851",
        "a message was not delivered\n\nA receiver has to answer with 200 to 299, a program to exit with 0. Its response is shown. `wfhost serve` retries until `give_up`; `wfhost sinks retry` starts over.",
    ),
    (
        "WF0852",
        "unknown message\n\n`wfhost sinks log` lists pending messages, and those that were delivered or given up in the last thirty days.",
    ),
    (
        "WF0901",
        "the server requires a token\n\n`wfhost token new NAME --scope SCOPES` creates one. Send it in the header `Authorization: Bearer TOKEN`.",
    ),
    (
        "WF0902",
        "the token is unknown or has expired\n\nIt may have been removed, or belong to another database.",
    ),
    (
        "WF0903",
        "the token does not permit the request\n\nThe message names the required scope. `wfhost token new` creates a token with it.",
    ),
    (
        "WF0904",
        "a request is addressed to another host\n\nA page of another site may have made its name resolve to this server (DNS rebinding). If the name is intended: `wfhost serve --allow-host NAME`, or --public-url.",
    ),
    (
        "WF0905",
        "a request comes from a page of another site\n\nOnly pages of the server itself may act on behalf of a browser's user.",
    ),
    (
        "WF0906",
        "a token was sent in a URL\n\nURLs are stored in logs and histories. Remove that token (`wfhost token rm`), create another one, and send it in the header `Authorization`.",
    ),
    ("WF0907", "the token does not exist\n\n`wfhost token ls` lists all tokens."),
    ("WF0908", "invalid callback URL\n\nThe URL has to be complete, and belong to this database."),
    (
        "WF0909",
        "a callback URL was already used with another body\n\nA callback URL works once. Sending the same body again gets the same answer as the first time.",
    ),
    (
        "WF0910",
        "a callback URL is no longer valid\n\nThe run has ended, the question is answered, or the URL has expired.",
    ),
    ("WF0911", "invalid token name"),
    (
        "WF0912",
        "a delivery to a webhook is not accepted\n\nIt has to be signed with the secret of `[webhooks.NAME]`, in the way that `verify` says; where the time is signed, too, it has to be near (`tolerance`). A proxy must not change the body.",
    ),
    (
        "WF0913",
        "the secret of a webhook is not there\n\n`secret_env` or `secret_file` of `[webhooks.NAME]` name where it is, for the process of the server.",
    ),
    (
        "WF0806",
        "the program trapped\n\nIt executed an invalid operation: `unreachable`, an out-of-bounds memory access, a division by zero. Many languages end a program this way after a panic or an uncaught error; `wfhost logs RUN` shows its last output.",
    ),
    (
        "WF0820",
        "invalid scenario of `wfhost test`\n\nA scenario is a TOML file:\n\n    input = { topic = \"bees\" }      # of the run\n    within = \"30d\"                  # a run that has not ended by then is stuck\n\n    [[agents]]                      # the first rule that matches answers\n    match = \"^book (\\\\w+)\"         # found in the prompt\n    reply = \"booked $1\"             # or replies = [...], one of them\n    delay = \"1s..10m\"\n    fails = 0.2                     # of the attempts\n\n    [[people]]                      # who answers questions\n    answers = [true, false]\n    never = 0.1\n\n    [[signals]]\n    name = \"approve\"\n    payload = { ok = true }\n    after = \"0s..8d\"\n    twice = 0.1\n\n    [world]\n    kills = 0.04                    # of the host, at each call and each answer\n    cancel = 0.1                    # in this share of executions\n\n    [expect]\n    states = [\"completed\"]\n    [[expect.calls]]\n    match = \"^charge\"\n    at_most = 1\n    [[expect.owed]]                 # unless the run completes\n    done = \"^book (\\\\w+)\"\n    undone = \"^cancel $1\"\n\nAll keys: https://github.com/wfhost/wfhost/blob/main/docs/testing.md",
    ),
    (
        "WF0821",
        "internal error of a simulation\n\nThis is a bug in wfhost: please report it with the module and the seed.",
    ),
    ("WF0822", "a report of `wfhost test` cannot be written"),
    (
        "WF0824",
        "a collector did not accept a trace\n\nNothing is lost: spans are derived from the journal and are the same each time. Send the trace again with `wfhost trace RUN --otlp URL`.",
    ),
    (
        "WF0823",
        "the configuration of an MCP client cannot be changed\n\n`wfhost mcp install` prints the entry that belongs in it; add it by hand.",
    ),
    (
        "WF0829",
        "time cannot be virtual here\n\n`wfhost run --virtual-time` puts the clock of its own process forward whenever nothing but a deadline is left. The hosts of a database on a server judge by its clock, so a file is needed: --db try.db. Whose time was skipped has the label time=virtual, which nothing else may set then.",
    ),
    (
        "WF0920",
        "invalid module reference\n\nA reference names the registry, the repository and the version: ghcr.io/acme/reviewer:1.4.2, localhost:5000/me/hello@sha256:.. There is no default registry and no default version: with other tools, `hello` resolves to a public registry, where anyone can publish that name. A registry whose name has neither a dot nor a port is written as oci://NAME/..",
    ),
    (
        "WF0921",
        "a registry cannot be reached\n\nTemporary failures are retried; each request is sent four times at most. wfhost uses TLS, except for registries on this machine and those with\n\n    [registries.\"registry.lan:5000\"]\n    plain_http = true\n\nin wfhost.toml. Modules in the local store run without a network: --offline.",
    ),
    (
        "WF0922",
        "a registry requires a login, or rejected it\n\n`wfhost login REGISTRY -u NAME --password-stdin` stores one. Logins of Docker and podman are used, too. Many registries expect a token instead of the password.",
    ),
    (
        "WF0923",
        "a registry denied access\n\nThe login is valid, but has no permission for this repository, or to push.",
    ),
    (
        "WF0924",
        "not found in the registry\n\nSome registries also report this for content that the login is not allowed to see.",
    ),
    ("WF0925", "a registry is overloaded\n\nIt says when to try again. wfhost waits for up to 20 seconds."),
    (
        "WF0926",
        "a registry sent an invalid answer\n\nIt may not be a registry: a proxy, a network's login page, or another server at this address.",
    ),
    (
        "WF0927",
        "content of a registry does not match its digest or size\n\nIt was changed, truncated or mixed up on the way or at the registry. Nothing of it was stored or run.",
    ),
    (
        "WF0928",
        "content of a registry is too large\n\nThe limit is 4 MiB for a manifest and 128 MiB for a module. Sizes are checked before anything is fetched, and while it is.",
    ),
    (
        "WF0929",
        "a reference does not resolve to a module\n\nA module is an artifact with the CNCF layout: a manifest with a configuration of type application/vnd.wasm.config.v0+json and one layer of type application/wasm, which is a component. `wfhost push` and `wkg oci push` create them. Indexes, container images and core modules are not supported.",
    ),
    (
        "WF0930",
        "logins cannot be read or stored\n\nLogins are stored in wfhost/auth.json in the user's configuration directory, in podman's format; only its owner may be able to write it. Logins of podman and Docker are read as well, also from their credential helpers.",
    ),
    (
        "WF0931",
        "the local store of modules cannot be used\n\nIt is `modules` in wfhost's data directory ($XDG_DATA_HOME/wfhost/modules), in the OCI image layout. It can be deleted as a whole: modules of runs are in the database, and others are fetched again.",
    ),
    (
        "WF0932",
        "a module is not in the local store, and wfhost is offline\n\n`wfhost pull REFERENCE` fetches it while there is a network.",
    ),
    (
        "WF0933",
        "a version tag would be moved to other content\n\nA tag that is a full version, like 1.4.2, should not change, because its users rely on that. Push another version, or use --force.",
    ),
    (
        "WF0934",
        "the name of a module is ambiguous in the local store\n\nUse the full reference with its registry, or define the name in wfhost.toml:\n\n    [modules]\n    reviewer = \"ghcr.io/acme/reviewer:1.4.2\"",
    ),
    (
        "WF0935",
        "a redirect of a registry is not followed\n\nLogins are sent only over TLS, and only to the host that the registry names for them. Pushes do not follow redirects to other hosts, and nothing is redirected from TLS to plain HTTP.",
    ),
    (
        "WF0940",
        "a module lacks a required signature\n\nwfhost.toml says whose signatures are accepted:\n\n    [signatures]\n    default = \"warn\"                  # off, warn, require\n    keys.acme = \"keys/acme.pub\"       # a file, or the key in Base64\n    [[signatures.rules]]\n    match = \"ghcr.io/acme/*\"\n    signers = [\"acme\"]                # one of these; level = \"require\" unless it says another\n\nSignatures are checked before a module is fetched, and also for modules in the local store. `wfhost verify REFERENCE` shows who signed.",
    ),
    (
        "WF0941",
        "a module has signatures, but none is accepted\n\nThey are made with unknown or excluded keys, belong to other content, or were changed.",
    ),
    (
        "WF0942",
        "the signer of a module has changed\n\nThe first signer of each repository is recorded in wfhost/signers.json in the user's state directory, and the signer of each locked module in wfhost.lock. Either the publisher has a new key, or someone else publishes in their name or has changed wfhost.lock. Once you have verified it: `wfhost pull REFERENCE --accept`; for a locked module, `wfhost update REFERENCE --accept`.",
    ),
    (
        "WF0943",
        "a key cannot be used or created\n\nKeys are P-256 or Ed25519: private keys as PKCS#8 in PEM, public keys as PEM, as OpenSSL and cosign write them. Only its owner may have access to the file of a private key. A key encrypted by OpenSSL or cosign is read with the passphrase in WFHOST_KEY_PASSPHRASE.",
    ),
    (
        "WF0945",
        "wfhost.lock cannot be used\n\nIt is written by `wfhost add` and `wfhost update`, and is damaged or of another version. Restore it from version control.",
    ),
    (
        "WF0946",
        "a module is not in wfhost.lock, or differs from it\n\nwfhost.lock records the manifest, the content and the signer of each reference. `wfhost add REFERENCE` locks a reference; `wfhost update` locks its current version.",
    ),
    (
        "WF0947",
        "an archive of modules cannot be used\n\nIt is a tar file of an OCI image layout, as `wfhost save` and `skopeo copy .. oci-archive:FILE` write it. The whole file is checked before anything is stored. It has at most 2 GiB in 10000 files; `wfhost save FILE REFERENCE..` saves a part of a larger store.",
    ),
    (
        "WF0948",
        "the certificates for a registry cannot be used\n\n[registries.\"HOST\"] ca = \"FILE\" names a file with CA certificates in PEM. Only these are then accepted for the registry; without `ca` it is the system's trust store.",
    ),
    (
        "WF0949",
        "no version of a module matches the requirement\n\nREGISTRY/NAME@REQUIREMENT is the newest matching version: ^1.2 (1.2.0 up to 2), ~1.2 (up to 1.3), >=1.2, <1.5, =1.4.2, or *. Versions are the tags that are full versions, like 1.4.2. Pre-releases like 2.0.0-rc.1 match only if the requirement names them.",
    ),
    (
        "WF0950",
        "the source of a module is not known or cannot be fetched\n\n`wfhost push REFERENCE DIR --sign KEY --provenance` attaches it: the commit of a git repository that others can fetch, with everything committed. `wfhost verify REFERENCE --rebuild` fetches that commit by https or ssh, or from --source, and builds it.",
    ),
    (
        "WF0951",
        "a module differs from its rebuilt source\n\nThe parts that differ are listed. Other versions of compilers and tools produce other bytes: compare the versions that the module names with yours. If they are the same, ask the publisher.",
    ),
    (
        "WF0952",
        "a module has no provenance, but a rule requires it\n\n[[signatures.rules]] with `provenance = true` requires what `wfhost push REFERENCE DIR --sign KEY --provenance` attaches, signed by an accepted signer of the module.",
    ),
    (
        "WF0953",
        "the list of a module's signatures is written by others at the same time\n\nA registry without the referrers API has this list at a tag, which each signer writes. wfhost reads it again after it wrote it, and adds its signature again if somebody else's write removed it; after eight times it gives up. The signature itself is in the registry; signing again adds it to the list.",
    ),
    (
        "WF1201",
        "the file of a plugin cannot be read\n\n`plugin` in the provider's section is the path of a component, relative to the configuration file. `wfhost build` builds one.",
    ),
    (
        "WF1202",
        "a plugin does not match the digest in the configuration\n\nThe provider's section pins it with `digest`. Review the changes before you accept the new one.",
    ),
    (
        "WF1203",
        "the component is not a plugin\n\nA plugin exports `wfhost:plugin/agent@0.1.0`. A component that exports `run` is a workflow.",
    ),
    (
        "WF1204",
        "a plugin imports an interface that is not available\n\nPlugins have `wfhost:plugin/progress@0.1.0` and the interfaces of `wasi:*@0.2`. The provider's section grants which of these it may use.",
    ),
    (
        "WF1205",
        "a plugin does not match the plugin world\n\nIt was built against another version of `wit/plugin`.",
    ),
    ("WF1206", "a directory that is granted to a plugin does not exist"),
    (
        "WF1207",
        "the permissions that a plugin requests cannot be read\n\nThe section `wfhost:wants` of the component was written by another version of wfhost.",
    ),
    (
        "WF1213",
        "a plugin cannot be added or removed\n\n`wfhost plugin add` writes a section [providers.NAME] to wfhost.toml, and `wfhost plugin rm` removes it. A section that is not written as lines below such headers has to be edited by hand.",
    ),
    (
        "WF1214",
        "a new version of a plugin requests more permissions than were accepted\n\nwfhost.lock stores the permissions that the plugin requested when it was added or updated. Review the lines with +; `wfhost update NAME --accept` accepts them. This grants nothing: permissions are granted in its section of wfhost.toml.",
    ),
    (
        "WF1215",
        "a permission is granted that a plugin does not request\n\n--inject and --directory of `wfhost plugin add` refer to requested permissions; `wfhost inspect` shows them.",
    ),
    (
        "WF1208",
        "the certificates for the servers of a plugin cannot be used\n\n`ca` in [[providers.NAME.http]] names a file with CA certificates in PEM. Only these are then accepted for the grant's host; without `ca` it is the system's trust store.",
    ),
    (
        "WF1210",
        "a plugin that was called manually failed\n\nThe message is the plugin's. Denied requests are listed above, with the configuration that would allow them.",
    ),
    ("WF1211", "the plugin does not exist\n\nName a provider of kind `plugin`, or the file of a component."),
    (
        "WF1212",
        "invalid test cases of `wfhost plugin test`\n\n{\"cases\": [{\"name\": \"..\", \"call\": {\"prompt\": \"..\"}, \"exchanges\": [{\"request\": {\"method\": \"POST\", \"url\": \"https://..\"}, \"response\": {\"status\": 200, \"body\": {}}}], \"expect\": {\"output\": \"..\"}}]}\nThey are read from NAME.test.json beside NAME.wasm, or from the file that --cases names.",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    /// All of the host's sources but this one.
    fn sources(directory: &std::path::Path, text: &mut String) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, text);
            } else if !path.ends_with("src/explain.rs") {
                text.push_str(&std::fs::read_to_string(path).unwrap_or_default());
            }
        }
    }

    /// Codes in the sources, told by their form.
    #[test]
    fn every_code_in_the_sources_is_explained_and_every_explained_code_is_used() {
        // The code for unknown codes is used in this file.
        let mut text = "\"WF0005\"".to_owned();
        // Of all crates of the host.
        sources(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(".."), &mut text);
        let found = text.match_indices("\"WF").filter_map(|(at, _)| text.get(at + 1..at + 7));
        let is_code = |code: &&str| code.bytes().skip(2).all(|byte| byte.is_ascii_digit());
        let used: std::collections::BTreeSet<_> = found.filter(is_code).collect();
        let explained: std::collections::BTreeSet<_> = CODES.iter().map(|(code, _)| *code).collect();
        assert_eq!(used, explained);
        assert_eq!(explained.len(), CODES.len(), "each code has one meaning");
    }
}
