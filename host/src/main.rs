//! The program `wfhost`.

/// Runs are many small pieces of memory that come and go on all threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    wfhost_host::cli::main()
}
