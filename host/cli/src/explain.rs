//! `wfhost explain`

use super::diagnostic::{Exit, Trouble};
use super::printer;

/// Explain the code of an error
#[derive(clap::Args)]
#[command(after_help = "Examples:
  wfhost explain WF0201
  wfhost explain      all codes")]
pub(crate) struct Explain {
    /// Like WF0201
    code: Option<String>,
}

impl Explain {
    pub fn execute(&self) -> Result<Exit, Trouble> {
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
            None => Err(Trouble::usage("WF0005", format!("there is no code `{code}`"))
                .hint("`wfhost explain` lists all of them")),
        }
    }
}

/// Every code that an error can have.
pub(super) const CODES: &[(&str, &str)] = &[
    (
        "WF0001",
        "the machine refused something that wfhost needs\n\nThreads, signals or random numbers are not available. Look at the limits of the process.",
    ),
    ("WF0002", "text is not valid JSON\n\nThe place is underlined. A text is a JSON string: -i '\"hello\"'."),
    (
        "WF0003",
        "something is larger than it may be\n\nThe message names the limit. Keep large data outside and hand a reference to it.",
    ),
    ("WF0004", "a file with input cannot be read"),
    ("WF0005", "there is no such code"),
    (
        "WF0006",
        "stdout cannot be written\n\nThe disk is full, or what reads it failed. Runs are not affected: ask again, like with `wfhost show RUN`.",
    ),
    ("WF0007", "the command line is not understood\n\n`wfhost VERB -h` shows what a verb takes."),
    (
        "WF0008",
        "an environment variable has a value that cannot be used\n\nAll variables: https://github.com/wfhost/wfhost/blob/main/docs/environment.md",
    ),
    ("WF0101", "the module's file is empty"),
    (
        "WF0102",
        "the module is not WebAssembly\n\nA workflow is a WebAssembly component. The message says what the file is instead.",
    ),
    (
        "WF0103",
        "the module is a core module, not a component\n\nCompilers emit core modules; a component wraps one and describes its interface.",
    ),
    (
        "WF0104",
        "the module imports something that a workflow may not use\n\nWhatever a workflow learns about the world has to be journaled, or a replay would differ. So sockets and HTTP are not available; call an agent or a provider of the kind `http` instead. Files are: a private scratch directory, and directories granted with --dir. https://github.com/wfhost/wfhost/blob/main/docs/sandbox.md",
    ),
    ("WF0105", "the component does not export `run`"),
    ("WF0106", "the component imports an interface that wfhost does not know"),
    (
        "WF0107",
        "the component does not fit the world of workflows\n\n`wfhost inspect --wit` prints the world to build against.",
    ),
    ("WF0108", "the component is damaged or not valid"),
    ("WF0109", "the WebAssembly engine cannot be set up"),
    ("WF0110", "there is no such module"),
    (
        "WF0111",
        "the component would take too much to compile\n\nSize, nesting, functions, types and jump tables are bounded, and so are the memory and the time of the process that compiles. What compilers make of programs, interpreters included, stays far below.",
    ),
    (
        "WF0201",
        "the program is non-deterministic: it diverges from its journal\n\nOn replay a program has to ask for the same things in the same order. It does as long as its code is the same. Nothing was executed, and the journal is as it was.",
    ),
    (
        "WF0202",
        "a journal is damaged, or a newer wfhost wrote it\n\nEvery entry is part of a chain of digests, so a single changed byte is noticed.",
    ),
    (
        "WF0203",
        "two executions of one journal differ\n\nThey asked for the same steps, but what they returned, wrote or published is not the same. Please report it with the module: the sandbox is there to make that impossible.",
    ),
    (
        "WF0204",
        "a module could not be run for a check\n\nWhat went wrong is above: it is what the run itself said.",
    ),
    (
        "WF0205",
        "a run cannot be forked so\n\nA fork takes over the entries before --at, at least the first one and not the end of the run. --edit names an entry among them that holds an answer: a step that is done, or a signal.",
    ),
    ("WF0301", "another process has taken the run over"),
    ("WF0302", "there is a run with this id already"),
    ("WF0303", "a module is not in the database"),
    (
        "WF0304",
        "the key belongs to a run that was started with something else\n\nThe same key gives the same run of a workflow. With another module or another input that would be the answer to another question.",
    ),
    ("WF0305", "something was sent to a run at the very moment of its end"),
    ("WF0310", "the database cannot be opened"),
    ("WF0311", "the database cannot be written to"),
    ("WF0312", "the disk is full\n\nNothing that was committed is lost. Make room and resume."),
    ("WF0313", "the database is locked by another program for more than 30 seconds"),
    ("WF0314", "the database was written by a newer wfhost"),
    ("WF0315", "the database is damaged"),
    ("WF0316", "the file is no database of wfhost"),
    ("WF0317", "the database failed"),
    ("WF0318", "the database cannot be reached"),
    (
        "WF0319",
        "it is not known whether the database did what it was asked for\n\nThe connection was lost before it answered. The run is read anew before it goes on.",
    ),
    (
        "WF0320",
        "the database was removed or replaced while it was in use\n\nWhat this process wrote since then is in a file that has no name any more. Nothing is reported as done.",
    ),
    (
        "WF0321",
        "there is no database\n\n`wfhost run` makes one. `wfhost config show` says where it is expected.",
    ),
    (
        "WF0322",
        "a database that was found is not only yours\n\nIts runs say what agents are asked, so one that nobody named is used only if it and its directory belong to you or root and nobody else may write them. A database that --db or WFHOST_DB names is used in any case.",
    ),
    (
        "WF0323",
        "a search took too long\n\nWhat is asked for by state, workflow or label is found at once; texts and times are looked for in what these leave. Narrow the search.",
    ),
    (
        "WF0331",
        "the server of the database does not let this user in\n\nThe password is wrong or missing, the user is not known, or may not do what wfhost needs: make tables in its schema, and read and write them.",
    ),
    (
        "WF0332",
        "there is no safe connection to the server of the database\n\nWith sslmode=require or verify-full the certificate of the server has to be signed by an authority that the system or ?sslrootcert=FILE names, for the host that the URL names.",
    ),
    (
        "WF0333",
        "the server of the database is a standby\n\nIt can only be read. After a failover the old primary is one of these.",
    ),
    ("WF0334", "the server of the database takes no more connections"),
    (
        "WF0335",
        "the server or the tables of the database cannot be used\n\nPostgreSQL has to be of version 14 or later, its texts UTF8, its transactions `read committed`, and `fsync` and `full_page_writes` on unless the program says that a crash may take the last commits.",
    ),
    (
        "WF0336",
        "the URL of a database cannot be read\n\nLike postgres://USER:PASSWORD@HOST:5432/NAME?sslmode=verify-full",
    ),
    (
        "WF0337",
        "the database has no tables of wfhost\n\n`wfhost db init` makes them: in the schema `wfhost`, or in that of ?schema=NAME. The user has to be allowed to create that schema (`GRANT CREATE ON DATABASE NAME TO USER`); hosts need no such right afterwards. Nothing else makes tables on a server, so that a mistaken URL changes nothing.",
    ),
    (
        "WF0338",
        "the tables of the database are of an earlier wfhost\n\n`wfhost db migrate` brings them to the format of this one. It only adds: hosts of the earlier version go on meanwhile and afterwards.",
    ),
    (
        "WF0339",
        "only a database in a file can do that\n\nOne on a server is copied by the server's own tools (pg_dump, pg_basebackup, snapshots): what they copy is whole at any moment.",
    ),
    (
        "WF0340",
        "a database that is copied into has to be empty\n\nTwo databases cannot be put together: ids of runs, places of events and keys would meet. Single runs are moved by `wfhost db export` and `wfhost db import`.",
    ),
    (
        "WF0341",
        "a database is in use, and is not copied\n\nWhat hosts did to it behind the copy would be missing there. End them first: `wfhost serve` ends in order at Ctrl-C or SIGTERM.",
    ),
    (
        "WF0342",
        "a copy of a database is not what was copied\n\nRuns or heads of journals differ. The first database is as it was; look what wrote to either meanwhile, and copy again into an empty one.",
    ),
    (
        "WF0401",
        "there is no such provider\n\nA run that calls it stays where it is until a process with that provider goes on with it.",
    ),
    (
        "WF0402",
        "a script of answers is not as it should be\n\n{ \"rules\": [ { \"match\": \"regex on the prompt\", \"reply\": any JSON, or \"replies\": [...] in turn,\n               \"delay_ms\": 20, \"fail\": { \"times\": 1, \"kind\": \"unavailable\", \"message\": \"...\" },\n               \"usage\": { \"input_tokens\": 10, \"output_tokens\": 5 } } ],\n  \"default\": { \"reply\": \"...\" },\n  \"calls\": \"calls.jsonl\" }\n\nTexts may use $1 and ${prompt}. Without a match and a default a call fails.",
    ),
    ("WF0403", "a run asks an agent, and there is no default provider"),
    ("WF0404", "the program cannot be started"),
    (
        "WF0405",
        "a directory that a run was granted is not as it was\n\nWhat a program reads is part of its run: a replay that read something else would differ. The digest of the directory was recorded when the run began; bring it back as it was, or begin a new run.",
    ),
    (
        "WF0406",
        "a directory cannot be granted\n\n`--dir HOST::GUEST` lets the program read the directory HOST at the path GUEST. It is read as a whole before the run begins, and its digest becomes part of the run.",
    ),
    (
        "WF0407",
        "programs cannot have a stack of that size\n\nThe size is 1, 2, 4, 8 or 16 MiB, and part of the run from its beginning.",
    ),
    (
        "WF0408",
        "a budget in dollars cannot be kept\n\nThe provider tells tokens and no costs: a price is needed, [prices.\"MODEL\"] in wfhost.toml, with input and output in dollars for a million tokens (0 for a model that costs nothing). Or its first answer told nothing of what it consumed: no price helps, have it tell. The call was not made. `wfhost retry RUN` goes on when that is mended.",
    ),
    (
        "WF0409",
        "a budget does not count the calls of a provider\n\nPrograms that write text, tools and services without pointers to their usage do not tell what a call consumes. Their calls are made as if they cost nothing; those of others are counted. A program can tell with `format = \"jsonl\"`, a service with `input_tokens` and `output_tokens`. One that could tell and does not is found out by its first answer; a budget in dollars then allows no other call (WF0408).",
    ),
    (
        "WF0410",
        "this machine refused what a run needs\n\nThe system gave no memory to a program that is within its own limit. Nothing was recorded: the run is as it was, and goes on where there is memory, or when there is again.",
    ),
    ("WF0501", "there is no such run"),
    ("WF0502", "the run has ended"),
    (
        "WF0503",
        "another live process holds the lease of the run\n\nOne process at a time advances a run. It is taken over at once when that process dies.",
    ),
    ("WF0504", "the beginning of an id fits several runs"),
    ("WF0505", "a signal needs a name"),
    (
        "WF0506",
        "a run cannot be tried again\n\nOnly runs that failed or were cancelled can, at a step that failed. A program that failed by itself would do so again: fix it, and go on with `wfhost resume RUN --module FILE`.",
    ),
    ("WF0507", "there is no such open question\n\nIt was answered, it timed out, or the run has ended."),
    (
        "WF0508",
        "an answer does not fit its question\n\nThe message says what is wrong where. The question stays open.",
    ),
    ("WF0509", "something that cannot be undone needs `--yes`"),
    (
        "WF0510",
        "an exported run cannot be read\n\nThe file was cut short or changed: its digest differs. Export the run again.",
    ),
    ("WF0511", "a database check found faults"),
    ("WF0512", "a run has published nothing under that key"),
    ("WF0513", "there is no such schedule"),
    (
        "WF0514",
        "there is a schedule of that name\n\n`--replace` puts the new one in its place; its runs stay.",
    ),
    (
        "WF0515",
        "the times of a schedule cannot be used\n\nFive fields, as cron has them (minute, hour, day of the month, month, day of the week), in the time zone of --tz; or a length of time of at least a second.",
    ),
    ("WF0516", "an earlier round of a run that goes on cannot be deleted"),
    (
        "WF0601",
        "the directory holds no project\n\nA Rust crate has a Cargo.toml, a workflow in TypeScript, JavaScript or Python a workflow.ts, .js or .py, one in C its C files.",
    ),
    ("WF0602", "cargo cannot be run"),
    ("WF0603", "cargo did not build the crate"),
    ("WF0604", "the crate builds no workflow\n\nA workflow is a library of the type `cdylib`."),
    (
        "WF0605",
        "there is no Rust toolchain for WebAssembly\n\n`rustup target add wasm32-unknown-unknown` installs one.",
    ),
    ("WF0606", "the standard library for WebAssembly cannot be prepared"),
    ("WF0607", "a core module cannot be wrapped into a component"),
    ("WF0608", "a file cannot be read or written"),
    ("WF0609", "the directory has several workflows"),
    ("WF0610", "the name is not valid for a project"),
    ("WF0611", "the workspace has no such package"),
    (
        "WF0612",
        "the crate exports neither a workflow nor an agent\n\nThe attribute `#[wfhost::workflow]` on an `async fn` makes it the workflow of its crate, `#[wfhost::agent]` on a `fn` the agent of a plugin.",
    ),
    ("WF0613", "there is no linker for WebAssembly"),
    (
        "WF0614",
        "there is no C compiler for WebAssembly\n\nThat is clang with its library for wasm32, wasm-ld, and a C library for WASI. The WASI SDK has all of them.",
    ),
    ("WF0615", "a compiler did not build the program"),
    (
        "WF0616",
        "a project in JavaScript lacks its tools\n\nesbuild bundles it, componentize-qjs makes a component of it. Both are dependencies of the project.",
    ),
    (
        "WF0617",
        "a project in Python lacks its tool\n\ncomponentize-py makes a component of a Python program. It is found in the project's `.venv` or on the path.",
    ),
    (
        "WF0618",
        "a project in Go lacks its compiler\n\n`go` is looked for on the path: version 1.25 or newer.",
    ),
    (
        "WF0619",
        "a tool of the project is not only yours\n\nWhat is found in node_modules is executed, so it and its directory have to belong to you or root, and nobody else may write them.",
    ),
    (
        "WF0620",
        "what a plugin asks for cannot be read\n\n[package.metadata.wfhost.plugin] in its Cargo.toml has `http` (url, methods, inject, reason), `directories` (path, write, reason) and `env` (name, reason), and nothing else.",
    ),
    (
        "WF0701",
        "a configuration file cannot be read\n\nwfhost.toml is TOML. Its sections are [store], [agents], [providers.NAME], [prices.\"MODEL\"], [workspaces.NAME], [modules], [registries.\"HOST\"] and [signatures]; https://github.com/wfhost/wfhost/blob/main/docs/agents.md, https://github.com/wfhost/wfhost/blob/main/docs/providers.md and https://github.com/wfhost/wfhost/blob/main/docs/distribution.md have all their keys.",
    ),
    (
        "WF0702",
        "a configuration file has a key that is not known\n\nUnknown keys are refused, because a misspelt limit would be no limit.",
    ),
    (
        "WF0703",
        "a configuration file has a secret\n\nFiles name secrets and never hold them: api_key_env = \"NAME\" or api_key_file = \"PATH\" for providers that are asked over HTTP, secrets = { NAME = { env = \"NAME\" } } for programs.",
    ),
    (
        "WF0704",
        "a value of a configuration file cannot be used\n\nLengths of time are texts like \"90s\", \"15m\", \"2h\"; prices are US dollars for a million tokens; a rate is { per_minute = 60, burst = 5 }.",
    ),
    (
        "WF0518",
        "a run refused a call\n\nThe program was asked something that it does not want to answer; the message is its own.",
    ),
    ("WF0705", "the run has no such step, or no transcript of it"),
    (
        "WF0706",
        "a configuration file that was found is not only yours\n\nA wfhost.toml names programs to run, so one that was found in the working directory or above it is used only if it and its directory belong to you or root and nobody else may write them. A file that --config names, or one below a directory that WFHOST_TRUST names, is used in any case.",
    ),
    (
        "WF0707",
        "a project is not trusted yet\n\nIts wfhost.toml names programs, addresses, secrets or places outside of it. Look at it, then say `wfhost trust`: that holds for its present content. Where nobody can be asked: --trust, or WFHOST_TRUST=1 or WFHOST_TRUST=DIRECTORY. https://github.com/wfhost/wfhost/blob/main/docs/security.md",
    ),
    ("WF0708", "it cannot be kept that a project is trusted"),
    (
        "WF0709",
        "the directory is in no project\n\nA project is a directory with a wfhost.toml, and what is below it up to the root of the repository.",
    ),
    (
        "WF0710",
        "the project of a run is not there\n\nA run goes on with the configuration of the project that it was started in. If that was moved or deleted, name another file with --config.",
    ),
    (
        "WF0711",
        "the project of a run is not used, because the database that names it is not only yours\n\nWhoever else can write the database could have your agents asked anything with the configuration of any project that you trust. Name the configuration with --config.",
    ),
    (
        "WF0801",
        "the program used up its fuel between two steps\n\nFuel bounds what a program computes between two steps, so that one that never ends is stopped at the same instruction on every machine. `wfhost run --fuel N` gives a run more.",
    ),
    (
        "WF0802",
        "the program used up the fuel of its whole life\n\nA replay has to compute everything again, so what a run computes in all is bounded: `--total-fuel N`, or continue as new now and then.",
    ),
    (
        "WF0803",
        "the program needs more memory than it may use\n\n`wfhost run --memory MIB` gives a run more.",
    ),
    (
        "WF0804",
        "the program ran out of stack\n\nMost often a function calls itself without end. `wfhost run --stack MIB` gives a run more: 1, 2, 4, 8 or 16.",
    ),
    (
        "WF0805",
        "the program panicked\n\nThe message says where. A fixed program goes on where the old one failed: `wfhost resume RUN --module FIXED.wasm`.",
    ),
    (
        "WF0810",
        "the server cannot have its address\n\nAnother program listens there, or the system does not allow it (ports below 1024 belong to root). `wfhost serve --listen ADDRESS` names another one, `--listen off` none.",
    ),
    (
        "WF0811",
        "the server cannot be set up so\n\nAn address that others reach needs a token first (`wfhost token new`), TLS needs a certificate and its key as PEM files. https://github.com/wfhost/wfhost/blob/main/docs/server.md",
    ),
    (
        "WF0812",
        "a request to the server cannot be used\n\nThe message says which part. /openapi.json describes all requests.",
    ),
    ("WF0813", "there is nothing at this address of the server"),
    (
        "WF0814",
        "a request came too slowly\n\nThe next part of a request has to come within 15 seconds, so that nobody keeps the server busy with nothing.",
    ),
    (
        "WF0815",
        "the server has too much to do\n\nConnections, streams and requests that wait are bounded, for each token and in all. Try again in some seconds; one stream of all runs does the work of many.",
    ),
    (
        "WF0816",
        "the server is ending\n\nRequests under way are answered, new ones are for another server, or for this one when it is back.",
    ),
    ("WF0817", "the server only shows\n\nIt was started with --read-only."),
    (
        "WF0818",
        "the server failed to answer\n\nNothing is known to be wrong with the request. Please report it.",
    ),
    (
        "WF0819",
        "an act on many runs is not what the preview showed\n\nFirst ask for the preview (`dry_run`), then say how many runs it found, as `expected`. If there are others by now nothing is done.",
    ),
    (
        "WF0901",
        "the server needs a token\n\n`wfhost token new NAME --scope SCOPES` makes one. It goes into the header `Authorization: Bearer TOKEN`.",
    ),
    (
        "WF0902",
        "the token is not known, or its time is over\n\nIt may have been removed, or it is one of another database.",
    ),
    (
        "WF0903",
        "the token does not allow that\n\nThe message names the scope that is needed. `wfhost token new` makes a token that has it.",
    ),
    (
        "WF0904",
        "a request is addressed to another host\n\nA page of another site may have had its name lead here. If the name leads here on purpose: `wfhost serve --allow-host NAME`, or --public-url.",
    ),
    (
        "WF0905",
        "a request comes from a page of another site\n\nOnly pages of the server itself may act for the user of a browser.",
    ),
    (
        "WF0906",
        "a token is in an address\n\nAddresses are kept in logs and histories. Remove that token (`wfhost token rm`), make another one, and send it in the header `Authorization`.",
    ),
    ("WF0907", "there is no such token\n\n`wfhost token ls` lists them."),
    ("WF0908", "an address for a callback is not one\n\nIt has to be whole, and of this database."),
    (
        "WF0909",
        "something else came by a callback's address before\n\nAn address works once; the same body again is answered like the first time.",
    ),
    (
        "WF0910",
        "a callback's address is of no use any more\n\nThe run has ended, the question is answered, or the time of the address is over.",
    ),
    ("WF0911", "a token cannot be named so"),
    (
        "WF0806",
        "the program trapped\n\nIt executed an instruction that cannot be: `unreachable`, an access outside of its memory, a division by zero. Languages end a program so after a panic or an uncaught error; `wfhost logs RUN` has what it wrote last.",
    ),
    (
        "WF0820",
        "a scenario of `wfhost test` cannot be used\n\nIt is a TOML file:\n\n    input = { topic = \"bees\" }      # of the run\n    within = \"30d\"                  # a run that has not ended then is stuck\n\n    [[agents]]                      # the first rule that matches answers\n    match = \"^book (\\\\w+)\"         # found in the prompt\n    reply = \"booked $1\"             # or replies = [...], one of them\n    delay = \"1s..10m\"\n    fails = 0.2                     # of the attempts\n\n    [[people]]                      # who answers questions\n    answers = [true, false]\n    never = 0.1\n\n    [[signals]]\n    name = \"approve\"\n    payload = { ok = true }\n    after = \"0s..8d\"\n    twice = 0.1\n\n    [world]\n    kills = 0.04                    # of the host, at each call and each answer\n    cancel = 0.1                    # in so many executions\n\n    [expect]\n    states = [\"completed\"]\n    [[expect.calls]]\n    match = \"^charge\"\n    at_most = 1\n    [[expect.owed]]                 # unless the run completes\n    done = \"^book (\\\\w+)\"\n    undone = \"^cancel $1\"\n\nAll of it: https://github.com/wfhost/wfhost/blob/main/docs/testing.md",
    ),
    (
        "WF0821",
        "a simulation failed by itself\n\nThat is a fault of wfhost: please report it, with the module and the seed.",
    ),
    ("WF0822", "a report of `wfhost test` cannot be written"),
    (
        "WF0824",
        "a collector did not take a trace\n\nNothing is lost: spans are made of the journal, and the same each time. Send it again with `wfhost trace RUN --otlp URL`.",
    ),
    (
        "WF0823",
        "the configuration of an MCP client cannot be changed\n\n`wfhost mcp install` shows what belongs into it; put it in by hand.",
    ),
    (
        "WF0920",
        "this is no reference of a module in a registry\n\nA reference names the registry, the repository and the version: ghcr.io/acme/reviewer:1.4.2, localhost:5000/me/hello@sha256:.. Neither a registry nor a version is meant if none is named: elsewhere `hello` leads to a public registry, where anybody can put something of that name. A registry whose name has neither a dot nor a port is written as oci://NAME/..",
    ),
    (
        "WF0921",
        "a registry cannot be reached\n\nWhat may pass is tried four times. Registries are spoken to with TLS, but for those on this machine and those with\n\n    [registries.\"registry.lan:5000\"]\n    plain_http = true\n\nin wfhost.toml. What the local store has runs without a network: --offline.",
    ),
    (
        "WF0922",
        "a registry wants a login, or does not accept the one that was sent\n\n`wfhost login REGISTRY -u NAME --password-stdin` keeps one. Those of Docker and podman are used, too. Many registries want a token in place of the password.",
    ),
    (
        "WF0923",
        "a registry does not allow that\n\nThe login is right, but not entitled to this repository, or to push.",
    ),
    ("WF0924", "a registry does not have that\n\nSome say so of what a login is not allowed to see, too."),
    (
        "WF0925",
        "a registry has too much to do\n\nIt says for how long it wants to be left alone. Up to 20 seconds are waited for.",
    ),
    (
        "WF0926",
        "a registry answered what cannot be used\n\nIt may be none: a proxy, a login page of a network, another server at this address.",
    ),
    (
        "WF0927",
        "what a registry sent is not what it was said to be\n\nThe digest or the size differs from the one by which it was asked for. It was changed, cut off or mixed up on the way or at the registry. Nothing of it was kept or run.",
    ),
    (
        "WF0928",
        "what a registry wants to send is too large\n\nA manifest may have 4 MiB, a module 128 MiB. Sizes are looked at before anything is fetched, and counted on the way.",
    ),
    (
        "WF0929",
        "what a reference leads to is no module\n\nA module is an artifact of the CNCF's layout: a manifest with a configuration of the type application/vnd.wasm.config.v0+json and one layer of the type application/wasm, which is a component. `wfhost push` and `wkg oci push` make them. An index of several things, an image for containers, a core module are none.",
    ),
    (
        "WF0930",
        "a login cannot be read or kept\n\nLogins are in wfhost/auth.json of the user's configuration directory, which only its owner may write, in the format of podman. After it those of podman and Docker are read, also by way of their credential helpers.",
    ),
    (
        "WF0931",
        "the local store of modules cannot be used\n\nIt is `modules` in wfhost's data directory ($XDG_DATA_HOME/wfhost/modules) and is an OCI image layout. It can be removed as a whole: runs have their modules in the database, and the others are fetched again.",
    ),
    (
        "WF0932",
        "a module is not in the local store, and no registry may be asked\n\n`wfhost pull REFERENCE` fetches it while there is a network.",
    ),
    (
        "WF0933",
        "a tag would be moved to other content\n\nA tag that is a full version, like 1.4.2, stays what it is: whoever uses it expects that. Push another version, or say --force.",
    ),
    (
        "WF0934",
        "the name of a module means several of the local store\n\nName one as a whole, with its registry, or say in wfhost.toml which one is meant:\n\n    [modules]\n    reviewer = \"ghcr.io/acme/reviewer:1.4.2\"",
    ),
    (
        "WF0935",
        "a registry leads elsewhere, where it is not followed\n\nLogins are not sent without TLS, nor to another host than the registry names for them; what is pushed is not sent elsewhere; nothing is followed out of TLS.",
    ),
    (
        "WF0940",
        "a module is not signed by those who have to\n\nwfhost.toml says whose signatures count:\n\n    [signatures]\n    default = \"warn\"                  # off, warn, require\n    keys.acme = \"keys/acme.pub\"       # a file, or the key in Base64\n    [[signatures.rules]]\n    match = \"ghcr.io/acme/*\"\n    signers = [\"acme\"]                # one of these; level = \"require\" unless it says another\n\nIt is looked at before the module is fetched, and also of what the local store has. `wfhost verify REFERENCE` shows who signed.",
    ),
    (
        "WF0941",
        "a module has signatures, but none that can be accepted\n\nThey are by keys that are not known or not wanted, of something else, or were changed.",
    ),
    (
        "WF0942",
        "a module is not signed by whom it was before\n\nWho signed first what came from a place is kept in wfhost/signers.json of the user's state directory, and in wfhost.lock. Those who publish it may have a new key, or somebody else publishes in their name. Once you know: `wfhost pull REFERENCE --accept`, `wfhost update --accept`.",
    ),
    (
        "WF0943",
        "a key cannot be used or made\n\nKeys are P-256 or Ed25519: private ones as PKCS#8 in PEM, public ones as PEM, as OpenSSL and cosign write them. The file of a private key has to be its owner's own.",
    ),
    (
        "WF0945",
        "wfhost.lock cannot be used\n\nIt is written by `wfhost add` and `wfhost update`, and is damaged or of another version. Restore it from version control.",
    ),
    (
        "WF0946",
        "a module is not locked, or is not the one that is\n\nwfhost.lock says which manifest, which bytes and whose signature a reference stands for. `wfhost add REFERENCE` locks it, `wfhost update` locks what it stands for now.",
    ),
    (
        "WF0947",
        "an archive of modules cannot be used\n\nIt is a tar file of an OCI image layout, as `wfhost save` and `skopeo copy .. oci-archive:FILE` write it. All of it is checked before any of it is kept.",
    ),
    (
        "WF1201",
        "the file of a plugin cannot be read\n\n`plugin` in the provider's section is the path of a component, relative to the configuration file. `wfhost build` makes one.",
    ),
    (
        "WF1202",
        "a plugin is not the one that the configuration asks for\n\n`digest` in the provider's section says what it has to be. Look at what changed before you take the new one.",
    ),
    (
        "WF1203",
        "a component is no plugin\n\nA plugin exports `wfhost:plugin/agent@0.1.0`. What exports `run` is a workflow.",
    ),
    (
        "WF1204",
        "a plugin imports what no plugin can have\n\nIt has `wfhost:plugin/progress@0.1.0` and the interfaces of `wasi:*@0.2`. What of these it may use is granted by the provider's section.",
    ),
    (
        "WF1205",
        "a plugin does not fit the world of plugins\n\nIt was built against another version of `wit/plugin`.",
    ),
    ("WF1206", "a directory that a plugin is granted is not there"),
    (
        "WF1207",
        "what a plugin wants cannot be read\n\nThe section `wfhost:wants` of the component was written by another version of wfhost.",
    ),
    (
        "WF1210",
        "a plugin that was called by hand did not answer\n\nThe message is its own. What was denied is said above, with the lines that would allow it.",
    ),
    (
        "WF1211",
        "there is no such plugin\n\nIt is the name of a provider of kind `plugin`, or the file of a component.",
    ),
    (
        "WF1212",
        "the cases of `wfhost plugin test` cannot be used\n\n{\"cases\": [{\"name\": \"..\", \"call\": {\"prompt\": \"..\"}, \"exchanges\": [{\"request\": {\"method\": \"POST\", \"url\": \"https://..\"}, \"response\": {\"status\": 200, \"body\": {}}}], \"expect\": {\"output\": \"..\"}}]}\nThey are in NAME.test.json beside NAME.wasm, or in the file that --cases names.",
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
        // The one for codes that there are none of is used in this file.
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
