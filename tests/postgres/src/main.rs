//! `private-postgres COMMAND...`: runs a command whose tests share a server, which ends with it.

use std::process::{Command, ExitCode};

use private_postgres::{Postgres, VARIABLE};

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let Some(program) = args.next() else {
        eprintln!("private-postgres COMMAND [ARGUMENT...]");
        return ExitCode::from(2);
    };
    let server = Postgres::start(&["fsync=off", "full_page_writes=off"]);
    let ran = Command::new(program).args(args).env(VARIABLE, server.url()).status();
    match ran.map(|status| status.code()) {
        Ok(Some(code)) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
        Ok(None) => ExitCode::from(1),
        Err(error) => {
            eprintln!("it cannot be started: {error}");
            ExitCode::from(127)
        }
    }
}
