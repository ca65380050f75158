//! From one configuration to another: all of it, or nothing.
//!
//! ```text
//!   check on this host → plan → open what is new → close and open anew what must → publish → poll, all workers → close what goes
//!                                     └ fails: close what was opened, reopen what was closed; nothing changed
//! ```
//!
//! An interface that is not there yet is no failure: its port waits for it.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use clearway_config::{Name, Port, PortKind, Spec};

use super::DaemonError;
use super::control::Control;
use super::need::need;
use super::open::{Claim, OpenError};
use super::ports::{Entry, PortState, close_all, has_service};
use crate::api::types::{ActionView, ApplyReport, Verb};
use crate::handle::{ApiError, Applied, ErrorCode};
use crate::reconcile::{Action, Fate, plan};
use crate::store::{Owner, now_s};

/// A port that is to be opened, by name, and what came of claiming it.
type Claimed<'a> = (&'a Name, &'a Port, Result<Claim, OpenError>);

impl Control {
    pub(super) fn apply(
        &mut self,
        spec: Spec,
        dry_run: bool,
        by: Owner,
        only_if: Option<Vec<u64>>,
    ) -> Result<Applied, ApiError> {
        let generation = self.objects.configuration.generation;
        if only_if.is_some_and(|generations| !generations.contains(&generation)) {
            return Err(ApiError::new(
                ErrorCode::PreconditionFailed,
                format!(
                    "the configuration in use is of generation {generation} by now, and not of the one that this change was made for; nothing was changed: look at what it has become (`clearway apply --dry-run`, GET /v1/config), then apply to that"
                ),
            ));
        }
        // The configuration by itself first: what is wrong with it has its own paths.
        spec.validate_on(&self.host_facts)
            .map_err(ApiError::invalid_on_host)?;
        let objects = self.objects.next(&self.spec, &spec, by, now_s());
        let spec = self.with_attached(spec)?;
        spec.validate_on(&self.host_facts)
            .map_err(ApiError::invalid_on_host)?;
        let actions = plan(&self.spec, &spec).map_err(|refused| ApiError::conflict(refused.to_string()))?;
        if !dry_run && !actions.is_empty() {
            let started = Instant::now();
            self.carry_out(spec, &actions).map_err(|error| {
                let message = format!("{error}; the configuration was not applied: the one before is in use");
                ApiError::new(ErrorCode::Failed, message)
            })?;
            tracing::info!(steps = actions.len(), generation = objects.configuration.generation, epoch = self.engine.snapshot().epoch, took = ?started.elapsed(), "applied");
        }
        if !dry_run {
            self.objects = Arc::new(objects);
        }
        let report = ApplyReport {
            actions: actions.iter().map(view).collect(),
            changed: !actions.is_empty(),
            dry_run,
            epoch: self.engine.snapshot().epoch,
            generation: self.objects.configuration.generation,
            warnings: if dry_run {
                Vec::new()
            } else {
                self.warnings(&actions)
            },
        };
        Ok(Applied {
            report,
            objects: self.objects.clone(),
        })
    }

    /// What is not as well as it could be with what was just changed.
    fn warnings(&self, actions: &[Action]) -> Vec<String> {
        let touched = actions.iter().filter_map(|action| match action {
            Action::AddPort(name) | Action::ReopenPort(name, _) => self.ports.get_key_value(name),
            _ => None,
        });
        touched
            .flat_map(|(name, entry)| {
                let down = entry
                    .why_down()
                    .map(|reason| format!("port {name} is down: {reason}"));
                let open = entry
                    .opened()
                    .map(|open| open.warnings.as_slice())
                    .unwrap_or_default();
                let open = open.iter().map(move |warning| format!("port {name}: {warning}"));
                down.into_iter().chain(open)
            })
            .collect()
    }

    /// Goes to a spec without asking what it changes: for the start.
    pub(super) fn switch(&mut self, spec: Spec) -> Result<(), DaemonError> {
        let actions = plan(&self.spec, &spec).unwrap_or_default();
        self.carry_out(spec, &actions)
    }

