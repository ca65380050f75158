//! `clearway-cni`: run by a container runtime, with `CNI_…` variables and a network's configuration on stdin.
#![forbid(unsafe_code)]

use std::io::{IsTerminal, Read, Write};
use std::process::ExitCode;

use clearway_cni::environment::{self, EnvironmentError, Verb};
use clearway_cni::verbs::{Call, Outcome};
use clearway_cni::{CniError, CniVersion, Code, verbs, version};

const ABOUT: &str = "clearway-cni is the CNI plugin of Clearway: container runtimes run it (docs/cni.md).\n";

fn main() -> ExitCode {
    let Outcome { version, answer } = run();
    let (text, code) = match answer {
        Ok(None) => return ExitCode::SUCCESS,
        Ok(Some(value)) => (value, ExitCode::SUCCESS),
        Err(error) => (error.object(version), ExitCode::FAILURE),
    };
    // There is nobody left to tell that stdout is closed.
    match writeln!(std::io::stdout(), "{text}") {
        Ok(()) => code,
        Err(_) => ExitCode::FAILURE,
    }
}

fn run() -> Outcome {
    let lookup = |name: &str| std::env::var_os(name);
    let verb = match environment::verb(&lookup) {
        Ok(verb) => verb,
        Err(error) => {
            if let EnvironmentError::Missing { .. } = error {
                let _ = std::io::stderr().write_all(ABOUT.as_bytes());
            }
            return Outcome::failed(error.into());
        }
    };
    let mut stdin = Vec::new();
    // VERSION needs none: somebody who tries it by hand is not kept waiting.
    if (verb != Verb::Version || !std::io::stdin().is_terminal())
        && let Err(error) = std::io::stdin().read_to_end(&mut stdin)
    {
        return Outcome::failed(CniError::new(
            Code::Io,
            "the network's configuration could not be read from stdin",
            error.to_string(),
        ));
    }
    if verb == Verb::Version {
        return Outcome {
            version: CniVersion::NEWEST,
            answer: Ok(Some(version::answer(&stdin))),
        };
    }
    verbs::call(&Call {
        verb,
        lookup: &lookup,
        stdin: &stdin,
    })
}
