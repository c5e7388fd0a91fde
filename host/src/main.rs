//! The program `wfhost`.

fn main() -> std::process::ExitCode {
    wfhost_host::cli::main()
}
