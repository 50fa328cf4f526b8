//! `ottla crds`: the CustomResourceDefinitions, as files or on standard output.

use std::path::PathBuf;
use std::process::ExitCode;

use ottla_operator::crds;

#[derive(clap::Args)]
#[command(after_help = "Examples:
  ottla crds | kubectl apply --server-side -f -
  ottla crds --out crds")]
pub struct Args {
    /// Write one file per definition into this folder, instead of all to standard output
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

pub fn run(args: Args) -> ExitCode {
    let Some(folder) = args.out else {
        for (_, content) in crds::files() {
            print!("---\n{content}");
        }
        return ExitCode::SUCCESS;
    };
    match crds::write(&folder) {
        Ok(()) => {
            for (name, _) in crds::files() {
                println!("{}", folder.join(name).display());
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("ottla crds: {}: {error}", folder.display());
            ExitCode::FAILURE
        }
    }
}
