//! The `weft` command; see [`weft_agent::cli`].

fn main() -> std::process::ExitCode {
    weft_agent::cli::main()
}
