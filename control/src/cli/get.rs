//! `clearway get`: what the daemon does, once or again and again.

use std::io::IsTerminal;

use clearway_config::attach::Attachment;
use clearway_config::path_segment;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::args::{Format, Get, What};
use super::attachments;
use super::client::Client;
use super::error::CliError;
use super::output::{self, Show};
use crate::api::types::{
    BridgeDomainView, CounterView, DropView, DropsView, FdbView, ObjectView, PortView, TunnelView, WorkerView,
};
use crate::handle::ApiError;
use crate::store::ObjectKind;

/// Shows what was asked for; with `--watch` until interrupted or until the daemon is gone.
pub(crate) fn get(client: &Client, args: &Get) -> Result<(), CliError> {
    let format = args.output.format;
    let Some(period) = args.watch else {
        return output::print(&fetch(client, args)?);
    };
    let clear = matches!(format, Format::Table | Format::Wide) && std::io::stdout().is_terminal();
    let mut first = true;
    loop {
        let text = fetch(client, args)?;
        // A terminal shows the newest; a file or pipe gets one after the other.
        let text = match (format, clear) {
            (_, true) => format!("\x1b[H\x1b[2J\x1b[3J{text}"),
            (Format::Table | Format::Wide, false) if !first => format!("\n{text}"),
            (Format::Yaml, false) => format!("---\n{text}"),
            _ => text,
        };
        output::print(&text)?;
        first = false;
        std::thread::sleep(period);
    }
}

/// What was asked for, as text.
pub(crate) fn fetch(client: &Client, args: &Get) -> Result<String, CliError> {
    let name = args.name.as_deref();
    let format = args.output.format;
    match (args.what, name) {
        (What::Ports, None) => list::<PortView>(client, "ports", format),
        (What::Ports, Some(name)) => one::<PortView>(client, "ports", name, format),
        (What::Workers, None) => list::<WorkerView>(client, "workers", format),
        (What::Workers, Some(name)) => one::<WorkerView>(client, "workers", name, format),
        (What::BridgeDomains, None) => list::<BridgeDomainView>(client, "bridge-domains", format),
        (What::BridgeDomains, Some(name)) => one::<BridgeDomainView>(client, "bridge-domains", name, format),
        (What::Attachments, None) => {
            output::render(&client.get::<Vec<Attachment>>("/v1/attachments")?, format)
        }
        (What::Attachments, Some(name)) => output::render(&attachments::named(client, name)?, format),
        (What::Fdb, None) => list::<FdbView>(client, "fdb", format),
        (What::Fdb, Some(domain)) => {
            let query = format!("fdb?bridge-domain={}", path_segment(domain));
            list::<FdbView>(client, &query, format)
        }
        (What::Tunnels, None) => list::<TunnelView>(client, "tunnels", format),
        (What::Tunnels, Some(name)) => {
            // A name with a slash is one tunnel; without, all of a VTEP or to a remote.
            let mut all: Vec<TunnelView> = client.get("/v1/tunnels")?;
            let names: Vec<_> = all.iter().map(|t| t.name.clone()).collect();
            all.retain(|t| t.name == name || t.vtep == name || t.remote.to_string() == name);
            if all.is_empty() {
                let there = match names.is_empty() {
                    true => "there is no tunnel at all".into(),
                    false => format!("there are: {}", names.join(", ")),
                };
                let message = format!(
                    "no tunnel is named {name:?}, nor is there one of such a VTEP or remote; {there}"
                );
                return Err(CliError::Api {
                    error: ApiError::not_found(message),
                });
            }
            output::render(&all, format)
        }
        (What::Objects, None) => list::<ObjectView>(client, "objects", format),
        (What::Objects, Some(name)) => objects(client, name, format),
        (What::Drops, None) => output::render(&client.get::<DropsView>("/v1/drops")?, format),
        (What::Drops, Some(name)) => one::<DropView>(client, "drops", name, format),
        (What::Counters, None) => list::<CounterView>(client, "counters", format),
        (What::Counters, Some(name)) => one::<CounterView>(client, "counters", name, format),
    }
}

/// All objects of a kind, or one: `port`, `port/a`.
fn objects(client: &Client, name: &str, format: Format) -> Result<String, CliError> {
    let (word, name) = name
        .split_once('/')
        .map_or((name, None), |(kind, name)| (kind, Some(name)));
    let Some(kind) = ObjectKind::of(word) else {
        let kinds: Vec<_> = ObjectKind::SHOWN.iter().map(ObjectKind::to_string).collect();
        let message = format!("{word:?} is no kind of object: there are {}", kinds.join(", "));
        return Err(CliError::Api {
            error: ApiError::not_found(message),
        });
    };
    if let Some(name) = name {
        let path = format!("/v1/objects/{kind}/{}", path_segment(name));
        return output::render(&client.get::<ObjectView>(&path)?, format);
    }
    let mut all: Vec<ObjectView> = client.get("/v1/objects")?;
    all.retain(|object| object.kind == kind);
    output::render(&all, format)
}

fn list<T>(client: &Client, path: &str, format: Format) -> Result<String, CliError>
where
    T: Serialize + DeserializeOwned,
    Vec<T>: Show,
{
    let all: Vec<T> = client.get(&format!("/v1/{path}"))?;
    output::render(&all, format)
}

fn one<T: Show + Serialize + DeserializeOwned>(
    client: &Client,
    path: &str,
    name: &str,
    format: Format,
) -> Result<String, CliError> {
    let item: T = client.get(&format!("/v1/{path}/{}", path_segment(name)))?;
    output::render(&item, format)
}
