//! Has the system's tools put rules in place, or remove them. The only part that touches the system.

use std::io::{self, Write};
use std::process::{Command, Stdio};

use super::iptables::{self, Family};
use super::nft;
use super::redirect::Redirect;

/// Which tools.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    /// `nft`.
    Nft,
    /// `iptables-restore` and `ip6tables-restore`, whichever kernel interface they are built for.
    Iptables,
}

/// Why rules are not in place.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// No tool was found.
    #[error("neither nft nor iptables-restore is installed; use an image that has one of them")]
    NoTool,
    /// A tool could not be started.
    #[error("cannot run {program}: {error}")]
    Run {
        /// Its name.
        program: &'static str,
        /// Why.
        error: io::Error,
    },
    /// A tool refused.
    #[error("{program} refused ({status}): {said}{}", hint(said))]
    Refused {
        /// Its name.
        program: &'static str,
        /// How it ended.
        status: std::process::ExitStatus,
        /// What it said, trimmed.
        said: String,
    },
}

fn hint(said: &str) -> &'static str {
    let said = said.to_ascii_lowercase();
    if said.contains("not permitted") || said.contains("permission denied") {
        "; writing rules takes root and the capability NET_ADMIN, in this network namespace"
    } else if said.contains("ip6tables") {
        "; where there is no IPv6, give --ipv6 false"
    } else {
        ""
    }
}

/// The tool that is installed, nft first.
pub fn find() -> Option<Tool> {
    if is_installed("nft") {
        Some(Tool::Nft)
    } else if is_installed("iptables-restore") {
        Some(Tool::Iptables)
    } else {
        None
    }
}

/// Puts the rules in place. Doing it again changes nothing.
///
/// # Errors
/// The tool is missing or refuses.
pub fn apply(redirect: &Redirect, tool: Tool) -> Result<(), ApplyError> {
    match tool {
        Tool::Nft => run(Program::NFT, &nft::apply(redirect)).map(drop),
        Tool::Iptables => {
            for family in families(redirect) {
                let found = saved(family)?;
                run(
                    Program::restore(family),
                    &iptables::apply(redirect, family, &found),
                )?;
            }
            if !redirect.ipv6 && is_installed("ip6tables-save") {
                remove_iptables(Family::V6)?;
            }
            Ok(())
        }
    }
}

/// Removes the rules, by whichever tool they were made.
///
/// # Errors
/// A tool refuses, or there is none.
pub fn remove() -> Result<(), ApplyError> {
    let (nft, iptables) = (is_installed("nft"), is_installed("iptables-save"));
    if !nft && !iptables {
        return Err(ApplyError::NoTool);
    }
    if nft {
        run(Program::NFT, &nft::remove())?;
    }
    if iptables {
        remove_iptables(Family::V4)?;
        if is_installed("ip6tables-save") {
            remove_iptables(Family::V6)?;
        }
    }
    Ok(())
}

/// The families that the rules are for.
pub fn families(redirect: &Redirect) -> impl Iterator<Item = Family> {
    [Some(Family::V4), redirect.ipv6.then_some(Family::V6)]
        .into_iter()
        .flatten()
}

fn remove_iptables(family: Family) -> Result<(), ApplyError> {
    match iptables::remove(&saved(family)?) {
        Some(script) => run(Program::restore(family), &script).map(drop),
        None => Ok(()),
    }
}

/// What there is in the table `nat`.
fn saved(family: Family) -> Result<String, ApplyError> {
    run(Program::save(family), "")
}

/// A program and its arguments.
struct Program(&'static str, &'static [&'static str]);

/// Seconds that iptables waits for its lock, which every pod of a host may share.
const LOCK_WAIT: &str = "10";

impl Program {
    const NFT: Self = Self("nft", &["-f", "-"]);

    const fn save(family: Family) -> Self {
        match family {
            Family::V4 => Self("iptables-save", &["-t", "nat"]),
            Family::V6 => Self("ip6tables-save", &["-t", "nat"]),
        }
    }

    const fn restore(family: Family) -> Self {
        match family {
            Family::V4 => Self("iptables-restore", &["--noflush", "-w", LOCK_WAIT]),
            Family::V6 => Self("ip6tables-restore", &["--noflush", "-w", LOCK_WAIT]),
        }
    }
}

/// Runs a program on an input; gives its output.
fn run(program: Program, input: &str) -> Result<String, ApplyError> {
    let Program(name, arguments) = program;
    let failed = |error| ApplyError::Run { program: name, error };
    let mut child = Command::new(name)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that ends before it has read everything says why.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(failed)?;
    if !output.status.success() {
        return Err(ApplyError::Refused {
            program: name,
            status: output.status,
            said: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}