    pub(super) fn carry_out(&mut self, spec: Spec, actions: &[Action]) -> Result<(), DaemonError> {
        let old = self.spec.clone();
        let (early, late) = self.order(&spec, actions);
        let going: Vec<_> = actions
            .iter()
            .filter_map(|action| match action {
                Action::RemovePort(name) => Some(name.clone()),
                _ => None,
            })
            .collect();
        let reopened: BTreeSet<Name> = actions
            .iter()
            .filter_map(|action| match action {
                Action::ReopenPort(name, _) => Some(name.clone()),
                _ => None,
            })
            .collect();
        self.expect(&spec, early.iter().chain(&late));
        let mut fresh = Vec::new();
        let mut closed = Vec::new();
        let mut result = self.open_all(&spec, &early, &mut fresh);
        if result.is_ok() && !late.is_empty() {
            // These can't be open beside what has their interface now.
            let blocking = going
                .iter()
                .chain(&reopened)
                .filter(|name| blocks(&old, &spec, name, &late));
            closed = blocking.cloned().collect();
            for name in &closed {
                self.shut(name, "it is being opened anew");
            }
            result = self.open_all(&spec, &late, &mut fresh);
        }
        let result = result.and_then(|()| self.publish(&spec, true).map_err(DaemonError::from));
        if let Err(error) = result {
            self.undo(&old, &fresh, &closed);
            return Err(error);
        }
        self.spec = spec;
        for name in &fresh {
            self.plug(name);
        }
        self.move_queues(actions);
        self.announce(&fresh);
        self.change_taps(actions);
        self.remove(&going);
        Ok(())
    }

    /// The ports to open: those that can be opened at once, and those whose interface is still somebody else's.
    fn order(&self, spec: &Spec, actions: &[Action]) -> (Vec<Name>, Vec<Name>) {
        let taken: BTreeSet<_> = self.spec.ports.values().filter_map(place_of).collect();
        let (mut early, mut late) = (Vec::new(), Vec::new());
        for action in actions {
            match action {
                Action::AddPort(name) => {
                    let place = spec.ports.get(name).and_then(place_of);
                    let list = if place.is_some_and(|place| taken.contains(&place)) {
                        &mut late
                    } else {
                        &mut early
                    };
                    list.push(name.clone());
                }
                Action::ReopenPort(name, _) => late.push(name.clone()),
                _ => {}
            }
        }
        (early, late)
    }

