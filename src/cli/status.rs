//! `tidegate status`: which Kubernetes objects are live, and why the others are not, in the words of their conditions.
//!
//! A running process is asked over its admin listener, which only answers questions; a directory of manifests is read here. Exit
//! code 0: all are live; 1: some are not, or not wholly; 2: nobody could be asked.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use super::{REFUSED, UNREADABLE, complain, print};
use crate::admin::{ObjectView, Page};
use crate::app;
use crate::kubernetes;

/// How long the process may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// The largest answer that is read.
const MAX_ANSWER: u64 = 256 * 1024 * 1024;

/// Objects asked for.
const LIMIT: usize = 100_000;

/// Show which Kubernetes objects are live, and why not.
#[derive(Clone, Debug, clap::Args)]
pub struct StatusArgs {
    /// The admin listener of the process that is asked.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9901")]
    admin: SocketAddr,
    /// Read a directory of manifests instead of asking a process.
    #[arg(short, long, value_name = "DIR", conflicts_with = "admin")]
    manifests: Option<PathBuf>,
    /// Only objects that are not live, or not wholly.
    #[arg(long)]
    bad: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Prints a line for each object, and below it what is wrong.
pub fn run(args: &StatusArgs) -> ExitCode {
    let asked = match &args.manifests {
        Some(directory) => read(directory),
        None => ask(args.admin),
    };
    let mut page = match asked {
        Ok(page) => page,
        Err(why) => {
            complain(&format!("{why}\n"));
            return ExitCode::from(UNREADABLE);
        }
    };
    let all_well = page.items.iter().all(|object| object.live == "yes");
    if args.bad {
        page.items.retain(|object| object.live != "yes");
    }
    let said = print(&if args.json {
        format!("{:#}\n", serde_json::json!(page))
    } else {
        table(&page)
    });
    match (said == ExitCode::SUCCESS, all_well) {
        (true, false) => ExitCode::from(REFUSED),
        _ => said,
    }
}

fn read(directory: &Path) -> Result<Page<ObjectView>, String> {
    let all = kubernetes::overview_of_directory(directory, kubernetes::Settings::default());
    let items: Vec<ObjectView> = all
        .map_err(|error| error.to_string())?
        .into_iter()
        .map(app::object_view)
        .collect();
    Ok(Page {
        total: items.len(),
        items,
    })
}

/// One question in HTTP/1.0: the answer ends with the connection.
fn ask(address: SocketAddr) -> Result<Page<ObjectView>, String> {
    let failed = |error: io::Error| {
        format!("cannot ask {address}: {error}; --admin says where the process's admin listener is")
    };
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).map_err(failed)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    let question = format!("GET /objects?limit={LIMIT} HTTP/1.0\r\nHost: {address}\r\n\r\n");
    stream.write_all(question.as_bytes()).map_err(failed)?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer).map_err(failed)?;
    page_of(&answer).map_err(|why| format!("{address}: {why}"))
}

/// The page in an answer.
fn page_of(answer: &[u8]) -> Result<Page<ObjectView>, String> {
    let text = String::from_utf8_lossy(answer);
    let (head, body) = text
        .split_once("\r\n\r\n")
        .ok_or("that is no answer of an admin listener")?;
    match head.split(' ').nth(1) {
        Some("200") => {
            serde_json::from_str(body).map_err(|error| format!("the answer cannot be read: {error}"))
        }
        _ => Err(format!(
            "{}: {}",
            head.lines().next().unwrap_or_default(),
            body.trim()
        )),
    }
}

/// Columns as wide as they must be.
fn table(page: &Page<ObjectView>) -> String {
    let width =
        |of: fn(&ObjectView) -> usize, least: usize| page.items.iter().map(of).max().unwrap_or(0).max(least);
    let (kinds, names) = (width(|one| one.kind.len(), 4), width(|one| one.name.len(), 4));
    let mut out = format!("{:kinds$}  {:names$}  LIVE\n", "KIND", "NAME");
    for one in &page.items {
        out.push_str(&format!(
            "{:kinds$}  {:names$}  {}\n",
            one.kind, one.name, one.live
        ));
        for why in &one.why {
            out.push_str(&format!("    {why}\n"));
        }
    }
    if page.total > page.items.len() {
        out.push_str(&format!("{} objects in all\n", page.total));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_and_refusals_told() {
        let good = b"HTTP/1.0 200 OK\r\ncontent-type: application/json\r\n\r\n{\"total\":1,\"items\":[{\"kind\":\"Ingress\",\"name\":\"a/b\",\"live\":\"no\",\"why\":[\"x: y\"]}]}";
        let page = page_of(good).unwrap();
        assert_eq!(table(&page), "KIND     NAME  LIVE\nIngress  a/b   no\n    x: y\n");
        for (answer, told) in [
            (
                &b"HTTP/1.0 404 Not Found\r\n\r\nnothing there\n"[..],
                "HTTP/1.0 404 Not Found: nothing there",
            ),
            (b"HTTP/1.0 200 OK\r\n\r\nno", "cannot be read"),
            (b"SSH-2.0", "no answer of an admin listener"),
        ] {
            let why = page_of(answer).unwrap_err();
            assert!(why.contains(told), "{why}");
        }
    }

    #[test]
    fn a_directory_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let args = |json| StatusArgs {
            admin: SocketAddr::from(([127, 0, 0, 1], 9)),
            manifests: Some(directory.path().to_owned()),
            bad: true,
            json,
        };
        assert_eq!(
            run(&args(false)),
            ExitCode::SUCCESS,
            "there is nothing, and nothing is wrong"
        );
        let ingress = "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: i}\nspec: {}\n";
        std::fs::write(directory.path().join("i.yaml"), ingress).unwrap();
        assert_eq!(run(&args(true)), ExitCode::from(REFUSED));
        let page = read(directory.path()).unwrap();
        assert_eq!(
            (page.items[0].name.as_str(), page.items[0].live.as_str()),
            ("default/i", "no")
        );
        assert!(
            page.items[0].why[0].contains("neither rules nor a defaultBackend"),
            "{page:?}"
        );
        let nowhere = StatusArgs {
            manifests: Some("/nonexistent".into()),
            ..args(false)
        };
        assert_eq!(run(&nowhere), ExitCode::from(UNREADABLE));
    }
}