    /// Lets the groups know what comes.
    fn expect<'a>(&mut self, spec: &Spec, names: impl Iterator<Item = &'a Name>) {
        let ports: Vec<_> = names.filter_map(|name| spec.ports.get(name)).collect();
        let host = &mut self.host;
        let needs = ports
            .into_iter()
            .filter_map(|port| Some(need(host, port).ok()?.0));
        self.groups.expect(needs);
    }

    /// Opens ports; nobody polls them yet. All are claimed before the first is opened, so that what somebody else has
    /// is found while nothing was touched. What was opened or entered is added to `fresh`, also when one fails.
    fn open_all(&mut self, spec: &Spec, names: &[Name], fresh: &mut Vec<Name>) -> Result<(), DaemonError> {
        let mut claims = Vec::with_capacity(names.len());
        for name in names {
            let Some(port) = spec.ports.get(name) else {
                continue;
            };
            let claim = self.pod_is_there(name).and_then(|()| self.opener().claim(port));
            match claim {
                Err(OpenError::Fatal(reason)) if !self.tolerates(name) => {
                    self.abandon(claims);
                    return Err(refused(name, reason));
                }
                claim => claims.push((name, port, claim)),
            }
        }
        let mut claims = claims.into_iter();
        while let Some((name, port, claim)) = claims.next() {
            let id = self.compiler.assign_port(name)?;
            let ours = self.ours(spec, name);
            let has_service = has_service(spec, name);
            let tolerated = self.tolerates(name);
            let result = claim.and_then(|claim| self.opener().open(port, claim, has_service, &ours));
            fresh.push(name.clone());
            let entry = self
                .ports
                .entry(name.clone())
                .or_insert_with(|| Entry::down(id, "it is being opened".to_owned()));
            match result {
                Ok(open) => self.install(name, port, open, ours),
                Err(OpenError::Wait(reason)) => {
                    tracing::warn!(port = %name, reason, "down");
                    entry.state = Entry::down(id, reason).state;
                }
                Err(OpenError::Fatal(reason)) if tolerated => {
                    tracing::error!(port = %name, reason, "down");
                    entry.state = Entry::down(id, reason).state;
                }
                Err(OpenError::Fatal(reason)) => {
                    self.abandon(claims);
                    return Err(refused(name, reason));
                }
            }
        }
        Ok(())
    }

    /// Gives back interfaces that were claimed and are not opened: a crash may have left them changed.
    fn abandon<'a>(&mut self, claims: impl IntoIterator<Item = Claimed<'a>>) {
        for (_, _, claim) in claims {
            if let Ok(claim) = claim {
                self.opener().abandon(claim);
            }
        }
    }

    /// Closes a port that stays in the tables.
    fn shut(&mut self, name: &Name, why: &str) {
        let Some(entry) = self.ports.get_mut(name) else {
            return;
        };
        let down = Entry::down(entry.id, why.to_owned()).state;
        if let PortState::Open(open) = std::mem::replace(&mut entry.state, down) {
            self.unplug(name, *open);
        }
    }

    /// Makes it as it was before: what is new goes, what was closed is opened again.
    fn undo(&mut self, old: &Spec, fresh: &[Name], closed: &[Name]) {
        for name in fresh {
            self.shut(name, "");
            if !old.ports.contains_key(name) {
                self.ports.remove(name);
            }
        }
        for name in closed {
            let Some(port) = old.ports.get(name) else { continue };
            let ours = self.ours(old, name);
            let mut opener = self.opener();
            let claim = opener.claim(port);
            match claim.and_then(|claim| opener.open(port, claim, has_service(old, name), &ours)) {
                Ok(open) => {
                    self.install(name, port, open, ours);
                    self.plug(name);
                    self.announce([name]);
                }
                Err(error) => {
                    tracing::error!(port = %name, reason = error.reason(), "could not be opened again; it is tried by and by");
                    if let Some(entry) = self.ports.get_mut(name) {
                        entry.state = Entry::down(entry.id, error.reason().to_owned()).state;
                    }
                }
            }
        }
        self.republish();
    }

    /// Gives queues to other workers. Frames that arrive meanwhile wait in the queue's ring.
    fn move_queues(&mut self, actions: &[Action]) {
        let moved = actions.iter().filter_map(|action| match action {
            Action::MovePort(name, _) => Some(name.clone()),
            _ => None,
        });
        for name in moved {
            let Some(port) = self.spec.ports.get(&name).cloned() else {
                continue;
            };
            let Some(entry) = self.ports.get_mut(&name) else {
                continue;
            };
            let PortState::Open(open) = &entry.state else {
                continue;
            };
            let queues = open.queues.clone();
            let (id, before) = (entry.id, std::mem::take(&mut entry.workers));
            let after = self.assign(&port, &queues);
            for ((queue, from), to) in queues.iter().zip(&before).zip(&after) {
                if from != to
                    && let Err(error) = self.move_queue(&name, id, *queue, *to)
                {
                    tracing::error!(port = %name, queue, %error, "the queue was not moved");
                }
            }
            if let Some(entry) = self.ports.get_mut(&name) {
                entry.workers = after;
            }
        }
    }

    fn move_queue(
        &mut self,
        name: &Name,
        id: clearway_engine::PortId,
        queue: u16,
        to: clearway_engine::WorkerId,
    ) -> Result<(), clearway_engine::EngineError> {
        let homes = self.engine.homes();
        let home = homes
            .iter()
            .find(|home| (home.port, home.queue) == (id, queue))
            .cloned();
        let Some(io) = self.engine.take_queue(id, queue)? else {
            return Ok(());
        };
        let region = io.region();
        let counters = self.engine.add_queue(to, id, queue, *io, region)?;
        if let Some(entry) = self.ports.get_mut(name) {
            if let Some(home) = home {
                entry.totals.retire_one(&home.counters);
            }
            entry.totals.add(counters);
        }
        tracing::info!(port = %name, queue, worker = to.0, "moved");
        Ok(())
    }

    /// Closes ports that the tables do not have any more; their sockets all together.
    fn remove(&mut self, names: &[Name]) {
        let mut queues = Vec::new();
        let mut rest = Vec::new();
        for name in names {
            let Some(entry) = self.ports.remove(name) else {
                continue;
            };
            let PortState::Open(mut open) = entry.state else {
                continue;
            };
            if let Some(wire) = open.wire.take() {
                wire.give_back(&mut self.host);
            }
            for queue in &open.queues {
                match self.engine.take_queue(entry.id, *queue) {
                    Ok(io) => queues.extend(io.map(|io| *io)),
                    Err(error) => {
                        tracing::error!(port = %name, queue, %error, "the queue was not given back")
                    }
                }
            }
            tracing::info!(port = %name, "removed");
            rest.push(*open);
        }
        close_all(queues);
        for open in rest {
            self.opener().close(open);
        }
    }
}

fn refused(port: &Name, reason: String) -> DaemonError {
    DaemonError::Port {
        port: port.to_string(),
        reason,
    }
}

/// Whether a port has to be closed before one of these can be opened: it is one of them, or has their interface.
fn blocks(old: &Spec, new: &Spec, name: &Name, late: &[Name]) -> bool {
    let has = old.ports.get(name).and_then(place_of);
    let wanted = |name: &Name| new.ports.get(name).and_then(place_of);
    late.contains(name) || late.iter().any(|name| has.is_some() && wanted(name) == has)
}

/// What only one port at a time can have: its interface, in a network namespace, or its socket.
fn place_of(port: &Port) -> Option<(Option<&str>, &Path)> {
    let path = match port.kind {
        PortKind::AfXdp | PortKind::Tap => port.interface.as_deref().map(Path::new),
        PortKind::VhostUser => port.socket.as_deref(),
        PortKind::Memory | PortKind::Pcapng => None,
    };
    path.map(|path| (port.netns.as_deref(), path))
}

fn view(action: &Action) -> ActionView {
    let (verb, kind, name, detail) = match action {
        Action::AddPort(name) => (Verb::Add, "port", name.to_string(), String::new()),
        Action::ReopenPort(name, reasons) => (
            Verb::Reopen,
            "port",
            name.to_string(),
            format!(
                "its own traffic is interrupted while it is closed and opened anew: {}",
                reasons.join("; ")
            ),
        ),
        Action::MovePort(name, detail) => (Verb::Change, "port", name.to_string(), detail.clone()),
        Action::ChangePort(name, changes) => (Verb::Change, "port", name.to_string(), changes.join("; ")),
        Action::RemovePort(name) => (Verb::Remove, "port", name.to_string(), String::new()),
        Action::Table {
            change,
            kind,
            name,
            detail,
        } => (
            match change {
                Fate::Add => Verb::Add,
                Fate::Change => Verb::Change,
                Fate::Remove => Verb::Remove,
            },
            *kind,
            name.clone(),
            detail.clone(),
        ),
    };
    ActionView {
        verb,
        kind: kind.to_owned(),
        name,
        detail,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(text: &str) -> Spec {
        Spec::from_yaml(text, "test").unwrap_or_else(|errors| panic!("{errors}"))
    }

    #[test]
    fn an_interface_that_goes_to_another_port_blocks_it() {
        let old = spec(
            "ports: {a: {kind: af-xdp, interface: e0, access: r}, b: {kind: af-xdp, interface: e1, access: r}}\nbridge-domains: {r: {}}",
        );
        let new = spec(
            "ports: {c: {kind: af-xdp, interface: e0, access: r}, b: {kind: af-xdp, interface: e1, mode: copy, access: r}}\nbridge-domains: {r: {}}",
        );
        let name = |text: &str| Name::new(text).expect("a name");
        assert!(blocks(&old, &new, &name("a"), &[name("c")]));
        assert!(blocks(&old, &new, &name("b"), &[name("b")]));
        assert!(!blocks(&old, &new, &name("b"), &[name("c")]));
    }

    #[test]
    fn a_reopened_port_says_what_it_interrupts() {
        let action = Action::ReopenPort(
            Name::new("a").expect("a name"),
            vec!["mode: auto to copy".to_owned()],
        );
        let view = view(&action);
        assert_eq!(
            (view.verb, view.kind.as_str(), view.name.as_str()),
            (Verb::Reopen, "port", "a")
        );
        assert_eq!(
            view.detail,
            "its own traffic is interrupted while it is closed and opened anew: mode: auto to copy"
        );
    }
}
